//! Appending: the way in.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::error::{AppendError, LedgerError};
use crate::event::{Metadata, NewEvent};
use crate::seal::NewDataKey;
use crate::{Ledger, StreamId};

/// Events one append may hold.
const MOST_EVENTS: usize = 5_000;
/// Levels of objects and arrays in a payload. Readers manage 127; what lies between is room for what they read it in.
const MOST_LEVELS: usize = 100;
/// How often an append is sealed anew because somebody else made a subject's key first.
const KEY_RACES: usize = 3;

/// Events that are stored together or not at all, in this order. They may be of several streams.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// The events; those of one stream with ascending, adjacent sequences.
    pub events: Vec<NewEvent>,
    /// What stands with each of them.
    pub metadata: Metadata,
    /// Keys that what they say is sealed with.
    pub data_keys: Vec<NewDataKey>,
}

/// Where an append ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of its first event.
    pub first: i64,
    /// Position of its last event.
    pub position: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

impl Ledger {
    /// Stores the events durably and answers with their positions. A caller who stops waiting has its events wholly stored or
    /// not at all.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was stored unless it says that this is unknown.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        check(&append)?;
        for _ in 0..KEY_RACES {
            let mut sealed = append.clone();
            let made = self.vault.seal_personal(&mut sealed).await.map_err(from_ledger)?;
            let raced = made.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
            sealed.data_keys.extend(made);
            self.vault.wrap_presently(&mut sealed.data_keys)?;
            let wrapped_with = sealed.data_keys.first().map(|key| key.key_id.clone());
            match self.lane.append(sealed).await {
                // The conflict may be about keys that were wrapped just before they were to be wrapped by another.
                Err(AppendError::Conflict) if self.was_rotated(wrapped_with).await? => {}
                // The conflict may be about a key that somebody else has just made for the same subject.
                Err(AppendError::Conflict) if !raced.is_empty() => {
                    if self.vault.fetch(raced).await.map_err(from_ledger)?.is_empty() {
                        return Err(AppendError::Conflict);
                    }
                }
                outcome => return outcome,
            }
        }
        Err(AppendError::Conflict)
    }

    /// Whether new data keys are wrapped by another key by now than this one.
    async fn was_rotated(&self, wrapped_with: Option<Vec<u8>>) -> Result<bool, AppendError> {
        let Some(before) = wrapped_with else { return Ok(false) };
        self.vault.look_up_wrapping_key().await.map_err(from_ledger)?;
        Ok(before != self.vault.wrapping())
    }
}

fn from_ledger(error: LedgerError) -> AppendError {
    match error {
        // Keys are read before anything is sent.
        LedgerError::Database(cause) => AppendError::not_done(&cause),
        LedgerError::Seal(cause) => cause.into(),
        LedgerError::Diverged(divergence) => AppendError::Diverged(divergence),
        other @ (LedgerError::Migration(_) | LedgerError::Damaged { .. }) => {
            AppendError::Refused(other.to_string())
        }
    }
}

/// Whether a document has more than `levels` objects and arrays within each other.
#[must_use]
pub fn is_deeper_than(levels: usize, document: &Value) -> bool {
    let deeper = |inner: &Value| levels == 0 || is_deeper_than(levels - 1, inner);
    match document {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(fields) => levels == 0 || fields.values().any(deeper),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn check(append: &Append) -> Result<(), AppendError> {
    let refuse = |why: &str| Err(AppendError::Refused(why.to_owned()));
    if append.events.is_empty() {
        return refuse("an append needs at least one event");
    }
    if append.events.len() > MOST_EVENTS {
        return refuse("an append holds at most 5000 events");
    }
    let mut last: std::collections::HashMap<&StreamId, i64> = std::collections::HashMap::new();
    for event in &append.events {
        if event.sequence < 1 {
            return refuse("sequences begin at 1");
        }
        // PostgreSQL would store it, and nobody could read the page it is on any more.
        if event.payload.is_deeper_than(MOST_LEVELS) {
            return refuse("a payload has at most 100 levels");
        }
        match last.insert(&event.stream, event.sequence) {
            Some(before) if before + 1 != event.sequence => {
                return refuse("the sequences of a stream must be adjacent");
            }
            _ => {}
        }
    }
    Ok(())
}
