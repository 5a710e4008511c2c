//! What nodes tell each other of jobs' logs: that lines were stored, and how far a job says it is. Whoever misses it looks by itself
//! every now and then.

use std::convert::Infallible;
use std::time::Duration;

use domain::JobId;
use ledger::connect::{Pool, Purpose};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use crate::Commands;

const CHANNEL: &str = "daybook_job_logs";
/// How long silence is believed before the channel is tried.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long connecting, and the answer to a heartbeat, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that happened to a job besides its events.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogNews {
    /// Lines were stored.
    Lines {
        /// The job.
        job: JobId,
        /// The number of the last line.
        last_seq: u64,
    },
    /// It says how far it is.
    Progress {
        /// The job.
        job: JobId,
        /// The attempt that says so.
        attempt: u32,
        /// 0 to 1.
        progress: f64,
    },
}

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
pub enum LogsUnheard {
    /// The connection was lost.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The connection was closed.
    #[error("the connection was closed")]
    Closed,
    /// The server does not answer any more.
    #[error("the server has fallen silent")]
    Silent,
}

impl LogNews {
    /// Tells all nodes at once.
    pub(super) async fn send(self, pool: &Pool) -> Result<(), sqlx::Error> {
        let payload = serde_json::to_string(&self).unwrap_or_default();
        sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(pool).await.map(drop)
    }
}

impl Commands {
    /// Hears what is told of jobs' logs until the connection is lost, or this is dropped. `begun` is called once everything told
    /// from then on is heard: what happened before must be looked for.
    ///
    /// # Errors
    /// Why it is not heard any more.
    pub async fn hear_log_news(
        &self,
        begun: impl FnOnce() + Send,
        mut tell: impl FnMut(LogNews) + Send,
    ) -> Result<Infallible, LogsUnheard> {
        // A connection of its own, so that nobody who uses up a pool makes us deaf.
        let listening = self.ledger.connector().listen(Purpose::LogNews, CHANNEL);
        let listener = timeout(PATIENCE, listening).await.map_err(|_| LogsUnheard::Silent)??;
        begun();
        hear(listener, &mut tell).await
    }
}

async fn hear(
    mut listener: PgListener,
    tell: &mut (impl FnMut(LogNews) + Send),
) -> Result<Infallible, LogsUnheard> {
    loop {
        match timeout(HEARTBEAT, listener.try_recv()).await {
            Ok(Ok(Some(notice))) => {
                // What cannot be read was sent by another version; whoever watches looks by itself.
                if let Ok(news) = serde_json::from_str(notice.payload()) {
                    tell(news);
                }
            }
            Ok(Ok(None)) => return Err(LogsUnheard::Closed),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let answer = sqlx::query("select 1").execute(&mut listener);
                timeout(PATIENCE, answer).await.map_err(|_| LogsUnheard::Silent)??;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn news_are_short() {
        let job = JobId(uuid::Uuid::from_u128(7));
        for news in [
            LogNews::Lines { job, last_seq: u64::MAX },
            LogNews::Progress { job, attempt: u32::MAX, progress: 0.123_456_789_012_345 },
        ] {
            let text = serde_json::to_string(&news).unwrap();
            assert!(text.len() < 200, "{text}");
            assert_eq!(serde_json::from_str::<LogNews>(&text).unwrap(), news);
        }
    }
}
