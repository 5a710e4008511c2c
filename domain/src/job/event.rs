//! What can happen to a job, and the shapes of it that are stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Backoff;
use crate::event::stored_names;
use crate::{JsonText, ScheduleId, TeamId};

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

/// A file that an attempt left to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its path below the attempt's folder, with `/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
}

/// Who ran an attempt, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// The worker's name.
    pub worker: String,
    /// From the start that was recorded to the end, on the clocks of those who said so.
    pub milliseconds: u64,
}

/// Why a job failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Its last allowed attempt failed.
    AttemptsExhausted,
    /// Three workers in a row died while running it.
    CrashLimit,
    /// It failed in a way that its kind says is of no use to repeat.
    Final,
}

impl FailureReason {
    /// The name used in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::CrashLimit => "crash_limit",
            Self::Final => "final",
        }
    }
}

/// What can happen to a job. Fields that came with a second version have a default, which is what the first one meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum JobEvent {
    /// It is in the queue. `unique` is the claim that keeps others like it out until it starts.
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
        #[serde(default)]
        backoff: Backoff,
        #[serde(default = "one")]
        concurrency_limit: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unique: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schedule_id: Option<ScheduleId>,
    },
    /// A worker runs it.
    JobStarted {
        attempt: u32,
        worker: String,
        #[serde(default)]
        at: Option<DateTime<Utc>>,
    },
    /// It did its work.
    JobCompleted {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
        result: Option<JsonText>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        artifacts: Vec<Artifact>,
        log: LogDigest,
    },
    /// An attempt failed; the next begins no sooner than `retry_at`.
    JobAttemptFailed {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
        exit_code: Option<i32>,
        error: String,
        retry_at: DateTime<Utc>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<JsonText>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        artifacts: Vec<Artifact>,
        log: LogDigest,
    },
    /// It failed for good.
    JobFailed {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
        exit_code: Option<i32>,
        error: String,
        reason: FailureReason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<JsonText>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        artifacts: Vec<Artifact>,
        log: Option<LogDigest>,
    },
    /// Its worker was lost; the next attempt may begin at once.
    JobLost {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
    },
    /// Its worker gave it back; the next attempt may begin at once.
    JobHandedBack {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
        log: LogDigest,
    },
    /// Somebody wants it stopped; its worker has not yet said that it did.
    JobCancelRequested {},
    /// It will not run (any more). `ran` is there if an attempt was stopped for it.
    JobCancelled {
        attempt: u32,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        ran: Option<Ran>,
        log: Option<LogDigest>,
    },
    /// Somebody wants it to be tried (again), no sooner than `run_at`; what failed before does not count any more.
    JobRetried { run_at: DateTime<Utc> },
}

fn one() -> u32 {
    1
}

stored_names!(JobEvent {
    JobQueued: "2" and "1",
    JobStarted: "2" and "1",
    JobCompleted: "2" and "1",
    JobAttemptFailed: "2" and "1",
    JobFailed: "2" and "1",
    JobLost: "2" and "1",
    JobHandedBack: "2" and "1",
    JobCancelRequested: "1",
    JobCancelled: "2" and "1",
    JobRetried: "1",
});
