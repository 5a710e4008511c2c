//! Uniqueness is a stream (D3): whoever appends the next event of `claim/<keyed hash of the value>` holds the value.

use serde::{Deserialize, Serialize};

use crate::UserId;
use crate::event::stored_names;

/// What is claimed. It is part of what is hashed, so that a slug and an e-mail address never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// A canonical e-mail address, in the whole instance.
    Email,
    /// A team's slug, in the whole instance.
    TeamSlug,
    /// A secret's name, within its team.
    SecretName,
    /// A schedule's name, within its team.
    ScheduleName,
    /// An idempotency key, within what its caller may do.
    IdempotencyKey,
    /// A place in the queue for one job of a kind with the same arguments, or the same key, within its team.
    JobPlace,
    /// The time steps of the one-time passwords of one shared key.
    TotpStep,
    /// Who administers the instance.
    Admins,
}

impl ClaimKind {
    /// The name that goes into the hash.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::TeamSlug => "team_slug",
            Self::SecretName => "secret_name",
            Self::ScheduleName => "schedule_name",
            Self::IdempotencyKey => "idempotency_key",
            Self::JobPlace => "job_place",
            Self::TotpStep => "totp_step",
            Self::Admins => "admins",
        }
    }
}

/// What happens to a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum ClaimEvent {
    /// `owner_type/owner_id` now holds the value.
    Claimed { kind: ClaimKind, owner_type: String, owner_id: String },
    /// Nobody holds it any more.
    Released {},
    /// An idempotency key was used for a request with this fingerprint (keyed hash of method, path and body); its effect
    /// was the creation of `owner_type/owner_id`.
    KeyUsed { fingerprint: String, owner_type: String, owner_id: String },
    /// A one-time password of this time step (RFC 6238) was accepted; none of this or an earlier step will be again.
    StepUsed { step: u64 },
    /// These people, and no others, administer the instance and are active.
    AdminsAre { user_ids: std::collections::BTreeSet<UserId> },
}

stored_names!(ClaimEvent { Claimed: "1", Released: "1", KeyUsed: "1", StepUsed: "1", AdminsAre: "1" });
