//! A fold in progress: some or all rows of a view in memory.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cache::RowCache;
use crate::error::Fault;
use crate::fact::{Entry, Fact, Unreadable};
use crate::view::{Spec, View};
use crate::weight::weight;

/// Changes given out at once end with the row that reaches so many bytes of JSON.
const CHANGES_BYTES: usize = 8 * 1024 * 1024;

/// Rows on their way into a table.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) keys: Vec<String>,
    /// Of the last event folded into each row.
    pub(crate) positions: Vec<i64>,
    /// As JSON.
    pub(crate) rows: Vec<String>,
    /// Keys that have no row (any more).
    pub(crate) deleted: Vec<String>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.deleted.is_empty()
    }
}

/// [`Folding`] without the view's type.
pub(crate) trait AnyFolding: Send + Sync {
    /// Takes in a row as it is stored.
    fn load(&mut self, key: String, position: i64, row: &str) -> Result<(), Fault>;
    /// Folds one event.
    fn fold(&mut self, fact: &Fact);
    /// Lists an event that is damaged; `false` where the view has no row for such.
    fn list(&mut self, unreadable: &Unreadable) -> bool;
    /// Rows that were folded into since they were last given out here: at most `limit`, and none after the first 8 MiB of them unless
    /// `limit` is `usize::MAX`, which means all.
    fn changes(&mut self, limit: usize) -> Result<Changes, Fault>;
    /// What [`AnyFolding::changes`] gave out was not stored after all.
    fn not_stored(&mut self, changes: Changes);
    /// Whether the row is in memory, or known not to be there.
    fn holds(&self, key: &str) -> bool;
    /// What the rows take of memory, roughly, in bytes.
    fn held(&self) -> usize;
    /// Lets go of rows that were given out by [`AnyFolding::changes`] since they were last folded into. Whoever folds into one of them
    /// again loads it before.
    fn forget_stored(&mut self);
    /// Puts what was folded into the cache, as of a position.
    fn publish(&self, as_of: i64, epoch: u64);
}

struct Slot<R> {
    row: Option<R>,
    position: i64,
    /// Whether the key waits in `Folding::dirty`.
    dirty: bool,
}

/// Rows of a view in memory, being folded.
pub(crate) struct Folding<V: View> {
    rows: HashMap<String, Slot<V::Row>>,
    dirty: Vec<String>,
    /// Where rows were last folded into that are not held any more.
    forgotten: HashMap<String, i64>,
    cache: Arc<RowCache<V::Row>>,
}

impl<V: View> Folding<V> {
    pub(crate) fn new(cache: Arc<RowCache<V::Row>>) -> Self {
        Self { rows: HashMap::new(), dirty: vec![], forgotten: HashMap::new(), cache }
    }
}

impl<V: View> AnyFolding for Folding<V> {
    fn load(&mut self, key: String, position: i64, row: &str) -> Result<(), Fault> {
        let read = serde_json::from_str(row).map_err(|cause| Fault::at_row(V::NAME, &key, cause))?;
        self.rows.insert(key, Slot { row: Some(read), position, dirty: false });
        Ok(())
    }

    fn fold(&mut self, fact: &Fact) {
        for key in V::keys(fact) {
            let slot = match self.rows.get_mut(&key) {
                Some(slot) => slot,
                None => self.rows.entry(key.clone()).or_insert(Slot { row: None, position: 0, dirty: false }),
            };
            slot.row = V::fold(&key, slot.row.take(), fact);
            slot.position = fact.position;
            if !std::mem::replace(&mut slot.dirty, true) {
                self.dirty.push(key);
            }
        }
    }

    fn list(&mut self, unreadable: &Unreadable) -> bool {
        let Some((key, row)) = V::unreadable(unreadable) else { return false };
        let position = unreadable.position;
        self.rows.insert(key.clone(), Slot { row: Some(row), position, dirty: false });
        self.mark(key);
        true
    }

    fn changes(&mut self, limit: usize) -> Result<Changes, Fault> {
        let mut changes = Changes::default();
        let (mut taken, mut bytes) = (0, 0);
        while taken < limit && (bytes < CHANGES_BYTES || limit == usize::MAX) {
            let Some(key) = self.dirty.pop() else { break };
            taken += 1;
            let Some(slot) = self.rows.get_mut(&key) else { continue };
            slot.dirty = false;
            match &mut slot.row {
                Some(row) => {
                    let json = encode(row).map_err(|cause| Fault::at_row(V::NAME, &key, cause))?;
                    bytes += json.len();
                    changes.positions.push(slot.position);
                    changes.rows.push(json);
                    changes.keys.push(key);
                }
                None => changes.deleted.push(key),
            }
        }
        if V::ONCE && !V::CACHED {
            changes.keys.iter().for_each(|key| drop(self.rows.remove(key)));
        }
        Ok(changes)
    }

    fn not_stored(&mut self, changes: Changes) {
        let rows = changes.keys.into_iter().zip(changes.positions).zip(changes.rows);
        for ((key, position), json) in rows {
            if V::ONCE && !self.rows.contains_key(&key) {
                // It was written by `encode` a moment ago, so it can be read.
                let _ = self.load(key.clone(), position, &json);
            }
            self.mark(key);
        }
        changes.deleted.into_iter().for_each(|key| self.mark(key));
    }

    fn holds(&self, key: &str) -> bool {
        self.rows.contains_key(key)
    }

    fn held(&self) -> usize {
        let each = |(key, slot): (&String, &Slot<V::Row>)| {
            key.len() + size_of::<Slot<V::Row>>() + slot.row.as_ref().map_or(0, weight)
        };
        self.rows.iter().map(each).sum()
    }

    fn forget_stored(&mut self) {
        let forgotten = &mut self.forgotten;
        self.rows.retain(|key, slot| {
            if !slot.dirty && V::CACHED {
                forgotten.insert(key.clone(), slot.position);
            }
            slot.dirty
        });
    }

    fn publish(&self, as_of: i64, epoch: u64) {
        if !V::CACHED {
            return;
        }
        self.forgotten.iter().for_each(|(key, position)| self.cache.touch(key, *position));
        for (key, slot) in &self.rows {
            match &slot.row {
                Some(row) => {
                    // The floor stands even if the cache does not admit the row: a reader may be holding an older one.
                    self.cache.touch(key, slot.position);
                    self.cache.put(key, Arc::new(row.clone()), as_of, epoch, weight(row));
                }
                None => self.cache.touch(key, slot.position),
            }
        }
    }
}

impl<V: View> Folding<V> {
    fn mark(&mut self, key: String) {
        if let Some(slot) = self.rows.get_mut(&key)
            && !std::mem::replace(&mut slot.dirty, true)
        {
            self.dirty.push(key);
        }
    }
}

/// The row as JSON. `jsonb` cannot hold U+0000, which a job's output may contain: it becomes U+FFFD, in the row as well, so
/// that the row in memory is the row in the table.
fn encode<R: Serialize + DeserializeOwned>(row: &mut R) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(row)?;
    if !json.contains("\\u0000") {
        return Ok(json);
    }
    let mut value: Value = serde_json::from_str(&json)?;
    replace_nul(&mut value);
    *row = serde_json::from_value(value)?;
    serde_json::to_string(row)
}

fn replace_nul(value: &mut Value) {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            fields.extend(old.into_iter().map(|(name, mut inner)| {
                replace_nul(&mut inner);
                (clean(&name), inner)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Folds those of `entries` after position `after` that the view needs.
pub(crate) fn fold_entries(
    spec: &Spec,
    folding: &mut dyn AnyFolding,
    entries: &[Entry],
    after: i64,
) -> Result<(), Fault> {
    let needed = entries.iter().filter(|entry| entry.position > after && spec.needs(&entry.aggregate_type));
    for entry in needed {
        let fact = match &entry.fact {
            Ok(fact) => fact,
            Err(unreadable) if unreadable.damaged && folding.list(unreadable) => continue,
            Err(unreadable) => return Err(Fault::at_event(entry.position, unreadable)),
        };
        // A fold that panics must stop its own view only. Its rows are thrown away with the fault.
        catch_unwind(AssertUnwindSafe(|| folding.fold(fact)))
            .map_err(|panic| Fault::at_event(entry.position, said(panic.as_ref())))?;
    }
    Ok(())
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the fold panicked: {}", text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_replaced_in_the_row_and_in_its_json_alike() {
        let mut row = json!({ "error": "a\0b", "nested": [{ "k\0": "\\u0000" }] });
        let written = encode(&mut row).unwrap();
        assert_eq!(row, json!({ "error": "a\u{fffd}b", "nested": [{ "k\u{fffd}": "\\u0000" }] }));
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), row);
    }
}
