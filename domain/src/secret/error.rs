//! Why a command to a secret is refused.

use super::{LONGEST_GRANT, MOST_GRANTS, MOST_VERSIONS};
use crate::{Refusal, RefusalKind};

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no such secret, or it was deleted.
    #[error("there is no such secret")]
    NotFound,
    /// The id is taken.
    #[error("this secret exists already")]
    AlreadyExists,
    /// Its values are gone for ever.
    #[error("this secret was destroyed")]
    Destroyed,
    /// Somebody else's value came first.
    #[error("the present value is version {present}; the new one was to follow version {}", given.saturating_sub(1))]
    StaleVersion {
        /// The version it is at.
        present: u32,
        /// The version the command would have made.
        given: u32,
    },
    /// It never had this version.
    #[error("there is no version {0}")]
    NoSuchVersion(u32),
    /// More than anybody needs.
    #[error("a secret has at most {MOST_VERSIONS} versions, destroyed ones included: make another one")]
    TooManyVersions,
    /// There is nothing to take back, and a name is not changed this way.
    #[error("this secret was not deleted; change its name with PATCH")]
    NotDeleted,
    /// It would not end by itself soon enough, or has ended already.
    #[error("a grant ends at most {} hours after it is given, and not in the past", LONGEST_GRANT.num_hours())]
    GrantTooLong,
    /// More than anybody keeps an eye on.
    #[error("a secret has at most {MOST_GRANTS} open grants; withdraw one first")]
    TooManyGrants,
    /// No such grant.
    #[error("there is no such grant")]
    NoSuchGrant,
}

impl Refusal for SecretError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound | Self::NoSuchVersion(_) | Self::NoSuchGrant => RefusalKind::NotFound,
            Self::AlreadyExists
            | Self::Destroyed
            | Self::StaleVersion { .. }
            | Self::TooManyVersions
            | Self::NotDeleted
            | Self::GrantTooLong
            | Self::TooManyGrants => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "secret_not_found",
            Self::AlreadyExists => "secret_exists",
            Self::Destroyed => "secret_destroyed",
            Self::StaleVersion { .. } => "stale_version",
            Self::NoSuchVersion(_) => "version_not_found",
            Self::TooManyVersions => "too_many_versions",
            Self::NotDeleted => "not_deleted",
            Self::GrantTooLong => "grant_too_long",
            Self::TooManyGrants => "too_many_grants",
            Self::NoSuchGrant => "grant_not_found",
        }
    }
}
