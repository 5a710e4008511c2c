//! Why the database could not serve, in words that may be shown to a client.

use std::io::{self, ErrorKind};

use sqlx::error::DatabaseError;

/// Why the database could not do something. Its text names the cause and nothing of the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing listens there.
    ConnectionRefused,
    /// The host's name or the socket was not found, or the network does not lead there.
    NotFound,
    /// There was no answer in time.
    NoAnswer,
    /// The connection broke.
    ConnectionLost,
    /// The server has no connection left for anybody.
    TooManyClients,
    /// The role's `CONNECTION LIMIT` is reached.
    RoleConnectionLimit,
    /// The database's `CONNECTION LIMIT` is reached.
    DatabaseConnectionLimit,
    /// The server takes no connections yet, or no longer.
    StartingUp,
    /// User or password is wrong, or the server does not admit them.
    Authentication,
    /// There is no such database.
    NoSuchDatabase,
    /// The encrypted connection could not be made.
    Encryption,
    /// No space is left.
    DiskFull,
    /// The server, or the database by its defaults, allows no writes.
    ReadOnly,
    /// The server has no memory left.
    OutOfMemory,
    /// Another of the server's resources is used up.
    OutOfResources,
    /// The statement ran into its limit of time.
    StatementTimeout,
    /// All connections of this process that may be used for it are in use.
    PoolExhausted,
    /// This process is about to end.
    Closing,
    /// The data key's own key is not configured.
    KeyNotConfigured,
    /// The session cannot be set up as this program needs it.
    Session,
    /// Something else.
    Other,
}

impl Cause {
    /// The cause of an error.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_database(error.as_ref()),
            sqlx::Error::Io(error) => Self::of_io(error),
            sqlx::Error::Tls(_) => Self::Encryption,
            sqlx::Error::PoolTimedOut => Self::PoolExhausted,
            sqlx::Error::PoolClosed => Self::Closing,
            sqlx::Error::Configuration(error) if error.is::<ReadOnlyHost>() => Self::ReadOnly,
            sqlx::Error::Configuration(_) => Self::Session,
            _ => Self::Other,
        }
    }

    fn of_database(error: &dyn DatabaseError) -> Self {
        let code = error.code().unwrap_or_default();
        match &*code {
            "53100" => Self::DiskFull,
            "53200" => Self::OutOfMemory,
            "53300" => Self::of_limit(error.message()),
            "57P03" => Self::StartingUp,
            "57P01" | "57P02" | "57P04" | "57P05" | "25P03" | "25P04" => Self::ConnectionLost,
            "57014" | "55P03" => Self::StatementTimeout,
            "25006" => Self::ReadOnly,
            "3D000" => Self::NoSuchDatabase,
            // ENOSPC and EDQUOT where a file was to be extended; a file system that became read-only.
            "58030" if error.message().contains("No space") || error.message().contains("quota") => {
                Self::DiskFull
            }
            code if code.starts_with("28") => Self::Authentication,
            code if code.starts_with("53") => Self::OutOfResources,
            code if code.starts_with("08") => Self::ConnectionLost,
            _ => Self::Other,
        }
    }

    /// One code stands for three limits, which only the message tells apart.
    fn of_limit(message: &str) -> Self {
        if message.contains("for role") {
            Self::RoleConnectionLimit
        } else if message.contains("for database") {
            Self::DatabaseConnectionLimit
        } else {
            Self::TooManyClients
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            ErrorKind::TimedOut => Self::NoAnswer,
            ErrorKind::NotFound | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Self::NotFound
            }
            ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => Self::ConnectionLost,
            // What the resolver says has no kind of its own.
            _ if error.to_string().contains("lookup") => Self::NotFound,
            _ => Self::Other,
        }
    }

    /// Whether connecting again within seconds may help.
    pub(crate) fn passes_soon(self) -> bool {
        matches!(
            self,
            Self::ConnectionRefused
                | Self::NotFound
                | Self::ConnectionLost
                | Self::TooManyClients
                | Self::RoleConnectionLimit
                | Self::DatabaseConnectionLimit
                | Self::StartingUp
                | Self::StatementTimeout
                | Self::ReadOnly
        )
    }

    /// A stable name to program against.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::DiskFull => "database_full",
            Self::ReadOnly => "database_read_only",
            Self::TooManyClients | Self::RoleConnectionLimit | Self::DatabaseConnectionLimit => {
                "database_connections_exhausted"
            }
            Self::PoolExhausted => "overloaded",
            Self::KeyNotConfigured => "key_not_configured",
            Self::ConnectionRefused
            | Self::NotFound
            | Self::NoAnswer
            | Self::ConnectionLost
            | Self::StartingUp
            | Self::Authentication
            | Self::NoSuchDatabase
            | Self::Encryption
            | Self::OutOfMemory
            | Self::OutOfResources
            | Self::StatementTimeout
            | Self::Closing
            | Self::Session
            | Self::Other => "database_unavailable",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ConnectionRefused => "the database refuses connections",
            Self::NotFound => "the database's host was not found",
            Self::NoAnswer => "the database does not answer",
            Self::ConnectionLost => "the connection to the database was lost",
            Self::TooManyClients => "the database has no connection left (max_connections)",
            Self::RoleConnectionLimit => "the connection limit of the database user is reached",
            Self::DatabaseConnectionLimit => "the connection limit of the database is reached",
            Self::StartingUp => "the database is starting up or shutting down",
            Self::Authentication => "the database does not accept the user or the password",
            Self::NoSuchDatabase => "the database does not exist",
            Self::Encryption => "an encrypted connection to the database could not be made",
            Self::DiskFull => "the database has no space left",
            Self::ReadOnly => "the database is read-only",
            Self::OutOfMemory => "the database has no memory left",
            Self::OutOfResources => "a resource of the database is used up",
            Self::StatementTimeout => "the database took too long",
            Self::PoolExhausted => "all database connections of this node are in use",
            Self::Closing => "this node is shutting down",
            Self::KeyNotConfigured => "a key that the database needs is not configured on this node",
            Self::Session => "the database does not allow the session settings that are needed",
            Self::Other => "the database failed",
        })
    }
}

/// A host was reached, but it allows no writes.
#[derive(Debug, thiserror::Error)]
#[error("the host is a standby, or its default is read-only transactions (target_session_attrs)")]
pub(super) struct ReadOnlyHost;

/// The session cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UnusableSession(pub(super) &'static str);

/// An end of our own making.
pub(crate) fn timed_out(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(ErrorKind::TimedOut, what))
}
