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

/// What was known when the log was asked. Of a moment before a loss was accepted it says nothing of the log after that.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    epoch: i32,
    position: i64,
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
}

impl Guard {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(None), diverged: watch::Sender::new(None), condemned_in: AtomicI32::new(0) }
    }

    /// Looks at the log, and remembers its head.
    pub(crate) async fn check(&self, executor: impl PgExecutor<'_>) -> Result<(), LedgerError> {
        let mark = self.mark();
        let query = sqlx::query_as(
            "select i.id, i.epoch, h.position, event_digest(h.position), event_digest($1), i.diverged
             from log_identity i, (select coalesce(max(position), 0) as position from events) h",
        );
        let found: Found = query.bind(mark.position).fetch_one(executor).await?;
        self.compare(mark, found).map_err(LedgerError::Diverged)
    }

    fn mark(&self) -> Mark {
        let known = self.known();
        known
            .as_ref()
            .map_or_else(Mark::default, |known| Mark { epoch: known.epoch, position: known.position })
    }

    fn compare(&self, mark: Mark, found: Found) -> Result<(), Divergence> {
        let mut known = self.known();
        let epoch = found.1;
        if let Some(divergence) = self.difference(known.as_ref(), mark, &found) {
            drop(known);
            self.condemn(divergence.clone(), epoch.max(mark.epoch));
            return Err(divergence);
        }
        let (id, _, position, digest, _, _) = found;
        // Another check may have seen more meanwhile.
        if known.as_ref().is_none_or(|known| (known.epoch, known.position) <= (epoch, position)) {
            *known = Some(Known { id, epoch, position, digest });
        }
        drop(known);
        self.diverged.send_if_modified(|diverged| diverged.take().is_some());
        Ok(())
    }

    fn difference(
        &self,
        known: Option<&Known>,
        mark: Mark,
        (id, epoch, head, _, at_mark, noted): &Found,
    ) -> Option<Divergence> {
        let position = mark.position;
        let shorter = Divergence::Shorter { head: *head, known: position };
        let replaced = Divergence::Replaced { position };
        match known {
            _ if noted.is_some() => noted.clone().map(Divergence::Noted),
            Some(known) if known.id != *id => Some(Divergence::Another { known: known.id, found: *id }),
            Some(_) if mark.epoch >= *epoch && position > *head => Some(shorter),
            // A copy from before a loss was accepted.
            Some(_) if mark.epoch > *epoch => Some(replaced),
            // Another check may have seen more since: then there is no digest to compare with.
            Some(known)
                if (mark.epoch, known.epoch, known.position) == (*epoch, *epoch, position)
                    && known.digest.is_some()
                    && known.digest != *at_mark =>
            {
                Some(replaced)
            }
            Some(_) | None => {
                self.divergence().filter(|_| self.condemned_in.load(Ordering::SeqCst) >= *epoch)
            }
        }
    }

    /// Nothing is appended any more, until a check finds a later epoch. `epoch`: the one that was known before the evidence was looked at.
    pub(crate) fn condemn(&self, divergence: Divergence, epoch: i32) {
        if epoch < self.epoch() {
            return;
        }
        self.condemned_in.fetch_max(epoch, Ordering::SeqCst);
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

    /// The latest that was seen; 0 before the first look.
    pub(crate) fn epoch(&self) -> i32 {
        self.mark().epoch
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
        let epoch = self.guard.condemned_in.load(Ordering::SeqCst);
        let query =
            sqlx::query("update log_identity set diverged = $1 where diverged is null and epoch <= $2")
                .bind(divergence.to_string())
                .bind(epoch)
                .execute(&self.pool);
        if !matches!(timeout(CHECK_TIMEOUT, query).await, Ok(Ok(_))) {
            tracing::warn!("it could not be noted in the database that the log diverged");
        }
    }

    /// Accepts the log as it is now, in the transaction that also mends what else remembers positions. Every process forgets what it knew
    /// before and goes on. The epoch is later than that of any copy: it is counted in minutes since 1970, or by one.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn accept_loss(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "update log_identity set epoch = greatest(epoch + 1, (extract(epoch from now()) / 60)::int), diverged = null",
        );
        query.execute(connection).await.map(drop)
    }

    /// How the log differs from what was known of it, if it does. Nothing is appended then.
    #[must_use]
    pub fn divergence(&self) -> Option<Divergence> {
        self.guard.divergence()
    }

    /// Says that the log is not what was known of it: somebody else who knows a position has found another event there. `epoch` was read
    /// ([`Ledger::epoch`]) before that was looked at: if a loss was accepted since, it says nothing.
    pub fn condemn(&self, divergence: Divergence, epoch: i32) {
        self.guard.condemn(divergence, epoch);
    }

    /// The epoch of the log that this process knows; 0 before the first look.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.guard.epoch()
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

    fn mark(epoch: i32, position: i64) -> Mark {
        Mark { epoch, position }
    }

    /// It has seen position 5 with the digest 50.
    fn guard() -> Guard {
        let guard = Guard::new();
        assert_eq!(guard.compare(Mark::default(), at(1, 5, 50, 0)), Ok(()));
        guard
    }

    #[test]
    fn a_log_that_grows_is_the_same() {
        let guard = guard();
        assert_eq!(guard.compare(mark(1, 5), at(1, 7, 70, 50)), Ok(()));
        assert_eq!(guard.compare(mark(1, 7), at(1, 7, 70, 70)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }

    #[test]
    fn a_shorter_one_a_replaced_event_and_another_log_are_told() {
        let shorter = Divergence::Shorter { head: 4, known: 5 };
        assert_eq!(guard().compare(mark(1, 5), at(1, 4, 40, 0)), Err(shorter));
        let replaced = Divergence::Replaced { position: 5 };
        assert_eq!(guard().compare(mark(1, 5), at(1, 9, 90, 51)), Err(replaced));
        let other = Uuid::from_u128(2);
        let found = (other, 1, 5, Some(vec![50]), Some(vec![50]), None);
        assert_eq!(guard().compare(mark(1, 5), found), Err(Divergence::Another { known: LOG, found: other }));
    }

    #[test]
    fn it_stays_diverged_until_a_loss_is_accepted() {
        let guard = guard();
        assert!(guard.compare(mark(1, 5), at(1, 4, 40, 0)).is_err());
        // The positions are used again.
        assert!(guard.compare(mark(1, 5), at(1, 6, 60, 50)).is_err());
        assert_eq!(guard.compare(mark(1, 5), at(2, 6, 60, 51)), Ok(()));
        assert_eq!(guard.divergence(), None);
        assert_eq!(guard.epoch(), 2);
    }

    #[test]
    fn what_was_known_before_a_loss_was_accepted_says_nothing() {
        let guard = guard();
        assert!(guard.compare(mark(1, 5), at(1, 3, 30, 0)).is_err());
        // Two checks at once: both have asked before they knew that the loss was accepted.
        assert_eq!(guard.compare(mark(1, 5), at(2, 3, 30, 0)), Ok(()));
        assert_eq!(guard.compare(mark(1, 5), at(2, 3, 30, 0)), Ok(()));
        // What somebody else has found in the old log, or a late answer from it.
        guard.condemn(Divergence::Shorter { head: 3, known: 5 }, 1);
        let late = (LOG, 1, 3, Some(vec![30]), None, Some("lost".to_owned()));
        assert_eq!(guard.compare(mark(1, 5), late), Err(Divergence::Noted("lost".to_owned())));
        assert_eq!(guard.divergence(), None);
        assert_eq!(guard.compare(mark(2, 3), at(2, 4, 40, 30)), Ok(()));
        assert_eq!(guard.epoch(), 2);
    }

    #[test]
    fn a_copy_from_before_a_loss_was_accepted_is_told_until_it_is_accepted_too() {
        for head in [4, 9] {
            let guard = guard();
            assert_eq!(guard.compare(mark(1, 5), at(2, 5, 51, 51)), Ok(()));
            assert!(guard.compare(mark(2, 5), at(1, head, 50, 50)).is_err());
            assert!(guard.divergence().is_some());
            assert!(guard.compare(mark(2, 5), at(1, head, 50, 50)).is_err());
            assert_eq!(guard.compare(mark(2, 5), at(3, head, 50, 50)), Ok(()));
            assert_eq!(guard.divergence(), None);
        }
    }

    #[test]
    fn what_another_process_found_holds_until_it_is_accepted() {
        let guard = Guard::new();
        let noted =
            |epoch, text: Option<&str>| (LOG, epoch, 5, Some(vec![50]), None, text.map(str::to_owned));
        assert_eq!(
            guard.compare(Mark::default(), noted(1, Some("lost"))),
            Err(Divergence::Noted("lost".to_owned()))
        );
        assert_eq!(guard.compare(Mark::default(), noted(2, None)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }

    #[test]
    fn of_two_checks_at_once_the_later_answer_may_come_first() {
        let guard = guard();
        assert_eq!(guard.compare(mark(1, 5), at(1, 9, 90, 50)), Ok(()));
        // It asked about position 5, too, and the head was at 7 then.
        assert_eq!(guard.compare(mark(1, 5), at(1, 7, 70, 50)), Ok(()));
        assert_eq!(guard.compare(mark(1, 9), at(1, 9, 90, 90)), Ok(()));
        assert_eq!(guard.divergence(), None);
    }
}
