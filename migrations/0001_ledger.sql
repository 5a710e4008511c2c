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
-- Arrays of one length describe the events, in order; `command` says which command an event belongs to, and events of one
-- stream within a command have ascending sequences. A command is refused when one of its sequences is taken, when its stream
-- has not got that far, or when one of its data keys exists already. `data_keys` and `events` are written in the same transaction:
-- no event without its key, no key without its event.
create function append_events(
    command int[], aggregate_type text[], aggregate_id text[], sequence bigint[],
    event_type text[], event_version text[], payload text[], metadata text[],
    key_command int[], key_name text[], key_id bytea[], key_wrapped bytea[],
    out refused int[], out base bigint, out recorded_at timestamptz
) language plpgsql as $$
declare
    previous timestamptz;
begin
    perform pg_advisory_xact_lock(7310868735422851431); -- 'ev' 'ents': any constant that nothing else uses

    select e.position, e.recorded_at into base, previous from events e order by e.position desc limit 1;
    base := coalesce(base, 0);
    -- Milliseconds, as times are shown, and never backwards: a time names one place in the log.
    recorded_at := greatest(date_trunc('milliseconds', clock_timestamp()), previous);

    refused := array(
        select n.command from unnest(command, aggregate_type, aggregate_id, sequence) as n(command, type, id, seq)
        where exists (select from events e where e.aggregate_type = n.type and e.aggregate_id = n.id and e.sequence = n.seq)
        union
        select f.command from (
            select n.command, n.type, n.id, min(n.seq) as seq
            from unnest(command, aggregate_type, aggregate_id, sequence) as n(command, type, id, seq)
            group by 1, 2, 3
        ) f
        where f.seq > 1
          and not exists (select from events e where e.aggregate_type = f.type and e.aggregate_id = f.id and e.sequence = f.seq - 1)
        union
        select k.command from unnest(key_command, key_name) as k(command, name)
        where exists (select from data_keys d where d.id = k.name)
    );

    insert into data_keys (id, key_id, wrapped)
    select k.name, k.key_id, k.wrapped
    from unnest(key_command, key_name, key_id, key_wrapped) as k(command, name, key_id, wrapped)
    where k.command <> all (refused);

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
