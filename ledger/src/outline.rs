//! Reading events without most of what they say: for who only wants to know that something happened.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::types::Json;

use crate::Ledger;
use crate::error::LedgerError;
use crate::event::Recorded;
use crate::read::LARGEST_PAGE;

/// Positions looked at together where events are read as a whole.
const STRETCH: i64 = 500;

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
        let rows = match query.bind(wanted.team_id).bind(limit.min(LARGEST_PAGE)).fetch_all(self.pool()).await
        {
            Err(error) if is_unreadable_json(&error) => {
                return self.outlines_one_by_one(wanted, after, up_to, limit.min(LARGEST_PAGE)).await;
            }
            rows => rows?,
        };
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
        match outlines.collect::<Result<_, sqlx::Error>>() {
            Err(error) if is_unreadable_json(&error) => {
                self.outlines_one_by_one(wanted, after, up_to, limit.min(LARGEST_PAGE)).await
            }
            outlines => Ok(outlines?),
        }
    }

    /// The same where the database could not look into one of the events: all are read as a whole, and the damaged one has no fields.
    async fn outlines_one_by_one(
        &self,
        wanted: Outlined<'_>,
        mut after: i64,
        up_to: i64,
        limit: i64,
    ) -> Result<Vec<Outline>, LedgerError> {
        let (mut outlines, most) = (vec![], usize::try_from(limit).unwrap_or_default());
        while after < up_to && outlines.len() < most {
            let end = up_to.min(after + STRETCH);
            let stretch = self.read_types(after, end, &[wanted.aggregate_type]).await?;
            let outlined = stretch.events.into_iter().map(|event| outline(event, wanted.fields));
            outlines.extend(
                outlined.filter(|it| wanted.team_id.is_none() || it.team_id.as_deref() == wanted.team_id),
            );
            after = stretch.up_to;
        }
        outlines.truncate(most);
        Ok(outlines)
    }
}

fn outline(event: Recorded, wanted: &[&str]) -> Outline {
    let payload = event.payload.value();
    let fields = payload.get(&event.event_type).and_then(Value::as_object);
    let picked = fields.into_iter().flatten().filter(|(name, _)| wanted.contains(&name.as_str()));
    Outline {
        fields: picked.map(|(name, value)| (name.clone(), value.clone())).collect(),
        position: event.position,
        at: event.at,
        aggregate_id: event.stream.aggregate_id,
        event_type: event.event_type,
        team_id: event.metadata.team_id,
    }
}

/// Looking into JSON, PostgreSQL refuses characters that it has let in: lone surrogates and U+0000 (class 22).
fn is_unreadable_json(error: &sqlx::Error) -> bool {
    let decoding = matches!(error, sqlx::Error::ColumnDecode { .. });
    decoding
        || error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code.starts_with("22"))
}
