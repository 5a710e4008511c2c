//! The private PostgreSQL of a data folder (design decision D11).
//!
//! Without a `DATABASE_URL`, Daybook runs a PostgreSQL of its own from the machine's server programs: unix socket only,
//! durable settings, never as root. The first process on a data folder starts it, every further one joins it, and the
//! last to leave stops it.
//!
//! # Files in the data folder
//!
//! | name | what |
//! |---|---|
//! | `private.lock` | held exclusively by the process that supervises the server; its text is that process's note to the next |
//! | `users.lock` | held in common by every process that uses the server |
//! | `postgres` | the cluster: a folder, or a symlink when the account that runs the server may not enter the data folder |
//! | `postgres.log`, `postgres.log.1` | what the server (and `initdb`) said, bounded in size |
//!
//! # Who is responsible
//!
//! *For running:* the holder of `private.lock`. Each process has a thread that tries for this lock, so that another one takes
//! over when the holder leaves or dies. A holder that leaves while others stay notes down the running server's process id
//! ("handed over") and the next one adopts it. A server without such a note was left by a holder that died, so its watchdog is
//! about to stop it: the next holder stops it for certain and starts afresh, rather than adopt a dying server.
//!
//! *For stopping:* the last holder of `users.lock`. Who leaves gives up its shared lock and then tries for an exclusive one. If that
//! fails, somebody else holds the lock and will go through the same door later; if it succeeds, nobody else is there and
//! nobody can come in until the server is down. *After kill -9:* a watchdog (`sh`, reading a pipe that only the supervising
//! process holds) stops the server.
//!
//! # Root
//!
//! PostgreSQL refuses to run as root, so root runs it as the user `postgres`, or `nobody`. If that user may not enter the data
//! folder (root's home is closed to others), the cluster is kept in `/var/lib/daybook/<random>` or `/var/tmp/daybook-<random>` and
//! `DATA_DIR/postgres` is a symlink to it. Deleting the data folder and starting anew then gives a fresh cluster, but the
//! folder elsewhere remains until somebody deletes it ([`PrivateServer::directory`] says where it is).

mod account;
mod cluster;
mod database;
mod error;
mod locks;
mod log;
mod place;
mod postmaster;
mod process;
mod programs;
mod supervisor;
mod watchdog;

pub use error::PrivateError;
pub use programs::find_programs;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use cluster::Cluster;
use supervisor::{Running, Supervisor};

/// How long [`PrivateServer::start_or_join`] waits for the server to accept connections.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a leaving process waits for its thread, which stops the server in a bounded time of its own.
const LEAVE_LIMIT: Duration = Duration::from_secs(90);

/// The superuser and the database of every private server. The server is reached only through a folder that is closed to others.
const NAME: &str = "daybook";

/// One process's share in the private PostgreSQL of a data folder.
///
/// End it with [`stop`](Self::stop). Dropping it leaves too, but in the background: a process that then ends at once relies on
/// the watchdog to stop the server.
#[derive(Debug)]
pub struct PrivateServer {
    cluster: Cluster,
    programs: PathBuf,
    thread: Thread,
}

/// The supervising thread, seen from outside.
#[derive(Debug)]
struct Thread {
    /// Dropping this tells the thread to leave.
    leave: mpsc::Sender<()>,
    left: oneshot::Receiver<()>,
}

impl Thread {
    async fn leave(self) {
        drop(self.leave);
        if tokio::time::timeout(LEAVE_LIMIT, self.left).await.is_err() {
            tracing::error!("the private PostgreSQL did not stop within {} s", LEAVE_LIMIT.as_secs());
        }
    }
}

impl PrivateServer {
    /// Joins the running server of this data folder or starts it, making the folder, the cluster and the database as
    /// needed. Returns when the server accepts connections, at the latest after [`START_LIMIT`].
    ///
    /// A data folder that is made here is closed to others (0700), except that root lets others pass through it (0711), so
    /// that the cluster can lie in it.
    ///
    /// # Errors
    /// When there are no programs of the right version, the cluster belongs to somebody else, or the server does not start:
    /// see [`PrivateError`]. Nothing of ours is left running then.
    pub async fn start_or_join(data_dir: &Path) -> Result<Self, PrivateError> {
        let deadline = Instant::now() + START_LIMIT;
        let (ready, is_ready) = oneshot::channel();
        let (leave, leaves) = mpsc::channel();
        let (has_left, left) = oneshot::channel();
        let supervisor = Supervisor::new(data_dir, leaves)?;
        std::thread::Builder::new()
            .name("private-postgres".to_owned())
            .spawn(move || {
                supervisor.run(ready);
                // Nobody may be listening any more, which is fine.
                let _ = has_left.send(());
            })
            .map_err(|e| PrivateError::io("start a thread for", data_dir, e))?;
        let thread = Thread { leave, left };
        match Self::wait(data_dir, is_ready, deadline).await {
            Ok(Running { cluster, programs }) => Ok(Self { cluster, programs, thread }),
            Err(error) => {
                thread.leave().await;
                Err(error)
            }
        }
    }

    async fn wait(
        data_dir: &Path,
        is_ready: oneshot::Receiver<Result<Running, PrivateError>>,
        deadline: Instant,
    ) -> Result<Running, PrivateError> {
        let running = match timeout_at(deadline, is_ready).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) | Err(_) => return Err(PrivateError::timeout(data_dir, START_LIMIT)),
        };
        database::ensure(&running.cluster, deadline).await?;
        Ok(running)
    }

    /// Whether `data_dir` has a cluster, which [`PrivateServer::start_or_join`] would otherwise make.
    #[must_use]
    pub fn exists(data_dir: &Path) -> bool {
        std::fs::symlink_metadata(cluster::Cluster::link(data_dir)).is_ok()
    }

    /// How to connect: the socket folder, user and database `daybook`, no password.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.cluster, NAME)
    }

    /// The same as a URL which libpq's programs (`pg_dump`, `psql`) and sqlx both understand:
    /// `postgres:///daybook?host=%2Fpath&user=daybook`.
    #[must_use]
    pub fn url(&self) -> String {
        let host = percent_encode(self.cluster.socket_dir());
        format!("postgres:///{NAME}?host={host}&port={}&user={NAME}", cluster::PORT)
    }

    /// The folder of the server programs in use (`postgres`, `initdb`; usually `pg_dump` and `psql` too).
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The folder that holds the cluster, symlinks resolved. It may lie outside the data folder, see the module's text.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.cluster.root()
    }

    /// The process id of the running server's first process (the postmaster). None while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.cluster.running_pid()
    }

    /// Leaves. The server is stopped if nobody else uses it; otherwise it goes on and another process supervises it. Close the
    /// connections first: a stopping server ends those that are open.
    pub async fn stop(self) {
        self.thread.leave().await;
    }
}

fn connect_options(cluster: &Cluster, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(cluster.socket_dir())
        .port(cluster::PORT)
        .ssl_mode(PgSslMode::Disable)
        .username(NAME)
        .database(database)
}

fn percent_encode(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut encoded = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_percent_encoded_for_a_url() {
        assert_eq!(percent_encode(Path::new("/a b/c-1_ü")), "%2Fa%20b%2Fc-1_%C3%BC");
    }
}
