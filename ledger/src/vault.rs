//! The data keys: made, fetched and remembered.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::connect::Pool;
use crate::error::LedgerError;
use crate::memory::KeyMemory;
use crate::seal::{DataKey, KeyId, Keyring, NewDataKey, SealError};
use crate::{AppendError, Ledger};

/// The key behind every keyed hash. It never changes: claims must be found again after `ENCRYPTION_KEY` was rotated.
pub(crate) const HASHING_KEY: &str = "instance/claims";

/// The data keys as one process knows them, read over the connections of its holder.
#[derive(Clone)]
pub(crate) struct Vault {
    pub(crate) pool: Pool,
    shared: Arc<Shared>,
}

/// What all holders of one process share.
pub(crate) struct Shared {
    pub(crate) keyring: Keyring,
    pub(crate) memory: KeyMemory,
    /// Which key wraps new data keys, as last seen in the database (`wrapping.rs`).
    wrapping: RwLock<KeyId>,
    /// The wrapping key may be another one.
    pub(crate) rewrapped: Notify,
    /// Something may be left to be scrubbed.
    pub(crate) destroyed: Notify,
    /// Never destroyed, so never forgotten.
    hashing_key: OnceLock<Arc<DataKey>>,
}

impl std::ops::Deref for Vault {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Vault {
    /// The same for a holder that has connections of its own.
    pub(crate) fn over(&self, pool: Pool) -> Self {
        Self { pool, shared: Arc::clone(&self.shared) }
    }

    pub(crate) fn new(pool: Pool, keyring: Keyring) -> Self {
        let wrapping = RwLock::new(keyring.current());
        let (rewrapped, destroyed) = (Notify::new(), Notify::new());
        let (memory, hashing_key) = (KeyMemory::new(), OnceLock::new());
        let shared = Shared { keyring, memory, wrapping, rewrapped, destroyed, hashing_key };
        Self { pool, shared: Arc::new(shared) }
    }

    pub(crate) fn make(&self, name: &str) -> Result<(Arc<DataKey>, NewDataKey), SealError> {
        let (key, new) = self.keyring.make(name, &self.wrapping())?;
        Ok((Arc::new(key), new))
    }

    /// The id of the key that wraps new data keys; that of `ENCRYPTION_KEY` until the database was asked.
    pub(crate) fn wrapping(&self) -> KeyId {
        *self.wrapping.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wrap_with(&self, id: KeyId) {
        *self.wrapping.write().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// New data keys that were made before the wrapping key changed are wrapped with the present one.
    pub(crate) fn wrap_presently(&self, keys: &mut [NewDataKey]) -> Result<(), SealError> {
        let wrapping = self.wrapping();
        for key in keys.iter_mut().filter(|key| key.key_id != wrapping) {
            key.wrapped = self.keyring.rewrap(&key.name, &key.wrapped, &wrapping)?;
            key.key_id = wrapping.to_vec();
        }
        Ok(())
    }

    /// The keys of these names that exist, in one query for all that are not remembered.
    pub(crate) async fn fetch(
        &self,
        names: Vec<String>,
    ) -> Result<HashMap<String, Arc<DataKey>>, LedgerError> {
        let mut found = HashMap::new();
        let mut missing = HashSet::new();
        for name in names {
            match self.memory.get(&name) {
                Some(key) => drop(found.insert(name, key)),
                None => drop(missing.insert(name)),
            }
        }
        if !missing.is_empty() {
            found.extend(self.read(missing.into_iter().collect()).await?);
        }
        Ok(found)
    }

    /// As [`Vault::fetch`], from the database and not from memory.
    pub(crate) async fn read(
        &self,
        names: Vec<String>,
    ) -> Result<HashMap<String, Arc<DataKey>>, LedgerError> {
        // Before the rows: a key destroyed from here on is not remembered.
        let epoch = self.memory.epoch();
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("select id, wrapped from data_keys where id = any($1)")
                .bind(&names)
                .fetch_all(&self.pool)
                .await?;
        let mut found = HashMap::new();
        for (name, wrapped) in rows {
            let key = Arc::new(self.keyring.unwrap(&name, &wrapped)?);
            self.memory.put(&name, &key, epoch);
            found.insert(name, key);
        }
        let gone = names.iter().filter(|name| !found.contains_key(*name));
        gone.for_each(|name| self.memory.forget_missing(name));
        Ok(found)
    }

    async fn fetch_one(&self, name: &str) -> Result<Option<Arc<DataKey>>, LedgerError> {
        match self.memory.get(name) {
            Some(key) => Ok(Some(key)),
            None => Ok(self.read(vec![name.to_owned()]).await?.remove(name)),
        }
    }

    /// The key behind keyed hashes, made by whoever needs it first.
    async fn hashing_key(&self) -> Result<Arc<DataKey>, LedgerError> {
        if let Some(key) = self.hashing_key.get() {
            return Ok(Arc::clone(key));
        }
        let key = match self.fetch_one(HASHING_KEY).await? {
            Some(key) => key,
            None => self.make_hashing_key().await?,
        };
        Ok(Arc::clone(self.hashing_key.get_or_init(|| key)))
    }

    /// Of several processes that make it at once, all get the one that was stored.
    async fn make_hashing_key(&self) -> Result<Arc<DataKey>, LedgerError> {
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
    /// The system gives no randomness; or keys were rotated and this process has not got the key that wraps them.
    pub fn new_data_key(&self, name: &str) -> Result<(Arc<DataKey>, NewDataKey), AppendError> {
        self.vault.make(name).map_err(AppendError::from)
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
