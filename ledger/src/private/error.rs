use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::log;

/// Why the private PostgreSQL could not be found, started or joined. Each text is one a person can act upon.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No usable server programs on this machine.
    #[error(
        "found no PostgreSQL server programs (initdb and postgres) of version {oldest} or newer in {looked_in}{found}; \
         install them with `make postgres`, or set DATABASE_URL to use a server of your own"
    )]
    ProgramsMissing {
        /// The oldest major version that would do.
        oldest: u32,
        /// The places searched.
        looked_in: String,
        /// Which too old programs there are: empty, or ` (found: ...)`.
        found: String,
    },

    /// The cluster was made by another major version of PostgreSQL than those installed.
    #[error(
        "the cluster {cluster} was made by PostgreSQL {wanted}, but the programs found here are of version {found}; install \
         PostgreSQL {wanted}, or move the data over with pg_upgrade or a dump"
    )]
    OtherVersion {
        /// The cluster's folder.
        cluster: PathBuf,
        /// Its major version.
        wanted: u32,
        /// The major versions found.
        found: String,
    },

    /// `DATA_DIR/postgres` points to a folder that is not there.
    #[error(
        "{link} points to a cluster that is not there: {target}; bring it back, or delete {link} to begin with an empty one"
    )]
    ClusterGone {
        /// The symlink in the data folder.
        link: PathBuf,
        /// Where it points.
        target: PathBuf,
    },

    /// `DATA_DIR/postgres` is there but holds no cluster.
    #[error("{path} is not a PostgreSQL cluster: {reason}; move it away to begin with an empty one")]
    NotACluster {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The cluster belongs to a user this process cannot act as.
    #[error(
        "the cluster {path} belongs to user {owner}, but this process runs as user {me}; run it as the same user"
    )]
    OtherOwner {
        /// The cluster's folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Our user id.
        me: u32,
    },

    /// Root found no user to run the server as.
    #[error("PostgreSQL does not run as root, and /etc/passwd has {0} to run it as")]
    NoAccount(String),

    /// No folder which the server's user may enter.
    #[error("found no folder for the cluster which user {user} may enter; tried {tried}")]
    NoPlace {
        /// The user that runs the server.
        user: String,
        /// The folders tried, with the reason.
        tried: String,
    },

    /// A folder for the socket is needed outside the cluster (its path is too long), but cannot be had.
    #[error(
        "{0} is needed for the server's socket, but it is not a folder closed to others and owned by user {1}"
    )]
    SocketFolder(PathBuf, u32),

    /// A program ended badly.
    #[error("{program} failed ({status}); the end of {log}:\n{tail}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// The log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },

    /// The server did not accept connections in time.
    #[error(
        "the private PostgreSQL did not accept connections within {seconds} s; the end of {log}:\n{tail}"
    )]
    Timeout {
        /// How long we waited.
        seconds: u64,
        /// The log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },

    /// A file operation failed.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file, folder or program.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// The database could not be made or reached although the server runs.
    #[error("the private PostgreSQL at {socket} runs, but its database could not be opened: {source}")]
    Database {
        /// The socket's folder.
        socket: PathBuf,
        /// The cause.
        source: sqlx::Error,
    },

    /// The caller gave up before the server was ready.
    #[error("gave up waiting for the private PostgreSQL")]
    GaveUp,
}

impl PrivateError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn failed(program: &Path, status: impl ToString, data_dir: &Path) -> Self {
        let log = log::path(data_dir);
        Self::Failed { program: program.to_owned(), status: status.to_string(), tail: log::tail(&log), log }
    }

    pub(super) fn timeout(data_dir: &Path, limit: Duration) -> Self {
        let log = log::path(data_dir);
        Self::Timeout { seconds: limit.as_secs(), tail: log::tail(&log), log }
    }
}
