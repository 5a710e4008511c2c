//! Sessions: begun by a sign-in, kept alive by refreshing, ended by the person or by a token that was used twice.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    AccessEvent, Actor, LONGEST_SESSION, Refresh, Refusal, Session, SessionCommand, SessionError, SessionId,
    UserId,
};
use ledger::{NewEvent, Sha256};
use zeroize::Zeroizing;

use crate::door::{Executed, Prepare, Prepared};
use crate::error::RefreshError;
use crate::tokens::RefreshToken;
use crate::{CommandError, Commands, Context};

/// How long after a refresh a repeat is told to wait: requests that were sent together have come by then, so of those exactly one has
/// got the next token, and whoever asks again after this has lost an answer.
const TOGETHER: TimeDelta = TimeDelta::seconds(1);

/// Somebody who has signed in, or whose session goes on.
pub struct SignedIn {
    /// Who.
    pub user_id: UserId,
    /// Their session.
    pub session_id: SessionId,
    /// Their refresh token; the log has its hash.
    pub refresh_token: Zeroizing<String>,
    /// The log's position after the record.
    pub position: Option<i64>,
}

/// A refresh token that was brought, of a session that was begun here. Whether that still goes on is another matter.
#[derive(Clone, Copy, Debug)]
pub struct BroughtRefresh {
    /// Whose session it is of.
    pub user_id: UserId,
    /// The session.
    pub session_id: SessionId,
    /// The position at which it was begun.
    pub position: i64,
    generation: u32,
}

/// A session about to begin.
pub(crate) struct Beginning {
    pub(crate) session_id: SessionId,
    pub(crate) refresh_token: Zeroizing<String>,
    pub(crate) event: NewEvent,
}

/// Exchanges a token for the next one of its session.
struct Refreshing {
    token: RefreshToken,
    days: u16,
}

impl Prepare<Session> for Refreshing {
    async fn prepare(
        &self,
        commands: &Commands,
        _: &Session,
    ) -> Result<Prepared<SessionCommand>, CommandError> {
        let RefreshToken { session, generation } = self.token;
        let now = commands.now();
        let refresh = Refresh {
            generation,
            next_hash: Sha256::of(self.token.next().text(&commands.ledger).await?),
            now,
            next_expires_at: expiry(self.days, session, now),
        };
        Ok(Prepared::alone(SessionCommand::Refresh(refresh)))
    }
}

impl Commands {
    /// Begins a session of somebody who has proved who they are, in one append with what the proof has cost.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn start_session(
        &self,
        context: &Context,
        user_id: UserId,
        mut proof: Vec<NewEvent>,
        refresh_days: u16,
    ) -> Result<SignedIn, CommandError> {
        let Beginning { session_id, refresh_token, event } =
            self.begin_session(user_id, refresh_days).await?;
        proof.push(event);
        let position = Some(self.append_records(context, proof).await?);
        Ok(SignedIn { user_id, session_id, refresh_token, position })
    }

    /// The first event of a new session of `user_id`, and what its bearer gets.
    pub(crate) async fn begin_session(
        &self,
        user_id: UserId,
        refresh_days: u16,
    ) -> Result<Beginning, CommandError> {
        let session_id = SessionId(self.new_id());
        let token = RefreshToken { session: session_id, generation: 0 };
        let refresh_token = Zeroizing::new(token.text(&self.ledger).await?);
        let signed_in = AccessEvent::SignedIn {
            user_id,
            session_id,
            refresh_token_hash: Sha256::of(&refresh_token),
            refresh_expires_at: expiry(refresh_days, session_id, self.now()),
        };
        let event = Self::access_event(session_id.0, 1, &signed_in)?;
        Ok(Beginning { session_id, refresh_token, event })
    }

    /// Looks which session a refresh token is of.
    ///
    /// # Errors
    /// [`RefreshError::Invalid`] when it is none of this instance's.
    pub async fn read_refresh_token(&self, text: &str) -> Result<BroughtRefresh, RefreshError> {
        let token = RefreshToken::read(&self.ledger, text).await.map_err(CommandError::from)?;
        let RefreshToken { session, generation } = token.ok_or(RefreshError::Invalid)?;
        match self.first_record(session.0).await? {
            Some((AccessEvent::SignedIn { user_id, .. }, position)) => {
                Ok(BroughtRefresh { user_id, session_id: session, position, generation })
            }
            Some(_) | None => Err(RefreshError::Invalid),
        }
    }

    /// Exchanges a refresh token for the next one. Of requests that bring the same token at once exactly one succeeds; whoever repeats
    /// theirs a moment later gets the same answer again; and any other use of an old token ends the session, on the record.
    ///
    /// The session's own history does not know of what ends all of a person's at once: the caller has looked whether it still stands.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh_session(
        &self,
        context: &Context,
        brought: &BroughtRefresh,
        refresh_days: u16,
    ) -> Result<SignedIn, RefreshError> {
        let BroughtRefresh { user_id, session_id, generation, .. } = *brought;
        let token = RefreshToken { session: session_id, generation };
        let context = &acting_as(context, user_id);
        let refreshing = Refreshing { token, days: refresh_days };
        let done = self.execute_with::<Session>(context, &session_id.to_string(), None, &refreshing).await;
        match done {
            Ok(done) => self.refreshed(user_id, token, &done).await,
            Err(CommandError::Refused(refusal)) => match of_session(refusal) {
                Some(SessionError::Repeated { refreshed_at, .. }) => {
                    self.repeated(user_id, token, refreshed_at).await
                }
                Some(SessionError::Expired) => Err(RefreshError::Expired),
                Some(SessionError::Ended | SessionError::NotFound) | None => Err(RefreshError::Invalid),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// One event: the exchange. Two: the reuse and the end of the session.
    async fn refreshed(
        &self,
        user_id: UserId,
        token: RefreshToken,
        done: &Executed,
    ) -> Result<SignedIn, RefreshError> {
        if done.stored > 1 {
            return Err(RefreshError::Reused { position: done.position });
        }
        self.next_of(user_id, token, done.position).await
    }

    async fn repeated(
        &self,
        user_id: UserId,
        token: RefreshToken,
        refreshed_at: DateTime<Utc>,
    ) -> Result<SignedIn, RefreshError> {
        let since = self.now() - refreshed_at;
        if since < TOGETHER {
            // Where the clock was set back meanwhile, nobody waits for it to come round again.
            let wait = (TOGETHER - since).min(TOGETHER).to_std().unwrap_or_default();
            return Err(RefreshError::Together(wait.max(Duration::from_millis(1))));
        }
        self.next_of(user_id, token, None).await
    }

    async fn next_of(
        &self,
        user_id: UserId,
        token: RefreshToken,
        position: Option<i64>,
    ) -> Result<SignedIn, RefreshError> {
        let refresh_token = token.next().text(&self.ledger).await.map_err(CommandError::from)?;
        let refresh_token = Zeroizing::new(refresh_token);
        Ok(SignedIn { user_id, session_id: token.session, refresh_token, position })
    }

    /// Ends a session of the caller's.
    ///
    /// # Errors
    /// See [`CommandError`]; another's session does not exist.
    pub async fn end_session(&self, context: &Context, id: SessionId) -> Result<Executed, CommandError> {
        self.execute::<Session>(context, id, None, SessionCommand::End).await
    }
}

fn of_session(refusal: Box<dyn Refusal>) -> Option<SessionError> {
    let error: Box<dyn Error> = refusal;
    error.downcast().ok().map(|error| *error)
}

/// The same circumstances, for somebody who has just proved who they are.
pub(crate) fn acting_as(context: &Context, user_id: UserId) -> Context {
    let mut context = context.acting_as(Actor::User(user_id));
    context.subject = Some(user_id.to_string());
    context
}

/// Until when a refresh token is good that is given out now: the session's own end at the latest.
fn expiry(days: u16, session: SessionId, now: DateTime<Utc>) -> DateTime<Utc> {
    let usual = now + TimeDelta::days(i64::from(days));
    let begun = session.0.get_timestamp().and_then(|at| {
        let (seconds, nanoseconds) = at.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
    });
    begun.map_or(usual, |begun| usual.min(begun + LONGEST_SESSION))
}
