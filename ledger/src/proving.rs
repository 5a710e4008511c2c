//! Proving that the configured keys open every data key.

use crate::Ledger;
use crate::error::LedgerError;
use crate::seal::{KeyId, Keyring, SealError, hex, key_id_in, wrap_context};
use crate::wrapping::table_exists;

/// Data keys read at a time.
const PAGE: i64 = 2_000;
/// Data keys named at most, of those that do not open.
const MOST_NAMED: usize = 20;

/// A data key that the configured keys do not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnopenedKey {
    /// Its name.
    pub name: String,
    /// The id of the key that wraps it, in hex, as its row says.
    pub key_id: String,
    /// Why it does not open.
    pub cause: String,
}

impl std::fmt::Display for UnopenedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "data key {} (key id {}): {}", self.name, self.key_id, self.cause)
    }
}

/// Data keys that the configured keys do not open: how many, and some of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unopened {
    /// How many there are.
    pub count: u64,
    /// The first of them, at most 20.
    pub named: Vec<UnopenedKey>,
}

impl Unopened {
    pub(crate) fn add(&mut self, row: &WrappedRow, cause: String) {
        self.count += 1;
        if self.named.len() < MOST_NAMED {
            let (name, key_id) = (row.name.clone(), hex(&row.key_id));
            self.named.push(UnopenedKey { name, key_id, cause });
        }
    }
}

/// What [`Ledger::prove_keys`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysProved {
    /// Data keys looked at.
    pub keys: u64,
    /// Those that do not open.
    pub unopened: Unopened,
}

/// A row of `data_keys`.
#[derive(Debug)]
pub(crate) struct WrappedRow {
    pub(crate) name: String,
    pub(crate) key_id: Vec<u8>,
    pub(crate) wrapped: Vec<u8>,
}

impl WrappedRow {
    pub(crate) fn of((name, key_id, wrapped): (String, Vec<u8>, Vec<u8>)) -> Self {
        Self { name, key_id, wrapped }
    }
}

/// Why a data key does not open. Which one it is, is said elsewhere.
fn cause(name: &str, error: &SealError) -> String {
    let text = error.to_string();
    let cause = text.strip_prefix(&wrap_context(name)).and_then(|rest| rest.strip_prefix(": "));
    cause.map_or_else(|| text.clone(), str::to_owned)
}

impl Keyring {
    /// Why this row's data key does not open, if it does not.
    fn fault(&self, row: &WrappedRow) -> Option<String> {
        if let Err(error) = self.unwrap(&row.name, &row.wrapped) {
            return Some(cause(&row.name, &error));
        }
        // It opens, but neither a rotation nor a start would know which key it needs.
        let named = key_id_in(&row.wrapped).unwrap_or_default();
        (named != row.key_id).then(|| format!("it is wrapped with key id {} in truth", hex(named)))
    }

    /// The row's data key wrapped with the key of this id instead, or why that cannot be.
    pub(crate) fn rewrap_row(&self, row: &WrappedRow, wrapping: &KeyId) -> Result<Vec<u8>, String> {
        self.rewrap(&row.name, &row.wrapped, wrapping).map_err(|error| cause(&row.name, &error))
    }
}

impl Ledger {
    /// Opens every data key with the configured keys and tells those that do not open. Reads page by page, in order of their names;
    /// keys that are made or destroyed meanwhile may be looked at or not. `progress` is told how many were.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn prove_keys(&self, mut progress: impl FnMut(u64)) -> Result<KeysProved, LedgerError> {
        let mut proved = KeysProved::default();
        if !table_exists(self.pool(), "data_keys").await? {
            return Ok(proved);
        }
        let sql = "select id, key_id, wrapped from data_keys where id > $1 order by id limit $2";
        let mut after = String::new();
        loop {
            let rows = sqlx::query_as(sql).bind(&after).bind(PAGE).fetch_all(self.pool()).await?;
            let rows: Vec<_> = rows.into_iter().map(WrappedRow::of).collect();
            let Some(last) = rows.last() else { return Ok(proved) };
            after.clone_from(&last.name);
            for row in &rows {
                proved.keys += 1;
                if let Some(cause) = self.vault.keyring.fault(row) {
                    proved.unopened.add(row, cause);
                }
            }
            progress(proved.keys);
            tokio::task::yield_now().await;
        }
    }

    /// How many data keys there are.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn count_keys(&self) -> Result<u64, LedgerError> {
        if !table_exists(self.pool(), "data_keys").await? {
            return Ok(0);
        }
        let count: i64 = sqlx::query_scalar("select count(*) from data_keys").fetch_one(self.pool()).await?;
        Ok(count.unsigned_abs())
    }
}
