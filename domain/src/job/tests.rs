#![allow(clippy::unwrap_used)]
use uuid::Uuid;

use super::*;
use crate::event::testing::given;
use crate::{Actor, Role};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn team() -> TeamId {
    TeamId(Uuid::from_u128(1))
}

fn log() -> LogDigest {
    LogDigest { lines: 2, dropped: 0, sha256: "ab".into() }
}

fn queue() -> Queue {
    Queue {
        team_id: team(),
        kind: KindName::parse("nightly-report").unwrap(),
        args: Map::new(),
        priority: 5,
        run_at: at(0),
        max_attempts: 2,
        timeout_seconds: 60,
        retry_delay_seconds: 10,
        concurrency_key: None,
    }
}

fn queued_event() -> JobEvent {
    queued(queue())
}

fn started(attempt: u32) -> JobEvent {
    JobEvent::JobStarted { attempt, worker: "w".into() }
}

fn start(seconds: i64) -> JobCommand {
    JobCommand::Start { worker: "w".into(), at: at(seconds) }
}

fn finish(attempt: u32, ending: Ending) -> JobCommand {
    JobCommand::Finish { attempt, ending, log: log(), at: at(100) }
}

fn failed() -> Ending {
    Ending::Failed { exit_code: Some(1), error: "exit code 1".into() }
}

fn attempt_failed(attempt: u32, retry_seconds: i64) -> JobEvent {
    JobEvent::JobAttemptFailed {
        attempt,
        exit_code: Some(1),
        error: "exit code 1".into(),
        retry_at: at(retry_seconds),
        log: log(),
    }
}

fn lost(attempt: u32) -> JobEvent {
    JobEvent::JobLost { attempt }
}

#[test]
fn a_job_is_queued_once() {
    assert_eq!(given::<Job>([]).decide(JobCommand::Queue(queue())), Ok(vec![queued_event()]));
    assert_eq!(
        given::<Job>([queued_event()]).decide(JobCommand::Queue(queue())),
        Err(JobError::AlreadyExists)
    );
}

#[test]
fn a_worker_starts_what_is_due() {
    assert_eq!(given::<Job>([queued_event()]).decide(start(0)), Ok(vec![started(1)]));
    assert_eq!(given::<Job>([queued_event()]).decide(start(-1)), Err(JobError::NotDue(at(0))));
}

#[test]
fn two_workers_do_not_start_the_same_job() {
    assert_eq!(
        given::<Job>([queued_event(), started(1)]).decide(start(1)),
        Err(JobError::NotPending(JobStatus::Running))
    );
}

#[test]
fn success_completes_with_the_result() {
    let result = Some(serde_json::json!({"rows": 3}));
    assert_eq!(
        given::<Job>([queued_event(), started(1)])
            .decide(finish(1, Ending::Succeeded { result: result.clone() })),
        Ok(vec![JobEvent::JobCompleted { attempt: 1, result, log: log() }])
    );
}

#[test]
fn a_failure_is_tried_again_after_a_pause() {
    let job = given::<Job>([queued_event(), started(1)]);
    assert_eq!(job.decide(finish(1, failed())), Ok(vec![attempt_failed(1, 110)]));

    let waiting = given::<Job>([queued_event(), started(1), attempt_failed(1, 110)]);
    assert_eq!(waiting.decide(start(109)), Err(JobError::NotDue(at(110))));
    assert_eq!(waiting.decide(start(110)), Ok(vec![started(2)]));
}

#[test]
fn the_pause_doubles_and_has_a_limit() {
    let mut new = queue();
    new.max_attempts = 100;
    let mut job = given::<Job>([queued(new)]);
    let mut pauses = vec![];
    for attempt in 1..=40 {
        job.evolve(started(attempt));
        let decided = job.decide(finish(attempt, failed())).unwrap().remove(0);
        let JobEvent::JobAttemptFailed { retry_at, .. } = &decided else { unreachable!("{decided:?}") };
        pauses.push((*retry_at - at(100)).num_seconds());
        job.evolve(decided);
    }
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert_eq!(pauses.last(), Some(&3600));
}

#[test]
fn the_last_failure_is_final() {
    let job = given::<Job>([queued_event(), started(1), attempt_failed(1, 110), started(2)]);
    assert_eq!(
        job.decide(finish(2, failed())),
        Ok(vec![JobEvent::JobFailed {
            attempt: 2,
            exit_code: Some(1),
            error: "exit code 1".into(),
            reason: FailureReason::AttemptsExhausted,
            log: Some(log()),
        }])
    );
}

#[test]
fn only_the_attempt_that_holds_the_job_ends_it() {
    let job = given::<Job>([queued_event(), started(1), lost(1), started(2)]);
    let refused = Err(JobError::WrongAttempt { present: 2, given: 1, status: JobStatus::Running });
    assert_eq!(job.decide(finish(1, Ending::Succeeded { result: None })), refused);
    assert_eq!(job.decide(finish(1, failed())), refused);
    assert_eq!(job.decide(JobCommand::Lose { attempt: 1, at: at(1) }), refused);
    assert_eq!(job.decide(JobCommand::HandBack { attempt: 1, log: log() }), refused);
    assert!(job.decide(finish(2, Ending::Succeeded { result: None })).is_ok());
}

#[test]
fn a_late_result_after_the_loss_is_refused_even_before_the_next_start() {
    let job = given::<Job>([queued_event(), started(1), lost(1)]);
    assert_eq!(
        job.decide(finish(1, Ending::Succeeded { result: None })),
        Err(JobError::WrongAttempt { present: 1, given: 1, status: JobStatus::Pending })
    );
}

#[test]
fn a_lost_worker_costs_no_attempt() {
    let job = given::<Job>([queued_event(), started(1), lost(1), started(2)]);
    assert_eq!(job.decide(finish(2, failed())), Ok(vec![attempt_failed(2, 110)]));
}

#[test]
fn the_third_lost_worker_in_a_row_ends_the_job() {
    let twice = [queued_event(), started(1), lost(1), started(2), lost(2), started(3)];
    let decided = given::<Job>(twice).decide(JobCommand::Lose { attempt: 3, at: at(1) }).unwrap();
    assert_eq!(decided[0], lost(3));
    assert!(matches!(decided[1], JobEvent::JobFailed { reason: FailureReason::CrashLimit, .. }));

    let mut new = queue();
    new.max_attempts = 9;
    let not_in_a_row =
        [queued(new), started(1), lost(1), started(2), lost(2), started(3), attempt_failed(3, 0), started(4)];
    assert_eq!(
        given::<Job>(not_in_a_row).decide(JobCommand::Lose { attempt: 4, at: at(1) }),
        Ok(vec![lost(4)])
    );
}

#[test]
fn a_handed_back_job_can_start_at_once_and_costs_no_attempt() {
    let back = JobEvent::JobHandedBack { attempt: 1, log: log() };
    let job = given::<Job>([queued_event(), started(1)]);
    assert_eq!(job.decide(JobCommand::HandBack { attempt: 1, log: log() }), Ok(vec![back.clone()]));
    let again = given::<Job>([queued_event(), started(1), back, started(2)]);
    assert_eq!(again.decide(finish(2, failed())), Ok(vec![attempt_failed(2, 110)]));
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let cancelled = JobEvent::JobCancelled { attempt: 0, log: None };
    assert_eq!(given::<Job>([queued_event()]).decide(JobCommand::Cancel), Ok(vec![cancelled.clone()]));
    let job = given::<Job>([queued_event(), cancelled]);
    assert_eq!(job.decide(JobCommand::Cancel), Err(JobError::Ended(JobStatus::Cancelled)));
    assert_eq!(job.decide(start(0)), Err(JobError::NotPending(JobStatus::Cancelled)));
}

#[test]
fn a_running_job_is_asked_to_stop_and_asked_once() {
    let requested = JobEvent::JobCancelRequested {};
    let running = given::<Job>([queued_event(), started(1)]);
    assert_eq!(running.decide(JobCommand::Cancel), Ok(vec![requested.clone()]));
    let asked = given::<Job>([queued_event(), started(1), requested]);
    assert_eq!(asked.decide(JobCommand::Cancel), Ok(vec![]));
}

#[test]
fn what_is_being_cancelled_is_not_tried_again() {
    let asked = given::<Job>([queued_event(), started(1), JobEvent::JobCancelRequested {}]);
    let cancelled = Ok(vec![JobEvent::JobCancelled { attempt: 1, log: Some(log()) }]);
    assert_eq!(asked.decide(finish(1, Ending::Cancelled)), cancelled);
    assert_eq!(asked.decide(finish(1, failed())), cancelled);
    assert_eq!(asked.decide(JobCommand::HandBack { attempt: 1, log: log() }), cancelled);
    let lose = asked.decide(JobCommand::Lose { attempt: 1, at: at(1) });
    assert_eq!(lose, Ok(vec![lost(1), JobEvent::JobCancelled { attempt: 1, log: None }]));
}

#[test]
fn what_finished_before_the_stop_reached_it_did_finish() {
    let asked = given::<Job>([queued_event(), started(1), JobEvent::JobCancelRequested {}]);
    assert_eq!(
        asked.decide(finish(1, Ending::Succeeded { result: None })),
        Ok(vec![JobEvent::JobCompleted { attempt: 1, result: None, log: log() }])
    );
}

#[test]
fn what_is_not_there_cannot_do_anything() {
    for command in
        [start(0), finish(1, failed()), JobCommand::Cancel, JobCommand::Lose { attempt: 1, at: at(0) }]
    {
        assert_eq!(given::<Job>([]).decide(command), Err(JobError::NotFound));
    }
}

#[test]
fn people_queue_and_cancel_workers_start_and_finish() {
    let job = given::<Job>([queued_event()]);
    let operator =
        Caller { actor: Actor::Anonymous, team: Some(team()), permissions: Role::Operator.permissions() };
    let viewer = Caller { permissions: Role::Viewer.permissions(), ..operator.clone() };
    let stranger = Caller { team: Some(TeamId(Uuid::from_u128(2))), ..operator.clone() };
    let worker = Caller::system(Some(team()));
    assert_eq!(job.admit(&JobCommand::Cancel, &operator), Ok(()));
    assert_eq!(job.admit(&JobCommand::Queue(queue()), &operator), Ok(()));
    assert_eq!(job.admit(&JobCommand::Cancel, &viewer), Err(Denied::Forbidden(Permission::JobsRun)));
    assert_eq!(job.admit(&JobCommand::Cancel, &stranger), Err(Denied::NotFound));
    assert_eq!(job.admit(&start(0), &operator), Err(Denied::Forbidden(Permission::JobsWork)));
    assert_eq!(job.admit(&start(0), &worker), Ok(()));
    assert_eq!(job.admit(&JobCommand::Cancel, &worker), Err(Denied::Forbidden(Permission::JobsRun)));
}
