//! The event log on PostgreSQL: append, read, follow, seal. Owns the connection pool, the migrator and the private server.
//!
//! Nothing outside this crate reads or writes the event table, and nothing outside knows what a transaction on it is. It
//! knows nothing of users, secrets or jobs: events are names, versions and JSON to it.

mod append;
mod damage;
mod destroy;
mod digest;
mod effects;
mod error;
mod event;
mod follow;
mod hearing;
mod integrity;
mod lane;
mod memory;
mod migrations;
mod nodes;
mod outline;
mod personal;
mod place;
pub mod private;
mod proving;
mod read;
mod rotate;
mod scrub;
mod seal;
mod store;
mod vault;
mod wrapping;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub use append::{Append, Appended, is_deeper_than};
pub use digest::{Sha256, random_token};
pub use effects::Held;
pub use error::{AppendError, LedgerError};
pub use event::{Metadata, NewEvent, Recorded, StreamId};
pub use follow::Follower;
pub use hearing::FORGOTTEN_WITHIN;
pub use integrity::{Findings, Found, Kind};
pub use nodes::{LiveNode, Presence};
pub use outline::{Outline, Outlined};
pub use proving::{KeysProved, Unopened, UnopenedKey};
pub use rotate::{Rotated, RotationError, RotationProgress};
pub use scrub::Scrubbing;
pub use seal::{DataKey, Keyring, NewDataKey, SealError};
pub use store::{Loaded, Store};
pub use wrapping::{KeyCheckError, MissingKeys, holds_data_keys};

/// How long closing waits for connections that are still in use, and how often it looks.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// How a [`Ledger`] uses its database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections in the pool, besides the one that appends.
    pub connections: u32,
    /// How long a caller waits for a place in the append queue, and for a connection of the pool.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, patience: Duration::from_secs(5) }
    }
}

/// The event log. Cheap to clone; all clones share one pool and one append lane, which ends with the last of them.
#[derive(Clone)]
pub struct Ledger {
    pool: PgPool,
    lane: lane::Lane,
    head: watch::Receiver<i64>,
    vault: Arc<vault::Vault>,
}

impl Ledger {
    /// Uses the database at `connect`. Connections are made when they are needed: this neither waits nor fails when the server
    /// is away. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(connect: PgConnectOptions, keyring: Keyring, options: &Options) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(options.patience)
            .connect_lazy_with(connect.clone());
        let (lane, head) = lane::Lane::start(connect, options.patience);
        let vault = Arc::new(vault::Vault::new(pool.clone(), keyring));
        Self { pool, lane, head, vault }
    }

    /// Brings the database's tables up to this program's version. Several processes may do so at once.
    ///
    /// # Errors
    /// The database is out of reach, or was migrated by another history of this program.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        migrations::migrator().run(&self.pool).await.map_err(LedgerError::Migration)
    }

    /// The pool, for tables that are not the event log.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// Closes a pool and waits for its last connection, 5 seconds at most. One `close` may leave connections that are just being
/// given back (sqlx 0.8 counts closed idle ones as returned); a private server that stops under them would be logged as a
/// fault.
pub async fn close_pool(pool: &PgPool) {
    let closed = async {
        pool.close().await;
        while pool.size() > 0 {
            sleep(CLOSE_POLL).await;
            pool.close().await;
        }
    };
    if timeout(CLOSE_PATIENCE, closed).await.is_err() {
        tracing::warn!(connections = pool.size(), "database connections were not given back in time");
    }
}
