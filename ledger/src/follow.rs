//! Following the log as it grows.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::Ledger;
use crate::error::LedgerError;
use crate::event::Recorded;

/// How long a follower sleeps at most before it looks again by itself: this is how it sees what other processes append.
const POLL: Duration = Duration::from_millis(100);

/// Reads the log from a position on, for ever, each event once and in order.
pub struct Follower {
    ledger: Ledger,
    head: watch::Receiver<i64>,
    position: i64,
}

impl Ledger {
    /// Follows the log after position `after`.
    #[must_use]
    pub fn follow(&self, after: i64) -> Follower {
        Follower { ledger: self.clone(), head: self.head.clone(), position: after }
    }

    /// Wakes when this process has appended something, and at the latest after the poll interval.
    pub async fn appended(&self, head: &mut watch::Receiver<i64>) {
        // An error means that the lane is gone; then only the interval is left.
        if let Ok(Err(_)) = timeout(POLL, head.changed()).await {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Tells of the positions this process appends, as far as it has appended any.
    #[must_use]
    pub fn appends(&self) -> watch::Receiver<i64> {
        self.head.clone()
    }
}

impl Follower {
    /// The next events, at least one and at most `limit`. Waits until there are any. May be dropped and called again:
    /// what it did not give out is not lost.
    ///
    /// # Errors
    /// The database is out of reach; calling again goes on where it stopped.
    pub async fn next(&mut self, limit: i64) -> Result<Vec<Recorded>, LedgerError> {
        loop {
            // Interest is registered before looking, so that nothing appended in between is slept over.
            self.head.mark_unchanged();
            let events = self.ledger.read(self.position, limit).await?;
            if let Some(last) = events.last() {
                self.position = last.position;
                return Ok(events);
            }
            self.ledger.appended(&mut self.head).await;
        }
    }

    /// The position of the last event given out.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }
}
