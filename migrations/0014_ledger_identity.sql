-- Which log this is. Made once, with the log; copies of the database share it. The epoch is raised when an operator accepts that
-- events were lost: what a process remembers from before such a loss says nothing about the log after it.
create table log_identity (
    one        boolean     primary key default true check (one),
    id         uuid        not null default gen_random_uuid(),
    epoch      integer     not null default 1,
    -- How a process found the log to differ from what it knew, until that is accepted. Nothing is appended meanwhile.
    diverged   text,
    created_at timestamptz not null default clock_timestamp()
);
insert into log_identity default values;

-- SHA-256 of the event at a position; null when there is none. Two events at one position have the same digest only if they are the
-- same event, recorded at the same moment. Volatile, so that it looks at the log as it is when it is called: a statement that waited for
-- the lock on a checkpoint sees the checkpoint as it is then, but would otherwise look for its event in the log of before.
create function event_digest(at bigint) returns bytea language sql volatile set search_path from current as $$
    select sha256(convert_to(concat_ws(E'\x1f', e.position, extract(epoch from e.recorded_at), e.aggregate_type, e.aggregate_id,
        e.sequence, e.event_type, e.event_version, e.payload, e.metadata), 'UTF8'))
    from events e where e.position = at
$$;

-- A checkpoint is of one table: of a view in one version. It knows the event it stands on (null: not known yet). Tables that no node
-- needs are dropped a while later.
alter table checkpoints
    add column digest bytea,
    add column unneeded_since timestamptz;

-- The tables of views that a node reads; null of a node whose version knows one table a view, of the view's name.
alter table nodes add column needs text[];
