//! The key that wraps new data keys is one for all nodes of a database, whatever each is configured with: a node that was restarted with a
//! new `ENCRYPTION_KEY` makes no keys that others cannot open yet. A rotation changes it, once every node has the new one.

use std::fmt;

use sqlx::PgExecutor;
use tokio::time::timeout;

use crate::Ledger;
use crate::connect::{self, Connector, Pool, Purpose};
use crate::error::LedgerError;
use crate::seal::{KeyId, hex};
use crate::vault::{HASHING_KEY, Vault};

/// Ids of keys that are looked at and told of.
const MOST_IDS: i64 = 100;
/// The table of keys that wrapped new data keys before.
const FORMER: &str = "former_wrapping_keys";
/// How long the database may take to say whether it holds keys.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Keys that are needed to open what the database holds, and not configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingKeys {
    /// The ids of the keys that are configured, in hex, that of `ENCRYPTION_KEY` first.
    pub configured: Vec<String>,
    /// The id of the key that wraps new data keys, if it is one of the missing.
    pub wrapping: Option<String>,
    /// The ids of missing keys that wrap data keys, in hex, with how many each wraps.
    pub wrapped: Vec<(String, u64)>,
}

impl fmt::Display for MissingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ENCRYPTION_KEY (or ENCRYPTION_KEY_PREVIOUS) does not open what this database holds: ")?;
        for (key_id, count) in &self.wrapped {
            let (keys, are) = if *count == 1 { ("data key", "is") } else { ("data keys", "are") };
            write!(f, "{count} {keys} {are} wrapped with key id {key_id}, which is not configured; ")?;
        }
        if let Some(key_id) = &self.wrapping {
            write!(f, "new data keys are to be wrapped with key id {key_id}, which is not configured; ")?;
        }
        let configured = self.configured.join(" and ");
        write!(
            f,
            "configured is key id {configured}. Set ENCRYPTION_KEY_PREVIOUS (or ENCRYPTION_KEY) to the key that is missing; \
             it may be taken away when daybook keys rotate has come to its end"
        )
    }
}

/// Why a node may not work with the keys it is configured with.
#[derive(Debug, thiserror::Error)]
pub enum KeyCheckError {
    /// They do not open everything.
    #[error("{0}")]
    Missing(MissingKeys),
    /// That could not be found out.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for KeyCheckError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// Whether a database holds data keys, also one that has no tables yet: then the keys that open them are somewhere, and making others
/// helps nobody.
///
/// # Errors
/// The database is out of reach.
pub async fn holds_data_keys(connector: &Connector) -> Result<bool, LedgerError> {
    let asked = async {
        let mut connection = connector.connect_within(Purpose::Maintenance, PATIENCE / 2).await?;
        let holds = table_exists(&mut connection, "data_keys").await?
            && sqlx::query_scalar("select exists (select from data_keys)").fetch_one(&mut connection).await?;
        connect::close(connection).await;
        Ok(holds)
    };
    let silent = |_| LedgerError::Database(connect::timed_out("it did not answer in time"));
    timeout(PATIENCE, asked).await.map_err(silent)?
}

pub(crate) async fn table_exists(on: impl PgExecutor<'_>, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(table).fetch_one(on).await
}

/// The ids of the keys that wrap data keys, as their rows say, in order; at most [`MOST_IDS`]. One step down the index for each, however many data keys there are.
async fn wrapping_ids(on: impl PgExecutor<'_>) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let sql = "with recursive ids as ( \
               (select key_id from data_keys order by key_id limit 1) \
               union all \
               select (select d.key_id from data_keys d where d.key_id > i.key_id order by d.key_id limit 1) \
               from ids i where i.key_id is not null \
               ) select key_id from ids where key_id is not null limit $1";
    sqlx::query_scalar(sql).bind(MOST_IDS).fetch_all(on).await
}

/// How many data keys the key of this id wraps. Of the instance's own it is known from itself, and not from its row.
async fn count(on: impl PgExecutor<'_>, key_id: &[u8]) -> Result<u64, sqlx::Error> {
    let sql = "select count(*) from data_keys where key_id = $1 or (id = $2 and substr(wrapped, 2, 8) = $1)";
    let count: i64 = sqlx::query_scalar(sql).bind(key_id).bind(HASHING_KEY).fetch_one(on).await?;
    Ok(count.unsigned_abs())
}

/// The key that wraps new data keys, and whether no other one does any more.
pub(crate) async fn wrapping_key(on: impl PgExecutor<'_>) -> Result<Option<(Vec<u8>, bool)>, sqlx::Error> {
    sqlx::query_as("select key_id, settled from wrapping_key").fetch_optional(on).await
}

impl Vault {
    /// Asks the database which key wraps new data keys, and does so from now on.
    pub(crate) async fn look_up_wrapping_key(&self) -> Result<(), LedgerError> {
        let found = wrapping_key(&self.pool).await?;
        if let Some(id) = found.and_then(|(id, _)| KeyId::try_from(id).ok())
            && id != self.wrapping()
        {
            if self.strange(&[id.to_vec()]).is_empty() {
                tracing::info!(key_id = hex(&id), "this key wraps new data keys from now on");
            } else {
                tracing::error!(
                    key_id = hex(&id),
                    "keys were rotated to one that is not configured here: start this process with it"
                );
            }
            self.wrap_with(id);
        }
        Ok(())
    }

    /// Those of these ids that are not configured.
    fn strange(&self, ids: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let configured = self.keyring.ids();
        ids.iter().filter(|id| !configured.iter().any(|known| known[..] == id[..])).cloned().collect()
    }
}

/// Which ids a process has to know before it may do anything.
#[derive(Clone, Copy)]
enum Needed {
    /// Those known to be of this database: of the key that wraps new data keys, of the one that wraps the instance's own data key, and of
    /// those that wrapped before a rotation that is not complete.
    Known,
    /// As [`Needed::Known`]; on tables of a version that kept no such list, every id that occurs.
    Listed,
}

/// The ids of [`Needed::Known`], each of them once.
async fn known_ids(pool: &Pool) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    // The id in the wrapped key is the one it needs, whatever its row says.
    let mut sql =
        "select substr(wrapped, 2, 8) from data_keys where id = $1 and octet_length(wrapped) > 8".to_owned();
    if table_exists(pool, "wrapping_key").await? {
        sql += " union select key_id from wrapping_key";
    }
    if table_exists(pool, FORMER).await? {
        sql += " union select f.key_id from former_wrapping_keys f \
                where exists (select from data_keys d where d.key_id = f.key_id)";
    }
    sqlx::query_scalar(&sql).bind(HASHING_KEY).fetch_all(pool).await
}

impl Ledger {
    /// Looks whether the configured keys are those that this database needs: the one that wraps new data keys, the one that wraps the
    /// instance's own, and those that wrapped before and still do. Changes nothing, and works on tables of earlier versions (where every
    /// id that occurs is needed) and on none. Data keys under other ids keep nobody from starting ([`Ledger::stray_keys`]); that each
    /// data key really opens is [`Ledger::prove_keys`]' to say.
    ///
    /// # Errors
    /// They are not, or the database is out of reach.
    pub async fn check_keys(&self) -> Result<(), KeyCheckError> {
        self.check_needed(Needed::Listed).await
    }

    /// As [`Ledger::check_keys`], but ids that are not known to be of this database are not asked for on tables of earlier versions
    /// either: enough for wrapping anew what can be.
    ///
    /// # Errors
    /// As [`Ledger::check_keys`].
    pub async fn check_known_keys(&self) -> Result<(), KeyCheckError> {
        self.check_needed(Needed::Known).await
    }

    async fn check_needed(&self, needed: Needed) -> Result<(), KeyCheckError> {
        let pool = self.pool();
        if !table_exists(pool, "data_keys").await? {
            return Ok(());
        }
        let mut ids = known_ids(pool).await?;
        if matches!(needed, Needed::Listed) && !table_exists(pool, FORMER).await? {
            ids.extend(wrapping_ids(pool).await?);
            ids.sort();
            ids.dedup();
        }
        let strange = self.vault.strange(&ids);
        if strange.is_empty() {
            return Ok(());
        }
        let wraps_new = match table_exists(pool, "wrapping_key").await? {
            true => wrapping_key(pool).await?.map(|(id, _)| id),
            false => None,
        };
        let wrapping = wraps_new.filter(|id| strange.contains(id)).map(|id| hex(&id));
        let wrapped = self.counted(&strange).await?;
        let configured = self.vault.keyring.ids().iter().map(|id| hex(id)).collect();
        Err(KeyCheckError::Missing(MissingKeys { configured, wrapping, wrapped }))
    }

    /// Key ids that data keys name, in hex, that are not configured, and how many data keys name each; at most 100. After
    /// [`Ledger::check_keys`] these are none of this database's keys that it knows of: the rows are damaged, or a rotation has left them
    /// since nothing opened them. They are what they are; nothing else is concerned.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn stray_keys(&self) -> Result<Vec<(String, u64)>, LedgerError> {
        let ids = wrapping_ids(self.pool()).await?;
        Ok(self.counted(&self.vault.strange(&ids)).await?)
    }

    /// Those of these ids that wrap data keys, in hex, with how many.
    async fn counted(&self, ids: &[Vec<u8>]) -> Result<Vec<(String, u64)>, sqlx::Error> {
        let mut counted = vec![];
        for id in ids {
            counted.push((hex(id), count(self.pool(), id).await?));
        }
        counted.retain(|(_, count)| *count > 0);
        Ok(counted)
    }

    /// Makes `ENCRYPTION_KEY` the key that wraps new data keys unless there is one, and wraps with what there is from now on. The tables
    /// are there.
    ///
    /// # Errors
    /// That key, or one that data keys need, is not configured; or the database is out of reach.
    pub async fn claim_wrapping_key(&self) -> Result<(), KeyCheckError> {
        sqlx::query("insert into wrapping_key (key_id, settled) values ($1, true) on conflict do nothing")
            .bind(&self.vault.keyring.current()[..])
            .execute(self.pool())
            .await?;
        self.check_keys().await?;
        Ok(self.vault.look_up_wrapping_key().await?)
    }
}
