//! How a command can end other than well.

use cqrs_es::AggregateError;
use domain::{ClaimKind, Denied, Refusal, SecretId};
use ledger::{AppendError, LedgerError, SealError};

use crate::guessing::AttemptError;
use crate::passwords::PasswordError;
use crate::totp::TotpError;

/// Why a command changed nothing (or, where an [`AppendError`] says so, why that is not known).
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The aggregate decided against it.
    #[error("{0}")]
    Refused(Box<dyn Refusal>),
    /// A value that must be unique is somebody else's.
    #[error("the {} is taken", .0.as_str())]
    Taken(ClaimKind),
    /// The caller based the command on an older version.
    #[error("the present version is {present}")]
    Stale {
        /// Events in the stream.
        present: i64,
    },
    /// Others kept changing the same thing; nothing was stored.
    #[error("too many others are changing the same thing")]
    Contended,
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// The first request with this idempotency key is still being answered.
    #[error("the first request with this idempotency key is still being answered")]
    KeyInUse,
    /// No hash could be made in time.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Too many attempts have failed.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// The code of a second factor is not right, or was used before.
    #[error("the code is not right, or was used before")]
    WrongCode,
    /// The present password is not the one that was given.
    #[error("the password is not right")]
    WrongPassword,
    /// A second factor cannot be set up.
    #[error(transparent)]
    Totp(#[from] TotpError),
    /// The log could not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Something could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A stored event does not have its shape, or an event cannot be written.
    #[error("an event cannot be read or written: {0}")]
    Event(String),
    /// An event that has to be read cannot be: which, and why in words without contents.
    #[error("{0}")]
    DamagedEvent(String),
}

impl CommandError {
    /// The business refusal's code, if it is one.
    #[must_use]
    pub fn refusal_code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.code()),
            _ => None,
        }
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Contended | Self::Password(_) | Self::Ledger(LedgerError::Database(_)) => true,
            Self::Append(error) => error.is_passing(),
            _ => false,
        }
    }
}

/// From loading or handling an aggregate: appends do not come this way.
impl<E: Refusal> From<AggregateError<E>> for CommandError {
    fn from(error: AggregateError<E>) -> Self {
        match error {
            AggregateError::UserError(refusal) => Self::Refused(Box::new(refusal)),
            AggregateError::AggregateConflict => Self::Contended,
            AggregateError::DatabaseConnectionError(cause) => unavailable(cause),
            AggregateError::DeserializationError(cause) => Self::DamagedEvent(cause.to_string()),
            AggregateError::UnexpectedError(cause) => unavailable(cause),
        }
    }
}

/// What failed on the way through the event store, as what it was: a read that failed has stored nothing.
fn unavailable(cause: Box<dyn std::error::Error + Send + Sync>) -> CommandError {
    let cause = match cause.downcast::<AppendError>() {
        Ok(error) => return CommandError::Append(*error),
        Err(cause) => cause,
    };
    match cause.downcast::<LedgerError>() {
        Ok(error) => CommandError::Ledger(*error),
        Err(cause) => CommandError::Append(AppendError::Unavailable(cause.to_string())),
    }
}

/// A value that cannot be opened: says which and why, never what was inside.
#[derive(Clone, Debug, thiserror::Error)]
#[error("version {version} of the secret {name:?} ({id}) cannot be opened: {cause}")]
pub struct Unreadable {
    /// The secret's name.
    pub name: String,
    /// The secret.
    pub id: SecretId,
    /// Which version of its value.
    pub version: u32,
    /// Why.
    pub cause: SealError,
}

/// Why a secret's value was not given out.
#[derive(Debug, thiserror::Error)]
pub enum RevealError {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The value cannot be opened.
    #[error(transparent)]
    Unreadable(Unreadable),
    /// The key could not be fetched.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The reading could not be recorded, so there is no value.
    #[error("the reading could not be recorded: {0}")]
    Unrecorded(#[from] CommandError),
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Unknown address, wrong password, or an account that is not active: which one is not told.
    #[error("the e-mail address or the password is wrong")]
    Wrong,
    /// The password is right; the second factor is missing.
    #[error("a second factor is needed")]
    SecondFactorNeeded,
    /// The password is right; the second factor is not, or was used before.
    #[error("the second factor is wrong")]
    WrongSecondFactor,
    /// Too many attempts have failed.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// No hash could be checked in time.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The attempt could not be recorded, so there is no answer.
    #[error("the attempt could not be recorded: {0}")]
    Unrecorded(#[from] CommandError),
}

/// Why a session does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Not a refresh token of a session that goes on.
    #[error("the refresh token is not valid")]
    Invalid,
    /// It was not used in time.
    #[error("the refresh token has expired")]
    Expired,
    /// It was used before: the session has ended.
    #[error("the refresh token was used before")]
    Reused {
        /// The log's position after the record.
        position: Option<i64>,
    },
    /// Another request with the same token came first, this very moment. Nothing is lost: ask again after this long.
    #[error("the refresh token is just being used")]
    Together(std::time::Duration),
    /// The exchange could not be made.
    #[error(transparent)]
    Command(#[from] CommandError),
}
