//! What a person proves who they are with from request to request, by user id: their sessions, and the keys of their programs.
//!
//! One row a person, so that one look answers for both, and so that what ends all sessions at once touches one row.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{AccessEvent, ApiKeyId, Event, Permission, SessionId, TeamId, UserEvent, UserId};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;
use crate::time::{millis, millis_option, to_millis};
use crate::view::View;

/// Sessions that a person has at a time; the one that was used longest ago makes room.
const MOST_SESSIONS: usize = 50;

/// See the module.
#[derive(Debug)]
pub struct Credentials;

/// A person's sessions and keys; somebody without any has no row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CredentialsRow {
    /// In the order in which they began.
    pub sessions: Vec<SessionRow>,
    /// In the order in which they were made.
    pub api_keys: Vec<ApiKeyRow>,
}

/// A session that has not ended. Its time may be over: rows have no clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its id, which access tokens carry.
    pub id: SessionId,
    /// When it began.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    #[serde(with = "millis")]
    pub refreshed_at: DateTime<Utc>,
    /// When it ends unless it is refreshed.
    #[serde(with = "millis")]
    pub expires_at: DateTime<Utc>,
    /// From where it was last refreshed.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}

/// A key that has not been revoked. Its time may be over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyRow {
    /// Its id.
    pub id: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// The team it speaks for.
    pub team_id: TeamId,
    /// Its first characters.
    pub prefix: String,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// What it may do at most.
    pub scopes: BTreeSet<Permission>,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// Until when it is good.
    #[serde(with = "millis_option")]
    pub expires_at: Option<DateTime<Utc>>,
}

impl CredentialsRow {
    /// The session of this id, if it has not ended by `now`.
    #[must_use]
    pub fn session(&self, id: SessionId, now: DateTime<Utc>) -> Option<&SessionRow> {
        self.sessions.iter().find(|session| session.id == id && now < session.expires_at)
    }

    /// Whether the session of this id has not been ended. Its time may be over.
    #[must_use]
    pub fn goes_on(&self, id: SessionId) -> bool {
        self.sessions.iter().any(|session| session.id == id)
    }

    /// The key of this id, if it is still good at `now`.
    #[must_use]
    pub fn api_key(&self, id: ApiKeyId, now: DateTime<Utc>) -> Option<&ApiKeyRow> {
        self.api_keys.iter().find(|key| key.id == id && key.expires_at.is_none_or(|end| now < end))
    }

    fn unless_empty(self) -> Option<Self> {
        if self.sessions.is_empty() && self.api_keys.is_empty() { None } else { Some(self) }
    }
}

impl View for Credentials {
    const NAME: &'static str = "credentials";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["user", "access"];
    const PERSONAL: bool = true;
    type Row = CredentialsRow;

    fn columns() -> &'static str {
        ""
    }

    fn indexes() -> &'static [&'static str] {
        &[]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::User(event) => match event {
                UserEvent::PasswordChanged { .. }
                | UserEvent::PasswordReset { .. }
                | UserEvent::SignedOutEverywhere {}
                | UserEvent::TwoFactorReset { .. }
                | UserEvent::UserDeactivated { .. }
                | UserEvent::UserErased { .. }
                | UserEvent::ApiKeyMade { .. }
                | UserEvent::ApiKeyRevoked { .. } => vec![fact.aggregate_id.clone()],
                UserEvent::UserRegistered { .. }
                | UserEvent::UserRenamed { .. }
                | UserEvent::PasswordRehashed { .. }
                | UserEvent::EmailVerified {}
                | UserEvent::TwoFactorBegun { .. }
                | UserEvent::TwoFactorEnabled { .. }
                | UserEvent::TwoFactorDisabled {}
                | UserEvent::RecoveryCodeUsed { .. }
                | UserEvent::UserReactivated {}
                | UserEvent::AdminGranted {}
                | UserEvent::AdminRevoked {} => vec![],
            },
            Event::Access(event) => of_session(event).map(|user| user.to_string()).into_iter().collect(),
            Event::Team(_) | Event::Secret(_) | Event::Job(_) | Event::Schedule(_) | Event::Claim(_) => {
                vec![]
            }
        }
    }

    fn fold(_: &str, row: Option<CredentialsRow>, fact: &Fact) -> Option<CredentialsRow> {
        let mut row = row.unwrap_or_default();
        match &fact.event {
            Event::User(event) => of_account(&mut row, event, fact),
            Event::Access(event) => session(&mut row, event, fact),
            Event::Team(_) | Event::Secret(_) | Event::Job(_) | Event::Schedule(_) | Event::Claim(_) => {}
        }
        row.unless_empty()
    }
}

/// Whose session the event is about, if it is about one.
fn of_session(event: &AccessEvent) -> Option<UserId> {
    match event {
        AccessEvent::SignedIn { user_id, .. }
        | AccessEvent::SessionRefreshed { user_id, .. }
        | AccessEvent::SessionEnded { user_id, .. } => Some(*user_id),
        AccessEvent::RefreshTokenReused { .. }
        | AccessEvent::PasswordResetRequested { .. }
        | AccessEvent::EmailVerificationRequested { .. }
        | AccessEvent::MailTokenUsed { .. }
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
        | AccessEvent::EffectsReleased { .. } => None,
    }
}

fn of_account(row: &mut CredentialsRow, event: &UserEvent, fact: &Fact) {
    if event.ends_sessions() {
        row.sessions.clear();
    }
    match event {
        UserEvent::UserErased { .. } => *row = CredentialsRow::default(),
        UserEvent::ApiKeyMade { key_id, name, team_id, prefix, hash, scopes, expires_at } => {
            row.api_keys.push(ApiKeyRow {
                id: *key_id,
                name: name.clone(),
                team_id: *team_id,
                prefix: prefix.clone(),
                hash: hash.clone(),
                scopes: scopes.clone(),
                created_at: fact.at,
                expires_at: expires_at.map(to_millis),
            });
        }
        UserEvent::ApiKeyRevoked { key_id } => row.api_keys.retain(|key| key.id != *key_id),
        UserEvent::PasswordChanged { .. }
        | UserEvent::PasswordReset { .. }
        | UserEvent::SignedOutEverywhere {}
        | UserEvent::TwoFactorReset { .. }
        | UserEvent::UserDeactivated { .. }
        | UserEvent::UserRegistered { .. }
        | UserEvent::UserRenamed { .. }
        | UserEvent::PasswordRehashed { .. }
        | UserEvent::EmailVerified {}
        | UserEvent::TwoFactorBegun { .. }
        | UserEvent::TwoFactorEnabled { .. }
        | UserEvent::TwoFactorDisabled {}
        | UserEvent::RecoveryCodeUsed { .. }
        | UserEvent::UserReactivated {}
        | UserEvent::AdminGranted {}
        | UserEvent::AdminRevoked {} => {}
    }
}

fn session(row: &mut CredentialsRow, event: &AccessEvent, fact: &Fact) {
    match event {
        AccessEvent::SignedIn { session_id, refresh_expires_at, .. } => {
            begin(row, *session_id, *refresh_expires_at, fact);
        }
        AccessEvent::SessionRefreshed { refresh_expires_at, .. } => {
            if let Some(session) = row.sessions.iter_mut().find(|session| is_of(fact, session)) {
                session.refreshed_at = fact.at;
                session.expires_at = to_millis(*refresh_expires_at);
                (session.ip, session.user_agent) = (fact.ip.clone(), fact.user_agent.clone());
            }
        }
        AccessEvent::SessionEnded { .. } => row.sessions.retain(|session| !is_of(fact, session)),
        AccessEvent::RefreshTokenReused { .. }
        | AccessEvent::PasswordResetRequested { .. }
        | AccessEvent::EmailVerificationRequested { .. }
        | AccessEvent::MailTokenUsed { .. }
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

/// The stream is the session's.
fn is_of(fact: &Fact, session: &SessionRow) -> bool {
    session.id.to_string() == fact.aggregate_id
}

/// Those whose time is over by now make room first.
fn begin(row: &mut CredentialsRow, id: SessionId, expires_at: DateTime<Utc>, fact: &Fact) {
    row.sessions.retain(|session| fact.at < session.expires_at);
    while row.sessions.len() >= MOST_SESSIONS {
        let oldest = row.sessions.iter().enumerate().min_by_key(|(_, session)| session.refreshed_at);
        let Some((place, _)) = oldest else { break };
        row.sessions.remove(place);
    }
    row.sessions.push(SessionRow {
        id,
        created_at: fact.at,
        refreshed_at: fact.at,
        expires_at: to_millis(expires_at),
        ip: fact.ip.clone(),
        user_agent: fact.user_agent.clone(),
    });
}

#[cfg(test)]
mod tests;
