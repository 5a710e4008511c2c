-- Which key-encryption keys occur, and which data keys are wrapped by which: asked at every start and by every rotation.
create index data_keys_by_key_id on data_keys (key_id, id);

-- The key that wraps new data keys, one for all nodes. Once it is settled no data key is stored that another one wraps.
create table wrapping_key (
    one        boolean     primary key default true check (one),
    key_id     bytea       not null check (octet_length(key_id) = 8),
    settled    boolean     not null,
    changed_at timestamptz not null default clock_timestamp()
);
-- Nodes that know nothing of this table may still run, and be configured with another key.
insert into wrapping_key (key_id, settled) select key_id, false from data_keys where id = 'instance/claims';

-- The keys that wrapped new data keys before, until a rotation has left nothing under them that they open: as long as one of these wraps
-- a data key, no process may start without it. A key id that is in no table is damage to a row, which concerns that row alone.
create table former_wrapping_keys (
    key_id bytea primary key check (octet_length(key_id) = 8)
);
insert into former_wrapping_keys
    select distinct key_id from data_keys where octet_length(key_id) = 8 and substr(wrapped, 2, 8) = key_id;

-- The nodes that run: who was not seen for a while does not. Updated every few seconds: the free space keeps that within the page.
create table nodes (
    id         uuid        primary key,
    host       text        not null,
    pid        integer     not null,
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp(),
    -- The key-encryption keys it is configured with, and the one it wraps new data keys with.
    key_ids    bytea[]     not null,
    wraps_with bytea
) with (fillfactor = 20);

-- Deleted rows stay in a table's file until it is written anew. How often that was asked for, and up to which of these it is done.
create table scrubbing (
    one           boolean     primary key default true check (one),
    requested     bigint      not null default 0,
    done          bigint      not null default 0,
    -- The last transaction that asked: as long as somebody may still see what was there before it, writing anew keeps that.
    requested_xid xid8        not null default '0',
    requested_at  timestamptz,
    done_at       timestamptz
) with (fillfactor = 20);
insert into scrubbing default values;

create function request_scrubbing() returns void language sql as $$
    update scrubbing set requested = requested + 1, requested_at = clock_timestamp(),
        requested_xid = greatest(requested_xid, pg_current_xact_id());
$$;

-- As before, and a command is also refused when one of its data keys is wrapped by a key that was rotated away: what it seals could not
-- be opened once that key is taken from the configuration. Whoever meets that wraps anew and tries again.
create or replace function append_events(
    command int[], aggregate_type text[], aggregate_id text[], sequence bigint[],
    event_type text[], event_version text[], payload text[], metadata text[],
    stream_command int[], stream_type text[], stream_id text[], stream_length bigint[],
    key_command int[], key_name text[], key_id bytea[], key_wrapped bytea[],
    out refused int[], out base bigint, out recorded_at timestamptz
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    previous timestamptz;
begin
    perform pg_advisory_xact_lock(7310868735422851431); -- any constant that nothing else uses

    select e.position, e.recorded_at into base, previous from events e order by e.position desc limit 1;
    base := coalesce(base, 0);
    -- Milliseconds, as times are shown, and never backwards: a time names one place in the log.
    recorded_at := greatest(date_trunc('milliseconds', clock_timestamp()), previous);

    -- One look at the end of each stream; the form (a scalar subquery with a limit) leaves the planner no other way.
    refused := array(
        select s.command
        from unnest(stream_command, stream_type, stream_id, stream_length) as s(command, type, id, length)
        where s.length <> coalesce((
            select e.sequence from events e where e.aggregate_type = s.type and e.aggregate_id = s.id
            order by e.sequence desc limit 1), 0)
    );
    if key_name <> '{}' then
        refused := refused || array(
            select k.command from unnest(key_command, key_name, key_id) as k(command, name, key_id)
            where (select true from data_keys d where d.id = k.name)
               or k.key_id <> (select w.key_id from wrapping_key w where w.settled)
        );
        insert into data_keys (id, key_id, wrapped)
        select k.name, k.key_id, k.wrapped
        from unnest(key_command, key_name, key_id, key_wrapped) as k(command, name, key_id, wrapped)
        where k.command <> all (refused);
    end if;

    insert into events (position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
    select base + row_number() over (order by n.place), append_events.recorded_at,
           n.type, n.id, n.seq, n.event_type, n.event_version, n.payload::json, n.metadata::json
    from unnest(command, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         with ordinality as n(command, type, id, seq, event_type, event_version, payload, metadata, place)
    where n.command <> all (refused);
end $$;
