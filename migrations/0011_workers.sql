-- Workers, as they say of themselves: each beats every few seconds. A job whose worker is not among those that beat is lost. Not
-- history: the log has that.
create table workers (
    name        text        collate "C" primary key,
    host        text        not null,
    pid         integer     not null,
    version     text        not null,
    kinds       text[]      not null,
    concurrency integer     not null,
    running     integer     not null default 0,
    -- Somebody wants it to take no more.
    draining    boolean     not null default false,
    started_at  timestamptz not null default clock_timestamp(),
    beat_at     timestamptz not null default clock_timestamp(),
    -- Changes with each beat: others measure its silence with their own clocks.
    beats       bigint      not null default 0,
    -- Others gave it up. It finds that out with its next beat, if there is one.
    lost        boolean     not null default false
) with (fillfactor = 50);

-- Leases by job are replaced by a worker's own beat.
drop table job_leases;

-- What keeps workers from reaching for the same job, and jobs with the same concurrency key apart. Not logged, so that it costs no
-- flush: it decides nothing, the job does. After a crash of PostgreSQL it is empty, and each worker enters again what it runs.
create unlogged table job_claims (
    job_id   uuid    primary key,
    worker   text    collate "C" not null,
    -- Jobs with the same turn (team and concurrency key) share as many slots as their kind allows.
    turn     text,
    slot     integer,
    progress double precision,
    claimed_at timestamptz not null default clock_timestamp(),
    unique (turn, slot),
    check ((turn is null) = (slot is null))
) with (fillfactor = 70);
create index job_claims_by_worker on job_claims (worker);
