//! Jobs as they are asked for and shown.

use chrono::{DateTime, Utc};
use commands::jobs::JobRequest;
use domain::{JobStatus, JsonText};
use projections::JobRow;
use projections::time::text as time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::waiting::WaitingBody;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobBody {
    /// The job's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// What runs.
    pub kind: String,
    /// Its arguments.
    #[schema(value_type = Object)]
    pub args: Map<String, Value>,
    /// pending, running, completed, failed or cancelled.
    pub status: String,
    /// How often it was started.
    pub attempt: u32,
    /// How many failures end it.
    pub max_attempts: u32,
    /// 0 to 9; 9 runs first.
    pub priority: u8,
    /// Not before this moment.
    pub run_at: String,
    /// When it is tried next, while it waits.
    pub next_attempt_at: Option<String>,
    /// How far the running attempt says it is, 0 to 1.
    pub progress: Option<f64>,
    /// What the last attempt's process ended with.
    pub exit_code: Option<i32>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// The document it left.
    #[schema(value_type = Option<Object>)]
    pub result: Option<JsonText>,
    /// Who runs it, or ran it last.
    pub worker: Option<String>,
    /// Why it failed for good: attempts_exhausted, final (its kind says that another try is of no use) or crash_limit (its workers
    /// were lost three times in a row).
    pub reason: Option<String>,
    /// Jobs of the team with the same key take turns.
    pub concurrency_key: Option<String>,
    /// How many of them may run at once for this one to start.
    pub concurrency_limit: u32,
    /// Whether no other job like it is queued before it starts.
    pub unique: bool,
    /// The schedule that queued it.
    #[schema(format = "uuid")]
    pub schedule_id: Option<String>,
    /// How long its last attempt that ended has run, in milliseconds.
    pub ran_milliseconds: Option<u64>,
    /// What it waits for, while it is pending. Of single jobs only.
    pub waiting: Option<WaitingBody>,
    /// How long an attempt may take.
    pub timeout_seconds: u32,
    /// Whether somebody asked for its end and its worker has not yet said that it did.
    pub cancel_requested: bool,
    /// Who asked for it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// When the last attempt began.
    pub started_at: Option<String>,
    /// When it ended for good.
    pub finished_at: Option<String>,
}

/// A job to be queued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "http-check", "args": {"url": "http://127.0.0.1:8080/livez"}}))]
pub struct QueueBody {
    /// What runs: one of `GET /api/jobs/kinds`.
    pub kind: String,
    /// Its arguments.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub args: Map<String, Value>,
    /// 0 to 9 (5); 9 runs first.
    #[serde(default)]
    pub priority: Option<u8>,
    /// Not before this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    pub run_at: Option<DateTime<Utc>>,
    /// How many failures end it, 1 to 100.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// How long an attempt may take, 1 to 86400.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
    /// Jobs of the team with the same key take turns.
    #[serde(default)]
    pub concurrency_key: Option<String>,
    /// Only one job of the kind with this key waits at a time, 1 to 200 characters.
    #[serde(default)]
    pub unique_key: Option<String>,
}

impl QueueBody {
    /// What is asked for.
    pub(crate) fn request(self) -> JobRequest {
        JobRequest {
            kind: self.kind,
            args: self.args,
            priority: self.priority,
            run_at: self.run_at,
            max_attempts: self.max_attempts,
            timeout_seconds: self.timeout_seconds,
            concurrency_key: self.concurrency_key,
            unique_key: self.unique_key,
            schedule_id: None,
        }
    }
}

/// A job as it is shown; `progress` is what its running attempt says.
pub(crate) fn body_of(row: &JobRow, progress: Option<f64>) -> JobBody {
    JobBody {
        id: row.id.clone(),
        kind: row.kind.clone(),
        args: row.args.clone(),
        status: row.status.as_str().to_owned(),
        attempt: row.attempt,
        max_attempts: row.max_attempts,
        priority: row.priority,
        run_at: time(row.run_at),
        next_attempt_at: row.next_attempt_at.map(time),
        // What is done is wholly done, whether or not it said so on the way.
        progress: if row.status == JobStatus::Completed { Some(1.0) } else { progress },
        exit_code: row.exit_code,
        error: row.error.clone(),
        result: row.result.clone(),
        worker: row.worker.clone(),
        reason: row.reason.map(|reason| reason.as_str().to_owned()),
        concurrency_key: row.concurrency_key.clone(),
        concurrency_limit: row.concurrency_limit,
        unique: row.unique,
        schedule_id: row.schedule_id.map(|id| id.to_string()),
        ran_milliseconds: row.ran_milliseconds,
        waiting: None,
        timeout_seconds: row.timeout_seconds,
        cancel_requested: row.cancel_requested,
        created_by: row.created_by.clone(),
        created_at: time(row.created_at),
        started_at: row.started_at.map(time),
        finished_at: row.finished_at.map(time),
    }
}
