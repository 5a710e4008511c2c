//! The way to the database for what is read on behalf of a team: connections that see that team's rows and nothing else.

use std::io;
use std::time::Duration;

use domain::TeamId;
use ledger::Ledger;
use ledger::connect::{Pool, Pooled, Purpose};
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::Projections;
use crate::error::{ReadError, is_refusal};
use crate::role::ROLE;

/// The setting that says whose rows a connection sees. The policies name it too ([`crate::view::Owner`]).
const TEAM: &str = "daybook.team";
/// How long a connection may take to become a team's.
const CONFINE_TIMEOUT: Duration = Duration::from_secs(2);
/// Stands for all teams and none. No team's id looks like it.
const INSTANCE: &str = "*";

/// On whose behalf something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A team's: its rows.
    Team(TeamId),
    /// Of somebody who audits the whole instance: all rows of the audit trail. Of other views no row.
    Instance,
}

impl Whose {
    /// As [`TEAM`] has it.
    pub(crate) fn setting(self) -> String {
        match self {
            Self::Team(team) => team.to_string(),
            Self::Instance => INSTANCE.to_owned(),
        }
    }

    /// Whether a row of this team may be seen.
    pub(crate) fn sees(self, owner: Option<TeamId>) -> bool {
        match self {
            Self::Team(team) => owner == Some(team),
            Self::Instance => true,
        }
    }
}

/// Connections under [`ROLE`]. They are had from [`Confined::acquire`] and in no other way, so that each knows whose rows it
/// is to see: what the one before has left on it does not matter.
pub(crate) struct Confined {
    pool: Pool,
    connections: u32,
}

impl Confined {
    /// To the ledger's database, and as patient. Connections are made when they are needed. Must be called within a tokio
    /// runtime.
    pub(crate) fn new(ledger: &Ledger, connections: u32) -> Self {
        let connector = ledger.connector().clone();
        let pool = Pool::new(connector, Purpose::Teams, connections, ledger.pool().patience());
        Self { pool, connections }
    }

    /// A connection that sees what is `whose`.
    pub(crate) async fn acquire(&self, whose: Whose) -> Result<Pooled, sqlx::Error> {
        // After the server was lost, every connection that lies idle may be a dead one: each is met once.
        let mut dead = 0;
        loop {
            // Saying whose rows are wanted shows whether the connection is well; asking it before would be a journey more.
            let mut connection = self.pool.acquire_untried().await?;
            match timeout(CONFINE_TIMEOUT, confine(&mut connection, whose)).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) if is_refusal(&error) || dead == self.connections => return Err(error),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection was lost while nobody used it");
                    dead += 1;
                    connection.discard();
                }
                Err(_) => {
                    dead += 1;
                    connection.discard();
                    // Whatever keeps this one from answering keeps the others too.
                    self.pool.discard_idle();
                    if dead > self.connections {
                        return Err(no_answer());
                    }
                }
            }
        }
    }

    pub(crate) async fn close(&self) {
        self.pool.drain().await;
    }
}

/// Role and team at once, and every time: whatever happened on the connection before.
async fn confine(connection: &mut PgConnection, whose: Whose) -> Result<(), sqlx::Error> {
    let sql = format!("select set_config('role', '{ROLE}', false), set_config('{TEAM}', $1, false)");
    sqlx::query(&sql).bind(whose.setting()).execute(connection).await.map(drop)
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
}

impl Projections {
    /// A connection that sees the rows that are `whose`, of the views whose rows are teams', and nothing else; it cannot write.
    /// Row-level security sees to that, whatever is asked: this is the second wall between teams. The first is in
    /// [`crate::TeamReader`].
    ///
    /// # Errors
    /// The database is out of reach, or there was no connection in time.
    pub async fn confined(&self, whose: Whose) -> Result<Pooled, ReadError> {
        Ok(self.inner.confined.acquire(whose).await?)
    }

    /// Closes the connections that teams' reads use, and waits until those in use were given back, within seconds. Reads fail
    /// afterwards. The ledger's pool is its owner's to close.
    pub async fn close(&self) {
        self.inner.confined.close().await;
    }
}
