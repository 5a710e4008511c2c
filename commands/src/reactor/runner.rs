//! The loop around the events: who works, from where to where, and what is done about failures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger::{Ledger, Recorded};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Outcome, Then};
use super::seat::{self, Interrupted, Seat};
use super::{Reactor, ReactorError, ReactorOptions, Start};

/// Positions looked at in one go.
const STRETCH: i64 = 2_000;
/// The shortest pause between two looks: what is appended meanwhile is looked at together.
const STRIDE: Duration = Duration::from_millis(50);
/// How long the cursor may stay behind events that led to nothing: after a crash they are looked at again.
const PERSIST: Duration = Duration::from_secs(5);
/// The first and the longest pause after the database was lost.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long giving up the seat may take.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs a reactor until `stop`. Every process may do so: one at a time works, the others wait for its end. Loss of the database
/// is waited out.
pub async fn run<R: Reactor>(
    ledger: Ledger,
    reactor: R,
    start: Start,
    options: ReactorOptions,
    stop: CancellationToken,
) {
    let seat = Seat::new(ledger.pool().clone(), R::NAME, options.lease);
    let mut runner = Runner {
        ledger,
        reactor,
        start,
        options,
        stop,
        seat,
        enlisted: false,
        retried: AtomicBool::new(false),
    };
    let mut pause = PAUSES.0;
    while !runner.stop.is_cancelled() {
        let wait = match runner.turn().await {
            Ok(()) => {
                pause = PAUSES.0;
                runner.options.poll
            }
            Err(error) => {
                tracing::warn!(reactor = R::NAME, %error, "a reactor was interrupted");
                let longer = (pause * 2).min(PAUSES.1);
                std::mem::replace(&mut pause, longer)
            }
        };
        let _ = timeout(wait, runner.stop.cancelled()).await;
    }
}

struct Runner<R> {
    ledger: Ledger,
    reactor: R,
    start: Start,
    options: ReactorOptions,
    stop: CancellationToken,
    seat: Seat,
    enlisted: bool,
    /// Whether the events put aside were tried again since this process began.
    retried: AtomicBool,
}

/// Where a process that works has got to.
struct Place {
    /// Everything up to here has been dealt with.
    reached: i64,
    /// As far as the cursor says so.
    stored: i64,
    /// When the cursor was last moved.
    at: Instant,
}

impl Place {
    fn dealt_with(&mut self, position: i64) {
        (self.reached, self.stored, self.at) = (position, position, Instant::now());
    }
}

impl<R: Reactor> Runner<R> {
    /// Works for as long as the seat is ours; at once at an end when it is somebody else's.
    async fn turn(&mut self) -> Result<(), Interrupted> {
        if !self.enlisted {
            seat::enlist(&self.ledger, R::NAME, self.start).await?;
            self.enlisted = true;
        }
        let asked = Instant::now();
        let Some(position) = self.seat.take().await? else { return Ok(()) };
        tracing::debug!(reactor = R::NAME, position, "a reactor is taken up");
        let outcome = tokio::select! {
            biased;
            lost = self.seat.keep(asked) => Err(lost),
            outcome = self.work(position) => outcome,
        };
        // It is for whoever works next to say how far behind the reactor is.
        metrics::gauge!("reactor_behind_events", "reactor" => R::NAME).set(0.0);
        // Best effort: without it the others wait for the lease to end.
        let _ = timeout(RELEASE_PATIENCE, self.seat.release()).await;
        outcome
    }

    /// Deals with what is in the log after `position`, and with what comes, until we are told to stop.
    async fn work(&self, position: i64) -> Result<(), Interrupted> {
        if !self.retried.load(Ordering::Relaxed) {
            if self.retry_aside().await? == Ended::Stopped {
                return Ok(());
            }
            self.retried.store(true, Ordering::Relaxed);
        }
        let mut head = self.ledger.appends();
        let mut place = Place { reached: position, stored: position, at: Instant::now() };
        loop {
            // Interest is registered before looking, so that nothing appended in between is slept over.
            head.mark_unchanged();
            let end = self.ledger.head().await?;
            let ended = self.stretch(&mut place, end).await?;
            let stopped = ended == Ended::Stopped || self.stop.is_cancelled();
            if place.reached > place.stored && (stopped || place.at.elapsed() >= PERSIST) {
                self.seat.pass(place.reached).await?;
                place.dealt_with(place.reached);
            }
            self.publish(&place, end);
            if stopped {
                return Ok(());
            }
            if place.reached >= end {
                self.rest(&mut head).await;
            }
        }
    }

    /// The next stretch of the log, up to `end` at most.
    async fn stretch(&self, place: &mut Place, end: i64) -> Result<Ended, Interrupted> {
        let up_to = end.min(place.reached + STRETCH);
        let stretch = self.ledger.read_types(place.reached, up_to, R::AGGREGATES).await?;
        for event in stretch.events {
            match self.deal_with(&event).await? {
                Dealt::Nothing => place.reached = event.position,
                Dealt::Stored => place.dealt_with(event.position),
                Dealt::Stopped => return Ok(Ended::Stopped),
            }
        }
        place.reached = place.reached.max(stretch.up_to);
        Ok(Ended::Wholly)
    }

    /// Tries one event until it succeeds, or is put aside.
    async fn deal_with(&self, event: &Recorded) -> Result<Dealt, Interrupted> {
        let (mut pause, mut lasting) = (self.options.pauses.0, 0);
        while !self.stop.is_cancelled() {
            let error = match self.attempt().once(event, Then::Advance).await? {
                Outcome::Nothing => return Ok(Dealt::Nothing),
                Outcome::Done => return Ok(Dealt::Stored),
                Outcome::Stopped => break,
                Outcome::Failed(error) => error,
            };
            self.failed(event, &error);
            if matches!(error, ReactorError::Lasting(_)) {
                lasting += 1;
                if lasting >= self.options.tries && self.put_aside(event, lasting, &error).await? {
                    return Ok(Dealt::Stored);
                }
            }
            let _ = timeout(pause, self.stop.cancelled()).await;
            pause = (pause * 2).min(self.options.pauses.1);
        }
        Ok(Dealt::Stopped)
    }

    fn attempt(&self) -> Attempt<'_, R> {
        let Self { ledger, reactor, seat, stop, .. } = self;
        Attempt { ledger, reactor, seat, stop, patience: self.options.patience }
    }

    fn failed(&self, event: &Recorded, error: &ReactorError) {
        tracing::warn!(reactor = R::NAME, position = event.position, %error, "an event could not be dealt with");
        metrics::counter!("reactor_failures_total", "reactor" => R::NAME).increment(1);
    }

    async fn put_aside(
        &self,
        event: &Recorded,
        tries: u32,
        error: &ReactorError,
    ) -> Result<bool, Interrupted> {
        let (position, most) = (event.position, self.options.most_aside);
        let aside = self.seat.put_aside(position, tries, error, most).await?;
        if aside {
            tracing::error!(reactor = R::NAME, position, %error, "an event was put aside; see reactor_failures");
            metrics::counter!("reactor_events_put_aside_total", "reactor" => R::NAME).increment(1);
        } else {
            tracing::error!(reactor = R::NAME, position, %error, "too many events were put aside: the reactor goes no further");
        }
        Ok(aside)
    }

    /// Tries what was put aside once more: another version may know what to do with it.
    async fn retry_aside(&self) -> Result<Ended, Interrupted> {
        for position in self.seat.aside().await? {
            if self.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            for event in self.ledger.read_at(&[position]).await? {
                match self.attempt().once(&event, Then::Settle).await? {
                    Outcome::Done => {}
                    Outcome::Nothing => {
                        let mut connection = self.ledger.pool().acquire().await?;
                        self.seat.settle(&mut connection, position).await?;
                    }
                    Outcome::Failed(error) => {
                        self.failed(&event, &error);
                        self.seat.failed_again(position, &error).await?;
                    }
                    Outcome::Stopped => return Ok(Ended::Stopped),
                }
            }
        }
        Ok(Ended::Wholly)
    }

    async fn rest(&self, head: &mut watch::Receiver<i64>) {
        let appended = async {
            sleep(STRIDE).await;
            if head.changed().await.is_err() {
                // The lane is gone: only the interval is left.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = appended => {}
            () = sleep(self.options.poll) => {}
        }
    }

    fn publish(&self, place: &Place, end: i64) {
        metrics::gauge!("reactor_position", "reactor" => R::NAME).set(place.reached as f64);
        metrics::gauge!("reactor_behind_events", "reactor" => R::NAME).set((end - place.reached) as f64);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// There was no more.
    Wholly,
    /// We were told to stop.
    Stopped,
}

/// What became of an event in the end.
enum Dealt {
    /// It led to nothing, and the cursor has not moved.
    Nothing,
    /// The cursor has moved past it.
    Stored,
    /// We were told to stop before it was dealt with.
    Stopped,
}
