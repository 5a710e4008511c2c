-- Whether what has effects outside of the database is held: schedules, mail, jobs, the removal of files. It is on a copy of another database
-- until an operator releases it.
create table effects (
    one          boolean     primary key default true check (one),
    held_since   timestamptz,
    held_because text,
    released_at  timestamptz,
    check ((held_since is null) = (held_because is null))
);
insert into effects default values;
-- As of `log_identity`: what is restored into a migrated database replaces what the migration made.
create trigger the_only_row_is_replaced before insert on effects
    for each row execute function the_only_row_is_replaced();

-- Where each node runs and which database server it uses, as of its last heartbeat. A copy of the database finds here what it is a copy of: a
-- node that stops takes its row in `nodes` away, and only what has one there counts. Updated every few seconds: the free space keeps that within the page.
create table node_places (
    node               uuid        primary key,
    host               text        not null,
    machine            text,
    -- Of the server's data, the same on copies of its files; null where this database user may not know.
    system_identifier  text,
    timeline           integer,
    -- Of the database on that server; another one once it is made from a dump.
    database           oid         not null,
    -- Which folder the data is in, where it is on the node's machine.
    folder             text,
    -- Where the node reaches the server, and since when that runs.
    address            text        not null,
    server_started_at  timestamptz not null
) with (fillfactor = 20);
