-- Which attempts have left files to be kept, and where. A row is there before the first of its files is, and until the last one is gone:
-- whoever removes them need not look through the whole place. What the files are is told by the event that ended the attempt; a file that
-- an event tells of and no row has was removed when its time was over.
create table job_artifacts (
    job_id  uuid        not null,
    attempt integer     not null,
    team_id uuid        not null,
    -- The folder or bucket: nodes remove and read only what is in their own.
    place   text        not null,
    -- As the event has it: [{"name": ..., "size": ..., "sha256": ...}]. Empty until all of them are there.
    kept    jsonb       not null default '[]',
    kept_at timestamptz not null default clock_timestamp(),
    primary key (job_id, attempt)
);
