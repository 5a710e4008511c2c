use domain::{Backoff, FailureReason, LogDigest};
use serde_json::Map;

use super::*;
use crate::testing::{at, fact, folded, id, team_id};

const KEY: &str = "00000000-0000-0000-0000-000000000001/2026-03-01/k";

fn ran(milliseconds: u64) -> Option<Ran> {
    Some(Ran { worker: "w".into(), milliseconds })
}

/// Events of jobs of team 1, one after the other.
fn facts(events: impl IntoIterator<Item = JobEvent>) -> Vec<Fact> {
    let numbered = (1..).zip(events);
    numbered
        .map(|(n, event)| {
            let mut fact = fact(n, "job", id(7), event);
            fact.team_id = Some(team_id(1));
            fact
        })
        .collect()
}

fn queued() -> JobEvent {
    JobEvent::JobQueued {
        team_id: team_id(1),
        kind: "k".into(),
        args: Map::new(),
        priority: 5,
        run_at: at(1),
        max_attempts: 3,
        timeout_seconds: 1,
        retry_delay_seconds: 1,
        concurrency_key: None,
        backoff: Backoff::default(),
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    }
}

fn completed(kind: &str, milliseconds: u64) -> JobEvent {
    JobEvent::JobCompleted {
        attempt: 1,
        kind: kind.into(),
        ran: ran(milliseconds),
        result: None,
        artifacts: vec![],
        log: LogDigest::default(),
    }
}

fn attempt_failed(milliseconds: u64) -> JobEvent {
    JobEvent::JobAttemptFailed {
        attempt: 1,
        kind: "k".into(),
        ran: ran(milliseconds),
        exit_code: Some(1),
        error: "e".into(),
        retry_at: at(9),
        result: None,
        artifacts: vec![],
        log: LogDigest::default(),
    }
}

fn failed(ran: Option<Ran>, reason: FailureReason) -> JobEvent {
    JobEvent::JobFailed {
        attempt: 1,
        kind: "k".into(),
        ran,
        exit_code: None,
        error: "e".into(),
        reason,
        result: None,
        artifacts: vec![],
        log: None,
    }
}

fn lost() -> JobEvent {
    JobEvent::JobLost { attempt: 1, kind: "k".into(), ran: ran(3) }
}

fn cancelled(ran: Option<Ran>) -> JobEvent {
    JobEvent::JobCancelled { attempt: 1, kind: "k".into(), ran, log: None }
}

#[test]
fn every_end_of_an_attempt_counts_once_under_what_it_led_to() {
    let handed_back =
        JobEvent::JobHandedBack { attempt: 1, kind: "k".into(), ran: ran(1), log: LogDigest::default() };
    let rows = folded::<JobReports>(&facts([
        queued(),
        JobEvent::JobStarted { attempt: 1, worker: "w".into(), at: Some(at(2)) },
        attempt_failed(100),
        handed_back,
        lost(),
        completed("k", 1_000),
        failed(ran(50), FailureReason::AttemptsExhausted),
        JobEvent::JobRetried { run_at: at(3) },
        JobEvent::JobCancelRequested {},
        cancelled(ran(20)),
    ]));
    assert_eq!(rows.keys().collect::<Vec<_>>(), [KEY]);
    let row = &rows[KEY];
    assert_eq!((row.team_id, row.day.as_str(), row.kind.as_str()), (team_id(1), "2026-03-01", "k"));
    let pending = Tally { queued: 1, attempts: 3, retried: 1, lost: 1, handed_back: 1, ..Tally::default() };
    assert_eq!(Tally { durations: Durations::default(), ..row.pending.clone() }, pending);
    assert_eq!((row.completed.completed, row.completed.attempts), (1, 1));
    assert_eq!((row.failed.failed, row.failed.attempts), (1, 1));
    assert_eq!((row.cancelled.cancelled, row.cancelled.attempts), (1, 1));
    let milliseconds = row.completed.durations.quantile(0.5).unwrap_or_default() as f64;
    assert!((milliseconds - 1_000.0).abs() <= 1_000.0 * RELATIVE_ERROR, "{milliseconds}");
}

#[test]
fn a_job_that_ends_without_running_is_no_attempt_and_a_lost_one_is_one_attempt() {
    let rows =
        folded::<JobReports>(&facts([cancelled(None), lost(), failed(None, FailureReason::CrashLimit)]));
    let row = &rows[KEY];
    assert_eq!((row.cancelled.cancelled, row.cancelled.attempts), (1, 0));
    assert_eq!((row.pending.lost, row.pending.attempts), (1, 1));
    assert_eq!((row.failed.failed, row.failed.attempts), (1, 0));
}

#[test]
fn teams_days_and_kinds_have_rows_of_their_own() {
    let mut events = facts([completed("k", 1), completed("other", 1), completed("k", 1), completed("k", 1)]);
    events[2].team_id = Some(team_id(2));
    events[3].at = at(12 * 3_600);
    let rows = folded::<JobReports>(&events);
    let keys: Vec<&str> = rows.keys().map(|key| key.split_once('/').map_or("", |(_, rest)| rest)).collect();
    assert_eq!(keys, ["2026-03-01/k", "2026-03-01/other", "2026-03-02/k", "2026-03-01/k"]);
    assert!(rows.values().all(|row| row.completed.completed == 1));
}

#[test]
fn events_of_the_first_version_are_left_out() {
    let mut events = facts([completed("", 1), queued()]);
    events.iter_mut().for_each(|fact| fact.event_version = "1".into());
    assert!(folded::<JobReports>(&events).is_empty());
}

#[test]
fn what_is_nobodys_is_in_no_row() {
    let mut events = facts([completed("k", 1)]);
    events[0].team_id = None;
    assert!(folded::<JobReports>(&events).is_empty());
}
