//! What can go wrong on the read side.

use ledger::LedgerError;

/// A read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database did not answer as it should.
    #[error("the views' database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The log could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The view cannot answer with what is true.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// A row, or an event that was needed, is not what this version expects.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What stops a view: something that trying again at once does not mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {cause}")]
pub struct Fault {
    /// Where: a view's row, or an event's position.
    pub at: String,
    /// What does not fit. Names fields and shapes, never contents.
    pub cause: String,
}

impl Fault {
    pub(crate) fn at_event(position: i64, cause: impl ToString) -> Self {
        Self { at: format!("event {position}"), cause: cause.to_string() }
    }

    pub(crate) fn at_row(view: &str, key: &str, cause: impl ToString) -> Self {
        Self { at: format!("row {key} of {view}"), cause: cause.to_string() }
    }

    pub(crate) fn at_view(view: &str, cause: impl ToString) -> Self {
        Self { at: format!("view {view}"), cause: cause.to_string() }
    }
}

/// A view did not get as far as it was asked to within the time allowed, or it does not follow the log at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the view {view} has only reached position {reached}")]
pub struct Behind {
    /// Which; empty when there is no such view.
    pub view: &'static str,
    /// How far it has got.
    pub reached: i64,
    /// Whether whoever asked named a position that it has not reached.
    pub asked: bool,
}

/// No view has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no view named {0}")]
pub struct UnknownView(pub String);

/// A rebuild did not come to its end. The live view is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// No view has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownView),
    /// Somebody else is at it.
    #[error("the view {0} is being rebuilt already")]
    AlreadyRunning(String),
    /// Readers never left the live table long enough for the new one to take its place.
    #[error("the view {0} was read without a gap: the rebuilt table could not take its place")]
    Blocked(String),
    /// The log could not be read, the database failed, or an event does not fit.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<Fault> for RebuildError {
    fn from(fault: Fault) -> Self {
        Self::Read(fault.into())
    }
}

/// The SQLSTATE of an answer by the database itself.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|answer| answer.code()).map(|code| code.into_owned())
}

/// Whether the database answered that it will not have this statement, however often it is asked: class 22 (a value cannot be
/// stored), 23 (a constraint), 42 (a table or column is not there), 54 (a limit).
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| ["22", "23", "42", "54"].iter().any(|class| code.starts_with(class)))
}

/// Whether a lock was not to be had within `lock_timeout`, or was given up to end a deadlock.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code == "55P03" || code == "40P01")
}
