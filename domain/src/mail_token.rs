//! A token sent by mail: whoever brings it, once and in time, has the mailbox. Its stream is the one that the request for it began.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::aggregate;
use crate::{AccessEvent, Actor, Caller, Denied, Guarded, Personal, Refusal, RefusalKind, UserId};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailTokenUse {
    /// Choosing a new password.
    PasswordReset,
    /// Showing that an address is theirs.
    EmailVerification,
}

/// What can be asked of a token.
#[derive(Clone, Debug)]
pub enum MailTokenCommand {
    /// Use it up.
    Use {
        /// What for.
        purpose: MailTokenUse,
        /// SHA-256 of what was brought, in hex.
        hash: String,
        /// When.
        now: DateTime<Utc>,
    },
}

/// A token that is of no use: which reason it is, is not told to whoever brings it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not one that is open")]
pub struct MailTokenError;

impl Refusal for MailTokenError {
    fn kind(&self) -> RefusalKind {
        RefusalKind::Conflict
    }

    fn code(&self) -> &'static str {
        "token_not_open"
    }
}

/// What the rules need to know of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailToken {
    issued: Option<Issued>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    user_id: UserId,
    purpose: MailTokenUse,
    email: Personal,
    hash: String,
    expires_at: DateTime<Utc>,
    used: bool,
}

aggregate!(MailToken, "access", MailTokenCommand, AccessEvent, MailTokenError);

impl MailToken {
    /// Whose mailbox it was sent to.
    #[must_use]
    pub fn user_id(&self) -> Option<UserId> {
        self.issued.as_ref().map(|issued| issued.user_id)
    }

    pub(crate) fn decide(&self, command: MailTokenCommand) -> Result<Vec<AccessEvent>, MailTokenError> {
        let MailTokenCommand::Use { purpose, hash, now } = command;
        let issued = self.issued.as_ref().ok_or(MailTokenError)?;
        let open =
            !issued.used && issued.purpose == purpose && issued.hash == hash && now < issued.expires_at;
        if open {
            Ok(vec![AccessEvent::MailTokenUsed { user_id: issued.user_id }])
        } else {
            Err(MailTokenError)
        }
    }

    pub(crate) fn evolve(&mut self, event: AccessEvent) {
        let issued = |user_id, purpose, email, hash, expires_at| {
            Some(Issued { user_id, purpose, email, hash, expires_at, used: false })
        };
        match event {
            AccessEvent::PasswordResetRequested { user_id, email, token_hash, expires_at } => {
                self.issued = issued(user_id, MailTokenUse::PasswordReset, email, token_hash, expires_at);
            }
            AccessEvent::EmailVerificationRequested { user_id, email, token_hash, expires_at } => {
                self.issued = issued(user_id, MailTokenUse::EmailVerification, email, token_hash, expires_at);
            }
            AccessEvent::MailTokenUsed { .. } => {
                if let Some(issued) = &mut self.issued {
                    issued.used = true;
                }
            }
            AccessEvent::SignedIn { .. }
            | AccessEvent::SessionRefreshed { .. }
            | AccessEvent::RefreshTokenReused { .. }
            | AccessEvent::SessionEnded { .. }
            | AccessEvent::ProofFailed { .. }
            | AccessEvent::SignInFailed { .. }
            | AccessEvent::FailuresCounted { .. }
            | AccessEvent::AddressesForgotten { .. }
            | AccessEvent::SecretRevealed { .. }
            | AccessEvent::SecretRevealedByGrant { .. }
            | AccessEvent::SecretUsed { .. }
            | AccessEvent::AccessRefused { .. }
            | AccessEvent::AuditRead { .. }
            | AccessEvent::JobResultRefused { .. }
            | AccessEvent::JobsChangedInBulk { .. }
            | AccessEvent::WorkerDrained { .. }
            | AccessEvent::ViewRebuilt { .. }
            | AccessEvent::LogLossAccepted { .. }
            | AccessEvent::EffectsReleased { .. } => {}
        }
    }
}

impl Guarded for MailToken {
    /// The token is the proof; the command layer lets its bearer act as the person it was sent to.
    fn admit(&self, _: &MailTokenCommand, caller: &Caller) -> Result<(), Denied> {
        match caller.actor {
            Actor::User(id) if self.user_id() == Some(id) => Ok(()),
            Actor::User(_) | Actor::Key(_) | Actor::Job(_) | Actor::System | Actor::Anonymous => {
                Err(Denied::NotFound)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;
    use crate::event::testing::given;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
    }

    fn ada() -> UserId {
        UserId(Uuid::from_u128(1))
    }

    fn requested() -> AccessEvent {
        AccessEvent::PasswordResetRequested {
            user_id: ada(),
            email: Personal::new(ada(), "ada@example.org"),
            token_hash: "right".into(),
            expires_at: at(10),
        }
    }

    fn using(purpose: MailTokenUse, hash: &str, second: i64) -> MailTokenCommand {
        MailTokenCommand::Use { purpose, hash: hash.into(), now: at(second) }
    }

    #[test]
    fn a_token_is_used_once_in_time_and_for_what_it_is() {
        use MailTokenUse::{EmailVerification, PasswordReset};
        let used = AccessEvent::MailTokenUsed { user_id: ada() };
        let token = given::<MailToken>([requested()]);
        assert_eq!(token.decide(using(PasswordReset, "right", 9)), Ok(vec![used.clone()]));
        assert_eq!(token.decide(using(PasswordReset, "right", 10)), Err(MailTokenError));
        assert_eq!(token.decide(using(PasswordReset, "wrong", 9)), Err(MailTokenError));
        assert_eq!(token.decide(using(EmailVerification, "right", 9)), Err(MailTokenError));
        let token = given::<MailToken>([requested(), used]);
        assert_eq!(token.decide(using(PasswordReset, "right", 9)), Err(MailTokenError));
        assert_eq!(given::<MailToken>([]).decide(using(PasswordReset, "right", 9)), Err(MailTokenError));
    }
}
