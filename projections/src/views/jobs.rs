//! Jobs, by job id; also the queue (D10). Progress and leases are operational and kept elsewhere.

use chrono::{DateTime, Utc};
use domain::{
    Artifact, Event, FailureReason, JobEvent, JobStatus, JsonText, LogDigest, Ran, ScheduleId, TeamId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fact::Fact;
use crate::time::{millis, millis_option, to_millis, up_to_millis};
use crate::view::{Owner, StreamView, TeamView, View};

mod queue;
pub use queue::{Holder, JobFilter, Line, QueuePlace, Ready, RunningJob};

/// See the module.
#[derive(Debug)]
pub struct Jobs;

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// The job's id.
    pub id: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// What runs.
    pub kind: String,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// Where it stands.
    pub status: JobStatus,
    /// Starts so far.
    pub attempt: u32,
    /// How many failures end it.
    pub max_attempts: u32,
    /// 0 to 9; 9 runs first.
    pub priority: u8,
    /// Not before this moment, as asked.
    #[serde(with = "millis")]
    pub run_at: DateTime<Utc>,
    /// While it is pending: when the next attempt may begin.
    #[serde(with = "millis_option")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// It was due when its last attempt began, and that was taken from it: it is due whatever the database's clock says now.
    #[serde(default)]
    pub was_due: bool,
    /// What its process last said when it ended.
    pub exit_code: Option<i32>,
    /// Why the last attempt did not end well.
    pub error: Option<String>,
    /// The document it left.
    #[serde(default, deserialize_with = "JsonText::from_jsonb")]
    pub result: Option<JsonText>,
    /// Who runs it, or ran it last.
    pub worker: Option<String>,
    /// Who queued it, as the event's metadata has it.
    pub created_by: String,
    /// When it was queued.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When its last attempt began.
    #[serde(with = "millis_option")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended for good.
    #[serde(with = "millis_option")]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// How long one attempt may take.
    pub timeout_seconds: u32,
    /// The pause after the first failure.
    pub retry_delay_seconds: u32,
    /// Jobs of a team with the same key take turns.
    pub concurrency_key: Option<String>,
    /// How many of them may run at once for this one to start.
    pub concurrency_limit: u32,
    /// Whether it keeps others like it out of the queue until it starts.
    pub unique: bool,
    /// What queued it, if no person did.
    pub schedule_id: Option<ScheduleId>,
    /// Why it failed for good.
    pub reason: Option<FailureReason>,
    /// How long its last attempt that ended has run, in milliseconds.
    pub ran_milliseconds: Option<u64>,
    /// The files that its last attempt left.
    pub artifacts: Vec<Artifact>,
    /// Somebody wants it stopped, and it still runs.
    pub cancel_requested: bool,
    /// What the last attempt that ended has logged.
    pub log: Option<LogDigest>,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

impl View for Jobs {
    const NAME: &'static str = "jobs";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["job"];
    const OWNER: Owner = Owner::Team;
    type Row = JobRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           kind text collate "C" generated always as (row->>'kind') stored,
           status text collate "C" generated always as (row->>'status') stored,
           priority integer generated always as ((row->>'priority')::integer) stored,
           due text collate "C" generated always as (
               case when (row->>'was_due')::boolean then '' else row->>'next_attempt_at' end) stored,
           concurrency_key text collate "C" generated always as (row->>'concurrency_key') stored,
           schedule_id text collate "C" generated always as (row->>'schedule_id') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &[
            "(team_id, key)",
            "(team_id, status, key)",
            "(team_id, kind, key)",
            "(team_id, schedule_id, key) where schedule_id is not null",
            "(kind, team_id, priority, num_nulls(concurrency_key), due, key) where status = 'pending'",
            "(kind, team_id, concurrency_key, priority, due, key) where status = 'pending' and concurrency_key is not null",
            "(team_id, concurrency_key, priority, due, key) where status = 'pending' and concurrency_key is not null",
            "(key) where status = 'running'",
            "(team_id, concurrency_key) where status = 'running'",
        ]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Job(_) => vec![fact.aggregate_id.clone()],
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<JobRow>, fact: &Fact) -> Option<JobRow> {
        match &fact.event {
            Event::Job(event) => {
                let mut row = match queued(key, event, fact) {
                    Some(row) => row,
                    None => row?,
                };
                happened(&mut row, event, fact);
                row.updated_at = fact.at;
                row.sequence = fact.sequence;
                Some(row)
            }
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

impl StreamView for Jobs {
    const STREAM: &'static str = "job";
}

impl TeamView for Jobs {
    fn team(row: &JobRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

/// The row of a job that was just queued.
fn queued(key: &str, event: &JobEvent, fact: &Fact) -> Option<JobRow> {
    let JobEvent::JobQueued {
        team_id,
        kind,
        args,
        priority,
        run_at,
        max_attempts,
        timeout_seconds,
        retry_delay_seconds,
        concurrency_key,
        backoff: _,
        concurrency_limit,
        unique,
        schedule_id,
    } = event
    else {
        return None;
    };
    Some(JobRow {
        id: key.to_owned(),
        team_id: *team_id,
        kind: kind.clone(),
        args: args.clone(),
        status: JobStatus::Pending,
        attempt: 0,
        max_attempts: *max_attempts,
        priority: *priority,
        run_at: to_millis(*run_at),
        next_attempt_at: Some(up_to_millis(*run_at)),
        was_due: false,
        exit_code: None,
        error: None,
        result: None,
        worker: None,
        created_by: fact.actor.clone(),
        created_at: fact.at,
        started_at: None,
        finished_at: None,
        updated_at: fact.at,
        timeout_seconds: *timeout_seconds,
        retry_delay_seconds: *retry_delay_seconds,
        concurrency_key: concurrency_key.clone(),
        concurrency_limit: *concurrency_limit,
        unique: unique.is_some(),
        schedule_id: *schedule_id,
        reason: None,
        ran_milliseconds: None,
        artifacts: vec![],
        cancel_requested: false,
        log: None,
        sequence: fact.sequence,
    })
}

fn happened(row: &mut JobRow, event: &JobEvent, fact: &Fact) {
    match event {
        JobEvent::JobQueued { .. } => {}
        JobEvent::JobStarted { attempt, worker, at: _ } => {
            row.status = JobStatus::Running;
            row.attempt = *attempt;
            row.worker = Some(worker.clone());
            row.started_at = Some(fact.at);
            (row.next_attempt_at, row.was_due) = (None, false);
        }
        JobEvent::JobCompleted { attempt: _, kind: _, ran, result, artifacts, log } => {
            (row.exit_code, row.error) = (Some(0), None);
            left(row, ran.as_ref(), result.as_ref(), artifacts);
            ended(row, JobStatus::Completed, Some(log), fact);
        }
        JobEvent::JobAttemptFailed {
            attempt: _,
            kind: _,
            ran,
            exit_code,
            error,
            retry_at,
            result,
            artifacts,
            log,
        } => {
            (row.exit_code, row.error) = (*exit_code, Some(error.clone()));
            left(row, ran.as_ref(), result.as_ref(), artifacts);
            waits(row, up_to_millis(*retry_at), Some(log));
        }
        JobEvent::JobFailed {
            attempt: _,
            kind: _,
            ran,
            exit_code,
            error,
            reason,
            result,
            artifacts,
            log,
        } => {
            (row.exit_code, row.error) = (*exit_code, Some(error.clone()));
            row.reason = Some(*reason);
            // Without a log it is not an attempt's own end.
            if log.is_some() {
                left(row, ran.as_ref(), result.as_ref(), artifacts);
            }
            ended(row, JobStatus::Failed, log.as_ref(), fact);
        }
        JobEvent::JobLost { attempt: _, kind: _, ran } => {
            (row.exit_code, row.error) = (None, Some("its worker was lost".to_owned()));
            ran_for(row, ran.as_ref());
            waits(row, fact.at, None);
            row.was_due = true;
        }
        JobEvent::JobHandedBack { attempt: _, kind: _, ran, log } => {
            ran_for(row, ran.as_ref());
            waits(row, fact.at, Some(log));
            row.was_due = true;
        }
        JobEvent::JobCancelRequested {} => row.cancel_requested = true,
        JobEvent::JobCancelled { attempt: _, kind: _, ran, log } => {
            ran_for(row, ran.as_ref());
            ended(row, JobStatus::Cancelled, log.as_ref(), fact);
        }
        JobEvent::JobRetried { run_at } => {
            row.status = JobStatus::Pending;
            (row.next_attempt_at, row.was_due) = (Some(up_to_millis(*run_at)), false);
            (row.finished_at, row.reason) = (None, None);
        }
    }
}

/// How long the attempt took that is over; what ended without one leaves that as it is.
fn ran_for(row: &mut JobRow, ran: Option<&Ran>) {
    if let Some(ran) = ran {
        row.ran_milliseconds = Some(ran.milliseconds);
    }
}

/// An attempt that came to its own end stands for the job, with what it left or did not.
fn left(row: &mut JobRow, ran: Option<&Ran>, result: Option<&JsonText>, artifacts: &[Artifact]) {
    ran_for(row, ran);
    row.result = result.cloned();
    row.artifacts = artifacts.to_vec();
}

fn waits(row: &mut JobRow, until: DateTime<Utc>, log: Option<&LogDigest>) {
    row.status = JobStatus::Pending;
    row.was_due = false;
    row.next_attempt_at = Some(until);
    row.log = log.cloned();
}

fn ended(row: &mut JobRow, status: JobStatus, log: Option<&LogDigest>, fact: &Fact) {
    row.status = status;
    (row.next_attempt_at, row.was_due) = (None, false);
    row.finished_at = Some(fact.at);
    row.cancel_requested = false;
    // A job that is lost or cancelled leaves what its last attempt had logged before.
    row.log = log.cloned().or(row.log.take());
}

#[cfg(test)]
mod tests;
