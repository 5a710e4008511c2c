#![allow(clippy::unwrap_used)]
use chrono::TimeDelta;
use domain::{Backoff, FailureReason};
use serde_json::json;

use super::*;
use crate::testing::{at, fact, folded, id, team_id};

fn digest(lines: u64) -> LogDigest {
    LogDigest { lines, dropped: 0, sha256: "00".into() }
}

fn queued_event() -> JobEvent {
    JobEvent::JobQueued {
        team_id: team_id(100),
        kind: "report".into(),
        args: json!({ "day": "2026-03-01" }).as_object().unwrap().clone(),
        priority: 5,
        run_at: at(50) + TimeDelta::microseconds(1),
        max_attempts: 3,
        timeout_seconds: 900,
        retry_delay_seconds: 60,
        concurrency_key: Some("k".into()),
        backoff: Backoff::default(),
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    }
}

/// The row after the job was queued (event 1) and these (from event 2).
fn after(events: impl IntoIterator<Item = JobEvent>) -> JobRow {
    let events = std::iter::once(queued_event()).chain(events);
    let facts: Vec<Fact> = (1..).zip(events).map(|(n, event)| fact(n, "job", id(7), event)).collect();
    folded::<Jobs>(&facts).remove(&id(7)).unwrap()
}

fn started(attempt: u32) -> JobEvent {
    JobEvent::JobStarted { attempt, worker: "w1".into(), at: Some(at(2)) }
}

fn ran() -> Option<Ran> {
    Some(Ran { worker: "w1".into(), milliseconds: 1_500 })
}

fn attempt_failed() -> JobEvent {
    JobEvent::JobAttemptFailed {
        attempt: 1,
        kind: "report".into(),
        ran: ran(),
        exit_code: Some(3),
        error: "it said 3".into(),
        retry_at: at(80),
        result: None,
        artifacts: vec![],
        log: digest(4),
    }
}

#[test]
fn a_queued_job_waits_for_its_time_and_never_begins_before_it() {
    let row = after([]);
    assert_eq!(row.status, JobStatus::Pending);
    assert_eq!(row.run_at, at(50));
    assert_eq!(row.next_attempt_at, Some(at(50) + TimeDelta::milliseconds(1)));
    assert_eq!((row.attempt, row.sequence, row.created_at), (0, 1, at(1)));
}

#[test]
fn a_started_job_is_its_workers() {
    let row = after([started(1)]);
    assert_eq!((row.status, row.attempt, row.worker.as_deref()), (JobStatus::Running, 1, Some("w1")));
    assert_eq!((row.started_at, row.next_attempt_at), (Some(at(2)), None));
}

#[test]
fn a_completed_job_has_its_result_and_no_error() {
    let done = JobEvent::JobCompleted {
        attempt: 2,
        kind: "report".into(),
        ran: ran(),
        result: Some(json!([1]).into()),
        artifacts: vec![],
        log: digest(9),
    };
    let row = after([started(1), attempt_failed(), started(2), done]);
    assert_eq!((row.status, row.exit_code, row.error), (JobStatus::Completed, Some(0), None));
    assert_eq!((row.result, row.log), (Some(json!([1]).into()), Some(digest(9))));
    assert_eq!((row.finished_at, row.sequence), (Some(at(5)), 5));
}

#[test]
fn a_failed_attempt_waits_for_the_next() {
    let row = after([started(1), attempt_failed()]);
    assert_eq!((row.status, row.next_attempt_at), (JobStatus::Pending, Some(at(80))));
    assert_eq!((row.exit_code, row.error.as_deref()), (Some(3), Some("it said 3")));
    assert_eq!((row.finished_at, row.log), (None, Some(digest(4))));
}

#[test]
fn a_job_that_failed_for_good_says_why() {
    let failed = JobEvent::JobFailed {
        attempt: 1,
        kind: "report".into(),
        ran: ran(),
        exit_code: None,
        error: "too long".into(),
        reason: FailureReason::AttemptsExhausted,
        result: None,
        artifacts: vec![],
        log: Some(digest(1)),
    };
    let row = after([started(1), failed]);
    assert_eq!((row.status, row.error.as_deref()), (JobStatus::Failed, Some("too long")));
    assert_eq!((row.finished_at, row.reason), (Some(at(3)), Some(FailureReason::AttemptsExhausted)));
    assert_eq!(row.ran_milliseconds, Some(1_500));
}

#[test]
fn lost_and_handed_back_jobs_wait_again_at_once() {
    let lost = after([started(1), JobEvent::JobLost { attempt: 1, kind: "report".into(), ran: ran() }]);
    assert_eq!((lost.status, lost.next_attempt_at), (JobStatus::Pending, Some(at(3))));
    assert_eq!((lost.error.as_deref(), lost.was_due), (Some("its worker was lost"), true));
    let back = after([
        started(1),
        JobEvent::JobHandedBack { attempt: 1, kind: "report".into(), ran: None, log: digest(1) },
    ]);
    assert_eq!((back.status, back.next_attempt_at, back.error), (JobStatus::Pending, Some(at(3)), None));
    assert!(back.was_due);
    let again =
        after([started(1), JobEvent::JobLost { attempt: 1, kind: "report".into(), ran: ran() }, started(2)]);
    assert_eq!((again.next_attempt_at, again.was_due), (None, false));
}

#[test]
fn cancelling_is_asked_for_and_then_done() {
    let asked = after([started(1), JobEvent::JobCancelRequested {}]);
    assert_eq!((asked.status, asked.cancel_requested), (JobStatus::Running, true));
    let cancelled =
        JobEvent::JobCancelled { attempt: 1, kind: "report".into(), ran: ran(), log: Some(digest(2)) };
    let done = after([started(1), JobEvent::JobCancelRequested {}, cancelled]);
    assert_eq!((done.status, done.cancel_requested), (JobStatus::Cancelled, false));
    assert_eq!((done.finished_at, done.log), (Some(at(4)), Some(digest(2))));
}

#[test]
fn what_was_never_queued_has_no_row() {
    assert_eq!(folded::<Jobs>(&[fact(2, "job", id(7), started(1))]), [].into());
}

#[test]
fn a_job_that_is_tried_anew_waits_again() {
    let failed = JobEvent::JobFailed {
        attempt: 1,
        kind: "report".into(),
        ran: ran(),
        exit_code: Some(2),
        error: "no".into(),
        reason: FailureReason::Final,
        result: Some(json!({"why": "no"}).into()),
        artifacts: vec![],
        log: Some(digest(1)),
    };
    let row = after([started(1), failed, JobEvent::JobRetried { run_at: at(90) }]);
    assert_eq!((row.status, row.next_attempt_at), (JobStatus::Pending, Some(at(90))));
    assert_eq!((row.finished_at, row.reason), (None, None));
    assert_eq!(
        (row.exit_code, row.result),
        (Some(2), Some(json!({"why": "no"}).into())),
        "the last attempt's"
    );
}
