//! What became of jobs: one row for a team, a day (UTC) and a kind, with counters and how long attempts took
//! (`<team>/<day>/<kind>`).
//!
//! A day has what was recorded on it: a job that is queued before midnight and ends after it counts on both. Events of the first version
//! do not say of which kind the job was that ended, and are left out.

mod durations;
mod report;

use chrono::{DateTime, Utc};
use domain::{Event, JobEvent, Ran, TeamId};
use serde::{Deserialize, Serialize};

pub use durations::{Durations, RELATIVE_ERROR};
pub use report::{JobReport, JobReportFilter, JobReportGroup, ReportGrouping};

use crate::fact::Fact;
use crate::time;
use crate::view::{Owner, TeamView, View};

/// See the module.
#[derive(Debug)]
pub struct JobReports;

/// A team's jobs of one kind on one day, by how they stood after what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobReportRow {
    /// Whose.
    pub team_id: TeamId,
    /// The day, such as `2026-03-01`.
    pub day: String,
    /// What ran.
    pub kind: String,
    /// What put jobs into the queue: first, or after an attempt.
    pub pending: Tally,
    /// Jobs that did their work.
    pub completed: Tally,
    /// Jobs that failed for good.
    pub failed: Tally,
    /// Jobs that nobody wanted any more.
    pub cancelled: Tally,
}

/// How often what happened. Nothing of a row's size but the durations grows with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Jobs that were queued.
    #[serde(skip_serializing_if = "is_zero")]
    pub queued: u64,
    /// Jobs that did their work.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
    /// Jobs that failed for good.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Jobs that were cancelled.
    #[serde(skip_serializing_if = "is_zero")]
    pub cancelled: u64,
    /// Attempts that ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u64,
    /// Attempts that failed and were to be followed by another.
    #[serde(skip_serializing_if = "is_zero")]
    pub retried: u64,
    /// Attempts whose worker was lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Attempts that their worker gave back.
    #[serde(skip_serializing_if = "is_zero")]
    pub handed_back: u64,
    /// How long attempts took.
    #[serde(skip_serializing_if = "Durations::is_empty")]
    pub durations: Durations,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// An attempt that is over.
    fn ran(&mut self, ran: Option<&Ran>) {
        if let Some(ran) = ran {
            self.attempts += 1;
            self.durations.add(ran.milliseconds);
        }
    }

    /// What both have counted.
    pub fn merge(&mut self, other: &Self) {
        self.queued += other.queued;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.attempts += other.attempts;
        self.retried += other.retried;
        self.lost += other.lost;
        self.handed_back += other.handed_back;
        self.durations.merge(&other.durations);
    }
}

impl View for JobReports {
    const NAME: &'static str = "job_reports";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["job"];
    const CACHED: bool = false;
    const TRAILING: bool = true;
    const OWNER: Owner = Owner::Team;
    type Row = JobReportRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           day text collate "C" generated always as (row->>'day') stored,
           kind text collate "C" generated always as (row->>'kind') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(team_id, day, kind)"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        counted(fact).map(|(team, kind)| format!("{team}/{}/{kind}", day(fact.at))).into_iter().collect()
    }

    fn fold(_: &str, row: Option<JobReportRow>, fact: &Fact) -> Option<JobReportRow> {
        let Some((team_id, kind)) = counted(fact) else { return row };
        let mut row = row.unwrap_or_else(|| JobReportRow {
            team_id,
            day: day(fact.at),
            kind: kind.to_owned(),
            pending: Tally::default(),
            completed: Tally::default(),
            failed: Tally::default(),
            cancelled: Tally::default(),
        });
        match &fact.event {
            Event::Job(event) => count(&mut row, event),
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Access(_)
            | Event::Claim(_)
            | Event::Schedule(_) => {}
        }
        Some(row)
    }
}

impl TeamView for JobReports {
    fn team(row: &JobReportRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

/// The day of `at`.
pub(super) fn day(at: DateTime<Utc>) -> String {
    let mut text = time::text(at);
    text.truncate("2026-03-01".len());
    text
}

/// The team and the kind under which it counts.
fn counted(fact: &Fact) -> Option<(TeamId, &str)> {
    let (team, kind) = match &fact.event {
        Event::Job(event) => match event {
            JobEvent::JobQueued { team_id, kind, .. } => (Some(*team_id), kind),
            JobEvent::JobCompleted { kind, .. }
            | JobEvent::JobAttemptFailed { kind, .. }
            | JobEvent::JobFailed { kind, .. }
            | JobEvent::JobLost { kind, .. }
            | JobEvent::JobHandedBack { kind, .. }
            | JobEvent::JobCancelled { kind, .. } => (fact.team(), kind),
            JobEvent::JobStarted { .. } | JobEvent::JobCancelRequested {} | JobEvent::JobRetried { .. } => {
                return None;
            }
        },
        Event::User(_)
        | Event::Team(_)
        | Event::Secret(_)
        | Event::Access(_)
        | Event::Claim(_)
        | Event::Schedule(_) => {
            return None;
        }
    };
    Some((team?, kind.as_str())).filter(|_| fact.event_version != "1")
}

fn count(row: &mut JobReportRow, event: &JobEvent) {
    match event {
        JobEvent::JobQueued { .. } => row.pending.queued += 1,
        JobEvent::JobCompleted { ran, .. } => {
            row.completed.completed += 1;
            row.completed.ran(ran.as_ref());
        }
        JobEvent::JobAttemptFailed { ran, .. } => {
            row.pending.retried += 1;
            row.pending.ran(ran.as_ref());
        }
        JobEvent::JobFailed { ran, .. } => {
            row.failed.failed += 1;
            row.failed.ran(ran.as_ref());
        }
        // What it then means to the job is an event of its own.
        JobEvent::JobLost { ran, .. } => {
            row.pending.lost += 1;
            row.pending.ran(ran.as_ref());
        }
        JobEvent::JobHandedBack { ran, .. } => {
            row.pending.handed_back += 1;
            row.pending.ran(ran.as_ref());
        }
        JobEvent::JobCancelled { ran, .. } => {
            row.cancelled.cancelled += 1;
            row.cancelled.ran(ran.as_ref());
        }
        JobEvent::JobStarted { .. } | JobEvent::JobCancelRequested {} | JobEvent::JobRetried { .. } => {}
    }
}

#[cfg(test)]
mod tests;
