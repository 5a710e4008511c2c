-- Functions find their tables wherever they are called from. A dump begins with an empty search_path, so that restoring nothing but
-- data into migrated tables failed in the triggers.
do $$
declare
    function regprocedure;
begin
    for function in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = current_schema()::regnamespace
          and p.proname in ('append_events', 'position_at', 'request_scrubbing', 'retired_keys_are_not_stored', 'events_are_for_ever')
    loop
        execute format('alter function %s set search_path = %I, pg_temp', function, current_schema());
    end loop;
end $$;

-- What every migrated database holds from the beginning gives way to what a dump holds, and a migration that was run is not noted twice:
-- so data can be restored into tables that were just made.
create function the_only_row_is_replaced() returns trigger language plpgsql as $$
begin
    execute format('delete from %I.%I', tg_table_schema, tg_table_name);
    return new;
end $$;

create trigger the_only_row_is_replaced before insert on log_identity
    for each row execute function the_only_row_is_replaced();
create trigger the_only_row_is_replaced before insert on scrubbing
    for each row execute function the_only_row_is_replaced();

do $$
declare
    place text := quote_ident(current_schema());
begin
    execute format('alter function the_only_row_is_replaced() set search_path = %s, pg_temp', place);
    -- Where other programs ran the migrations there is no such table.
    if to_regclass('_sqlx_migrations') is not null then
        execute format($made$
            create function migrations_are_noted_once() returns trigger language plpgsql set search_path = %s, pg_temp as $body$
            begin
                if exists (select from _sqlx_migrations m where m.version = new.version) then
                    return null;
                end if;
                return new;
            end $body$
        $made$, place);
        create trigger migrations_are_noted_once before insert on _sqlx_migrations
            for each row execute function migrations_are_noted_once();
    end if;
end $$;

-- While a large table of data keys is copied (ledger/src/scrub/copying.rs), what changes in it changes in the copy.
create function data_keys_are_mirrored() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' then
        delete from data_keys_copy c where c.id = old.id;
    end if;
    if tg_op <> 'DELETE' then
        insert into data_keys_copy values (new.*) on conflict (id) do update
            set key_id = excluded.key_id, wrapped = excluded.wrapped, created_at = excluded.created_at;
    end if;
    return null;
end $$;

do $$
begin
    execute format('alter function data_keys_are_mirrored() set search_path = %I, pg_temp', current_schema());
end $$;
