-- Names under which no key is ever stored again: of people who were erased. An append that was under way, or one that still names them
-- (an address it came from), would otherwise make their key anew. What it seals with a key that is not stored opens as erased.
create table retired_keys (
    id text primary key
);

create function retired_keys_are_not_stored() returns trigger language plpgsql as $$
begin
    if exists (select from retired_keys r where r.id = new.id) then
        return null;
    end if;
    return new;
end $$;

create trigger retired_keys_are_not_stored before insert on data_keys
    for each row execute function retired_keys_are_not_stored();
