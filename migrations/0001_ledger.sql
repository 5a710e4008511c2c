-- The event log. Its columns beyond position and recorded_at are those of postgres-es, so that its tooling works.
create table events (
    position       bigint      not null constraint events_position unique check (position >= 1),
    recorded_at    timestamptz not null,
    aggregate_type text        not null,
    aggregate_id   text        not null,
    sequence       bigint      not null check (sequence >= 1),
    event_type     text        not null,
    event_version  text        not null,
    payload        json        not null,
    metadata       json        not null,
    primary key (aggregate_type, aggregate_id, sequence)
);

-- Data keys stand beside the log, wrapped by a key that is not in this database. Deleting a row destroys what it sealed.
create table data_keys (
    id         text        primary key,
    key_id     bytea       not null,
    wrapped    bytea       not null,
    created_at timestamptz not null default now()
);

create function events_are_for_ever() returns trigger language plpgsql as $$
begin
    raise exception 'the event log is append-only: % is refused', tg_op using errcode = 'restrict_violation';
end $$;

create trigger events_are_for_ever before update or delete or truncate on events
    for each statement execute function events_are_for_ever();

-- Appends a batch of commands, each whole or not at all. Several nodes may call it at once: the lock orders them, so that
-- positions are dense and in commit order (it is held until the transaction has ended). Function statements take fresh
-- snapshots, so what is read after the lock includes every earlier batch.
--
-- Three groups of arrays, each of one length: the events, in order, with sequences that ascend by one within a stream; the
-- streams they go to, with the length each command expects its streams to have; and data keys. `command` says which command an
-- element belongs to; no two commands of a batch share a stream or a key. A command is refused when one of its streams has another
-- length, or when one of its data keys exists already. `data_keys` and `events` are written in the same transaction: no event
-- without its key, no key without its event.
--
-- Plans are generic: with arrays as arguments the planner would plan every call anew, at three times the cost of running it.
create function append_events(
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
            select k.command from unnest(key_command, key_name) as k(command, name)
            where (select true from data_keys d where d.id = k.name)
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

-- The last position recorded at or before a moment; 0 when there is none. Times never run backwards along the log, so a
-- binary search over positions needs no index of its own.
create function position_at(moment timestamptz) returns bigint language plpgsql stable as $$
declare
    low bigint := 0;
    high bigint := (select coalesce(max(position), 0) from events);
    middle bigint;
begin
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select e.recorded_at <= moment from events e where e.position = middle) then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end $$;
