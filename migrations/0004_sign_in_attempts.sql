-- How often passwords and codes were guessed at lately, counted by account, by network, and by both together. Not history: the log has
-- a record of every attempt. A key is a keyed hash, so that a row tells neither whose account nor which network it is about.
create table sign_in_attempts (
    key           text        collate "C" primary key,
    failures      integer     not null,
    -- No attempt before this time.
    blocked_until timestamptz,
    updated_at    timestamptz not null,
    -- An account and a network that belong together: somebody has signed in from there. Until when that is remembered.
    known_until   timestamptz
);
-- For removing what is no longer needed.
create index sign_in_attempts_by_age on sign_in_attempts (greatest(updated_at, known_until));
