//! The event log on PostgreSQL: append, read, follow, seal. Owns the connection pool, the migrator and the private server.
//!
//! Nothing outside this crate reads or writes the event table, and nothing outside knows what a transaction on it is. It
//! knows nothing of users, secrets or jobs: events are names, versions and JSON to it.

mod append;
mod clock;
pub mod connect;
mod damage;
mod destroy;
mod digest;
mod effects;
mod error;
mod event;
mod follow;
mod hearing;
mod identity;
mod integrity;
mod lane;
mod memory;
mod migrations;
mod nodes;
mod outline;
mod payload;
mod personal;
mod place;
pub mod private;
mod proving;
mod read;
mod rotate;
mod scrub;
mod seal;
mod store;
mod uptime;
mod vault;
mod wrapping;

use std::sync::Arc;
use std::time::Duration;

use connect::{Connector, Pool, Purpose, Single};
use tokio::sync::watch;

pub use append::{Append, Appended, is_deeper_than};
pub use clock::{Asked, Clock, SKEW_GAUGE, STEP_COUNTER};
pub use digest::{Sha256, random_token};
pub use effects::Held;
pub use error::{AppendError, LedgerError};
pub use event::{Metadata, NewEvent, Recorded, StreamId};
pub use follow::Follower;
pub use hearing::FORGOTTEN_WITHIN;
pub use identity::Divergence;
pub use integrity::{Findings, Found, Kind};
pub use nodes::{LiveNode, Presence};
pub use outline::{Outline, Outlined};
pub use payload::{Payload, is_text_deeper_than};
pub use proving::{KeysProved, Unopened, UnopenedKey};
pub use read::Stretch;
pub use rotate::{Rotated, RotationError, RotationProgress};
pub use scrub::Scrubbing;
pub use seal::{DataKey, Keyring, NewDataKey, SealError};
pub use store::{Loaded, Store};
pub use uptime::uptime;
pub use wrapping::{KeyCheckError, MissingKeys, holds_data_keys};

/// How a [`Ledger`] uses its database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections of the pool for requests. The one that appends comes on top.
    pub connections: u32,
    /// Connections of the pool for what goes on without a request.
    pub background: u32,
    /// How large the table of data keys may be, in bytes, to be scrubbed in place, which keeps appends waiting; a larger one is copied.
    pub scrubbed_in_place: i64,
    /// How long a caller waits for a place in the append queue, and for a connection of the pool.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let scrubbed_in_place = 32 * 1024 * 1024;
        Self { connections: 5, background: 4, scrubbed_in_place, patience: Duration::from_secs(5) }
    }
}

/// The event log. Cheap to clone; all clones share their pools and one append lane, which ends with the last of them.
#[derive(Clone)]
pub struct Ledger {
    pool: Pool,
    background: Pool,
    lane: lane::Lane,
    head: watch::Receiver<i64>,
    vault: vault::Vault,
    guard: Arc<identity::Guard>,
    scrubbed_in_place: i64,
    clock: Arc<Clock>,
}

impl Ledger {
    /// Uses the database at `connect`. Connections are made when they are needed: this neither waits nor fails when the server
    /// is away. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(connect: impl Into<Connector>, keyring: Keyring, options: &Options) -> Self {
        let connector = connect.into();
        let pool = Pool::new(connector.clone(), Purpose::Requests, options.connections, options.patience);
        let background =
            Pool::new(connector.clone(), Purpose::Background, options.background, options.patience);
        let guard = Arc::new(identity::Guard::new());
        let (lane, head) = lane::Lane::start(connector, options.patience, Arc::clone(&guard));
        let vault = vault::Vault::new(pool.clone(), keyring);
        let scrubbed_in_place = options.scrubbed_in_place;
        let clock = Arc::new(Clock::new());
        Self { pool, background, lane, head, vault, guard, scrubbed_in_place, clock }
    }

    /// The same log for what goes on without a request: it has connections of its own, so that requests that use up all of theirs do not
    /// stop it.
    #[must_use]
    pub fn background(&self) -> Self {
        let pool = self.background.clone();
        Self { vault: self.vault.over(pool.clone()), pool, ..self.clone() }
    }

    /// Brings the database's tables up to this program's version. Several processes may do so at once.
    ///
    /// # Errors
    /// The database is out of reach, or was migrated by another history of this program.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        let mut connection = self.maintenance().await?;
        migrations::migrator().run(&mut *connection).await.map_err(LedgerError::Migration)
    }

    /// A connection for what takes long and happens rarely: migrations, checks, comparisons. It is closed when it is dropped.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn maintenance(&self) -> Result<Single, sqlx::Error> {
        let connecting = self.connector().connect_within(Purpose::Maintenance, self.pool.patience());
        connecting.await.map(Single::new)
    }

    /// Grows with every connection that is made. As long as it stays the same, the server has not crashed for those who read.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.connector().generation()
    }

    /// The pool, for tables that are not the event log.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Makes connections outside of the pools.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        self.pool.connector()
    }

    /// Closes the connections, and waits until those in use were given back, for 5 seconds at most. A private server that stops under
    /// them would be logged as a fault.
    pub async fn close(&self) {
        tokio::join!(self.pool.drain(), self.background.drain());
    }
}
