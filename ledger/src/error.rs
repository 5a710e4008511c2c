//! What can go wrong with the log.

use crate::connect::Cause;
use crate::seal::SealError;

/// Reading failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database did not answer as it should.
    #[error("the event log's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("the event log's tables could not be brought up to date: {0}")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A row does not hold what it should.
    #[error("event {position} is damaged: {cause}")]
    Damaged {
        /// Which event.
        position: i64,
        /// What does not fit.
        cause: String,
    },
    /// It is not the log that was known.
    #[error("{0}")]
    Diverged(#[source] crate::Divergence),
    /// Something sealed could not be opened, or a key could not be used.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Appending failed. Unless said otherwise nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another append was there first, or the stream has not got as far as the caller thought.
    #[error("another change came first")]
    Conflict,
    /// There was no place in the queue within the time a caller waits.
    #[error("the event log takes no more at the moment")]
    Overloaded,
    /// The answer did not come in time. The events are stored wholly or not at all, but which is not known.
    #[error("the event log did not answer in time")]
    Unanswered,
    /// The database could not do it, and nothing was stored; the cause may pass.
    #[error("nothing was stored: {0}")]
    NotDone(Cause),
    /// The database was lost meanwhile. The events are stored wholly or not at all, but which is not known.
    #[error("the event log's database is not available: {0}")]
    Unavailable(String),
    /// The log is not the one that was known: nothing is appended to it.
    #[error("{0}")]
    Diverged(crate::Divergence),
    /// The database refused these events, or they cannot be stored as they are.
    #[error("the event log refused the events: {0}")]
    Refused(String),
}

impl From<SealError> for AppendError {
    fn from(error: SealError) -> Self {
        match error {
            // Passes as soon as the process is started with the new keys.
            SealError::NoWrappingKey { .. } => {
                tracing::warn!(%error, "nothing can be appended that needs a new data key");
                Self::NotDone(Cause::KeyNotConfigured)
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

impl AppendError {
    /// Nothing was sent to be stored, or it was certainly undone. The error itself goes to the log.
    pub(crate) fn not_done(error: &sqlx::Error) -> Self {
        let cause = Cause::of(error);
        tracing::warn!(%error, %cause, "the event log's database failed");
        Self::NotDone(cause)
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Overloaded
            | Self::Unanswered
            | Self::Unavailable(_)
            | Self::NotDone(_)
            | Self::Diverged(_) => true,
            Self::Conflict | Self::Refused(_) => false,
        }
    }
}
