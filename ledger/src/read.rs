//! Reading: pages of the log, streams, single places.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use crate::Ledger;
use crate::damage::{self, Row};
use crate::error::LedgerError;
use crate::event::{Metadata, Recorded, StreamId};

/// Events of one page at most.
pub(crate) const LARGEST_PAGE: i64 = 10_000;
/// A page ends with the event that reaches so many bytes of payload and metadata.
pub(crate) const PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// The same where the log is followed: whoever waits for a view waits for a page.
const STEP_BYTES: i64 = 1024 * 1024;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version, \
             payload, metadata from events ",
            $rest
        )
    };
}

/// Of what `select!` finds, in this order, only what comes before [`PAGE_BYTES`] are reached (`$bytes` is their parameter), each with
/// how many there are in `total`. First by the sizes as stored, which are known without reading what is stored apart; then, of what is
/// left, by the sizes of the texts, since a text may be a hundred times what is stored of it.
macro_rules! within_bytes {
    ($bytes:literal, $order:literal, $($rest:expr),+ $(,)?) => {
        concat!(
            "select * from (select sized.*, sum(size) over (order by ", $order, " rows unbounded preceding) as spent from (\
               select few.*, (case when pg_column_compression(payload) is null then pg_column_size(payload) \
                                   else octet_length(payload::text) end + pg_column_size(metadata))::integer as size from (\
                 select found.*, count(*) over () as total, sum(pg_column_size(payload) + pg_column_size(metadata)) \
                     over (order by ", $order, " rows unbounded preceding) as stored from (",
            $($rest),+,
            ") found) few where stored - pg_column_size(payload) - pg_column_size(metadata) < ", $bytes,
            ") sized) within where spent - size < ", $bytes, " order by ", $order
        )
    };
}

/// The events of a stretch of the log, as far as it was read.
#[derive(Debug)]
pub struct Stretch {
    /// The events, in order.
    pub events: Vec<Recorded>,
    /// There are no others up to this position.
    pub up_to: i64,
}

/// An event, and how many there are for its page.
struct Counted {
    event: Recorded,
    total: i64,
}

impl FromRow<'_, PgRow> for Counted {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let total = row.try_get("total")?;
        Ok(Self { event: Recorded::from_row(row)?, total })
    }
}

impl FromRow<'_, PgRow> for Recorded {
    /// Never fails because of what a single event says: a damaged one is an entry like any other, with its damage.
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let Row { payload, metadata, at, damage } = damage::read(row)?;
        Ok(Self {
            position: row.try_get("position")?,
            at,
            stream: StreamId {
                aggregate_type: row.try_get("aggregate_type")?,
                aggregate_id: row.try_get("aggregate_id")?,
            },
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            event_version: row.try_get("event_version")?,
            payload,
            metadata: Metadata::from_map(metadata),
            damage,
        })
    }
}

/// The page's events, and whether there may be more after it.
fn page_of(page: Vec<Counted>, limit: i64) -> (Vec<Recorded>, bool) {
    let events = page.len() as i64;
    let more = events >= limit || page.last().is_some_and(|last| last.total > events);
    (page.into_iter().map(|counted| counted.event).collect(), more)
}

impl Ledger {
    /// The events after position `after`, in order: at most `limit` (and 10,000), and no more after the first 1 MiB of them. Only an
    /// empty page is the end. Positions are dense and in commit order, so nothing can appear later among what was read.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read(&self, after: i64, limit: i64) -> Result<Vec<Recorded>, LedgerError> {
        Ok(self.read_step(after, limit).await?.0)
    }

    /// As [`Ledger::read`], and whether there may be more: otherwise this was everything that was in the log.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_step(&self, after: i64, limit: i64) -> Result<(Vec<Recorded>, bool), LedgerError> {
        let query = sqlx::query_as(within_bytes!(
            "$3",
            "position",
            select!("where position > $1 order by position limit $2")
        ));
        let limit = limit.min(LARGEST_PAGE);
        let query = query.bind(after).bind(limit).bind(STEP_BYTES);
        Ok(page_of(query.fetch_all(self.pool()).await?, limit))
    }

    /// The events of these aggregate types at positions after `after` and up to `up_to`, in order, and no more after the first 4 MiB of
    /// them: the answer says up to where they are. To be asked for stretches of some thousand positions.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_types(
        &self,
        after: i64,
        up_to: i64,
        aggregate_types: &[&str],
    ) -> Result<Stretch, LedgerError> {
        let query = sqlx::query_as(within_bytes!(
            "$4",
            "position",
            select!("where position > $1 and position <= $2 and aggregate_type = any($3) order by position")
        ));
        let query = query.bind(after).bind(up_to).bind(aggregate_types).bind(PAGE_BYTES);
        let (events, is_cut) = page_of(query.fetch_all(self.pool()).await?, i64::MAX);
        let cut = events.last().filter(|_| is_cut).map(|last| last.position);
        Ok(Stretch { events, up_to: cut.unwrap_or(up_to) })
    }

    /// Those of the events at these positions that come last, in the order of the log: as many as there are within the first 4 MiB, looked
    /// at from the end; and whether there may be more.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_last_of(&self, positions: &[i64]) -> Result<(Vec<Recorded>, bool), LedgerError> {
        let query = sqlx::query_as(within_bytes!("$2", "position desc", select!("where position = any($1)")));
        let page = query.bind(positions).bind(PAGE_BYTES).fetch_all(self.pool()).await?;
        let (mut events, is_cut) = page_of(page, i64::MAX);
        events.reverse();
        Ok((events, is_cut))
    }

    /// The events at these positions, in the order of the log; those that do not exist are left out.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_at(&self, positions: &[i64]) -> Result<Vec<Recorded>, LedgerError> {
        let query = sqlx::query_as(select!("where position = any($1) order by position"));
        Ok(query.bind(positions).fetch_all(self.pool()).await?)
    }

    /// The history of one stream after sequence `after`, at most `limit` (and 10,000) events, none beyond position `up_to`, and no more
    /// after the first 4 MiB of them. Only an empty page is the end.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_stream(
        &self,
        stream: &StreamId,
        after: i64,
        up_to: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Recorded>, LedgerError> {
        Ok(self.stream_page(stream, after, up_to, limit).await?.0)
    }

    /// As [`Ledger::read_stream`], and whether there may be more after it.
    pub(crate) async fn stream_page(
        &self,
        stream: &StreamId,
        after: i64,
        up_to: Option<i64>,
        limit: i64,
    ) -> Result<(Vec<Recorded>, bool), LedgerError> {
        let query = sqlx::query_as(within_bytes!(
            "$6",
            "sequence",
            select!(
                "where aggregate_type = $1 and aggregate_id = $2 and sequence > $3 and position <= $4 order by sequence limit $5"
            )
        ));
        let limit = limit.min(LARGEST_PAGE);
        let query = query.bind(&stream.aggregate_type).bind(&stream.aggregate_id).bind(after);
        let query = query.bind(up_to.unwrap_or(i64::MAX)).bind(limit).bind(PAGE_BYTES);
        Ok(page_of(query.fetch_all(self.pool()).await?, limit))
    }

    /// The next `limit` events of a stream after sequence `after`, however large they are: for who asks for few, and knows how large those
    /// before were.
    pub(crate) async fn few_of_stream(
        &self,
        stream: &StreamId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Recorded>, LedgerError> {
        let query = sqlx::query_as(select!(
            "where aggregate_type = $1 and aggregate_id = $2 and sequence > $3 order by sequence limit $4"
        ));
        let query = query.bind(&stream.aggregate_type).bind(&stream.aggregate_id).bind(after).bind(limit);
        Ok(query.fetch_all(self.pool()).await?)
    }

    /// Gives `each` the history of one stream after sequence `after`, in order: at most `limit` events, of which a page is in memory at a
    /// time.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn walk_stream(
        &self,
        stream: &StreamId,
        after: i64,
        limit: i64,
        mut each: impl FnMut(Recorded) + Send,
    ) -> Result<(), LedgerError> {
        let (mut reached, mut left) = (after, limit);
        loop {
            let (page, more) = self.stream_page(stream, reached, None, left).await?;
            reached = page.last().map_or(reached, |last| last.sequence);
            left -= page.len() as i64;
            page.into_iter().for_each(&mut each);
            if !more || left <= 0 {
                return Ok(());
            }
        }
    }

    /// The events of these streams of one type, stream by stream and in order: at most `limit` (and 10,000). `None` if there are more than
    /// that, or more than 4 MiB: each stream is to be read by itself then.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_streams(
        &self,
        aggregate_type: &str,
        ids: &[String],
        limit: i64,
    ) -> Result<Option<Vec<Recorded>>, LedgerError> {
        // Stream by stream: of `aggregate_id = any($2)` the planner makes a filter on all events of the type, for the sake of the order.
        let query = sqlx::query_as(within_bytes!(
            "$4",
            "aggregate_id, sequence",
            "select event.* from unnest($2) as stream(id) cross join lateral (",
            select!("where aggregate_type = $1 and aggregate_id = stream.id order by sequence limit $3"),
            ") event limit $3"
        ));
        let limit = limit.min(LARGEST_PAGE);
        let query = query.bind(aggregate_type).bind(ids).bind(limit).bind(PAGE_BYTES);
        let (events, more) = page_of(query.fetch_all(self.pool()).await?, limit);
        Ok(Some(events).filter(|_| !more))
    }

    /// How many events a stream has.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn stream_length(&self, stream: &StreamId) -> Result<i64, LedgerError> {
        let query = sqlx::query_scalar(
            "select coalesce(max(sequence), 0) from events where aggregate_type = $1 and aggregate_id = $2",
        );
        Ok(query.bind(&stream.aggregate_type).bind(&stream.aggregate_id).fetch_one(self.pool()).await?)
    }

    /// The last position of the log; 0 when it is empty.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn head(&self) -> Result<i64, LedgerError> {
        Ok(sqlx::query_scalar("select coalesce(max(position), 0) from events").fetch_one(self.pool()).await?)
    }

    /// The time by the database's clock.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(self.pool()).await?)
    }

    /// The last position recorded at or before `moment`; 0 when there is none.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn position_at(&self, moment: DateTime<Utc>) -> Result<i64, LedgerError> {
        Ok(sqlx::query_scalar("select position_at($1)").bind(moment).fetch_one(self.pool()).await?)
    }

    /// As [`Ledger::position_at`]; `None` when `moment` is yet to come: by the database's clock, and by what is recorded already, whose times
    /// are later where that clock was set back.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn position_as_of(&self, moment: DateTime<Utc>) -> Result<Option<i64>, LedgerError> {
        let sql = "select position_at($1) where $1 <= greatest(clock_timestamp(), \
                   (select recorded_at from events order by position desc limit 1))";
        Ok(sqlx::query_scalar(sql).bind(moment).fetch_optional(self.pool()).await?)
    }
}
