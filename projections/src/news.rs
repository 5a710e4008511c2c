//! What processes that share a database tell each other of their views: which rows changed (D7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger::connect::Purpose;
use ledger::{LedgerError, uptime};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::ReadError;
use crate::reached::{Found, Reached};
use crate::{Inner, Projections};

const CHANNEL: &str = "daybook_views";
/// PostgreSQL takes 8,000 bytes.
const LONGEST: usize = 7_000;
/// How long silence is believed before the channel is tried.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long the answer to that may take.
const HEARTBEAT_PATIENCE: Duration = Duration::from_millis(500);
/// How often a process that does not follow looks whether it has heard of everything.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// The first and the longest pause between two attempts to listen.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Views(#[from] ReadError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the connection was closed")]
    Closed,
    #[error("the server has fallen silent")]
    Silent,
}

/// A look at the log and the checkpoints.
#[derive(Default)]
struct Probe {
    next: Option<Duration>,
    looked: Duration,
    head: i64,
    views: Vec<(usize, i64, bool)>,
}

/// While there is one, this process answers from views that are proved to be fresh only.
pub(crate) struct Gate(Arc<Inner>);

impl Gate {
    pub(crate) fn close(inner: &Arc<Inner>) -> Self {
        inner.gated.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.gated.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What happened to one view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ViewNews {
    /// Where it was.
    pub(crate) from: i64,
    /// Where it is.
    pub(crate) to: i64,
    /// The rows that changed; `None` for all or too many.
    pub(crate) keys: Option<Vec<String>>,
}

/// What one process did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) node: Uuid,
    /// By table.
    pub(crate) views: BTreeMap<String, ViewNews>,
}

impl News {
    /// Tells the others when the transaction has committed, and not if it does not.
    pub(crate) async fn send(mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(self.payload());
        query.execute(connection).await.map(drop)
    }

    fn payload(&mut self) -> String {
        let payload = serde_json::to_string(self).unwrap_or_default();
        if payload.len() <= LONGEST {
            return payload;
        }
        for news in self.views.values_mut() {
            if news.keys.as_ref().is_some_and(|keys| !keys.is_empty()) {
                news.keys = None;
            }
        }
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Projections {
    /// Listens to other processes until `shutdown`. Until it does, and whenever the channel is interrupted, nothing is cached.
    /// Part of [`Projections::run`]; a process that does not follow calls this alone.
    pub async fn listen(&self, shutdown: CancellationToken) {
        let _gate = Gate::close(&self.inner);
        let mut pause = PAUSES.0;
        while !shutdown.is_cancelled() {
            let outcome = tokio::select! {
                biased;
                () = shutdown.cancelled() => Ok(()),
                outcome = self.hear(&mut pause) => outcome,
            };
            self.deaf();
            if let Err(error) = outcome {
                tracing::warn!(%error, "the channel between the views' processes was interrupted");
                let _ = timeout(pause, shutdown.cancelled()).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Listens until the channel is interrupted.
    async fn hear(&self, pause: &mut Duration) -> Result<(), Interrupted> {
        let mut listener = self.inner.ledger.connector().listen(Purpose::ViewNews, CHANNEL).await?;
        // Only what is read from the tables from now on may be held: everything after it will be heard of.
        self.inner.registry.all.iter().for_each(|view| view.trust(true));
        let follows = self.inner.following.load(Ordering::SeqCst) > 0;
        let mut probe = Probe::default();
        if !follows {
            self.start_from_checkpoints().await?;
        }
        *pause = PAUSES.0;
        loop {
            let heartbeat = if follows { HEARTBEAT } else { PROBE_INTERVAL };
            if !follows {
                self.probe(&mut probe).await?;
            }
            match timeout(heartbeat, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.learn(notification.payload()),
                Ok(Ok(None)) => return Err(Interrupted::Closed),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    let answer = sqlx::query("select 1").execute(&mut listener);
                    timeout(HEARTBEAT_PATIENCE, answer).await.map_err(|_| Interrupted::Silent)??;
                }
            }
        }
    }

    /// Nothing is heard: nothing cached can be used, and positions may even go back, should the server have lost what was
    /// not yet on disk.
    fn deaf(&self) {
        self.inner.registry.all.iter().for_each(|view| view.trust(false));
        if self.inner.following.load(Ordering::SeqCst) == 0 {
            let views = self.inner.registry.all.len();
            (0..views).for_each(|place| self.inner.proofs.withdraw(place));
            self.inner.reached.send_replace(Reached::unknown(views));
        }
    }

    async fn start_from_checkpoints(&self) -> Result<(), Interrupted> {
        let found = self.inner.positions_in(&self.inner.background).await?;
        self.inner.reached.send_modify(|reached| {
            for (place, position, stopped) in found.views {
                (reached.positions[place], reached.stopped[place]) = (position, stopped);
            }
        });
        Ok(())
    }

    /// Without a follower: proves that what is heard is all there is. The news of a batch come a little after its commit, so each look at
    /// the log and the checkpoints is judged by what has been heard when the next is due.
    async fn probe(&self, last: &mut Probe) -> Result<(), Interrupted> {
        if last.next.is_some_and(|next| uptime() < next) {
            return Ok(());
        }
        for (place, position, stopped) in &last.views {
            let heard = self.inner.reached.borrow().positions[*place];
            if heard < *position {
                // The news were lost. What is cached may be older.
                self.inner.registry.all[*place].flush();
            }
            self.inner.reached.send_modify(|reached| {
                reached.positions[*place] = reached.positions[*place].max(*position);
                reached.stopped[*place] = *stopped;
            });
            if !*stopped && heard.max(*position) >= last.head {
                self.inner.proofs.prove(*place, last.looked);
            }
        }
        let looked = uptime();
        self.inner.background.check_log().await?;
        let Found { head, views } = self.inner.positions_in(&self.inner.background).await?;
        *last = Probe { next: Some(looked + PROBE_INTERVAL), looked, head, views };
        Ok(())
    }

    fn learn(&self, payload: &str) {
        // What cannot be read was sent by another version: it may be about anything.
        let Ok(news) = serde_json::from_str::<News>(payload) else {
            return self.inner.registry.all.iter().for_each(|view| view.flush());
        };
        if news.node == self.inner.node {
            return;
        }
        for (table, news) in news.views {
            // Other versions have tables of their own.
            if let Some(place) = self.inner.registry.place_of_table(&table) {
                self.learn_of(place, &news);
            }
        }
    }

    fn learn_of(&self, place: usize, news: &ViewNews) {
        let view = &self.inner.registry.all[place];
        match &news.keys {
            Some(keys) => keys.iter().for_each(|key| view.touch(key, news.to)),
            None => view.flush(),
        }
        // With a gap before these news, the cache has not been told of everything up to their end.
        self.inner.reached.send_if_modified(|reached| {
            let position = &mut reached.positions[place];
            let further = *position >= news.from && *position < news.to;
            if further {
                *position = news.to;
            }
            further
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn news(keys: usize) -> News {
        let keys = Some((0..keys).map(|n| format!("{n:036}")).collect());
        let views = [("users".to_owned(), ViewNews { from: 1, to: 2, keys })].into();
        News { node: Uuid::from_u128(1), views }
    }

    #[test]
    fn few_keys_are_named_and_many_are_all() {
        let mut few = news(3);
        assert_eq!(serde_json::from_str::<News>(&few.payload()).unwrap(), news(3));
        let long = news(1_000).payload();
        assert!(long.len() <= LONGEST);
        assert_eq!(serde_json::from_str::<News>(&long).unwrap().views["users"].keys, None);
    }
}
