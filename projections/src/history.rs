//! What was true when, and what each event changed: folds of single streams.

use std::collections::BTreeMap;

use domain::JsonText;
use ledger::{Ledger, LedgerError, Recorded, StreamId};
use serde::Serialize;
use serde_json::Value;

use crate::Projections;
use crate::error::{Fault, ReadError};
use crate::fact::{self, Entry, Fact, Unreadable};
use crate::machine::{LIST_BYTES, Listed};
use crate::registry;
use crate::view::{StreamView, shown};

/// Events of a stream read at once; fewer where they are large.
const PAGE: i64 = 1_000;
/// Fields of rows that say nothing an auditor does not see beside them.
const BESIDE: &[&str] = &[
    "sequence",
    "updated_at",
    "sealed_sequence",
    "canonical_email",
    "canonical_name",
    "password_position",
    "was_due",
];

/// Something as it was at a position of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AsOf<R> {
    /// What it was.
    pub row: R,
    /// Events of its stream by then.
    pub sequence: i64,
    /// The position of the last of those.
    pub position: i64,
}

/// A field that an event changed. Hidden values appear as `sealed`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Which.
    pub field: String,
    /// What it was; null when it was not there.
    pub before: JsonText,
    /// What it is; null when it is not there any more.
    pub after: JsonText,
}

/// An event with what it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// The event and its metadata.
    pub fact: Result<Fact, Box<Unreadable>>,
    /// What it changed. After an event that could not be read, what the event itself states, as changes from nothing.
    pub changes: Vec<Change>,
}

impl HistoryEntry {
    /// The event's place in its stream, and in the log.
    #[must_use]
    pub fn place(&self) -> (i64, i64) {
        place(&self.fact)
    }
}

fn place(fact: &Result<Fact, Box<Unreadable>>) -> (i64, i64) {
    match fact {
        Ok(fact) => (fact.sequence, fact.position),
        Err(unreadable) => (unreadable.sequence, unreadable.position),
    }
}

/// Why it cannot be told how something stood.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An event of its history cannot be read.
    #[error("event {} ({}) cannot be read: {}", .0.position, .0.event_type, .0.cause)]
    Unreadable(Box<Unreadable>),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StateError> for ReadError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Unreadable(event) => Self::Fault(Fault::at_event(event.position, event.cause)),
            StateError::Read(error) => error,
        }
    }
}

/// [`Replay`] without the view's type.
pub(crate) trait AnyReplay: Send {
    fn step(&mut self, fact: &Fact);
    /// The row as it is stored.
    fn stored(&self) -> Fields;
    /// The row as an auditor may see it.
    fn public(&self) -> Option<JsonText>;
    fn hidden(&self) -> &'static [&'static str];
}

/// One row of a view whose rows are pure functions of a stream.
pub(crate) struct Replay<V: StreamView> {
    row: Option<V::Row>,
}

impl<V: StreamView> Default for Replay<V> {
    fn default() -> Self {
        Self { row: None }
    }
}

impl<V: StreamView> AnyReplay for Replay<V> {
    fn step(&mut self, fact: &Fact) {
        self.row = V::fold(&fact.aggregate_id, self.row.take(), fact);
    }

    fn stored(&self) -> Fields {
        self.row.as_ref().map(fields_of).unwrap_or_default()
    }

    fn public(&self) -> Option<JsonText> {
        let row = self.row.as_ref()?;
        let fields = fields_of(row).into_iter().map(|(name, field)| {
            let field = shown(V::HIDDEN, &name, field);
            (name, field)
        });
        JsonText::of(&fields.collect::<Fields>()).ok()
    }

    fn hidden(&self) -> &'static [&'static str] {
        V::HIDDEN
    }
}

impl Fact {
    /// The fields the event itself states, as changes from nothing: for where folding its stream would be too much.
    #[must_use]
    pub fn stated(&self) -> Vec<Change> {
        let hidden =
            ["sealed", "password_hash", "refresh_token_hash", "token_hash", "hash", "recovery_code_hashes"];
        let change = |(field, value): (String, JsonText)| {
            let after = shown(&hidden, &field, without_marks(value));
            Change { field, before: JsonText::null(), after }
        };
        // What it states to be nothing, it does not change from nothing.
        self.fields().into_iter().filter(|(_, value)| !value.is_null()).map(change).collect()
    }
}

/// Personal data as the text it holds, without the marks around it.
fn without_marks(value: JsonText) -> JsonText {
    match serde_json::from_str::<domain::Personal>(value.text()) {
        Ok(personal) => Value::from(personal.text()).into(),
        Err(_) => value,
    }
}

/// The fields of a row or an event, by name; none of what is no object.
pub(crate) type Fields = BTreeMap<String, JsonText>;

pub(crate) fn fields_of(object: &impl Serialize) -> Fields {
    let text = serde_json::to_string(object);
    text.and_then(|text| serde_json::from_str(&text)).unwrap_or_default()
}

impl Projections {
    /// The row of `V` for the stream of `id`, as of position `up_to` of the log (its end by default). `None` when there was no
    /// such thing.
    ///
    /// # Errors
    /// The database is out of reach, or an event does not fit.
    pub async fn state_as_of<V: StreamView>(
        &self,
        id: impl ToString,
        up_to: Option<i64>,
    ) -> Result<Option<AsOf<V::Row>>, ReadError> {
        state_as_of::<V>(&self.inner.ledger, id, up_to).await
    }

    /// The same by aggregate type (`user`, `team`, `secret`, `job`, `access`), as an auditor may see it. `None` also for other
    /// types.
    ///
    /// # Errors
    /// The database is out of reach, or an event cannot be read: which.
    pub async fn state(
        &self,
        aggregate_type: &str,
        id: &str,
        up_to: Option<i64>,
    ) -> Result<Option<AsOf<JsonText>>, StateError> {
        let Some(mut replay) = registry::replay(aggregate_type) else { return Ok(None) };
        let stream = StreamId::new(aggregate_type, id);
        let (sequence, position) = replay_stream(&self.inner.ledger, replay.as_mut(), &stream, up_to).await?;
        Ok(replay.public().map(|row| AsOf { row, sequence, position }))
    }

    /// The events of one stream after `sequence`, at most `limit` (and 10,000) and none beyond position `up_to`.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn facts_of(
        &self,
        stream: &StreamId,
        sequence: i64,
        up_to: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Result<Fact, Box<Unreadable>>>, ReadError> {
        facts_of(&self.inner.ledger, stream, sequence, up_to, limit).await
    }

    /// The events after position `after`, in order, at most `limit` (and 10,000), claims included.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn facts(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Result<Fact, Box<Unreadable>>>, ReadError> {
        let events = self.inner.ledger.read(after, limit).await?;
        Ok(facts_in(fact::open(&self.inner.ledger, events).await?))
    }

    /// Those of `events` that cannot be read, personal data included: their positions, and why. Events of aggregate types that no program
    /// of ours writes are read as far as their rows go.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn unreadable(&self, events: Vec<Recorded>) -> Result<Vec<(i64, String)>, LedgerError> {
        let entries = fact::open(&self.inner.ledger, events).await?;
        let unreadable = entries.into_iter().filter_map(|entry| entry.fact.err());
        // Streams of other programs are nothing that this one reads; that their rows can be read is.
        let ours = |of: &str| domain::KNOWN_EVENTS.iter().any(|(known, _)| *known == of);
        let unreadable = unreadable.filter(|event| event.damaged || ours(&event.aggregate_type));
        Ok(unreadable
            .map(|event| (event.position, format!("{}: {}", event.event_type, event.cause)))
            .collect())
    }

    /// The events at these positions, in the order of the log. Where they are more than 4 MiB, those that come last.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn facts_at(
        &self,
        positions: &[i64],
    ) -> Result<Listed<Result<Fact, Box<Unreadable>>>, ReadError> {
        let (events, is_cut) = self.inner.ledger.read_last_of(positions).await?;
        Ok(Listed { rows: facts_in(fact::open(&self.inner.ledger, events).await?), is_cut })
    }

    /// The events of a stream after `sequence`, at most `limit`, each with the fields it changed. They end with the one that reaches
    /// 4 MiB of changes.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn history(
        &self,
        stream: &StreamId,
        sequence: i64,
        limit: usize,
    ) -> Result<Listed<HistoryEntry>, ReadError> {
        let (mut history, mut bytes) = (vec![], 0);
        let (Some(mut replay), false) =
            (registry::replay(&stream.aggregate_type), stream.aggregate_id.contains('\0'))
        else {
            return Ok(history.into());
        };
        let (mut read, mut whole, mut before) = (0, true, Fields::new());
        loop {
            let facts = self.facts_of(stream, read, None, PAGE).await?;
            let Some(last) = facts.last() else { return Ok(history.into()) };
            read = place(last).0;
            for fact in facts {
                if history.len() == limit || bytes >= LIST_BYTES {
                    return Ok(Listed { is_cut: history.len() < limit, rows: history });
                }
                whole &= fact.is_ok();
                let changes = match &fact {
                    Ok(fact) if whole => {
                        replay.step(fact);
                        let after = replay.stored();
                        diff(std::mem::replace(&mut before, after.clone()), after, replay.hidden())
                    }
                    Ok(fact) => fact.stated(),
                    Err(_) => vec![],
                };
                if place(&fact).0 > sequence {
                    let texts = |change: &Change| change.before.text().len() + change.after.text().len();
                    bytes += changes.iter().map(texts).sum::<usize>();
                    history.push(HistoryEntry { fact, changes });
                }
            }
        }
    }
}

/// See [`Projections::state_as_of`].
pub(crate) async fn state_as_of<V: StreamView>(
    ledger: &Ledger,
    id: impl ToString,
    up_to: Option<i64>,
) -> Result<Option<AsOf<V::Row>>, ReadError> {
    let mut replay = Replay::<V>::default();
    let stream = StreamId::new(V::STREAM, id);
    let (sequence, position) = replay_stream(ledger, &mut replay, &stream, up_to).await?;
    Ok(replay.row.map(|row| AsOf { row, sequence, position }))
}

/// Where it ended: sequence and position.
async fn replay_stream(
    ledger: &Ledger,
    replay: &mut dyn AnyReplay,
    stream: &StreamId,
    up_to: Option<i64>,
) -> Result<(i64, i64), StateError> {
    let (mut sequence, mut position) = (0, 0);
    if stream.aggregate_id.contains('\0') {
        return Ok((sequence, position));
    }
    loop {
        let facts = facts_of(ledger, stream, sequence, up_to, PAGE).await?;
        if facts.is_empty() {
            return Ok((sequence, position));
        }
        for fact in facts {
            let fact = fact.map_err(StateError::Unreadable)?;
            (sequence, position) = (fact.sequence, fact.position);
            replay.step(&fact);
        }
    }
}

async fn facts_of(
    ledger: &Ledger,
    stream: &StreamId,
    sequence: i64,
    up_to: Option<i64>,
    limit: i64,
) -> Result<Vec<Result<Fact, Box<Unreadable>>>, ReadError> {
    Ok(facts_in(fact::read_stream(ledger, stream, sequence, up_to, limit).await?))
}

fn facts_in(entries: Vec<Entry>) -> Vec<Result<Fact, Box<Unreadable>>> {
    entries.into_iter().map(|entry| entry.fact).collect()
}

/// The top-level fields that differ. Hidden ones are compared, then shown as sealed.
fn diff(mut before: Fields, after: Fields, hidden: &[&str]) -> Vec<Change> {
    let mut changes = vec![];
    let mut note = |field: String, before: JsonText, after: JsonText| {
        // Both were written by the same hand: what is equal has the same text.
        if before.text() != after.text() && !BESIDE.contains(&field.as_str()) {
            let (before, after) = (shown(hidden, &field, before), shown(hidden, &field, after));
            changes.push(Change { field, before, after });
        }
    };
    for (field, after) in after {
        let before = before.remove(&field).unwrap_or_else(JsonText::null);
        note(field, before, after);
    }
    for (field, before) in before {
        note(field, before, JsonText::null());
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hidden_fields_are_seen_to_change_but_not_what_they_hold() {
        let before = json!({ "a": 1, "hash": "x", "sequence": 1, "gone": true });
        let after = json!({ "a": 1, "hash": "y", "sequence": 2, "new": [1] });
        let change = |field: &str, before: Value, after: Value| Change {
            field: field.into(),
            before: before.into(),
            after: after.into(),
        };
        assert_eq!(
            diff(fields_of(&before), fields_of(&after), &["hash"]),
            [
                change("hash", json!("sealed"), json!("sealed")),
                change("new", Value::Null, json!([1])),
                change("gone", json!(true), Value::Null),
            ]
        );
    }
}
