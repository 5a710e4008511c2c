-- How far a job's log has come, and which attempt writes it. A store names the attempt and what that attempt has stored before, so that
-- no line is there twice, none is lost to an attempt that was thought dead, and the numbers stay dense. It also tells whoever watches
-- many jobs which of them have gone on. A job that never printed anything has no row.
create table job_logs (
    job_id   uuid    primary key,
    attempt  integer not null,
    -- Lines of this attempt so far.
    stored   bigint  not null,
    last_seq bigint  not null
);

-- For searching through the logs of many jobs, the newest first. Whose a job is and of which kind never changes; what is found is shown
-- only where the team's own view has the job. `at` is the time of the chunk's last line.
alter table job_log_chunks
    add column team_id uuid,
    add column kind text,
    add column at timestamptz;

-- What was stored before this migration gets them from the view, if there is one already.
do $$
begin
    if to_regclass('jobs') is not null then
        execute 'update job_log_chunks c set team_id = (j.row->>''team_id'')::uuid, kind = j.row->>''kind'', '
             || 'at = (c.lines->-1->>''at'')::timestamptz from jobs j where j.key = c.job_id::text';
    end if;
end $$;

create index job_log_chunks_by_team on job_log_chunks (team_id, at, job_id, first_seq);
create index job_log_chunks_by_kind on job_log_chunks (team_id, kind, at, job_id, first_seq);

-- Tickets for one WebSocket each: what stands here is the digest, the ticket itself is nowhere. A ticket is used by deleting its row.
-- Unlogged: after a crash of the server clients ask for another one.
create unlogged table ws_tickets (
    hash               text        primary key,
    team_id            uuid        not null,
    user_id            uuid        not null,
    -- Either the session, with the end of the access token that asked for the ticket (seconds since 1970), ...
    session_id         uuid,
    credential_expires bigint,
    -- ... or the API key, with its digest.
    key_id             uuid,
    key_hash           text,
    expires_at         timestamptz not null,
    check ((session_id is null) = (key_id is not null)),
    check ((session_id is null) = (credential_expires is null)),
    check ((key_id is null) = (key_hash is null))
);
create index ws_tickets_by_expiry on ws_tickets (expires_at);
