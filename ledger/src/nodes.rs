//! The nodes that run, as they say of themselves: each beats every few seconds, and tells which keys it has.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Ledger;
use crate::error::LedgerError;
use crate::seal::hex;
use crate::wrapping::KeyCheckError;

/// How often a node says that it runs.
const BEAT: Duration = Duration::from_secs(5);
/// How soon it tries again when it could not.
const AGAIN: Duration = Duration::from_secs(1);
/// Nodes listed at most.
const MOST_NODES: i64 = 1_000;
/// How long a node that stops tries to say so.
const FAREWELL: Duration = Duration::from_secs(2);

/// A node that was seen within the last 15 seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveNode {
    /// Its own, made when it started.
    pub id: Uuid,
    /// The name of its machine.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it last said that it runs.
    pub seen_at: DateTime<Utc>,
    /// The ids of the key-encryption keys it is configured with.
    pub key_ids: Vec<Vec<u8>>,
    /// The id of the one it wraps new data keys with.
    pub wraps_with: Option<Vec<u8>>,
}

impl LiveNode {
    /// The ids of its key-encryption keys, in hex.
    #[must_use]
    pub fn key_ids_in_hex(&self) -> Vec<String> {
        self.key_ids.iter().map(|id| hex(id)).collect()
    }
}

impl std::fmt::Display for LiveNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// The columns of `nodes`.
type Row = (Uuid, String, i32, DateTime<Utc>, DateTime<Utc>, Vec<Vec<u8>>, Option<Vec<u8>>);

/// A node's entry in the list of those that run.
#[derive(Clone, Debug)]
pub struct Presence {
    id: Uuid,
    host: String,
    pid: i32,
    needs: Vec<String>,
}

impl Presence {
    /// The node's id in the list.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(crate) async fn live_nodes(on: impl PgExecutor<'_>) -> Result<Vec<LiveNode>, sqlx::Error> {
    let sql = "select id, host, pid, started_at, seen_at, key_ids, wraps_with from nodes \
               where seen_at > clock_timestamp() - interval '15 seconds' order by started_at, id limit $1";
    let rows: Vec<Row> = sqlx::query_as(sql).bind(MOST_NODES).fetch_all(on).await?;
    let node = |(id, host, pid, started_at, seen_at, key_ids, wraps_with): Row| LiveNode {
        id,
        host,
        pid,
        started_at,
        seen_at,
        key_ids,
        wraps_with,
    };
    Ok(rows.into_iter().map(node).collect())
}

impl Ledger {
    /// The nodes that run, the oldest first.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn live_nodes(&self) -> Result<Vec<LiveNode>, LedgerError> {
        Ok(live_nodes(self.pool()).await?)
    }

    /// Enters this process into the list of nodes that run, with the names of tables that others must not drop meanwhile. It stays there
    /// with [`Ledger::stay_registered`].
    ///
    /// # Errors
    /// Its keys are not (or no longer) those that the database needs, or the database is out of reach.
    pub async fn register_node(&self, needs: Vec<String>) -> Result<Presence, KeyCheckError> {
        let host = host_name();
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let presence = Presence { id: Uuid::now_v7(), host, pid, needs };
        sqlx::query("delete from nodes where seen_at < clock_timestamp() - interval '1 hour'")
            .execute(self.pool())
            .await?;
        // The entry before the look: a rotation that began meanwhile has either seen us, or we see what it has done.
        self.beat(&presence).await?;
        if let Err(error) = self.check_keys().await {
            self.unregister(&presence).await;
            return Err(error);
        }
        Ok(presence)
    }

    /// Goes on saying that this node runs and which key it wraps with, until `stop`; then takes it off the list. Follows when another
    /// key is to wrap new data keys: at once where [`Ledger::hear_destroyed_keys`] runs, within seconds otherwise.
    pub async fn stay_registered(&self, presence: Presence, stop: CancellationToken) {
        let mut misses = 0_u32;
        while !stop.is_cancelled() {
            let pause = match self.beat(&presence).await {
                Ok(()) => {
                    misses = 0;
                    BEAT
                }
                Err(error) => {
                    misses += 1;
                    if misses == 1 {
                        tracing::warn!(%error, "the node could not say that it runs");
                    }
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.vault.rewrapped.notified(), if misses == 0 => {}
            }
        }
        self.unregister(&presence).await;
    }

    /// What it says of its wrapping key holds when it says it: it was taken on before.
    async fn beat(&self, presence: &Presence) -> Result<(), LedgerError> {
        self.vault.look_up_wrapping_key().await?;
        let key_ids: Vec<Vec<u8>> = self.vault.keyring.ids().iter().map(|id| id.to_vec()).collect();
        let sql = "insert into nodes (id, host, pid, key_ids, wraps_with, needs) values ($1, $2, $3, $4, $5, $6) \
                   on conflict (id) do update set seen_at = clock_timestamp(), wraps_with = excluded.wraps_with";
        let mut connection = self.pool().acquire().await?;
        sqlx::query(sql)
            .bind(presence.id)
            .bind(&presence.host)
            .bind(presence.pid)
            .bind(key_ids)
            .bind(&self.vault.wrapping()[..])
            .bind(&presence.needs)
            .execute(&mut *connection)
            .await?;
        // Seen in the future: the database's clock was set back, and a node that is gone would seem to run until then.
        let sql = "update nodes set seen_at = clock_timestamp() where id in ( \
                       select id from nodes where seen_at > clock_timestamp() for update skip locked)";
        sqlx::query(sql).execute(&mut *connection).await?;
        Ok(self.measure_clock_on(&mut connection).await?)
    }

    /// Best effort: whoever does not beat is off the list soon.
    async fn unregister(&self, presence: &Presence) {
        let sql = "with place as (delete from node_places where node = $1) delete from nodes where id = $1";
        let query = sqlx::query(sql).bind(presence.id).execute(self.pool());
        if !matches!(timeout(FAREWELL, query).await, Ok(Ok(_))) {
            tracing::debug!("the node could not say that it has stopped");
        }
    }
}
