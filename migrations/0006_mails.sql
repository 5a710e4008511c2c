-- Mails that events lead to, and how far each is. No address and no content: both are made from the event when it is sent. Not history:
-- the log has that.
create table mails (
    -- Of the event it tells of.
    position      bigint      primary key,
    -- queued: to be sent at next_at. handing_over: its last byte may be on its way. sent: the server (or the disk) has it.
    -- failed: refused for good, or given up. skipped: of no use any more. uncertain: nobody knows whether the server has it.
    state         text        not null default 'queued'
        check (state in ('queued', 'handing_over', 'sent', 'failed', 'skipped', 'uncertain')),
    -- How often it was taken up; whoever took it up last has the say over it.
    attempts      integer     not null default 0,
    next_at       timestamptz not null default now(),
    -- While in the future, somebody is at it.
    claimed_until timestamptz,
    -- Why it is not sent (yet), with nothing personal in it.
    last_error    text,
    settled_at    timestamptz
);
-- What is not settled: the only part that is looked at again and again.
create index mails_open on mails (next_at) where state in ('queued', 'handing_over');
create index mails_settled on mails (settled_at) where settled_at is not null;
