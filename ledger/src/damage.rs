//! Events whose rows cannot be read: PostgreSQL's `json` takes more than a JSON reader does, and a superuser can store anything.
//!
//! What is wrong is said in words without contents: positions in the text, never the text.

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::payload::Payload;

/// Seconds from 1970 to 2000, where PostgreSQL counts from.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;
const MICROSECONDS_PER_SECOND: i64 = 1_000_000;

/// Those columns of an event that can be damaged.
pub(crate) struct Row {
    pub(crate) payload: Payload,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) damage: Option<String>,
}

/// Reads `payload`, `metadata` and `recorded_at` of a row.
pub(crate) fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    let mut damage = Damage(vec![]);
    let payload = damage.note("payload", document(bytes(row, "payload")?)).unwrap_or_default();
    let metadata = damage.note("metadata", json(bytes(row, "metadata")?)).unwrap_or_default();
    let metadata = texts(metadata, &mut damage);
    let at = time(row.try_get_unchecked("recorded_at")?).unwrap_or_else(|nearest| {
        damage.0.push("recorded_at is not within the years 0000 to 9999".to_owned());
        nearest
    });
    let damage = damage.said();
    Ok(Row { payload: if damage.is_some() { Payload::default() } else { payload }, metadata, at, damage })
}

/// What is wrong with one row.
struct Damage(Vec<String>);

impl Damage {
    fn note<T>(&mut self, column: &str, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|cause| self.0.push(format!("{column} cannot be read: {cause}"))).ok()
    }

    fn said(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("; "))
    }
}

fn bytes<'r>(row: &'r PgRow, column: &str) -> Result<&'r [u8], sqlx::Error> {
    row.try_get_raw(column)?.as_bytes().map_err(sqlx::Error::Decode)
}

/// serde_json says what is wrong and where, and never what stands there.
fn json(text: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// The text of a document that can be read, looked at and not read into memory.
fn document(text: &[u8]) -> Result<Payload, String> {
    let said = |error: serde_json::Error| error.to_string();
    let _: Readable = serde_json::from_slice(text).map_err(said)?;
    serde_json::from_slice::<Box<RawValue>>(text).map(Payload::from).map_err(said)
}

/// Reads all of a document, as a tree would be read, and keeps nothing: `IgnoredAny` does not look into texts and numbers.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// The texts of the metadata's object; anything else in it is damage.
fn texts(metadata: Value, damage: &mut Damage) -> HashMap<String, String> {
    let fields = match metadata {
        Value::Object(fields) => fields,
        // Said already.
        _ if !damage.0.is_empty() => Map::new(),
        _ => {
            damage.0.push("metadata is not an object".to_owned());
            Map::new()
        }
    };
    let mut texts = HashMap::new();
    for (name, value) in fields {
        match value {
            Value::String(text) => drop(texts.insert(name, text)),
            _ if KNOWN.contains(&name.as_str()) => damage.0.push(format!("metadata's {name} is not a text")),
            _ => damage.0.push("metadata holds something that is not a text".to_owned()),
        }
    }
    texts
}

/// Names that may be said: others are contents.
const KNOWN: &[&str] =
    &["actor", "team_id", "request_id", "causation", "trace_id", "subject", "ip", "user_agent"];

/// The time of PostgreSQL's microseconds; an error with the nearest time there is. `infinity` is such a time.
fn time(microseconds: i64) -> Result<DateTime<Utc>, DateTime<Utc>> {
    let since_1970 = microseconds.checked_add(POSTGRES_EPOCH_SECONDS * MICROSECONDS_PER_SECOND);
    let (first, last) = (bound(0, 1, 1), bound(9_999, 12, 31));
    let nearest = if microseconds < 0 { first } else { last };
    match since_1970.and_then(DateTime::from_timestamp_micros) {
        Some(time) if (first..=last).contains(&time) => Ok(time),
        Some(_) | None => Err(nearest),
    }
}

fn bound(year: i32, month: u32, day: u32) -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(year, month, day)
        .and_then(|date| date.and_hms_opt(0, 0, 0))
        .map(|time| time.and_utc())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_that_cannot_be_shown_become_the_nearest_that_can() {
        assert_eq!(time(0).unwrap().to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(time(i64::MAX).unwrap_err().to_rfc3339(), "9999-12-31T00:00:00+00:00");
        assert_eq!(time(i64::MIN).unwrap_err().to_rfc3339(), "0000-01-01T00:00:00+00:00");
        let year_10_000 = 252_455_616_000_000_000;
        assert!(time(year_10_000).is_err());
        assert_eq!(time(year_10_000 - 86_400_000_000).unwrap().to_rfc3339(), "9999-12-31T00:00:00+00:00");
    }

    #[test]
    fn what_is_wrong_is_said_without_what_is_there() {
        for text in [r#"{"a": "geheim\ud800"}"#, r#"{"geheim": 1e400}"#, &"[".repeat(200)] {
            let said = json(text.as_bytes()).unwrap_err();
            assert_eq!(document(text.as_bytes()).unwrap_err(), said, "as a tree says it");
            assert!(!said.contains("geheim") && said.contains("line 1"), "{said}");
        }
    }
}
