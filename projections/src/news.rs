//! What processes that share a database tell each other of their views: which rows changed (D7).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger::connect::Purpose;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Projections;
use crate::checkpoint;
use crate::reached::Reached;

const CHANNEL: &str = "daybook_views";
/// PostgreSQL takes 8,000 bytes.
const LONGEST: usize = 7_000;
/// How long silence is believed before the channel is tried.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long the answer to that may take.
const HEARTBEAT_PATIENCE: Duration = Duration::from_millis(500);
/// The first and the longest pause between two attempts to listen.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the server has fallen silent")]
    Silent,
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
        if self.inner.following.load(Ordering::SeqCst) == 0 {
            self.start_from_checkpoints().await?;
        }
        *pause = PAUSES.0;
        loop {
            match timeout(HEARTBEAT, listener.try_recv()).await {
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
            let unknown = Reached::unknown(self.inner.registry.all.len());
            self.inner.reached.send_replace(unknown);
        }
    }

    async fn start_from_checkpoints(&self) -> Result<(), sqlx::Error> {
        let checkpoints = checkpoint::read(self.inner.background.pool()).await?;
        self.inner.reached.send_modify(|reached| {
            for (place, view) in self.inner.registry.all.iter().enumerate() {
                let found = checkpoints.iter().find(|checkpoint| checkpoint.view == view.spec().name);
                reached.positions[place] = found.map_or(0, |checkpoint| checkpoint.position);
            }
        });
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
        for (name, news) in news.views {
            if let Some(place) = self.inner.registry.place(&name) {
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
