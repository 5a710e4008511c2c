//! Why a command to an account is refused.

use super::MOST_API_KEYS;
use crate::{Refusal, RefusalKind};

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such account.
    #[error("there is no such user")]
    NotFound,
    /// The id is taken.
    #[error("this user exists already")]
    AlreadyExists,
    /// Nobody is behind the account any more.
    #[error("this user has been erased")]
    Erased,
    /// They may not sign in, so they may do nothing.
    #[error("this user is not active")]
    Inactive,
    /// An instance without an admin could never get one again.
    #[error("the last instance admin stays one")]
    LastAdmin,
    /// It is on already.
    #[error("a second factor is set up already; switch it off first")]
    TwoFactorOn,
    /// It is not on.
    #[error("no second factor is set up")]
    TwoFactorOff,
    /// Nothing to confirm.
    #[error("the setting up of a second factor has not been begun")]
    TwoFactorNotBegun,
    /// No such recovery code, or it is spent.
    #[error("there is no such recovery code")]
    NoSuchRecoveryCode,
    /// No such key.
    #[error("there is no such API key")]
    NoSuchApiKey,
    /// More keys than anybody needs.
    #[error("a person has at most {MOST_API_KEYS} API keys; revoke one first")]
    TooManyApiKeys,
}

impl Refusal for UserError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound | Self::NoSuchApiKey => RefusalKind::NotFound,
            Self::AlreadyExists
            | Self::Erased
            | Self::Inactive
            | Self::LastAdmin
            | Self::TwoFactorOn
            | Self::TwoFactorOff
            | Self::TwoFactorNotBegun
            | Self::NoSuchRecoveryCode
            | Self::TooManyApiKeys => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "user_not_found",
            Self::AlreadyExists => "user_exists",
            Self::Erased => "user_erased",
            Self::Inactive => "user_inactive",
            Self::LastAdmin => "last_admin",
            Self::TwoFactorOn => "two_factor_on",
            Self::TwoFactorOff => "two_factor_off",
            Self::TwoFactorNotBegun => "two_factor_not_begun",
            Self::NoSuchRecoveryCode => "no_such_recovery_code",
            Self::NoSuchApiKey => "api_key_not_found",
            Self::TooManyApiKeys => "too_many_api_keys",
        }
    }
}
