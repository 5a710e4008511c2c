//! Does a live table say what the log says?

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::Serialize;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use crate::Projections;
use crate::checkpoint::{self, State};
use crate::error::{Fault, ReadError, RebuildError};
use crate::rebuild::{Progress, Replaying};
use crate::table::{self, CHUNK};
use crate::view::shown;

/// How often a live view that lags is looked at.
const LAG_INTERVAL: Duration = Duration::from_millis(500);
/// Differences that are reported one by one; beyond, they are counted.
const REPORTED: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The position at which table and log were compared: the log's head when the verification began, or later.
    pub position: i64,
    /// How far the table had got by then.
    pub reached: i64,
    /// `live`, `failed`, `outdated`, or `missing` without a table.
    pub state: String,
    /// Why the log could not be folded up to there. Rows were not compared then.
    pub fault: Option<String>,
    /// Rows of the table.
    pub rows: u64,
    /// How many rows differ, are missing or should not be there.
    pub different: u64,
    /// The first 100 of them.
    pub differences: Vec<Difference>,
}

impl Verified {
    /// Whether the table says what the log says.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.different == 0 && self.fault.is_none() && self.state == State::Live.as_str()
    }
}

/// A table as it was found.
struct Table {
    position: i64,
    state: Option<State>,
    digests: HashMap<String, u64>,
}

/// A row that is not what the log says. Hidden fields appear as `sealed`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Which row.
    pub key: String,
    /// What the table has (by the time of the report).
    pub live: Option<Value>,
    /// What the events make of it.
    pub folded: Option<Value>,
}

impl Projections {
    /// Folds the log to its head and compares the outcome with the view `name`. A live view that lags is waited for, as long as it gets
    /// on. Tells `progress` after every stretch.
    ///
    /// # Errors
    /// There is no such view, or the database is out of reach.
    pub async fn verify(
        &self,
        name: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Verified, RebuildError> {
        let place = self.place(name)?;
        let name = self.inner.registry.all[place].spec().table.clone();
        let head = self.inner.ledger.head().await.map_err(ReadError::from)?;
        self.lag(&name, head).await?;
        let table = self.digests(&name).await?;
        let position = table.position.max(head);
        let mut verified = Verified {
            position,
            reached: table.position,
            state: table.state.map_or("missing", State::as_str).to_owned(),
            fault: None,
            rows: table.digests.len() as u64,
            different: 0,
            differences: vec![],
        };
        let mut comparison = Comparison { live: table.digests, different: 0, differences: vec![] };
        match comparison.fold(Replaying::new(self, place), position, &progress).await {
            Ok(()) => {}
            Err(ReadError::Fault(fault)) => {
                verified.fault = Some(fault.to_string());
                return Ok(verified);
            }
            Err(error) => return Err(error.into()),
        }
        progress(Progress { folded: position, head: position });
        verified.different = comparison.finish(self, place, &mut verified.differences).await?;
        Ok(verified)
    }

    /// Waits for a live table to reach `head`, as long as it gets on.
    async fn lag(&self, table: &str, head: i64) -> Result<(), ReadError> {
        let mut last = None;
        loop {
            let found = {
                let mut connection = self.inner.background.pool().acquire().await?;
                let checkpoints = checkpoint::read(&mut *connection).await?;
                checkpoints.into_iter().find(|checkpoint| checkpoint.table == table)
            };
            let position = match found {
                Some(found) if found.state == State::Live && found.position < head => found.position,
                Some(_) | None => return Ok(()),
            };
            if last.replace(position) == Some(position) {
                return Ok(());
            }
            sleep(LAG_INTERVAL).await;
        }
    }

    /// The table's position and a digest of every row, of one snapshot.
    async fn digests(&self, table: &str) -> Result<Table, ReadError> {
        let mut connection = self.inner.ledger.maintenance().await?;
        if !table::exists(&mut connection, table).await? {
            return Ok(Table { position: 0, state: None, digests: HashMap::new() });
        }
        let mut transaction = connection.begin().await?;
        // The lock comes before the snapshot: should a rebuilt table take the name between the two, the snapshot would not
        // hold its rows.
        let begin = format!(
            "set transaction isolation level repeatable read, read only; lock table {table} in access share mode"
        );
        transaction.execute(begin.as_str()).await?;
        let checkpoints = checkpoint::read(&mut *transaction).await?;
        let found = checkpoints.into_iter().find(|checkpoint| checkpoint.table == table);
        let (position, state) =
            found.map_or((0, None), |checkpoint| (checkpoint.position, Some(checkpoint.state)));
        let digests = read_digests(&mut transaction, table).await?;
        transaction.commit().await?;
        Ok(Table { position, state, digests })
    }
}

async fn read_digests(connection: &mut PgConnection, name: &str) -> Result<HashMap<String, u64>, ReadError> {
    let sql = format!("select key, row::text from {name}");
    let mut rows = sqlx::query_as::<_, (String, String)>(&sql).fetch(connection);
    let mut digests = HashMap::new();
    while let Some((key, json)) = rows.try_next().await? {
        let digest = digest_of(&json).map_err(|cause| Fault::at_row(name, &key, cause))?;
        digests.insert(key, digest);
    }
    Ok(digests)
}

struct Comparison {
    /// Rows of the table that were not met in the fold yet.
    live: HashMap<String, u64>,
    different: u64,
    /// Keys, and what the events make of them.
    differences: Vec<(String, Option<Value>)>,
}

impl Comparison {
    async fn fold(
        &mut self,
        mut replaying: Replaying,
        position: i64,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(), ReadError> {
        while replaying.step(position).await? {
            progress(Progress { folded: replaying.position, head: position });
            if replaying.once() {
                self.compare(&mut replaying)?;
            }
        }
        self.compare(&mut replaying)
    }

    fn compare(&mut self, replaying: &mut Replaying) -> Result<(), ReadError> {
        loop {
            let changes = replaying.changes(CHUNK)?;
            if changes.is_empty() {
                return Ok(());
            }
            for (key, json) in changes.keys.into_iter().zip(changes.rows) {
                let unreadable = |cause| Fault::at_row("the fold", &key, cause);
                if self.live.remove(&key) != Some(digest_of(&json).map_err(unreadable)?) {
                    let folded = serde_json::from_str(&json).map_err(unreadable)?;
                    self.differs(key, Some(folded));
                }
            }
        }
    }

    fn differs(&mut self, key: String, folded: Option<Value>) {
        self.different += 1;
        if self.differences.len() < REPORTED {
            self.differences.push((key, folded));
        }
    }

    async fn finish(
        mut self,
        projections: &Projections,
        place: usize,
        into: &mut Vec<Difference>,
    ) -> Result<u64, ReadError> {
        let mut surplus: Vec<String> = std::mem::take(&mut self.live).into_keys().collect();
        surplus.sort_unstable();
        surplus.into_iter().for_each(|key| self.differs(key, None));
        let spec = projections.inner.registry.all[place].spec();
        let keys: Vec<&str> = self.differences.iter().map(|(key, _)| key.as_str()).collect();
        let sql = format!("select key, row from {} where key = any($1)", spec.table);
        let mut connection = projections.inner.background.pool().acquire().await?;
        let found: Vec<(String, Value)> = match table::exists(&mut connection, &spec.table).await? {
            true => sqlx::query_as(&sql).bind(keys).fetch_all(&mut *connection).await?,
            false => vec![],
        };
        let mut live: HashMap<String, Value> = found.into_iter().collect();
        let hide = |value: Option<Value>| value.map(|value| hide(spec.hidden, value));
        let differences = self.differences.into_iter().map(|(key, folded)| Difference {
            live: hide(live.remove(&key)),
            folded: hide(folded),
            key,
        });
        into.extend(differences);
        Ok(self.different)
    }
}

fn hide(hidden: &[&str], mut row: Value) -> Value {
    if let Value::Object(fields) = &mut row {
        for (name, value) in fields {
            *value = shown(hidden, name, std::mem::take(value));
        }
    }
    row
}

fn digest_of(json: &str) -> Result<u64, serde_json::Error> {
    let mut hasher = DefaultHasher::new();
    digest(&serde_json::from_str(json)?, &mut hasher);
    Ok(hasher.finish())
}

/// Whatever the order of fields and the way a number is written: `jsonb` keeps neither.
fn digest(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Bool(value) => (1u8, value).hash(hasher),
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or(f64::NAN);
            // Zero has two signs as a float and one in the table. Large integers are exact in both; their floats are not.
            let float = if float == 0.0 { 0.0 } else { float };
            (2u8, float.to_bits()).hash(hasher);
        }
        Value::String(text) => (3u8, text).hash(hasher),
        Value::Array(items) => {
            (4u8, items.len()).hash(hasher);
            items.iter().for_each(|item| digest(item, hasher));
        }
        Value::Object(fields) => {
            (5u8, fields.len()).hash(hasher);
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_str());
            for (name, inner) in sorted {
                name.hash(hasher);
                digest(inner, hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_digest_sees_values_and_not_how_they_are_written() {
        let same = [r#"{"a": 1, "b": [10000000000000000, 0.0]}"#, r#"{"b": [1e16, -0.0], "a": 1}"#];
        assert_eq!(digest_of(same[0]).unwrap(), digest_of(same[1]).unwrap());
        for other in
            [r#"{"a": 2, "b": [1e16, 0.0]}"#, r#"{"a": 1, "b": [1e16]}"#, r#"{"a": "1", "b": [1e16, 0]}"#]
        {
            assert_ne!(digest_of(same[0]).unwrap(), digest_of(other).unwrap(), "{other}");
        }
    }
}
