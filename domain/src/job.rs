//! A job: something a team asked to be run, through all its attempts (D10).
//!
//! `attempt` counts starts and is the fence: attempt n may only be ended by attempt n. What a job may fail is counted apart
//! (`failures` against `max_attempts`), so an attempt that was handed back or whose worker died costs nothing of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{aggregate, stored_names};
use crate::{Caller, ConcurrencyKey, Denied, Guarded, KindName, Permission, Refusal, RefusalKind, TeamId};

/// After this many lost workers in a row the job itself is taken to be what kills them.
const CRASH_LIMIT: u32 = 3;
/// The longest pause between two attempts.
const LONGEST_RETRY_DELAY_SECONDS: u32 = 3_600;

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
    /// The pause after the first failure; it doubles with each further one, up to an hour.
    pub retry_delay_seconds: u32,
    /// Jobs with the same key take turns.
    pub concurrency_key: Option<ConcurrencyKey>,
}

/// What an attempt left in the log store beside the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDigest {
    /// Lines stored for this attempt.
    pub lines: u64,
    /// Lines dropped because of the limit.
    pub dropped: u64,
    /// SHA-256 over the stored lines, in hex.
    pub sha256: String,
}

/// How an attempt ended, as its worker saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The process did its work.
    Succeeded {
        /// The document it left.
        result: Option<Value>,
    },
    /// It did not.
    Failed {
        /// What it said, if it ended by itself.
        exit_code: Option<i32>,
        /// A sentence for people.
        error: String,
    },
    /// It was stopped because somebody cancelled the job.
    Cancelled,
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
    },
    /// Somebody does not want it any more.
    Cancel,
}

/// Why a job failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Its last allowed attempt failed.
    AttemptsExhausted,
    /// Three workers in a row died while running it.
    CrashLimit,
}

/// What can happen to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum JobEvent {
    /// It is in the queue.
    JobQueued {
        team_id: TeamId,
        kind: String,
        args: Map<String, Value>,
        priority: u8,
        run_at: DateTime<Utc>,
        max_attempts: u32,
        timeout_seconds: u32,
        retry_delay_seconds: u32,
        concurrency_key: Option<String>,
    },
    /// A worker runs it.
    JobStarted { attempt: u32, worker: String },
    /// It did its work.
    JobCompleted { attempt: u32, result: Option<Value>, log: LogDigest },
    /// An attempt failed; the next begins no sooner than `retry_at`.
    JobAttemptFailed {
        attempt: u32,
        exit_code: Option<i32>,
        error: String,
        retry_at: DateTime<Utc>,
        log: LogDigest,
    },
    /// It failed for good.
    JobFailed {
        attempt: u32,
        exit_code: Option<i32>,
        error: String,
        reason: FailureReason,
        log: Option<LogDigest>,
    },
    /// Its worker was lost; the next attempt may begin at once.
    JobLost { attempt: u32 },
    /// Its worker gave it back; the next attempt may begin at once.
    JobHandedBack { attempt: u32, log: LogDigest },
    /// Somebody wants it stopped; its worker has not yet said that it did.
    JobCancelRequested {},
    /// It will not run (any more).
    JobCancelled { attempt: u32, log: Option<LogDigest> },
}

stored_names!(JobEvent {
    JobQueued: "1",
    JobStarted: "1",
    JobCompleted: "1",
    JobAttemptFailed: "1",
    JobFailed: "1",
    JobLost: "1",
    JobHandedBack: "1",
    JobCancelRequested: "1",
    JobCancelled: "1",
});

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

    /// Whether nothing can happen to the job any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("there is no such job")]
    NotFound,
    /// The id is taken.
    #[error("this job exists already")]
    AlreadyExists,
    /// It cannot be started as it stands.
    #[error("the job is {} and cannot be started", .0.as_str())]
    NotPending(JobStatus),
    /// It cannot be started before its time.
    #[error("the job is not due before {0}")]
    NotDue(DateTime<Utc>),
    /// It ended before.
    #[error("the job is {} already", .0.as_str())]
    Ended(JobStatus),
    /// Another attempt has taken over.
    #[error("attempt {given} does not hold the job any more (present attempt: {present}, {})", .status.as_str())]
    WrongAttempt {
        /// The attempt that holds it, or held it last.
        present: u32,
        /// The attempt that asked.
        given: u32,
        /// Where the job stands.
        status: JobStatus,
    },
}

impl Refusal for JobError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::AlreadyExists
            | Self::NotPending(_)
            | Self::NotDue(_)
            | Self::Ended(_)
            | Self::WrongAttempt { .. } => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "job_not_found",
            Self::AlreadyExists => "job_exists",
            Self::NotPending(_) => "job_not_pending",
            Self::NotDue(_) => "job_not_due",
            Self::Ended(_) => "job_ended",
            Self::WrongAttempt { .. } => "wrong_attempt",
        }
    }
}

/// What the rules need to know of a job that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Life {
    team_id: TeamId,
    status: JobStatus,
    attempt: u32,
    failures: u32,
    /// Workers lost in a row.
    crashes: u32,
    max_attempts: u32,
    retry_delay_seconds: u32,
    due: DateTime<Utc>,
    cancel_requested: bool,
}

/// A job; nothing before it was queued.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job(Option<Life>);

aggregate!(Job, "job", JobCommand, JobEvent, JobError);

type Decision = Result<Vec<JobEvent>, JobError>;

impl Job {
    pub(crate) fn decide(&self, command: JobCommand) -> Decision {
        let life = match (&self.0, command) {
            (None, JobCommand::Queue(new)) => return Ok(vec![queued(new)]),
            (Some(_), JobCommand::Queue(_)) => return Err(JobError::AlreadyExists),
            (None, _) => return Err(JobError::NotFound),
            (Some(life), command) => (life, command),
        };
        match life {
            (life, JobCommand::Start { worker, at }) => life.start(worker, at),
            (life, JobCommand::Finish { attempt, ending, log, at }) => life.finish(attempt, ending, log, at),
            (life, JobCommand::Lose { attempt, at: _ }) => life.lose(attempt),
            (life, JobCommand::HandBack { attempt, log }) => life.hand_back(attempt, log),
            (life, JobCommand::Cancel) => life.cancel(),
            (_, JobCommand::Queue(_)) => Err(JobError::AlreadyExists),
        }
    }

    pub(crate) fn evolve(&mut self, event: JobEvent) {
        if let JobEvent::JobQueued { team_id, run_at, max_attempts, retry_delay_seconds, .. } = event {
            self.0 = Some(Life {
                team_id,
                status: JobStatus::Pending,
                attempt: 0,
                failures: 0,
                crashes: 0,
                max_attempts,
                retry_delay_seconds,
                due: run_at,
                cancel_requested: false,
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
        concurrency_key: new.concurrency_key.map(|key| key.to_string()),
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
        Ok(vec![JobEvent::JobStarted { attempt: self.attempt + 1, worker }])
    }

    /// Only the attempt that holds the job may end it.
    fn holds(&self, given: u32) -> Result<(), JobError> {
        if self.status == JobStatus::Running && self.attempt == given {
            return Ok(());
        }
        Err(JobError::WrongAttempt { present: self.attempt, given, status: self.status })
    }

    fn finish(&self, attempt: u32, ending: Ending, log: LogDigest, at: DateTime<Utc>) -> Decision {
        self.holds(attempt)?;
        Ok(vec![match ending {
            Ending::Succeeded { result } => JobEvent::JobCompleted { attempt, result, log },
            Ending::Cancelled => JobEvent::JobCancelled { attempt, log: Some(log) },
            // What is being cancelled is not tried again.
            Ending::Failed { .. } if self.cancel_requested => {
                JobEvent::JobCancelled { attempt, log: Some(log) }
            }
            Ending::Failed { exit_code, error } if self.failures + 1 >= self.max_attempts => {
                JobEvent::JobFailed {
                    attempt,
                    exit_code,
                    error,
                    reason: FailureReason::AttemptsExhausted,
                    log: Some(log),
                }
            }
            Ending::Failed { exit_code, error } => JobEvent::JobAttemptFailed {
                attempt,
                exit_code,
                error,
                retry_at: at + self.retry_delay(),
                log,
            },
        }])
    }

    /// Doubles with each failure so far, up to an hour (or the given delay, where that is longer).
    fn retry_delay(&self) -> TimeDelta {
        let longest = LONGEST_RETRY_DELAY_SECONDS.max(self.retry_delay_seconds);
        let doubled = 2u32.saturating_pow(self.failures).saturating_mul(self.retry_delay_seconds);
        TimeDelta::seconds(i64::from(doubled.min(longest)))
    }

    fn lose(&self, attempt: u32) -> Decision {
        self.holds(attempt)?;
        let lost = JobEvent::JobLost { attempt };
        let end = if self.cancel_requested {
            JobEvent::JobCancelled { attempt, log: None }
        } else if self.crashes + 1 >= CRASH_LIMIT {
            JobEvent::JobFailed {
                attempt,
                exit_code: None,
                error: format!("its worker was lost {CRASH_LIMIT} times in a row"),
                reason: FailureReason::CrashLimit,
                log: None,
            }
        } else {
            return Ok(vec![lost]);
        };
        Ok(vec![lost, end])
    }

    fn hand_back(&self, attempt: u32, log: LogDigest) -> Decision {
        self.holds(attempt)?;
        if self.cancel_requested {
            return Ok(vec![JobEvent::JobCancelled { attempt, log: Some(log) }]);
        }
        Ok(vec![JobEvent::JobHandedBack { attempt, log }])
    }

    fn cancel(&self) -> Decision {
        match self.status {
            JobStatus::Pending => Ok(vec![JobEvent::JobCancelled { attempt: self.attempt, log: None }]),
            JobStatus::Running if self.cancel_requested => Ok(vec![]),
            JobStatus::Running => Ok(vec![JobEvent::JobCancelRequested {}]),
            JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                Err(JobError::Ended(self.status))
            }
        }
    }

    fn evolve(&mut self, event: JobEvent) {
        match event {
            JobEvent::JobQueued { .. } => {}
            JobEvent::JobStarted { attempt, .. } => {
                self.attempt = attempt;
                self.status = JobStatus::Running;
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
                self.crashes += 1;
            }
            JobEvent::JobHandedBack { .. } => {
                self.status = JobStatus::Pending;
                self.crashes = 0;
            }
            JobEvent::JobCancelRequested {} => self.cancel_requested = true,
            JobEvent::JobCancelled { .. } => self.status = JobStatus::Cancelled,
        }
    }
}

impl Guarded for Job {
    fn admit(&self, command: &JobCommand, caller: &Caller) -> Result<(), Denied> {
        let owner = self.0.as_ref().map(|life| life.team_id);
        match command {
            JobCommand::Queue(new) => caller.require_in(Some(new.team_id), Permission::JobsRun),
            JobCommand::Cancel => caller.require_in(owner, Permission::JobsRun),
            JobCommand::Start { .. }
            | JobCommand::Finish { .. }
            | JobCommand::Lose { .. }
            | JobCommand::HandBack { .. } => caller.require_in(owner, Permission::JobsWork),
        }
    }
}

#[cfg(test)]
mod tests;
