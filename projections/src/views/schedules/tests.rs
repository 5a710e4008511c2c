#![allow(clippy::unwrap_used)]
use chrono::TimeDelta;
use domain::JobId;
use uuid::Uuid;

use super::*;
use crate::testing::{at, fact, folded, id, plan, team_id};

/// The row after the schedule was made (event 1, first due at 50) and these (from event 2).
fn after(events: impl IntoIterator<Item = ScheduleEvent>) -> ScheduleRow {
    let created = ScheduleEvent::ScheduleCreated {
        team_id: team_id(100),
        plan: plan(true),
        next: at(50) + TimeDelta::microseconds(1),
    };
    let events = std::iter::once(created).chain(events);
    let facts: Vec<Fact> = (1..).zip(events).map(|(n, event)| fact(n, "schedule", id(7), event)).collect();
    folded::<Schedules>(&facts).remove(&id(7)).unwrap()
}

fn fired(n: u128, due: i64, next: i64) -> ScheduleEvent {
    ScheduleEvent::ScheduleFired { due: at(due), job_id: JobId(Uuid::from_u128(n)), next: Some(at(next)) }
}

fn failed() -> ScheduleEvent {
    ScheduleEvent::ScheduleFailed { due: at(60), error: "there is no such kind".into(), next: Some(at(70)) }
}

#[test]
fn a_new_schedule_waits_for_its_first_moment_and_not_a_bit_earlier() {
    let row = after([]);
    assert_eq!(row.next_run_at, Some(at(50) + TimeDelta::milliseconds(1)));
    assert_eq!(row.plan.timing, Timing::Once { run_at: at(40) }, "in milliseconds");
    assert_eq!((row.team_id, row.fired, row.last_job_id, row.sequence), (team_id(100), 0, None, 1));
}

#[test]
fn a_firing_says_for_which_moment_and_with_which_job() {
    let row = after([fired(8, 50, 60)]);
    assert_eq!((row.last_run_at, row.last_fired_at), (Some(at(50)), Some(at(2))));
    assert_eq!((row.last_job_id, row.next_run_at, row.fired), (Some(id(8)), Some(at(60)), 1));
}

#[test]
fn a_failure_is_seen_until_it_works_again() {
    let row = after([fired(8, 50, 60), failed()]);
    assert_eq!(row.last_error.as_deref(), Some("there is no such kind"));
    assert_eq!((row.last_job_id, row.last_run_at, row.fired), (Some(id(8)), Some(at(60)), 1));
    assert_eq!(after([failed(), fired(8, 70, 80)]).last_error, None);
}

#[test]
fn what_is_passed_over_is_no_run() {
    let row =
        after([ScheduleEvent::ScheduleSkipped { from: at(50), to: at(55), missed: 2, next: Some(at(60)) }]);
    assert_eq!((row.last_skipped_at, row.last_run_at, row.next_run_at), (Some(at(55)), None, Some(at(60))));
}

#[test]
fn who_rests_or_is_no_more_waits_for_nothing() {
    let paused = after([ScheduleEvent::SchedulePaused {}]);
    assert_eq!((paused.paused, paused.next_run_at), (true, None));
    let resumed =
        after([ScheduleEvent::SchedulePaused {}, ScheduleEvent::ScheduleResumed { next: Some(at(90)) }]);
    assert_eq!((resumed.paused, resumed.next_run_at), (false, Some(at(90))));
    let deleted = after([ScheduleEvent::ScheduleDeleted {}]);
    assert_eq!((deleted.deleted, deleted.next_run_at), (true, None));
}

#[test]
fn an_amendment_replaces_all_that_is_wanted() {
    let row = after([ScheduleEvent::ScheduleAmended { plan: plan(false), next: Some(at(99)) }]);
    assert_eq!((row.plan, row.next_run_at), (plan(false), Some(at(99))));
}
