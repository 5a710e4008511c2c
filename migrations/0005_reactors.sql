-- Reactors: what events lead to outside of the log, each with a place of its own in it (D9).
create table reactors (
    name       text        collate "C" primary key,
    -- Everything up to here has been dealt with, or put aside. Never goes back by itself.
    position   bigint      not null check (position >= 0),
    -- Which process works, and until when nobody else may. It says again and again that it lives.
    holder     uuid,
    held_until timestamptz,
    -- Updated every few seconds: the free space keeps those updates within the page.
    check ((holder is null) = (held_until is null))
) with (fillfactor = 20);

-- Events that a reactor could not deal with, and went on without. Tried once more by each process that takes the reactor up.
create table reactor_failures (
    reactor   text        collate "C" not null references reactors on delete cascade,
    position  bigint      not null,
    tries     integer     not null,
    error     text        not null,
    failed_at timestamptz not null default clock_timestamp(),
    primary key (reactor, position)
);

-- The planner's statistics are samples of what is in a table, and would keep some keys when they are destroyed. Setting the type
-- drops what was sampled before.
alter table data_keys alter column wrapped set statistics 0;
alter table data_keys alter column wrapped type bytea;
