//! What jobs logged and left is kept for a time after they ended. What happened to them stays: events are never removed.
//!
//! Any number of nodes may do this at once. Each step can be repeated and takes nothing from a job that has begun to run again: lines and
//! files go by attempt, and only of attempts before the end that was seen.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{JobEvent, JobId};
use ledger::{LedgerError, Recorded, StreamId};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::artifacts::{ArtifactError, ArtifactStore};
use crate::{CommandError, Commands};

/// Jobs looked at together.
const BATCH: i64 = 100;
/// Chunks of lines removed by one statement.
const CHUNKS: i64 = 1_000;
/// Events looked at together; a batch with more is looked at job by job.
const EVENTS: i64 = 10_000;
/// From one round to the next.
const EVERY: Duration = Duration::from_secs(3_600);
/// The first round comes soon after the start, but not with it: nodes that start together do not all begin with this.
const FIRST: Duration = Duration::from_secs(20);

/// Where candidates are looked for: of jobs with ids in between that have something, the next ones in order. Ids grow with time (UUIDv7).
const JOBS_WITH_LINES: &str = "
with recursive found as (
    (select job_id, 1 as number from job_log_chunks where job_id > $1 and job_id < $2 order by job_id limit 1)
    union all
    select next.job_id, f.number + 1 from found f cross join lateral (
        select job_id from job_log_chunks where job_id > f.job_id and job_id < $2 order by job_id limit 1) next
    where f.number < $3
)
select job_id from found order by job_id";

const REMOVE_LINES: &str = "
delete from job_log_chunks where (job_id, first_seq) in (
    select job_id, first_seq from job_log_chunks where job_id = $1 and attempt <= $2 order by first_seq limit $3)";

/// How far the logs of jobs had come: jobs in between, the next ones in order.
const JOBS_WITH_LOGS: &str =
    "select job_id from job_logs where job_id > $1 and job_id < $2 order by job_id limit $3";

/// Not while lines are left, nor where an attempt has begun that is not known to have ended.
const REMOVE_LOGS: &str = "
delete from job_logs l using unnest($1::uuid[], $2::integer[]) as ended(job_id, attempt)
where l.job_id = ended.job_id and l.attempt <= ended.attempt
  and not exists (select from job_log_chunks c where c.job_id = l.job_id)";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Jobs of which something was removed.
    pub jobs: u64,
    /// Chunks of lines.
    pub chunks: u64,
    /// Files.
    pub artifacts: u64,
}

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The database is out of reach.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The place of artifacts is.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
}

impl From<sqlx::Error> for RetentionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// Removes what is older than it is to be kept.
#[derive(Clone)]
pub struct Retention {
    /// The write side.
    pub commands: Commands,
    /// The place of artifacts.
    pub artifacts: ArtifactStore,
    /// For how long after its end a job's lines and files are kept.
    pub keep: TimeDelta,
}

impl Retention {
    /// A round every hour, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut next = Instant::now() + FIRST;
        while shutdown.run_until_cancelled(sleep_until(next)).await.is_some() {
            next = Instant::now() + EVERY;
            // What is removed is gone. So it takes two clocks to say that its time is over, and one that is ahead, or was set ahead, removes
            // nothing early.
            let now = self.commands.now().min(Utc::now());
            match shutdown.run_until_cancelled(self.round(now)).await {
                None => return,
                Some(Ok(removed)) if removed == Removed::default() => {}
                Some(Ok(Removed { jobs, chunks, artifacts })) => {
                    tracing::info!(
                        jobs,
                        chunks,
                        artifacts,
                        "removed what jobs of long ago had logged and left"
                    );
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "what jobs of long ago had logged and left could not all be removed");
                }
            }
        }
    }

    /// Removes, as of `now`, whatever has been kept long enough: lines, then files. It may be cut off anywhere; the next round does the rest.
    ///
    /// # Errors
    /// The database or the place of artifacts is out of reach. What was removed until then is removed.
    pub async fn round(&self, now: DateTime<Utc>) -> Result<Removed, RetentionError> {
        let Some(before) = now.checked_sub_signed(self.keep) else { return Ok(Removed::default()) };
        let mut removed = Removed::default();
        let outcome = self.remove_lines(before, &mut removed).await;
        let outcome = self.remove_logs(before).await.and(outcome);
        // Where artifacts cannot be removed, lines can: neither waits for the other.
        let outcome = self.remove_artifacts(before, &mut removed).await.and(outcome);
        metrics::counter!("job_retention_rounds_total").increment(1);
        metrics::counter!("job_retention_jobs_total").increment(removed.jobs);
        metrics::counter!("job_retention_log_chunks_total").increment(removed.chunks);
        metrics::counter!("job_retention_artifacts_total").increment(removed.artifacts);
        outcome.map(|()| removed)
    }

    async fn remove_lines(&self, before: DateTime<Utc>, removed: &mut Removed) -> Result<(), RetentionError> {
        let pool = self.commands.ledger.pool();
        let mut after = Uuid::nil();
        loop {
            let query = sqlx::query_scalar(JOBS_WITH_LINES).bind(after).bind(first_id(before)).bind(BATCH);
            let jobs: Vec<Uuid> = query.fetch_all(pool).await?;
            let Some(last) = jobs.last() else { return Ok(()) };
            after = *last;
            for (job, attempt) in self.ended(&jobs, before).await? {
                let chunks = self.remove_lines_of(job, attempt).await?;
                removed.chunks += chunks;
                removed.jobs += u64::from(chunks > 0);
            }
        }
    }

    /// How far a log had come is of no interest once nothing of it is left.
    async fn remove_logs(&self, before: DateTime<Utc>) -> Result<(), RetentionError> {
        let pool = self.commands.ledger.pool();
        let mut after = Uuid::nil();
        loop {
            let query = sqlx::query_scalar(JOBS_WITH_LOGS).bind(after).bind(first_id(before)).bind(BATCH);
            let jobs: Vec<Uuid> = query.fetch_all(pool).await?;
            let Some(last) = jobs.last() else { return Ok(()) };
            after = *last;
            let ended = self.ended(&jobs, before).await?.into_iter();
            let (jobs, attempts): (Vec<Uuid>, Vec<i32>) =
                ended.map(|(job, attempt)| (job, attempt.cast_signed())).unzip();
            sqlx::query(REMOVE_LOGS).bind(jobs).bind(attempts).execute(pool).await?;
        }
    }

    async fn remove_lines_of(&self, job: Uuid, attempt: u32) -> Result<u64, RetentionError> {
        let mut removed = 0;
        loop {
            let query = sqlx::query(REMOVE_LINES).bind(job).bind(attempt.cast_signed()).bind(CHUNKS);
            match query.execute(self.commands.ledger.pool()).await?.rows_affected() {
                0 => return Ok(removed),
                more => removed += more,
            }
        }
    }

    async fn remove_artifacts(
        &self,
        before: DateTime<Utc>,
        removed: &mut Removed,
    ) -> Result<(), RetentionError> {
        let mut after = Uuid::nil();
        loop {
            let jobs = self.artifacts.jobs_between(after, first_id(before), BATCH).await?;
            let Some(last) = jobs.last() else { return Ok(()) };
            after = *last;
            for (job, attempt) in self.ended(&jobs, before).await? {
                let files = self.artifacts.remove_job(job, attempt).await?;
                removed.artifacts += files;
                removed.jobs += u64::from(files > 0);
            }
        }
    }

    /// Those of the jobs that ended for good before `before`, with their last attempt. The log says so, and no view that may be late.
    async fn ended(&self, jobs: &[Uuid], before: DateTime<Utc>) -> Result<Vec<(Uuid, u32)>, RetentionError> {
        let ids: Vec<String> = jobs.iter().map(Uuid::to_string).collect();
        let found = self.commands.ledger.read_streams("job", &ids, EVENTS).await?;
        // Of each only whether what happened last is an end.
        let whole = found.is_some();
        let mut last: HashMap<String, Option<u32>> = HashMap::new();
        for event in found.unwrap_or_default() {
            last.insert(event.stream.aggregate_id.clone(), end_of(&event, before));
        }
        let mut ended = vec![];
        for job in jobs {
            if !whole {
                let each = |event: Recorded| {
                    last.insert(event.stream.aggregate_id.clone(), end_of(&event, before));
                };
                let stream = StreamId::new("job", job);
                self.commands.ledger.walk_stream(&stream, 0, i64::MAX, each).await?;
            }
            let attempt = last.get(&job.to_string()).copied().flatten();
            ended.extend(attempt.map(|attempt| (*job, attempt)));
        }
        Ok(ended)
    }
}

/// The attempt, if the event is an end for good, before `before`.
fn end_of(event: &Recorded, before: DateTime<Utc>) -> Option<u32> {
    let is_end = ["JobCompleted", "JobFailed", "JobCancelled"].contains(&event.event_type.as_str());
    let last = Some(event).filter(|event| is_end && event.at < before)?;
    // What cannot be read is not removed for.
    let event = last.payload.read().ok()?;
    match event {
        JobEvent::JobCompleted { attempt, .. }
        | JobEvent::JobFailed { attempt, .. }
        | JobEvent::JobCancelled { attempt, .. } => Some(attempt),
        JobEvent::JobQueued { .. }
        | JobEvent::JobStarted { .. }
        | JobEvent::JobAttemptFailed { .. }
        | JobEvent::JobLost { .. }
        | JobEvent::JobHandedBack { .. }
        | JobEvent::JobCancelRequested {}
        | JobEvent::JobRetried { .. } => None,
    }
}

/// No id made at `at` or later is below it, and none made before is above (RFC 9562 section 5.7: milliseconds in the first 48 bits).
fn first_id(at: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(at.timestamp_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
    Uuid::from_u128(milliseconds << 80)
}

impl Commands {
    /// Whether a job has logged something of which nothing is left, since its time was over.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn logs_expired(&self, job: JobId) -> Result<bool, CommandError> {
        let query = sqlx::query_scalar("select exists (select from job_log_chunks where job_id = $1)");
        if query.bind(job.0).fetch_one(self.ledger.pool()).await.map_err(LedgerError::from)? {
            return Ok(false);
        }
        let attempts = self.job_attempts(job).await?;
        Ok(attempts.iter().any(|attempt| attempt.log.as_ref().is_some_and(|log| log.lines > 0)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ids_made_before_a_moment_are_below_its_first_id_and_others_are_not() {
        let now = Utc::now();
        let (earlier, later) = (first_id(now - TimeDelta::seconds(1)), first_id(now + TimeDelta::seconds(1)));
        let made = Uuid::now_v7();
        assert!(earlier < made && made < later);
    }
}
