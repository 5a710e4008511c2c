//! A session: one sign-in of one person, and the refresh tokens that keep it alive, each good for one use.
//!
//! Its stream is the one that the access record of the sign-in began. Refresh tokens are numbered by *generation*, from 0; the command
//! layer has made sure that what is presented here is a token of this instance and of this session, so an old one is a copy.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::event::aggregate;
use crate::{AccessEvent, Actor, Caller, Denied, Guarded, Permission, Refusal, RefusalKind, UserId};

/// How long after a refresh the same token may be presented again without being taken for a stolen copy: a second tab, a lost answer.
pub const REPEAT_GRACE: TimeDelta = TimeDelta::seconds(10);

/// How often a session is refreshed at most: it bounds the stream. Once an hour for 90 days is 2,160 times.
const MOST_REFRESHES: u32 = 10_000;

/// How long a session lasts at most, however often it is refreshed.
pub const LONGEST_SESSION: TimeDelta = TimeDelta::days(90);

/// Why a session was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// The person signed out, or ended it from elsewhere.
    SignedOut,
    /// A refresh token of it was presented twice.
    TokenReused,
}

/// A refresh token that was presented, and what is to follow it.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// Which one it is.
    pub generation: u32,
    /// SHA-256 of the next one, in hex.
    pub next_hash: String,
    /// When it was presented.
    pub now: DateTime<Utc>,
    /// Until when the next one is good.
    pub next_expires_at: DateTime<Utc>,
}

/// What can be asked of a session.
#[derive(Clone, Debug)]
pub enum SessionCommand {
    /// Exchange its refresh token for the next one.
    Refresh(Refresh),
    /// End it.
    End,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There is no such session.
    #[error("there is no such session")]
    NotFound,
    /// It is over.
    #[error("the session has ended")]
    Ended,
    /// Its refresh token was not used in time.
    #[error("the refresh token has expired")]
    Expired,
    /// The token was exchanged a moment ago: a repeat, not yet a theft.
    #[error("the refresh token was exchanged a moment ago")]
    Repeated {
        /// When.
        refreshed_at: DateTime<Utc>,
        /// The generation it was exchanged for.
        generation: u32,
    },
}

impl Refusal for SessionError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::Ended | Self::Expired | Self::Repeated { .. } => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "session_not_found",
            Self::Ended => "session_ended",
            Self::Expired => "refresh_expired",
            Self::Repeated { .. } => "refresh_repeated",
        }
    }
}

/// What the rules need to know of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    begun: Option<Begun>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    user_id: UserId,
    generation: u32,
    expires_at: DateTime<Utc>,
    refreshed_at: Option<DateTime<Utc>>,
    ended: bool,
}

aggregate!(Session, "access", SessionCommand, AccessEvent, SessionError);

impl Session {
    /// Whose it is.
    #[must_use]
    pub fn user_id(&self) -> Option<UserId> {
        self.begun.as_ref().map(|begun| begun.user_id)
    }

    pub(crate) fn decide(&self, command: SessionCommand) -> Result<Vec<AccessEvent>, SessionError> {
        let begun = self.begun.as_ref().ok_or(SessionError::NotFound)?;
        match command {
            SessionCommand::Refresh(refresh) => begun.refresh(refresh),
            SessionCommand::End if begun.ended => Ok(vec![]),
            SessionCommand::End => {
                Ok(vec![AccessEvent::SessionEnded { user_id: begun.user_id, reason: SessionEnd::SignedOut }])
            }
        }
    }

    pub(crate) fn evolve(&mut self, event: AccessEvent) {
        match event {
            AccessEvent::SignedIn { user_id, refresh_expires_at, .. } => {
                let expires_at = refresh_expires_at;
                let begun = Begun { user_id, generation: 0, expires_at, refreshed_at: None, ended: false };
                self.begun = Some(begun);
            }
            AccessEvent::SessionRefreshed { generation, refreshed_at, refresh_expires_at, .. } => {
                if let Some(begun) = &mut self.begun {
                    begun.generation = generation;
                    begun.refreshed_at = Some(refreshed_at);
                    begun.expires_at = refresh_expires_at;
                }
            }
            AccessEvent::SessionEnded { .. } => {
                if let Some(begun) = &mut self.begun {
                    begun.ended = true;
                }
            }
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
}

impl Begun {
    fn refresh(&self, refresh: Refresh) -> Result<Vec<AccessEvent>, SessionError> {
        let user_id = self.user_id;
        if self.ended {
            return Err(SessionError::Ended);
        }
        if refresh.generation != self.generation {
            return self.repeated(&refresh);
        }
        if refresh.now >= self.expires_at || self.generation >= MOST_REFRESHES {
            return Err(SessionError::Expired);
        }
        Ok(vec![AccessEvent::SessionRefreshed {
            user_id,
            generation: self.generation.saturating_add(1),
            refresh_token_hash: refresh.next_hash,
            refreshed_at: refresh.now,
            refresh_expires_at: refresh.next_expires_at,
        }])
    }

    /// A token that was exchanged before. The one just before the present one is forgiven for a moment; any other is a copy in
    /// strange hands, and since nobody can tell whose hands are the strange ones the whole family ends.
    fn repeated(&self, refresh: &Refresh) -> Result<Vec<AccessEvent>, SessionError> {
        if let Some(refreshed_at) = self.refreshed_at
            && refresh.generation.checked_add(1) == Some(self.generation)
            // Either way: a clock that was set back must not make it a long moment.
            && (refresh.now - refreshed_at).abs() <= REPEAT_GRACE
        {
            return Err(SessionError::Repeated { refreshed_at, generation: self.generation });
        }
        let user_id = self.user_id;
        Ok(vec![
            AccessEvent::RefreshTokenReused { user_id, generation: refresh.generation },
            AccessEvent::SessionEnded { user_id, reason: SessionEnd::TokenReused },
        ])
    }
}

impl Guarded for Session {
    /// A session is nobody else's business: for others it does not exist.
    fn admit(&self, _: &SessionCommand, caller: &Caller) -> Result<(), Denied> {
        match caller.actor {
            Actor::User(id) if self.user_id() == Some(id) => Ok(()),
            Actor::User(_) | Actor::Key(_) | Actor::Job(_) | Actor::Anonymous => Err(Denied::NotFound),
            Actor::System => caller.require(Permission::UsersManage),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;
    use crate::event::testing::given;
    use crate::{Permissions, SessionId};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
    }

    fn ada() -> UserId {
        UserId(Uuid::from_u128(1))
    }

    fn signed_in() -> AccessEvent {
        AccessEvent::SignedIn {
            user_id: ada(),
            session_id: SessionId(Uuid::from_u128(9)),
            refresh_token_hash: "0".into(),
            refresh_expires_at: at(1_000),
        }
    }

    fn refresh(generation: u32, second: i64) -> SessionCommand {
        SessionCommand::Refresh(Refresh {
            generation,
            next_hash: format!("{}", generation + 1),
            now: at(second),
            next_expires_at: at(second + 1_000),
        })
    }

    fn refreshed(generation: u32, second: i64) -> AccessEvent {
        AccessEvent::SessionRefreshed {
            user_id: ada(),
            generation,
            refresh_token_hash: format!("{generation}"),
            refreshed_at: at(second),
            refresh_expires_at: at(second + 1_000),
        }
    }

    fn ended(reason: SessionEnd) -> AccessEvent {
        AccessEvent::SessionEnded { user_id: ada(), reason }
    }

    #[test]
    fn the_present_token_is_exchanged_for_the_next() {
        let session = given::<Session>([signed_in()]);
        assert_eq!(session.decide(refresh(0, 5)), Ok(vec![refreshed(1, 5)]));
        let session = given::<Session>([signed_in(), refreshed(1, 5)]);
        assert_eq!(session.decide(refresh(1, 900)), Ok(vec![refreshed(2, 900)]));
    }

    #[test]
    fn a_token_that_was_not_used_in_time_is_of_no_use() {
        let session = given::<Session>([signed_in()]);
        assert_eq!(session.decide(refresh(0, 1_000)), Err(SessionError::Expired));
        let session = given::<Session>([signed_in(), refreshed(1, 5)]);
        assert!(session.decide(refresh(1, 1_004)).is_ok());
        assert_eq!(session.decide(refresh(1, 1_005)), Err(SessionError::Expired));
    }

    #[test]
    fn a_repeat_within_moments_ends_nothing() {
        let session = given::<Session>([signed_in(), refreshed(1, 5)]);
        let repeated = SessionError::Repeated { refreshed_at: at(5), generation: 1 };
        assert_eq!(session.decide(refresh(0, 5)), Err(repeated.clone()));
        assert_eq!(session.decide(refresh(0, 15)), Err(repeated));
    }

    #[test]
    fn an_old_token_ends_its_family() {
        let reused = |generation| {
            let reused = AccessEvent::RefreshTokenReused { user_id: ada(), generation };
            Ok(vec![reused, ended(SessionEnd::TokenReused)])
        };
        let session = given::<Session>([signed_in(), refreshed(1, 5)]);
        assert_eq!(session.decide(refresh(0, 16)), reused(0), "too late for a repeat");
        let session = given::<Session>([signed_in(), refreshed(1, 5), refreshed(2, 6)]);
        assert_eq!(session.decide(refresh(0, 6)), reused(0), "two generations back");
        assert_eq!(session.decide(refresh(7, 6)), reused(7), "a generation that never was");
    }

    #[test]
    fn what_has_ended_stays_so() {
        let session = given::<Session>([signed_in(), ended(SessionEnd::SignedOut)]);
        assert_eq!(session.decide(refresh(0, 5)), Err(SessionError::Ended));
        assert_eq!(session.decide(SessionCommand::End), Ok(vec![]));
        assert_eq!(given::<Session>([]).decide(SessionCommand::End), Err(SessionError::NotFound));
        let session = given::<Session>([signed_in()]);
        assert_eq!(session.decide(SessionCommand::End), Ok(vec![ended(SessionEnd::SignedOut)]));
    }

    #[test]
    fn nobody_ends_anothers_session() {
        let session = given::<Session>([signed_in()]);
        let caller = |actor| Caller { actor, team: None, permissions: Permissions::admin() };
        assert_eq!(session.admit(&SessionCommand::End, &caller(Actor::User(ada()))), Ok(()));
        let other = Actor::User(UserId(Uuid::from_u128(2)));
        assert_eq!(session.admit(&SessionCommand::End, &caller(other)), Err(Denied::NotFound));
        assert_eq!(session.admit(&SessionCommand::End, &caller(Actor::Anonymous)), Err(Denied::NotFound));
        // Told like one that does not exist.
        let none = given::<Session>([]);
        assert_eq!(none.admit(&SessionCommand::End, &caller(Actor::User(ada()))), Err(Denied::NotFound));
    }
}
