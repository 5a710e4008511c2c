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

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version, \
             payload, metadata from events ",
            $rest
        )
    };
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

impl Ledger {
    /// The events after position `after`, in order: at most `limit` (and 10,000). Positions are dense and in commit order, so
    /// nothing can appear later among what was read.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read(&self, after: i64, limit: i64) -> Result<Vec<Recorded>, LedgerError> {
        let query = sqlx::query_as(select!("where position > $1 order by position limit $2"));
        Ok(query.bind(after).bind(limit.min(LARGEST_PAGE)).fetch_all(self.pool()).await?)
    }

    /// The events of these aggregate types at positions after `after` and up to `up_to`, in order. To be asked for stretches of
    /// some thousand positions.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_types(
        &self,
        after: i64,
        up_to: i64,
        aggregate_types: &[&str],
    ) -> Result<Vec<Recorded>, LedgerError> {
        let query = sqlx::query_as(select!(
            "where position > $1 and position <= $2 and aggregate_type = any($3) order by position"
        ));
        let query = query.bind(after).bind(up_to).bind(aggregate_types);
        Ok(query.fetch_all(self.pool()).await?)
    }

    /// The events at these positions, in the order of the log; those that do not exist are left out.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_at(&self, positions: &[i64]) -> Result<Vec<Recorded>, LedgerError> {
        let query = sqlx::query_as(select!("where position = any($1) order by position"));
        Ok(query.bind(positions).fetch_all(self.pool()).await?)
    }

    /// The history of one stream after sequence `after`, at most `limit` (and 10,000) events, and none beyond position `up_to`.
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
        let query = sqlx::query_as(select!(
            "where aggregate_type = $1 and aggregate_id = $2 and sequence > $3 and position <= $4 order by sequence limit $5"
        ));
        let query = query.bind(&stream.aggregate_type).bind(&stream.aggregate_id).bind(after);
        let query = query.bind(up_to.unwrap_or(i64::MAX)).bind(limit.min(LARGEST_PAGE));
        Ok(query.fetch_all(self.pool()).await?)
    }

    /// The events of these streams of one type, stream by stream and in order: at most `limit` (and 10,000).
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn read_streams(
        &self,
        aggregate_type: &str,
        ids: &[String],
        limit: i64,
    ) -> Result<Vec<Recorded>, LedgerError> {
        // Stream by stream: of `aggregate_id = any($2)` the planner makes a filter on all events of the type, for the sake of the order.
        let query = sqlx::query_as(concat!(
            "select event.* from unnest($2) as stream(id) cross join lateral (",
            select!("where aggregate_type = $1 and aggregate_id = stream.id order by sequence limit $3"),
            ") event limit $3"
        ));
        let query = query.bind(aggregate_type).bind(ids).bind(limit.min(LARGEST_PAGE));
        Ok(query.fetch_all(self.pool()).await?)
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
