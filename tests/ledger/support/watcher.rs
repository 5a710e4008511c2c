//! A follower that watches all the while.

use std::time::Duration;

use ::ledger::{Ledger, Recorded};
use tests::within;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::Rng;

/// Follows the log from its beginning in a task of its own, in pages of random sizes, and now and then drops a wait for the
/// next page half-way.
pub(crate) struct Watcher {
    until: watch::Sender<i64>,
    task: JoinHandle<Vec<Recorded>>,
}

impl Watcher {
    pub(crate) fn start(ledger: &Ledger, rng: Rng) -> Self {
        let (until, end) = watch::channel(i64::MAX);
        Self { until, task: tokio::spawn(watch(ledger.clone(), rng, end)) }
    }

    /// What it saw, once it has seen everything up to position `head`.
    pub(crate) async fn seen(self, head: i64) -> Vec<Recorded> {
        self.until.send(head).unwrap();
        within("the follower at the end of the log", self.task).await.unwrap()
    }
}

async fn watch(ledger: Ledger, mut rng: Rng, mut until: watch::Receiver<i64>) -> Vec<Recorded> {
    let mut follower = ledger.follow(0);
    let mut seen = vec![];
    let mut retries = interval(Duration::from_millis(10));
    while follower.position() < *until.borrow_and_update() {
        let next = follower.next(1 + rng.below(200) as i64);
        let patience = if rng.percent(25) { Duration::from_micros(rng.below(3_000)) } else { Duration::MAX };
        tokio::select! {
            // An error is a database out of reach, a time-out our own doing: ask again.
            page = timeout(patience, next) => match page {
                Ok(Ok(page)) => {
                    assert_eq!(follower.position(), page[page.len() - 1].position);
                    seen.extend(page);
                }
                Ok(Err(_)) => drop(retries.tick().await),
                Err(_) => {}
            },
            _ = until.changed() => {}
        }
    }
    seen
}
