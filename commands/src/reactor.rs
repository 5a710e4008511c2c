//! Reactors: what events lead to outside of the log, such as mail (D9).
//!
//! A view is a fold and may be made again at any time; a mail may not be sent again. So effects are no part of any view. A
//! [`Reactor`] has a cursor of its own in the table `reactors`, which only ever moves forward; rebuilding a view leaves it alone.
//! Of all processes that run a reactor one at a time works, and another takes over when that one stops or dies.
//!
//! An event is dealt with in two steps, so that both kinds of effects fit:
//!
//! 1. [`Reactor::react`] works out what the event leads to, or does it if that is outside of the database. No transaction is
//!    open meanwhile, and it may take minutes.
//! 2. [`Reactor::store`] writes what was worked out, in the very transaction that moves the cursor past the event.
//!
//! If we crash
//!
//! | | then |
//! |---|---|
//! | before the first step | nothing has happened; the next process meets the event as if for the first time |
//! | in it, or between the two | what `react` did outside has happened, or not, or half; it is called again for the same event |
//! | in the second step, before its commit | as before, and nothing of what `store` wrote is there |
//! | after its commit | effect and cursor are both there, and the event is never met again |
//!
//! So what is stored happens exactly once, and what is done outside at least once: it must be idempotent, by the event's position.
//! A commit whose answer was lost is one of the last two cases; the cursor is read again to find out which.

mod attempt;
mod runner;
mod seat;

use std::time::Duration;

use domain::{Event, Undecodable};
use ledger::{Ledger, LedgerError, Recorded};
use sqlx::PgConnection;

use crate::CommandError;

pub use runner::run;

/// What follows from events, besides views.
pub trait Reactor: Send + Sync + 'static {
    /// Its name, for ever: the cursor goes by it.
    const NAME: &'static str;
    /// The aggregate types whose events it needs. It never sees others.
    const AGGREGATES: &'static [&'static str];
    /// What an event leads to, as far as it is still to be stored; `()` for reactors that store nothing.
    type Effect: Send;

    /// Works out, or does, what `event` leads to. `None`: nothing; the event does not concern this reactor. Personal data in it is
    /// opened, or erased, as of this call.
    ///
    /// Called again for the same event after a crash, so what it does outside of the database must be idempotent by the event's
    /// position. It may be dropped wherever it waits, as by a crash: when the process is told to stop and it does not end
    /// within some seconds, or when another process has taken over. It must not block its thread.
    fn react(
        &self,
        event: &Recorded,
    ) -> impl Future<Output = Result<Option<Self::Effect>, ReactorError>> + Send;

    /// Stores the effect, in the transaction that moves the cursor past `event`: both or neither. To be done within some seconds,
    /// and nothing outside of the transaction.
    fn store(
        &self,
        event: &Recorded,
        effect: Self::Effect,
        transaction: &mut PgConnection,
    ) -> impl Future<Output = Result<(), ReactorError>> + Send {
        let _ = (event, effect, transaction);
        async { Ok(()) }
    }
}

/// Why an event could not be dealt with. Says nothing personal: it is logged and stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReactorError {
    /// Trying again later will help: the event is tried until it succeeds, and nothing after it meanwhile.
    #[error("{0}")]
    Passing(String),
    /// Trying again will hardly help: after some tries the event is put aside, with this error, and the reactor goes on.
    #[error("{0}")]
    Lasting(String),
}

impl From<sqlx::Error> for ReactorError {
    fn from(error: sqlx::Error) -> Self {
        // The database will not have this statement, however often it is asked: class 22 (a value cannot be stored), 23 (a
        // constraint), 42 (a table or column is not there), 54 (a limit).
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let refused =
            code.is_some_and(|code| ["22", "23", "42", "54"].iter().any(|class| code.starts_with(class)));
        if refused { Self::Lasting(error.to_string()) } else { Self::Passing(error.to_string()) }
    }
}

/// No reactor stands beyond position `head`. Part of accepting that the log has lost what came after it.
///
/// # Errors
/// The database is out of reach.
pub async fn go_back(connection: &mut PgConnection, head: i64) -> Result<(), sqlx::Error> {
    sqlx::query("delete from reactor_failures where position > $1")
        .bind(head)
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query("update reactors set position = $1 where position > $1").bind(head);
    query.execute(connection).await.map(drop)
}

impl From<LedgerError> for ReactorError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Database(error) => error.into(),
            // Passes once an operator has accepted it.
            LedgerError::Diverged(_) => Self::Passing(error.to_string()),
            LedgerError::Migration(_) | LedgerError::Damaged { .. } | LedgerError::Seal(_) => {
                Self::Lasting(error.to_string())
            }
        }
    }
}

impl From<CommandError> for ReactorError {
    fn from(error: CommandError) -> Self {
        if error.is_passing() { Self::Passing(error.to_string()) } else { Self::Lasting(error.to_string()) }
    }
}

impl From<Undecodable> for ReactorError {
    fn from(error: Undecodable) -> Self {
        Self::Lasting(error.to_string())
    }
}

/// The event as this version knows it.
///
/// # Errors
/// [`ReactorError::Lasting`] when this version does not know it, or it does not have its shape.
pub fn decode(event: &Recorded) -> Result<Event, ReactorError> {
    let (of, payload) = (&event.stream.aggregate_type, event.payload.reader());
    Ok(Event::decode(of, &event.event_type, &event.event_version, payload)?)
}

/// Where a reactor begins in a log that is older than itself. Decided once, when its cursor is made; later starts go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first event. Right wherever what concerns the reactor cannot be older than the reactor.
    Beginning,
    /// With what is appended from now on.
    Head,
}

/// How a reactor is run.
#[derive(Clone, Debug)]
pub struct ReactorOptions {
    /// How long it sleeps at most before it looks by itself: at the log, and at whether the process that works still does.
    pub poll: Duration,
    /// How long the process that works may be silent before another takes over.
    pub lease: Duration,
    /// How long an event that failed is left alone at first, doubling with each further time, and at most.
    pub pauses: (Duration, Duration),
    /// How often an event is tried whose error seems lasting, before it is put aside.
    pub tries: u32,
    /// How long one reaction may take; one that takes longer has failed.
    pub patience: Duration,
    /// Events put aside at most. When so many fail, something else is wrong: the reactor then goes no further before one succeeds.
    pub most_aside: i64,
}

impl Default for ReactorOptions {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            lease: Duration::from_secs(6),
            pauses: (Duration::from_secs(1), Duration::from_secs(60)),
            tries: 5,
            patience: Duration::from_secs(3_600),
            most_aside: 1_000,
        }
    }
}

/// Makes the reactor's cursor, unless there is one. [`run`] does so as well, at some moment after it was begun: whoever starts at
/// the head and may miss nothing from a certain moment on waits for this first.
///
/// # Errors
/// The database is out of reach.
pub async fn enlist<R: Reactor>(ledger: &Ledger, start: Start) -> Result<(), LedgerError> {
    seat::enlist(ledger, R::NAME, start).await
}
