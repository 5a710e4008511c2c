//! Answers are true, or there is none: whether a view may be read at this moment.
//!
//! What this process knows of a view is *fresh as of* a moment if the view had passed everything that was in the log at that moment.
//! Whoever follows the log proves it again and again: it looks at the clock, then reads the log to its end, then folds. A proof is good
//! for [`FRESH_FOR`], by a clock that goes on while the machine sleeps, and its age is looked at when the view is read. So nothing has to
//! notice that a view stands still, that this process was stopped for an hour, or that another one holds a lock: the proof grows old.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledger::connect::Pooled;
use ledger::{Ledger, LedgerError, uptime};
use sqlx::PgConnection;

use crate::error::{Behind, ReadError};
use crate::reached::{Verdict, WAIT_INTERVAL};
use crate::{Inner, Projections};

/// How old what a reader is told may be.
pub const FRESH_FOR: Duration = Duration::from_millis(900);
/// How long a reader waits for a view that is not fresh but follows.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// What the request under way must see.
    static DEMAND: Cell<Demand>;
}

#[derive(Clone, Copy, Default)]
struct Demand {
    position: i64,
    /// Whether the client has named it.
    asked: bool,
    /// Whether the request has written something that the views do not show.
    written: bool,
}

/// Runs a request. Within it [`demand`] holds for every view that is read.
pub async fn demanding<F: Future>(request: F) -> F::Output {
    DEMAND.scope(Cell::default(), request).await
}

/// From here on the request reads no view that has not passed `position`. `asked`: the client has named it. Without effect outside of
/// [`demanding`].
pub fn demand(position: i64, asked: bool) {
    let _ = DEMAND.try_with(|demand| {
        let before = demand.get();
        demand.set(Demand {
            position: before.position.max(position),
            asked: before.asked || asked,
            ..before
        });
    });
}

/// The request has written something, and has waited in vain for the views to show it. Its answer is made from the log; what stands
/// beside that in it, such as a name, is read as it is: that the write was done must not be told as a failure.
pub fn written() {
    let _ = DEMAND.try_with(|demand| demand.set(Demand { written: true, ..demand.get() }));
}

/// When each view was last known to be up to date, by place; milliseconds of [`uptime`], 0 for never.
pub(crate) struct Proofs(Box<[AtomicU64]>);

impl Proofs {
    pub(crate) fn none(views: usize) -> Self {
        Self((0..views).map(|_| AtomicU64::new(0)).collect())
    }

    /// The view at `place` has everything that was in the log at `moment`.
    pub(crate) fn prove(&self, place: usize, moment: Duration) {
        self.0[place].fetch_max(millis(moment).max(1), Ordering::SeqCst);
    }

    /// Nothing is known of it any more.
    pub(crate) fn withdraw(&self, place: usize) {
        self.0[place].store(0, Ordering::SeqCst);
    }

    /// How long ago the view was up to date, if that is known.
    pub(crate) fn age(&self, place: usize) -> Option<Duration> {
        let proved = self.0[place].load(Ordering::SeqCst);
        (proved > 0).then(|| Duration::from_millis(millis(uptime()).saturating_sub(proved)))
    }

    fn fresh(&self, place: usize) -> bool {
        self.age(place).is_some_and(|age| age < FRESH_FOR)
    }
}

fn millis(moment: Duration) -> u64 {
    u64::try_from(moment.as_millis()).unwrap_or(u64::MAX)
}

impl Inner {
    /// Returns once the view may be read, at most after [`READ_TIMEOUT`]. A process that neither follows the log nor listens to those who
    /// do, such as a command, reads the tables as they are.
    ///
    /// # Errors
    /// The view is not fresh, or has not passed what the request demands; or the log is not the one that was known.
    pub(crate) async fn readable(&self, place: usize) -> Result<(), ReadError> {
        if self.gated.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let demand = DEMAND.try_with(Cell::get).unwrap_or_default();
        if demand.written {
            return Ok(());
        }
        if self.proofs.fresh(place)
            && (demand.position == 0 || self.reached.borrow().positions[place] >= demand.position)
        {
            return Ok(());
        }
        let verdict = |reached: &crate::Reached| match reached.one(place, demand.position) {
            Verdict::Passed if self.proofs.fresh(place) => Verdict::Passed,
            Verdict::Passed if reached.stopped[place] => Verdict::Stopped(place),
            Verdict::Passed => Verdict::Behind(place),
            other @ (Verdict::Stopped(_) | Verdict::Behind(_)) => other,
        };
        if let Some(divergence) = self.ledger.divergence() {
            return Err(LedgerError::Diverged(divergence).into());
        }
        let outcome = self.wait_for(verdict, READ_TIMEOUT, WAIT_INTERVAL).await;
        let behind = |behind: Behind| {
            let asked = demand.asked && behind.reached < demand.position;
            ReadError::from(Behind { asked, ..behind })
        };
        outcome.map_err(behind)
    }
}

impl Projections {
    /// Waits until every view that follows may be read, at most as long as `patience`.
    ///
    /// # Errors
    /// [`Behind`] names one that may not.
    pub async fn fresh(&self, patience: Duration) -> Result<(), Behind> {
        let inner = &self.inner;
        let verdict = |reached: &crate::Reached| {
            let mut views = 0..reached.positions.len();
            match views.find(|place| !reached.stopped[*place] && !inner.proofs.fresh(*place)) {
                Some(place) => Verdict::Behind(place),
                None => Verdict::Passed,
            }
        };
        inner.wait_for(verdict, patience, WAIT_INTERVAL).await
    }
}

impl Inner {
    /// A connection to read the view with, once it may be read.
    pub(crate) async fn connection(&self, place: usize, ledger: &Ledger) -> Result<Pooled, ReadError> {
        self.readable(place).await?;
        let mut connection = ledger.pool().acquire().await?;
        self.check_connection(place, &mut connection).await?;
        Ok(connection)
    }

    /// To be called with each connection before a view is read with it. If the server crashed, every connection is a new one, and the last
    /// batches of views may be lost, since they are committed without waiting for the disk: what is known of positions is taken back first.
    pub(crate) async fn check_connection(
        &self,
        place: usize,
        connection: &mut PgConnection,
    ) -> Result<(), ReadError> {
        let generation = self.ledger.generation();
        if self.generation.load(Ordering::SeqCst) == generation || self.gated.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        self.take_back(connection).await?;
        self.generation.fetch_max(generation, Ordering::SeqCst);
        self.readable(place).await
    }

    async fn take_back(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let found: Vec<(String, i64)> =
            sqlx::query_as("select view, position from checkpoints").fetch_all(connection).await?;
        self.reached.send_if_modified(|reached| {
            let mut lost = false;
            for (table, position) in &found {
                let Some(place) = self.registry.place_of_table(table) else { continue };
                if reached.positions[place] > *position {
                    tracing::warn!(
                        table,
                        position,
                        "the server has lost batches of a view: they are folded again"
                    );
                    self.proofs.withdraw(place);
                    reached.positions[place] = *position;
                    lost = true;
                }
            }
            lost
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_grows_old_and_an_older_one_does_not_take_its_place() {
        let proofs = Proofs::none(2);
        assert!(!proofs.fresh(0), "nothing is proved");
        let now = uptime();
        proofs.prove(0, now);
        proofs.prove(0, now.saturating_sub(FRESH_FOR));
        assert!(proofs.fresh(0) && !proofs.fresh(1));
        proofs.prove(1, now.saturating_sub(FRESH_FOR));
        assert!(!proofs.fresh(1), "as after a sleep");
        proofs.withdraw(0);
        assert!(!proofs.fresh(0));
    }
}
