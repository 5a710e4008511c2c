//! When somebody last signed in (`user/<id>`).

use chrono::{DateTime, Utc};
use domain::{AccessEvent, Event};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;
use crate::time::millis;
use crate::view::View;

/// See the module.
#[derive(Debug)]
pub struct LastAccess;

/// The last time, and how often so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastAccessRow {
    /// When it last happened.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
    /// Who did it, as the event's metadata has it.
    pub actor: String,
    /// How often it has happened.
    pub count: u64,
}

impl View for LastAccess {
    const NAME: &'static str = "last_access";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["access"];
    type Row = LastAccessRow;

    fn columns() -> &'static str {
        ""
    }

    fn indexes() -> &'static [&'static str] {
        &[]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Access(AccessEvent::SignedIn { user_id, .. }) => vec![format!("user/{user_id}")],
            Event::Access(
                AccessEvent::SecretRevealed { .. }
                | AccessEvent::SecretRevealedByGrant { .. }
                | AccessEvent::SecretUsed { .. }
                | AccessEvent::SignInFailed { .. }
                | AccessEvent::FailuresCounted { .. }
                | AccessEvent::AddressesForgotten { .. }
                | AccessEvent::SessionRefreshed { .. }
                | AccessEvent::RefreshTokenReused { .. }
                | AccessEvent::SessionEnded { .. }
                | AccessEvent::PasswordResetRequested { .. }
                | AccessEvent::EmailVerificationRequested { .. }
                | AccessEvent::MailTokenUsed { .. }
                | AccessEvent::ProofFailed { .. }
                | AccessEvent::AccessRefused { .. }
                | AccessEvent::AuditRead { .. }
                | AccessEvent::JobResultRefused { .. }
                | AccessEvent::JobsChangedInBulk { .. }
                | AccessEvent::WorkerDrained { .. }
                | AccessEvent::ViewRebuilt { .. }
                | AccessEvent::LogLossAccepted { .. }
                | AccessEvent::EffectsReleased { .. },
            )
            | Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(_: &str, row: Option<LastAccessRow>, fact: &Fact) -> Option<LastAccessRow> {
        match &fact.event {
            Event::Access(AccessEvent::SignedIn { .. }) => Some(LastAccessRow {
                at: fact.at,
                actor: fact.actor.clone(),
                count: row.map_or(0, |row| row.count) + 1,
            }),
            Event::Access(
                AccessEvent::SecretRevealed { .. }
                | AccessEvent::SecretRevealedByGrant { .. }
                | AccessEvent::SecretUsed { .. }
                | AccessEvent::SignInFailed { .. }
                | AccessEvent::FailuresCounted { .. }
                | AccessEvent::AddressesForgotten { .. }
                | AccessEvent::SessionRefreshed { .. }
                | AccessEvent::RefreshTokenReused { .. }
                | AccessEvent::SessionEnded { .. }
                | AccessEvent::PasswordResetRequested { .. }
                | AccessEvent::EmailVerificationRequested { .. }
                | AccessEvent::MailTokenUsed { .. }
                | AccessEvent::ProofFailed { .. }
                | AccessEvent::AccessRefused { .. }
                | AccessEvent::AuditRead { .. }
                | AccessEvent::JobResultRefused { .. }
                | AccessEvent::JobsChangedInBulk { .. }
                | AccessEvent::WorkerDrained { .. }
                | AccessEvent::ViewRebuilt { .. }
                | AccessEvent::LogLossAccepted { .. }
                | AccessEvent::EffectsReleased { .. },
            )
            | Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => row,
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{SecretId, SessionId};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{at, fact, folded, id, user_id};

    #[test]
    fn signing_in_counts_and_nothing_else_does() {
        let signed_in = AccessEvent::SignedIn {
            user_id: user_id(1),
            session_id: SessionId(Uuid::from_u128(8)),
            refresh_token_hash: "x".into(),
            refresh_expires_at: at(99),
        };
        let secret_id = SecretId(Uuid::from_u128(5));
        let events = [
            signed_in.clone(),
            AccessEvent::SecretRevealed { secret_id, version: 1, reason: None },
            signed_in,
            AccessEvent::AccessRefused { permission: "secrets:reveal".into(), resource: "/".into() },
        ];
        let facts: Vec<Fact> =
            (1..).zip(events).map(|(n, event)| fact(n, "access", id(n as u128 + 900), event)).collect();
        let row = LastAccessRow { at: at(3), actor: "system".into(), count: 2 };
        assert_eq!(folded::<LastAccess>(&facts), [(format!("user/{}", id(1)), row)].into());
    }
}
