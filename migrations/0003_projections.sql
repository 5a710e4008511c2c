-- How far each view has got. The views' own tables are made and remade by the program, since their shape is code.
-- Updated with every batch: the free space keeps those updates within the page.
create table checkpoints (
    view              text             collate "C" primary key,
    position          bigint           not null default 0 check (position >= 0),
    shape             text             not null,
    state             text             not null default 'live' check (state in ('live', 'failed', 'outdated')),
    last_error        text,
    -- Decaying by e every 10 seconds, as of updated_at.
    events_per_second double precision not null default 0,
    updated_at        timestamptz      not null default clock_timestamp()
) with (fillfactor = 20);
