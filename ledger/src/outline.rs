//! Reading events without most of what they say: for who only wants to know that something happened.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::types::Json;

use crate::Ledger;
use crate::error::LedgerError;
use crate::read::LARGEST_PAGE;

/// An event, and few of its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Its place in the log.
    pub position: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Which aggregate it is of.
    pub aggregate_id: String,
    /// Its name.
    pub event_type: String,
    /// For which team, as its metadata has it.
    pub team_id: Option<String>,
    /// Those of the fields asked for that it has.
    pub fields: Map<String, Value>,
}

/// Which events are wanted, and what of them.
#[derive(Clone, Copy, Debug)]
pub struct Outlined<'a> {
    /// The aggregate type they are of.
    pub aggregate_type: &'a str,
    /// The team whose they are, as their metadata has it; any if not given.
    pub team_id: Option<&'a str>,
    /// The fields to read. What else an event says does not leave the database.
    pub fields: &'a [&'a str],
}

impl Ledger {
    /// The outlines of the events at positions after `after` and up to `up_to`, in order: at most `limit` (and 10,000). To be asked
    /// for stretches of some ten thousand positions: each of them is looked at.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn outlines(
        &self,
        wanted: Outlined<'_>,
        after: i64,
        up_to: i64,
        limit: i64,
    ) -> Result<Vec<Outline>, LedgerError> {
        // An event is one object, named as the event, around its fields.
        let query = sqlx::query(
            "select position, recorded_at, aggregate_id, event_type, metadata->>'team_id' as team_id, \
             (select json_object_agg(field.key, field.value) \
              from json_each(case json_typeof(payload->event_type) when 'object' then payload->event_type end) as field \
              where field.key = any($3)) as fields \
             from events where position > $1 and position <= $2 and aggregate_type = $4 \
             and ($5::text is null or metadata->>'team_id' = $5) order by position limit $6",
        );
        let query = query.bind(after).bind(up_to).bind(wanted.fields).bind(wanted.aggregate_type);
        let rows = query.bind(wanted.team_id).bind(limit.min(LARGEST_PAGE)).fetch_all(self.pool()).await?;
        let outlines = rows.iter().map(|row| {
            let fields: Option<Json<Map<String, Value>>> = row.try_get("fields")?;
            Ok(Outline {
                position: row.try_get("position")?,
                at: row.try_get("recorded_at")?,
                aggregate_id: row.try_get("aggregate_id")?,
                event_type: row.try_get("event_type")?,
                team_id: row.try_get("team_id")?,
                fields: fields.map(|fields| fields.0).unwrap_or_default(),
            })
        });
        outlines.collect::<Result<_, sqlx::Error>>().map_err(LedgerError::from)
    }
}
