//! Schedules, by schedule id; also what shows which of them are due.

use chrono::{DateTime, Utc};
use domain::{Event, Plan, ScheduleEvent, TeamId, Timing};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;
use crate::time::{millis, millis_option, to_millis, up_to_millis};
use crate::view::{Owner, StreamView, TeamView, View};

mod list;

pub use list::ScheduleFilter;

/// See the module.
#[derive(Debug)]
pub struct Schedules;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRow {
    /// The schedule's id.
    pub id: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// What is wanted.
    #[serde(flatten)]
    pub plan: Plan,
    /// Whether it rests.
    pub paused: bool,
    /// Whether it is no more.
    pub deleted: bool,
    /// The moment it waits for; none while it rests, and once a single one is over.
    #[serde(with = "millis_option")]
    pub next_run_at: Option<DateTime<Utc>>,
    /// The last moment that led to a job, or should have.
    #[serde(with = "millis_option")]
    pub last_run_at: Option<DateTime<Utc>>,
    /// When that was done.
    #[serde(with = "millis_option")]
    pub last_fired_at: Option<DateTime<Utc>>,
    /// The last job it led to.
    pub last_job_id: Option<String>,
    /// Why the last moment led to no job, if it did not.
    pub last_error: Option<String>,
    /// The last moment that was passed over.
    #[serde(with = "millis_option")]
    pub last_skipped_at: Option<DateTime<Utc>>,
    /// Moments that led to jobs.
    pub fired: u64,
    /// Who made it, as the event's metadata has it.
    pub created_by: String,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

impl View for Schedules {
    const NAME: &'static str = "schedules";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["schedule"];
    const OWNER: Owner = Owner::Team;
    type Row = ScheduleRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           name text collate "C" generated always as (row->>'name') stored,
           deleted boolean generated always as ((row->>'deleted')::boolean) stored,
           due text collate "C" generated always as (row->>'next_run_at') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(team_id, name, key) where not deleted", "(due, key) where due is not null"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Schedule(_) => vec![fact.aggregate_id.clone()],
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<ScheduleRow>, fact: &Fact) -> Option<ScheduleRow> {
        match &fact.event {
            Event::Schedule(event) => {
                let mut row = match created(key, event, fact) {
                    Some(row) => row,
                    None => row?,
                };
                happened(&mut row, event, fact);
                (row.updated_at, row.sequence) = (fact.at, fact.sequence);
                Some(row)
            }
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

impl StreamView for Schedules {
    const STREAM: &'static str = "schedule";
}

impl TeamView for Schedules {
    fn team(row: &ScheduleRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

impl ScheduleRow {
    /// The last moment that was dealt with, in whichever way.
    #[must_use]
    pub fn handled(&self) -> Option<DateTime<Utc>> {
        self.last_run_at.max(self.last_skipped_at)
    }
}

/// The row of a schedule that was just made.
fn created(key: &str, event: &ScheduleEvent, fact: &Fact) -> Option<ScheduleRow> {
    let ScheduleEvent::ScheduleCreated { team_id, plan, next } = event else { return None };
    Some(ScheduleRow {
        id: key.to_owned(),
        team_id: *team_id,
        plan: in_millis(plan),
        paused: false,
        deleted: false,
        next_run_at: Some(up_to_millis(*next)),
        last_run_at: None,
        last_fired_at: None,
        last_job_id: None,
        last_error: None,
        last_skipped_at: None,
        fired: 0,
        created_by: fact.actor.clone(),
        created_at: fact.at,
        updated_at: fact.at,
        sequence: fact.sequence,
    })
}

fn in_millis(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    if let Timing::Once { run_at } = &mut plan.timing {
        *run_at = to_millis(*run_at);
    }
    plan
}

fn happened(row: &mut ScheduleRow, event: &ScheduleEvent, fact: &Fact) {
    match event {
        ScheduleEvent::ScheduleCreated { .. } => {}
        ScheduleEvent::ScheduleAmended { plan, next } => {
            row.plan = in_millis(plan);
            waits(row, *next);
        }
        ScheduleEvent::SchedulePaused {} => (row.paused, row.next_run_at) = (true, None),
        ScheduleEvent::ScheduleResumed { next } => {
            row.paused = false;
            waits(row, *next);
        }
        ScheduleEvent::ScheduleFired { due, job_id, next } => {
            (row.last_run_at, row.last_fired_at) = (Some(to_millis(*due)), Some(fact.at));
            (row.last_job_id, row.last_error) = (Some(job_id.to_string()), None);
            row.fired += 1;
            waits(row, *next);
        }
        ScheduleEvent::ScheduleFailed { due, error, next } => {
            (row.last_run_at, row.last_fired_at) = (Some(to_millis(*due)), Some(fact.at));
            row.last_error = Some(error.clone());
            waits(row, *next);
        }
        ScheduleEvent::ScheduleSkipped { from: _, to, missed: _, next } => {
            row.last_skipped_at = Some(to_millis(*to));
            waits(row, *next);
        }
        ScheduleEvent::ScheduleDeleted {} => (row.deleted, row.next_run_at) = (true, None),
    }
}

fn waits(row: &mut ScheduleRow, next: Option<DateTime<Utc>>) {
    row.next_run_at = next.map(up_to_millis);
}

#[cfg(test)]
mod tests;
