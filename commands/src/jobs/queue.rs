//! What a worker needs to see of the queue. The queue is a view, and the write side does not know the read side: whoever
//! puts a node together connects the two.

use chrono::{DateTime, Utc};
use domain::{JobId, TeamId};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::SealedSecret;

/// The queue could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("the queue could not be read: {0}")]
pub struct QueueError(pub String);

/// A job that may be started.
#[derive(Clone, Debug)]
pub struct ReadyJob {
    /// Which.
    pub id: JobId,
    /// Whose.
    pub team_id: TeamId,
    /// What runs.
    pub kind: String,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// Attempts so far.
    pub attempt: u32,
    /// Events in its stream.
    pub sequence: i64,
    /// How long an attempt may take.
    pub timeout_seconds: u32,
    /// Jobs of the team with the same key take turns.
    pub concurrency_key: Option<String>,
    /// How many of them may run at once for this one to start.
    pub concurrency_limit: u32,
    /// Those of them that run.
    pub holders: Vec<JobId>,
}

/// A job that a worker has, or had.
#[derive(Clone, Debug)]
pub struct RunningJob {
    /// Which.
    pub id: JobId,
    /// Whose.
    pub team_id: TeamId,
    /// The attempt that runs.
    pub attempt: u32,
    /// Who has it.
    pub worker: Option<String>,
    /// Since when.
    pub started_at: Option<DateTime<Utc>>,
}

/// The queue as a worker sees it. What it shows may be late; the aggregate decides.
pub trait WorkQueue: Clone + Send + Sync + 'static {
    /// Some of the jobs of these kinds that are due, the most urgent first: at most `limit`. And whether there may be more.
    fn ready(
        &self,
        now: DateTime<Utc>,
        kinds: &[String],
        limit: usize,
    ) -> impl Future<Output = Result<(Vec<ReadyJob>, bool), QueueError>> + Send;

    /// When a pending job of these kinds becomes due that is not at `now`: the first that does.
    fn next_due(
        &self,
        now: DateTime<Utc>,
        kinds: &[String],
    ) -> impl Future<Output = Result<Option<DateTime<Utc>>, QueueError>> + Send;

    /// At most `limit` jobs that run, but with none of these workers, the oldest first.
    fn running_without(
        &self,
        live: &[String],
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RunningJob>, QueueError>> + Send;

    /// Which of these jobs somebody wants stopped.
    fn cancel_requested(&self, jobs: &[JobId])
    -> impl Future<Output = Result<Vec<JobId>, QueueError>> + Send;

    /// The present value, sealed, of a team's secret.
    fn secret(
        &self,
        team: TeamId,
        name: &str,
    ) -> impl Future<Output = Result<Option<SealedSecret>, QueueError>> + Send;

    /// What [`WorkQueue::changes`] carries.
    type Mark: Send + Sync + 'static;

    /// Changes when there may be something new to see, or something else has happened.
    fn changes(&self) -> watch::Receiver<Self::Mark>;

    /// Another number than before if there may be something new to see.
    fn reached(&self, mark: &Self::Mark) -> i64;
}
