//! What became of a job's attempts, as the log tells it.

use chrono::{DateTime, Utc};
use domain::{Artifact, FailureReason, JobEvent, JobId, LogDigest, Ran};
use ledger::{Recorded, StreamId};

use crate::{CommandError, Commands};

/// Events of a job that are looked at; none has as many.
const MOST_EVENTS: i64 = 10_000;

/// An attempt of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptMade {
    /// From 1.
    pub attempt: u32,
    /// Who ran it.
    pub worker: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How it ended: `completed`, `failed`, `lost`, `handed_back` or `cancelled`; `running` while it has not; `unreadable` where the
    /// event that says so cannot be read.
    pub outcome: &'static str,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How long it ran, in milliseconds.
    pub milliseconds: Option<u64>,
    /// What its process ended with.
    pub exit_code: Option<i32>,
    /// Why it did not end well.
    pub error: Option<String>,
    /// Why it was the last one, if it failed.
    pub reason: Option<FailureReason>,
    /// What it logged.
    pub log: Option<LogDigest>,
    /// The files it left.
    pub artifacts: Vec<Artifact>,
}

impl AttemptMade {
    fn ended(&mut self, outcome: &'static str, at: DateTime<Utc>, ran: Option<Ran>) {
        self.outcome = outcome;
        self.ended_at = Some(at);
        self.milliseconds = ran.map(|ran| ran.milliseconds).or(self.milliseconds);
    }

    fn happened(&mut self, event: JobEvent, at: DateTime<Utc>) {
        match event {
            JobEvent::JobCompleted { ran, artifacts, log, .. } => {
                self.ended("completed", at, ran);
                (self.exit_code, self.log, self.artifacts) = (Some(0), Some(log), artifacts);
            }
            JobEvent::JobAttemptFailed { ran, exit_code, error, artifacts, log, .. } => {
                self.ended("failed", at, ran);
                (self.exit_code, self.error) = (exit_code, Some(error));
                (self.log, self.artifacts) = (Some(log), artifacts);
            }
            JobEvent::JobFailed { ran, exit_code, error, reason, artifacts, log, .. } => {
                // A worker's loss ended the attempt before; this ends the job.
                if self.outcome == "running" {
                    self.ended("failed", at, ran);
                }
                (self.exit_code, self.error, self.reason) = (exit_code, Some(error), Some(reason));
                (self.log, self.artifacts) = (log, artifacts);
            }
            JobEvent::JobLost { ran, .. } => {
                self.ended("lost", at, ran);
                self.error = Some("its worker was lost".to_owned());
            }
            JobEvent::JobHandedBack { ran, log, .. } => {
                self.ended("handed_back", at, ran);
                self.log = Some(log);
            }
            JobEvent::JobCancelled { ran, log, .. } => {
                // One that waited is cancelled after its last attempt had ended.
                if self.outcome == "running" {
                    self.ended("cancelled", at, ran);
                    self.log = log;
                }
            }
            JobEvent::JobQueued { .. }
            | JobEvent::JobStarted { .. }
            | JobEvent::JobCancelRequested {}
            | JobEvent::JobRetried { .. } => {}
        }
    }
}

impl Commands {
    /// A job's attempts, the first one first.
    ///
    /// # Errors
    /// The database is out of reach, or an event does not have its shape.
    pub async fn job_attempts(&self, id: JobId) -> Result<Vec<AttemptMade>, CommandError> {
        let stream = StreamId::new("job", id);
        let mut attempts: Vec<AttemptMade> = vec![];
        let each = |stored: Recorded| {
            let Ok(event) = stored.parse() else {
                // It may have been the end of this attempt.
                if let Some(last) = attempts.last_mut().filter(|last| last.outcome == "running") {
                    last.ended("unreadable", stored.at, None);
                    last.error = Some(format!("event {} cannot be read", stored.position));
                }
                return;
            };
            match event {
                JobEvent::JobStarted { attempt, worker, at: _ } => attempts.push(AttemptMade {
                    attempt,
                    worker,
                    started_at: stored.at,
                    outcome: "running",
                    ended_at: None,
                    milliseconds: None,
                    exit_code: None,
                    error: None,
                    reason: None,
                    log: None,
                    artifacts: vec![],
                }),
                event => {
                    if let Some(last) = attempts.last_mut() {
                        last.happened(event, stored.at);
                    }
                }
            }
        };
        self.ledger.walk_stream(&stream, 0, MOST_EVENTS, each).await?;
        Ok(attempts)
    }
}
