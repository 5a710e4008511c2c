//! How far a person's second factor is, and what that allows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{UserCommand, UserError, UserEvent, operator_name};

/// Off, begun, on: it is asked for once the person has shown that their device has the shared key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TwoFactor {
    #[default]
    Off,
    Begun {
        sealed: String,
    },
    On {
        sealed: String,
        recovery_code_hashes: BTreeSet<String>,
    },
}

impl TwoFactor {
    /// The sealed shared key of one that is being set up.
    pub(super) fn begun(&self) -> Option<&str> {
        match self {
            Self::Begun { sealed } => Some(sealed),
            Self::Off | Self::On { .. } => None,
        }
    }

    /// The sealed shared key of one that is asked for.
    pub(super) fn on(&self) -> Option<&str> {
        match self {
            Self::On { sealed, .. } => Some(sealed),
            Self::Off | Self::Begun { .. } => None,
        }
    }

    pub(super) fn decide(&self, command: UserCommand) -> Result<UserEvent, UserError> {
        use UserCommand as Asked;
        match (self, command) {
            (Self::Off | Self::Begun { .. }, Asked::BeginTwoFactor { sealed }) => {
                Ok(UserEvent::TwoFactorBegun { sealed })
            }
            (Self::On { .. }, Asked::BeginTwoFactor { .. } | Asked::EnableTwoFactor { .. }) => {
                Err(UserError::TwoFactorOn)
            }
            (Self::Begun { .. }, Asked::EnableTwoFactor { recovery_code_hashes }) => {
                Ok(UserEvent::TwoFactorEnabled { recovery_code_hashes })
            }
            (Self::Off, Asked::EnableTwoFactor { .. }) => Err(UserError::TwoFactorNotBegun),
            (Self::On { .. }, Asked::DisableTwoFactor) => Ok(UserEvent::TwoFactorDisabled {}),
            (Self::On { .. }, Asked::ResetTwoFactor { operator }) => {
                Ok(UserEvent::TwoFactorReset { operator: operator_name(&operator) })
            }
            (Self::On { recovery_code_hashes, .. }, Asked::UseRecoveryCode { hash }) => {
                let known = recovery_code_hashes.contains(&hash);
                if known {
                    Ok(UserEvent::RecoveryCodeUsed { hash })
                } else {
                    Err(UserError::NoSuchRecoveryCode)
                }
            }
            (_, _) => Err(UserError::TwoFactorOff),
        }
    }

    /// It is asked for from now on.
    pub(super) fn confirm(&mut self, recovery_code_hashes: BTreeSet<String>) {
        if let Self::Begun { sealed } = self {
            let sealed = std::mem::take(sealed);
            *self = Self::On { sealed, recovery_code_hashes };
        }
    }

    /// A recovery code is good for nothing any more.
    pub(super) fn spend(&mut self, hash: &str) {
        if let Self::On { recovery_code_hashes, .. } = self {
            recovery_code_hashes.remove(hash);
        }
    }
}
