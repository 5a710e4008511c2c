//! A job: something a team asked to be run, through all its attempts (D10).
//!
//! `attempt` counts starts and is the fence: attempt n may only be ended by attempt n. What a job may fail is counted apart
//! (`failures` against `max_attempts`), so an attempt that was handed back or whose worker died costs nothing of it.
//! `docs/jobs.md` draws the states.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::aggregate;
use crate::{Caller, ConcurrencyKey, Denied, Guarded, JsonText, KindName, Permission, ScheduleId, TeamId};

mod backoff;
mod error;
mod event;

pub use backoff::Backoff;
pub use error::JobError;
pub use event::{Artifact, FailureReason, JobEvent, LogDigest, Ran};

/// After this many lost workers in a row the job itself is taken to be what kills them.
const CRASH_LIMIT: u32 = 3;

/// Puts a new job into the queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Whose it is.
    pub team_id: TeamId,
    /// What runs.
    pub kind: KindName,
    /// Its arguments, checked against the kind.
    pub args: Map<String, Value>,
    /// 0 to 9; 9 runs first.
    pub priority: u8,
    /// Not before this moment.
    pub run_at: DateTime<Utc>,
    /// How many failures end it, from 1.
    pub max_attempts: u32,
    /// How long one attempt may take.
    pub timeout_seconds: u32,
    /// The pause after the first failure.
    pub retry_delay_seconds: u32,
    /// How the pause grows.
    pub backoff: Backoff,
    /// Jobs of the team with the same key take turns.
    pub concurrency_key: Option<ConcurrencyKey>,
    /// How many jobs with its key may run for this one to start, itself counted. From 1.
    pub concurrency_limit: u32,
    /// The claim it holds until it starts, or will not.
    pub unique: Option<String>,
    /// What queued it, if no person did.
    pub schedule_id: Option<ScheduleId>,
}

/// How an attempt ended, as its worker saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// It did its work.
    Succeeded {
        /// The document it left.
        result: Option<JsonText>,
        /// The files it left.
        artifacts: Vec<Artifact>,
    },
    /// It did not.
    Failed(Failure),
    /// It was stopped because somebody cancelled the job.
    Cancelled,
}

/// How an attempt failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// What its process said, if it ended by itself.
    pub exit_code: Option<i32>,
    /// A sentence for people.
    pub error: String,
    /// Whether the kind says that trying again is of no use.
    pub is_final: bool,
    /// The least pause it asks for, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The document it left.
    pub result: Option<JsonText>,
    /// The files it left.
    pub artifacts: Vec<Artifact>,
}

/// What can be asked of a job.
#[derive(Clone, Debug)]
pub enum JobCommand {
    /// Put it into the queue.
    Queue(Queue),
    /// A worker takes it.
    Start {
        /// Which worker.
        worker: String,
        /// Now.
        at: DateTime<Utc>,
    },
    /// The worker of attempt `attempt` reports its end.
    Finish {
        /// The attempt that ended.
        attempt: u32,
        /// How.
        ending: Ending,
        /// What it logged.
        log: LogDigest,
        /// Now.
        at: DateTime<Utc>,
        /// A random number, 0 to 1, that spreads retries.
        dice: f64,
    },
    /// The worker of attempt `attempt` was not heard of for too long.
    Lose {
        /// The attempt that is given up.
        attempt: u32,
        /// Now.
        at: DateTime<Utc>,
    },
    /// The worker of attempt `attempt` shuts down and gives the job back.
    HandBack {
        /// The attempt that is given back.
        attempt: u32,
        /// What it logged.
        log: LogDigest,
        /// Now.
        at: DateTime<Utc>,
    },
    /// Somebody does not want it any more.
    Cancel,
    /// Somebody wants it to be tried again, or sooner.
    Retry {
        /// Now.
        at: DateTime<Utc>,
    },
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waiting for its time, its turn or a worker.
    Pending,
    /// A worker has it.
    Running,
    /// Done.
    Completed,
    /// Given up.
    Failed,
    /// Not wanted any more.
    Cancelled,
}

impl JobStatus {
    /// The name used in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing happens to the job any more unless somebody asks for it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What the rules need to know of a job that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Life {
    team_id: TeamId,
    kind: String,
    status: JobStatus,
    attempt: u32,
    failures: u32,
    /// Workers lost in a row.
    crashes: u32,
    max_attempts: u32,
    retry_delay_seconds: u32,
    backoff: Backoff,
    due: DateTime<Utc>,
    cancel_requested: bool,
    /// Who has it, or had it last, and since when.
    worker: String,
    started_at: Option<DateTime<Utc>>,
    /// The claim it still holds.
    unique: Option<String>,
}

/// A job; nothing before it was queued.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job(Option<Life>);

aggregate!(Job, "job", JobCommand, JobEvent, JobError);

type Decision = Result<Vec<JobEvent>, JobError>;

impl Job {
    /// The claim that keeps others like it out of the queue, as long as it holds it.
    #[must_use]
    pub fn unique_claim(&self) -> Option<&str> {
        self.0.as_ref()?.unique.as_deref()
    }

    /// Whose it is, once it exists.
    #[must_use]
    pub fn team(&self) -> Option<TeamId> {
        self.0.as_ref().map(|life| life.team_id)
    }

    pub(crate) fn decide(&self, command: JobCommand) -> Decision {
        let life = match (&self.0, command) {
            (None, JobCommand::Queue(new)) => return Ok(vec![queued(new)]),
            (Some(_), JobCommand::Queue(_)) => return Err(JobError::AlreadyExists),
            (None, _) => return Err(JobError::NotFound),
            (Some(life), command) => (life, command),
        };
        match life {
            (life, JobCommand::Start { worker, at }) => life.start(worker, at),
            (life, JobCommand::Finish { attempt, ending, log, at, dice }) => {
                life.finish(attempt, ending, log, at, dice)
            }
            (life, JobCommand::Lose { attempt, at }) => life.lose(attempt, at),
            (life, JobCommand::HandBack { attempt, log, at }) => life.hand_back(attempt, log, at),
            (life, JobCommand::Cancel) => life.cancel(),
            (life, JobCommand::Retry { at }) => life.retry(at),
            (_, JobCommand::Queue(_)) => Err(JobError::AlreadyExists),
        }
    }

    pub(crate) fn evolve(&mut self, event: JobEvent) {
        if let JobEvent::JobQueued {
            team_id,
            kind,
            run_at,
            max_attempts,
            retry_delay_seconds,
            backoff,
            unique,
            ..
        } = event
        {
            self.0 = Some(Life {
                team_id,
                kind,
                status: JobStatus::Pending,
                attempt: 0,
                failures: 0,
                crashes: 0,
                max_attempts,
                retry_delay_seconds,
                backoff,
                due: run_at,
                cancel_requested: false,
                worker: String::new(),
                started_at: None,
                unique,
            });
        } else if let Some(life) = &mut self.0 {
            life.evolve(event);
        }
    }
}

fn queued(new: Queue) -> JobEvent {
    JobEvent::JobQueued {
        team_id: new.team_id,
        kind: new.kind.to_string(),
        args: new.args,
        priority: new.priority,
        run_at: new.run_at,
        max_attempts: new.max_attempts,
        timeout_seconds: new.timeout_seconds,
        retry_delay_seconds: new.retry_delay_seconds,
        backoff: new.backoff,
        concurrency_key: new.concurrency_key.map(|key| key.to_string()),
        concurrency_limit: new.concurrency_limit,
        unique: new.unique,
        schedule_id: new.schedule_id,
    }
}

impl Life {
    fn start(&self, worker: String, at: DateTime<Utc>) -> Decision {
        if self.status != JobStatus::Pending {
            return Err(JobError::NotPending(self.status));
        }
        if at < self.due {
            return Err(JobError::NotDue(self.due));
        }
        Ok(vec![JobEvent::JobStarted { attempt: self.attempt + 1, worker, at: Some(at) }])
    }

    /// Only the attempt that holds the job may end it.
    fn holds(&self, given: u32) -> Result<(), JobError> {
        if self.status == JobStatus::Running && self.attempt == given {
            return Ok(());
        }
        Err(JobError::WrongAttempt { present: self.attempt, given, status: self.status })
    }

    /// Who ran the present attempt, and for how long if it ends now. Clocks may differ: less than nothing is nothing.
    fn ran(&self, now: DateTime<Utc>) -> Option<Ran> {
        let milliseconds = (now - self.started_at?).num_milliseconds();
        Some(Ran {
            worker: self.worker.clone(),
            milliseconds: u64::try_from(milliseconds).unwrap_or_default(),
        })
    }

    fn finish(&self, attempt: u32, ending: Ending, log: LogDigest, at: DateTime<Utc>, dice: f64) -> Decision {
        self.holds(attempt)?;
        let (kind, ran) = (self.kind.clone(), self.ran(at));
        Ok(vec![match ending {
            Ending::Succeeded { result, artifacts } => {
                JobEvent::JobCompleted { attempt, kind, ran, result, artifacts, log }
            }
            // What is being cancelled is not tried again.
            Ending::Cancelled => self.cancelled(attempt, ran, Some(log)),
            Ending::Failed(_) if self.cancel_requested => self.cancelled(attempt, ran, Some(log)),
            Ending::Failed(failure) => self.fail(attempt, failure, log, at, dice),
        }])
    }

    fn fail(&self, attempt: u32, failure: Failure, log: LogDigest, at: DateTime<Utc>, dice: f64) -> JobEvent {
        let Failure { exit_code, error, is_final, retry_after_seconds, result, artifacts } = failure;
        let (kind, ran) = (self.kind.clone(), self.ran(at));
        let reason = if is_final {
            FailureReason::Final
        } else if self.failures + 1 >= self.max_attempts {
            FailureReason::AttemptsExhausted
        } else {
            let pause =
                self.backoff.pause(self.retry_delay_seconds, self.failures, dice, retry_after_seconds);
            let retry_at = at + pause;
            return JobEvent::JobAttemptFailed {
                attempt,
                kind,
                ran,
                exit_code,
                error,
                retry_at,
                result,
                artifacts,
                log,
            };
        };
        JobEvent::JobFailed {
            attempt,
            kind,
            ran,
            exit_code,
            error,
            reason,
            result,
            artifacts,
            log: Some(log),
        }
    }

    fn cancelled(&self, attempt: u32, ran: Option<Ran>, log: Option<LogDigest>) -> JobEvent {
        JobEvent::JobCancelled { attempt, kind: self.kind.clone(), ran, log }
    }

    fn lose(&self, attempt: u32, at: DateTime<Utc>) -> Decision {
        self.holds(attempt)?;
        let (kind, ran) = (self.kind.clone(), self.ran(at));
        let lost = JobEvent::JobLost { attempt, kind: kind.clone(), ran };
        // The attempt's end is told by the loss; what follows is about the job.
        let end = if self.cancel_requested {
            self.cancelled(attempt, None, None)
        } else if self.crashes + 1 >= CRASH_LIMIT {
            JobEvent::JobFailed {
                attempt,
                kind,
                ran: None,
                exit_code: None,
                error: format!("its worker was lost {CRASH_LIMIT} times in a row"),
                reason: FailureReason::CrashLimit,
                result: None,
                artifacts: vec![],
                log: None,
            }
        } else {
            return Ok(vec![lost]);
        };
        Ok(vec![lost, end])
    }

    fn hand_back(&self, attempt: u32, log: LogDigest, at: DateTime<Utc>) -> Decision {
        self.holds(attempt)?;
        let ran = self.ran(at);
        if self.cancel_requested {
            return Ok(vec![self.cancelled(attempt, ran, Some(log))]);
        }
        Ok(vec![JobEvent::JobHandedBack { attempt, kind: self.kind.clone(), ran, log }])
    }

    fn cancel(&self) -> Decision {
        match self.status {
            JobStatus::Pending => Ok(vec![self.cancelled(self.attempt, None, None)]),
            JobStatus::Running if self.cancel_requested => Ok(vec![]),
            JobStatus::Running => Ok(vec![JobEvent::JobCancelRequested {}]),
            JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                Err(JobError::Ended(self.status))
            }
        }
    }

    /// What ended without success begins anew, and what waits stops waiting. What is due already is as it was asked for.
    fn retry(&self, at: DateTime<Utc>) -> Decision {
        match self.status {
            JobStatus::Failed | JobStatus::Cancelled => Ok(vec![JobEvent::JobRetried { run_at: at }]),
            JobStatus::Pending if self.due > at => Ok(vec![JobEvent::JobRetried { run_at: at }]),
            JobStatus::Pending => Ok(vec![]),
            JobStatus::Running | JobStatus::Completed => Err(JobError::NotRetryable(self.status)),
        }
    }

    /// What was started was due. It is so still when it is given back, whatever the clock says by then.
    fn evolve(&mut self, event: JobEvent) {
        match event {
            JobEvent::JobQueued { .. } => {}
            JobEvent::JobStarted { attempt, worker, at } => {
                self.attempt = attempt;
                self.status = JobStatus::Running;
                self.worker = worker;
                self.started_at = at;
                self.unique = None;
            }
            JobEvent::JobCompleted { .. } => self.status = JobStatus::Completed,
            JobEvent::JobAttemptFailed { retry_at, .. } => {
                self.status = JobStatus::Pending;
                self.failures += 1;
                self.crashes = 0;
                self.due = retry_at;
            }
            JobEvent::JobFailed { .. } => self.status = JobStatus::Failed,
            JobEvent::JobLost { .. } => {
                self.status = JobStatus::Pending;
                self.due = DateTime::UNIX_EPOCH;
                self.crashes += 1;
            }
            JobEvent::JobHandedBack { .. } => {
                self.status = JobStatus::Pending;
                self.due = DateTime::UNIX_EPOCH;
                self.crashes = 0;
            }
            JobEvent::JobCancelRequested {} => self.cancel_requested = true,
            JobEvent::JobCancelled { .. } => {
                self.status = JobStatus::Cancelled;
                self.unique = None;
            }
            JobEvent::JobRetried { run_at } => {
                self.status = JobStatus::Pending;
                (self.failures, self.crashes) = (0, 0);
                self.cancel_requested = false;
                self.due = run_at;
            }
        }
    }
}

impl Guarded for Job {
    fn admit(&self, command: &JobCommand, caller: &Caller) -> Result<(), Denied> {
        let owner = self.team();
        match command {
            JobCommand::Queue(new) => caller.require_in(Some(new.team_id), Permission::JobsRun),
            JobCommand::Cancel | JobCommand::Retry { .. } => caller.require_in(owner, Permission::JobsRun),
            JobCommand::Start { .. }
            | JobCommand::Finish { .. }
            | JobCommand::Lose { .. }
            | JobCommand::HandBack { .. } => caller.require_in(owner, Permission::JobsWork),
        }
    }
}

#[cfg(test)]
mod tests;
