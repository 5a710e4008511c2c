-- Failures that strangers, or callers without permission, can cause as often as they like. The first of a burst are recorded one by one;
-- the others are counted here and recorded as one sum a minute or so later. Not history: a row is removed when its sum is in the log.
-- The count is durable before the caller gets an answer, so that a crash loses none.
create table failure_counts (
    -- The event that is counted.
    kind         text        collate "C" not null,
    -- Who or what causes it, as a keyed hash; empty: all together.
    source       text        collate "C" not null,
    -- The window in which so many were recorded one by one.
    began_at     timestamptz not null,
    recorded     integer     not null,
    -- Whether the last one was counted instead.
    was_counted  boolean     not null default false,
    -- Counted since the last sum, and when.
    counted      bigint      not null default 0,
    counted_from timestamptz,
    counted_to   timestamptz,
    -- Who acted and from where, of the last one that was counted.
    metadata     jsonb,
    -- A sum that is being recorded: the stream it goes to. Whoever finds it goes on with it.
    sum_id       uuid,
    sum_count    bigint,
    sum_from     timestamptz,
    sum_to       timestamptz,
    primary key (kind, source),
    check ((sum_id is null) = (sum_count is null))
);
create index failure_counts_to_be_recorded on failure_counts (counted_from) where counted > 0;
create index failure_counts_by_sum on failure_counts (sum_id) where sum_id is not null;
create index failure_counts_by_age on failure_counts (began_at);

