//! One event, tried once.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use ledger::{Ledger, Recorded};
use sqlx::{Executor as _, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::seat::{Interrupted, Seat};
use super::{Reactor, ReactorError};

/// How long a reaction may go on after the stop signal.
const GRACE: Duration = Duration::from_secs(5);

/// What becomes of the reactor's rows when an event was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The cursor moves past it.
    Advance,
    /// It is no longer put aside.
    Settle,
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It does not concern the reactor. Nothing was stored.
    Nothing,
    /// Its effect is there, and so is what comes [`Then`].
    Done,
    /// Nothing was stored; it can be tried again.
    Failed(ReactorError),
    /// We were told to stop, and the reaction took too long. As after a crash.
    Stopped,
}

/// Deals with one event. What is put in here belongs together for as long as a process works.
pub(super) struct Attempt<'a, R> {
    pub(super) ledger: &'a Ledger,
    pub(super) reactor: &'a R,
    pub(super) seat: &'a Seat,
    pub(super) stop: &'a CancellationToken,
    /// How long a reaction may take.
    pub(super) patience: Duration,
}

impl<R: Reactor> Attempt<'_, R> {
    pub(super) async fn once(&self, event: &Recorded, then: Then) -> Result<Outcome, Interrupted> {
        if let Some(cause) = &event.damage {
            return Ok(Outcome::Failed(ReactorError::Lasting(cause.clone())));
        }
        // Opened anew at each try: whoever was erased since the last one is erased.
        let mut opened = [event.clone()];
        if let Err(error) = self.ledger.open_personal(&mut opened).await {
            return Ok(Outcome::Failed(error.into()));
        }
        let [event] = opened;
        let reaction = tokio::select! {
            reaction = self.react(&event) => reaction,
            () = self.out_of_time() => return Ok(Outcome::Stopped),
        };
        match reaction {
            Ok(Some(effect)) => {
                let stored = timeout(self.seat.storing(), self.store(&event, effect, then));
                stored.await.map_err(|_| Interrupted::Silent)?
            }
            Ok(None) => Ok(Outcome::Nothing),
            Err(error) => Ok(Outcome::Failed(error)),
        }
    }

    async fn react(&self, event: &Recorded) -> Result<Option<R::Effect>, ReactorError> {
        let reaction = unpanicked(async { self.reactor.react(event).await });
        let too_long = |_| Err(ReactorError::Lasting("the reaction took too long".to_owned()));
        timeout(self.patience, reaction).await.unwrap_or_else(too_long)
    }

    async fn out_of_time(&self) {
        self.stop.cancelled().await;
        sleep(GRACE).await;
    }

    /// See the table in [`super`] for what is true if we crash in here.
    async fn store(&self, event: &Recorded, effect: R::Effect, then: Then) -> Result<Outcome, Interrupted> {
        let mut transaction = self.ledger.pool().begin().await?;
        transaction.execute(settings(self.seat.storing()).as_str()).await?;
        // First, so that nobody takes over while the effect is being stored.
        self.note(&mut transaction, event.position, then).await?;
        if let Err(error) = unpanicked(self.reactor.store(event, effect, &mut transaction)).await {
            transaction.rollback().await?;
            return Ok(Outcome::Failed(error));
        }
        // Without an answer it may have happened or not: whoever works next reads the cursor.
        transaction.commit().await?;
        Ok(Outcome::Done)
    }

    async fn note(
        &self,
        transaction: &mut PgConnection,
        position: i64,
        then: Then,
    ) -> Result<(), Interrupted> {
        match then {
            Then::Advance => self.seat.advance(transaction, position).await,
            Then::Settle => self.seat.settle(transaction, position).await,
        }
    }
}

/// The server gives up as well, so that a process that was stopped half-way does not keep the row.
fn settings(patience: Duration) -> String {
    let milliseconds = patience.as_millis();
    format!(
        "set local statement_timeout = {milliseconds}; set local idle_in_transaction_session_timeout = {milliseconds}"
    )
}

/// A reactor that panics has failed with this event, and must not end with it. What it said stands in the process's output.
async fn unpanicked<T>(work: impl Future<Output = Result<T, ReactorError>>) -> Result<T, ReactorError> {
    let panicked = |_| Err(ReactorError::Lasting("the reactor panicked".to_owned()));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}
