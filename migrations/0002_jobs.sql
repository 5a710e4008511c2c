-- Operational rows of running jobs: who has which, until when. Not history: the log has that.
create table job_leases (
    job_id     uuid             primary key,
    team_id    uuid             not null,
    attempt    integer          not null,
    worker     text             not null,
    -- Jobs with the same turn (team and concurrency key) take turns.
    turn       text             unique,
    expires_at timestamptz      not null,
    progress   double precision
);
create index job_leases_by_expiry on job_leases (expires_at);

-- What jobs printed, in chunks of lines beside the log. The event that ends an attempt has their count and digest.
create table job_log_chunks (
    job_id    uuid    not null,
    first_seq bigint  not null,
    last_seq  bigint  not null,
    attempt   integer not null,
    lines     jsonb   not null,
    primary key (job_id, first_seq)
);
