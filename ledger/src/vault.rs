//! The data keys: made, fetched and remembered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sqlx::PgPool;

use crate::error::LedgerError;
use crate::seal::{DataKey, Keyring, NewDataKey, SealError};
use crate::{AppendError, Ledger};

/// Unwrapped keys kept in memory at most.
const REMEMBERED_KEYS: u64 = 100_000;
/// How long a key is used without looking whether it still exists: a destroyed key may open things this much longer.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// The key behind every keyed hash. It never changes: claims must be found again after `ENCRYPTION_KEY` was rotated.
const HASHING_KEY: &str = "instance/claims";

pub(crate) struct Vault {
    pool: PgPool,
    keyring: Keyring,
    keys: Cache<String, Arc<DataKey>>,
}

impl Vault {
    pub(crate) fn new(pool: PgPool, keyring: Keyring) -> Self {
        let keys = Cache::builder().max_capacity(REMEMBERED_KEYS).time_to_live(REMEMBERED_FOR).build();
        Self { pool, keyring, keys }
    }

    pub(crate) fn make(&self, name: &str) -> Result<(Arc<DataKey>, NewDataKey), SealError> {
        let (key, new) = self.keyring.make(name)?;
        Ok((Arc::new(key), new))
    }

    /// The keys of these names that exist, in one query for all that are not remembered.
    pub(crate) async fn fetch(
        &self,
        names: Vec<String>,
    ) -> Result<HashMap<String, Arc<DataKey>>, LedgerError> {
        let mut found = HashMap::new();
        let mut missing = HashSet::new();
        for name in names {
            match self.keys.get(&name) {
                Some(key) => drop(found.insert(name, key)),
                None => drop(missing.insert(name)),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let missing: Vec<String> = missing.into_iter().collect();
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("select id, wrapped from data_keys where id = any($1)")
                .bind(&missing)
                .fetch_all(&self.pool)
                .await?;
        for (name, wrapped) in rows {
            let key = Arc::new(self.keyring.unwrap(&name, &wrapped)?);
            self.keys.insert(name.clone(), Arc::clone(&key));
            found.insert(name, key);
        }
        Ok(found)
    }

    /// As [`Vault::fetch`], from the database and not from memory.
    pub(crate) async fn fetch_anew(
        &self,
        names: Vec<String>,
    ) -> Result<HashMap<String, Arc<DataKey>>, LedgerError> {
        names.iter().for_each(|name| self.keys.invalidate(name));
        self.fetch(names).await
    }

    async fn fetch_one(&self, name: &str) -> Result<Option<Arc<DataKey>>, LedgerError> {
        match self.keys.get(name) {
            Some(key) => Ok(Some(key)),
            None => Ok(self.fetch(vec![name.to_owned()]).await?.remove(name)),
        }
    }

    /// The key behind keyed hashes, made by whoever needs it first.
    async fn hashing_key(&self) -> Result<Arc<DataKey>, LedgerError> {
        if let Some(key) = self.fetch_one(HASHING_KEY).await? {
            return Ok(key);
        }
        let (_, new) = self.make(HASHING_KEY)?;
        sqlx::query("insert into data_keys (id, key_id, wrapped) values ($1, $2, $3) on conflict do nothing")
            .bind(&new.name)
            .bind(&new.key_id)
            .bind(&new.wrapped)
            .execute(&self.pool)
            .await?;
        let key = self.fetch_one(HASHING_KEY).await?;
        key.ok_or_else(|| SealError::Destroyed { what: HASHING_KEY.to_owned() }.into())
    }
}

impl Ledger {
    /// A fresh data key named `name`; it is stored by the append that carries the second part
    /// ([`crate::Append::data_keys`]), together with what it sealed.
    ///
    /// # Errors
    /// Only when the system gives no randomness.
    pub fn new_data_key(&self, name: &str) -> Result<(Arc<DataKey>, NewDataKey), AppendError> {
        self.vault.make(name).map_err(|cause| AppendError::Refused(cause.to_string()))
    }

    /// The stored data key named `name`, if it was not destroyed.
    ///
    /// # Errors
    /// The database is out of reach, or the key cannot be unwrapped with the configured keys.
    pub async fn data_key(&self, name: &str) -> Result<Option<Arc<DataKey>>, LedgerError> {
        self.vault.fetch_one(name).await
    }

    /// The keyed hash of `parts` (HMAC-SHA256, in hex): the same in every process of this instance, for ever, and nothing
    /// without its key.
    ///
    /// # Errors
    /// The database is out of reach, or the instance's hashing key cannot be unwrapped with the configured keys.
    pub async fn keyed_hash(&self, parts: &[&str]) -> Result<String, LedgerError> {
        Ok(self.vault.hashing_key().await?.keyed_hash(parts))
    }
}
