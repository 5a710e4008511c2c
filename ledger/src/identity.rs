//! Is this still the log that we know? A restored copy, a failover to a standby that lagged, or events that somebody deleted
//! make positions that were given out before mean something else. A process that notices appends nothing more until an operator
//! has accepted the loss.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::Ledger;
use crate::connect::timed_out;
use crate::error::LedgerError;

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How the log differs from what was known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// Events that were known are missing.
    #[error("the log ends at position {head}, but position {known} was known: events were lost")]
    Shorter {
        /// The last position.
        head: i64,
        /// The highest position that was known.
        known: i64,
    },
    /// There is another event at a position that was known.
    #[error("the event at position {position} is not the one that was known: the log was replaced")]
    Replaced {
        /// Where.
        position: i64,
    },
    /// Another process has found one of these, and nobody has accepted it yet.
    #[error("{0}")]
    Noted(String),
    /// It is the log of another database.
    #[error("this is the log {found}, not {known}")]
    Another {
        /// The identity that was known.
        known: Uuid,
        /// The identity found.
        found: Uuid,
    },
}

/// What a process remembers of the log.
#[derive(Clone, Debug)]
struct Known {
    id: Uuid,
    epoch: i32,
    position: i64,
    digest: Option<Vec<u8>>,
}

/// What the log says of itself: its identity and epoch, its head with the digest of the event there, the digest of the event at the
/// position asked for, and what was found to be wrong with it.
type Found = (Uuid, i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<String>);

/// Compares the log with what this process knows of it.
pub(crate) struct Guard {
    known: Mutex<Option<Known>>,
    diverged: watch::Sender<Option<Divergence>>,
    /// The epoch in which that was found: it holds until a later one.
    condemned_in: AtomicI32,
    epoch: watch::Sender<i32>,
}

impl Guard {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::new(None),
            diverged: watch::Sender::new(None),
            condemned_in: AtomicI32::new(0),
            epoch: watch::Sender::new(0),
        }
    }

    /// Looks at the log, and remembers its head.
    pub(crate) async fn check(&self, executor: impl PgExecutor<'_>) -> Result<(), LedgerError> {
        let mark = self.known().as_ref().map_or(0, |known| known.position);
        let query = sqlx::query_as(
            "select i.id, i.epoch, h.position, event_digest(h.position), event_digest($1), i.diverged
             from log_identity i, (select coalesce(max(position), 0) as position from events) h",
        );
        let found: Found = query.bind(mark).fetch_one(executor).await?;
        self.compare(mark, found).map_err(LedgerError::Diverged)
    }

    fn compare(
        &self,
        mark: i64,
        (id, epoch, head, at_head, at_mark, noted): Found,
    ) -> Result<(), Divergence> {
        let mut known = self.known();
        let divergence = match known.as_ref() {
            _ if noted.is_some() => noted.map(Divergence::Noted),
            // A loss was accepted: what was known before says nothing any more.
            Some(before) if before.id == id && before.epoch < epoch => None,
            Some(before) if before.id != id => Some(Divergence::Another { known: before.id, found: id }),
            // What was known when the question was asked; another check may have seen more since.
            Some(_) if mark > head => Some(Divergence::Shorter { head, known: mark }),
            Some(before)
                if before.position == mark && before.digest.is_some() && before.digest != at_mark =>
            {
                Some(Divergence::Replaced { position: mark })
            }
            Some(_) | None => {
                self.diverged.borrow().clone().filter(|_| self.condemned_in.load(Ordering::SeqCst) >= epoch)
            }
        };
        match divergence {
            Some(divergence) => {
                drop(known);
                self.condemned_in.fetch_max(epoch, Ordering::SeqCst);
                self.condemn(divergence.clone());
                Err(divergence)
            }
            None => {
                // Another check may have seen more meanwhile.
                let further =
                    known.as_ref().is_none_or(|known| known.epoch < epoch || known.position <= head);
                if further {
                    *known = Some(Known { id, epoch, position: head, digest: at_head });
                }
                drop(known);
                self.diverged.send_if_modified(|diverged| diverged.take().is_some());
                self.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
                Ok(())
            }
        }
    }

    /// Nothing is appended any more, until a check finds a later epoch.
    pub(crate) fn condemn(&self, divergence: Divergence) {
        self.condemned_in.fetch_max(*self.epoch.borrow(), Ordering::SeqCst);
        self.diverged.send_if_modified(|diverged| {
            let news = diverged.is_none();
            if news {
                tracing::error!(
                    %divergence,
                    "this is not the log that was known; nothing is written until an operator has accepted the loss: \
                     daybook projections rebuild --all"
                );
                *diverged = Some(divergence);
            }
            news
        });
        metrics::gauge!("log_diverged").set(1.0);
    }

    pub(crate) fn divergence(&self) -> Option<Divergence> {
        self.diverged.borrow().clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Looks whether this is still the log that this process knows: its identity, its head, and the event at the last position that was
    /// seen. The first call only learns.
    ///
    /// # Errors
    /// [`LedgerError::Diverged`], also at every later call until an operator has accepted the loss; or the database is out of reach.
    pub async fn check_log(&self) -> Result<(), LedgerError> {
        let checked = timeout(CHECK_TIMEOUT, self.check_guard()).await;
        let outcome =
            checked.unwrap_or_else(|_| Err(timed_out("the log could not be looked at in time").into()));
        match &outcome {
            Ok(()) => metrics::gauge!("log_diverged").set(0.0),
            Err(LedgerError::Diverged(divergence)) => self.note(divergence).await,
            Err(_) => {}
        }
        outcome
    }

    async fn check_guard(&self) -> Result<(), LedgerError> {
        self.guard.check(&mut *self.pool.acquire().await?).await
    }

    /// For processes that start later, and for whoever accepts it.
    async fn note(&self, divergence: &Divergence) {
        let epoch = *self.guard.epoch.borrow();
        let query =
            sqlx::query("update log_identity set diverged = $1 where diverged is null and epoch = $2")
                .bind(divergence.to_string())
                .bind(epoch)
                .execute(&self.pool);
        if !matches!(timeout(CHECK_TIMEOUT, query).await, Ok(Ok(_))) {
            tracing::warn!("it could not be noted in the database that the log diverged");
        }
    }

    /// Accepts the log as it is now, in the transaction that also mends what else remembers positions. Every process forgets what it knew
    /// before and goes on.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn accept_loss(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query("update log_identity set epoch = epoch + 1, diverged = null");
        query.execute(connection).await.map(drop)
    }

    /// How the log differs from what was known of it, if it does. Nothing is appended then.
    #[must_use]
    pub fn divergence(&self) -> Option<Divergence> {
        self.guard.divergence()
    }

    /// Says that the log is not what was known of it: somebody else who knows a position has found another event there.
    pub fn condemn(&self, divergence: Divergence) {
        self.guard.condemn(divergence);
    }

    /// Raised each time a loss was accepted. What was remembered of positions before is worthless.
    #[must_use]
    pub fn epochs(&self) -> watch::Receiver<i32> {
        self.guard.epoch.subscribe()
    }

    /// The log's identity: the same in every copy of the database.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn log_id(&self) -> Result<Uuid, LedgerError> {
        Ok(sqlx::query_scalar("select id from log_identity").fetch_one(&self.pool).await?)
    }

    /// What some process found to be wrong with the log, if nobody has accepted it yet.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn noted_divergence(&self) -> Result<Option<String>, LedgerError> {
        Ok(sqlx::query_scalar("select diverged from log_identity").fetch_one(&self.pool).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Uuid = Uuid::from_u128(1);

    fn at(epoch: i32, head: i64, digest: u8, at_mark: u8) -> Found {
        (LOG, epoch, head, Some(vec![digest]), Some(vec![at_mark]), None)
    }

    /// It has seen position 5 with the digest 50.
    fn guard() -> Guard {
        let guard = Guard::new();
        assert_eq!(guard.compare(0, at(1, 5, 50, 0)), Ok(()));
        guard
    }

    #[test]
    fn a_log_that_grows_is_the_same() {
        let guard = guard();
        assert_eq!(guard.compare(5, at(1, 7, 70, 50)), Ok(()));
        assert_eq!(guard.compare(7, at(1, 7, 70, 70)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }

    #[test]
    fn a_shorter_one_a_replaced_event_and_another_log_are_told() {
        let shorter = Divergence::Shorter { head: 4, known: 5 };
        assert_eq!(guard().compare(5, at(1, 4, 40, 0)), Err(shorter));
        let replaced = Divergence::Replaced { position: 5 };
        assert_eq!(guard().compare(5, at(1, 9, 90, 51)), Err(replaced));
        let other = Uuid::from_u128(2);
        let found = (other, 1, 5, Some(vec![50]), Some(vec![50]), None);
        assert_eq!(guard().compare(5, found), Err(Divergence::Another { known: LOG, found: other }));
    }

    #[test]
    fn it_stays_diverged_until_a_loss_is_accepted() {
        let guard = guard();
        assert!(guard.compare(5, at(1, 4, 40, 0)).is_err());
        // The positions are used again.
        assert!(guard.compare(5, at(1, 6, 60, 50)).is_err());
        assert_eq!(guard.compare(5, at(2, 6, 60, 51)), Ok(()));
        assert_eq!(guard.divergence(), None);
        assert_eq!(*guard.epoch.borrow(), 2);
    }

    #[test]
    fn what_another_process_found_holds_until_it_is_accepted() {
        let guard = Guard::new();
        let noted =
            |epoch, text: Option<&str>| (LOG, epoch, 5, Some(vec![50]), None, text.map(str::to_owned));
        assert_eq!(guard.compare(0, noted(1, Some("lost"))), Err(Divergence::Noted("lost".to_owned())));
        assert_eq!(guard.compare(0, noted(2, None)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }

    #[test]
    fn of_two_checks_at_once_the_later_answer_may_come_first() {
        let guard = guard();
        assert_eq!(guard.compare(5, at(1, 9, 90, 50)), Ok(()));
        // It asked about position 5, too, and the head was at 7 then.
        assert_eq!(guard.compare(5, at(1, 7, 70, 50)), Ok(()));
        assert_eq!(guard.compare(9, at(1, 9, 90, 90)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }
}
