-- When and from where an API key was last used: what is asked of it is not history.
create table api_key_uses (
    key_id  uuid        primary key,
    user_id uuid        not null,
    used_at timestamptz not null,
    ip      text
);
create index api_key_uses_by_user on api_key_uses (user_id);
