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
        backoff: Backoff::default(),
        concurrency_key: None,
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    }
}

/// Every attempt here starts at 0 (unless a test says otherwise) and is said to end at 100.
fn ran() -> Option<Ran> {
    Some(Ran { worker: "w".into(), milliseconds: 100_000 })
}

fn kind() -> String {
    "nightly-report".into()
}

fn queued_event() -> JobEvent {
    queued(queue())
}

fn started(attempt: u32) -> JobEvent {
    JobEvent::JobStarted { attempt, worker: "w".into(), at: Some(at(0)) }
}

fn start(seconds: i64) -> JobCommand {
    JobCommand::Start { worker: "w".into(), at: at(seconds) }
}

fn finish(attempt: u32, ending: Ending) -> JobCommand {
    JobCommand::Finish { attempt, ending, log: log(), at: at(100), dice: 0.5 }
}

fn failure() -> Failure {
    Failure { exit_code: Some(1), error: "exit code 1".into(), ..Failure::default() }
}

fn failed() -> Ending {
    Ending::Failed(failure())
}

fn attempt_failed(attempt: u32, retry_seconds: i64) -> JobEvent {
    JobEvent::JobAttemptFailed {
        attempt,
        kind: kind(),
        ran: ran(),
        exit_code: Some(1),
        error: "exit code 1".into(),
        retry_at: at(retry_seconds),
        result: None,
        artifacts: vec![],
        log: log(),
    }
}

fn file() -> Artifact {
    Artifact { name: "report.pdf".into(), size: 9, sha256: "cd".into() }
}

fn succeeded() -> Ending {
    Ending::Succeeded { result: None, artifacts: vec![] }
}

fn completed(result: Option<JsonText>, artifacts: Vec<Artifact>) -> JobEvent {
    JobEvent::JobCompleted { attempt: 1, kind: kind(), ran: ran(), result, artifacts, log: log() }
}

fn cancelled_event(attempt: u32, ran: Option<Ran>, log: Option<LogDigest>) -> JobEvent {
    JobEvent::JobCancelled { attempt, kind: kind(), ran, log }
}

fn lost(attempt: u32) -> JobEvent {
    JobEvent::JobLost { attempt, kind: kind(), ran: ran() }
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
    let result = Some(JsonText::from(serde_json::json!({"rows": 3})));
    assert_eq!(
        given::<Job>([queued_event(), started(1)])
            .decide(finish(1, Ending::Succeeded { result: result.clone(), artifacts: vec![file()] })),
        Ok(vec![completed(result, vec![file()])])
    );
}

#[test]
fn a_failure_is_tried_again_after_a_pause() {
    let job = given::<Job>([queued_event(), started(1)]);
    assert_eq!(job.decide(finish(1, failed())), Ok(vec![attempt_failed(1, 110)]));

    let waiting = given::<Job>([queued_event(), started(1), attempt_failed(1, 110)]);
    assert_eq!(waiting.decide(start(109)), Err(JobError::NotDue(at(110))));
    assert!(waiting.decide(start(110)).is_ok());
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
            kind: kind(),
            ran: ran(),
            exit_code: Some(1),
            error: "exit code 1".into(),
            reason: FailureReason::AttemptsExhausted,
            result: None,
            artifacts: vec![],
            log: Some(log()),
        }])
    );
}

#[test]
fn only_the_attempt_that_holds_the_job_ends_it() {
    let job = given::<Job>([queued_event(), started(1), lost(1), started(2)]);
    let refused = Err(JobError::WrongAttempt { present: 2, given: 1, status: JobStatus::Running });
    assert_eq!(job.decide(finish(1, succeeded())), refused);
    assert_eq!(job.decide(finish(1, failed())), refused);
    assert_eq!(job.decide(JobCommand::Lose { attempt: 1, at: at(100) }), refused);
    assert_eq!(job.decide(JobCommand::HandBack { attempt: 1, log: log(), at: at(100) }), refused);
    assert!(job.decide(finish(2, succeeded())).is_ok());
}

#[test]
fn a_late_result_after_the_loss_is_refused_even_before_the_next_start() {
    let job = given::<Job>([queued_event(), started(1), lost(1)]);
    assert_eq!(
        job.decide(finish(1, succeeded())),
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
    let decided = given::<Job>(twice).decide(JobCommand::Lose { attempt: 3, at: at(100) }).unwrap();
    assert_eq!(decided[0], lost(3));
    assert!(matches!(decided[1], JobEvent::JobFailed { reason: FailureReason::CrashLimit, .. }));

    let mut new = queue();
    new.max_attempts = 9;
    let not_in_a_row =
        [queued(new), started(1), lost(1), started(2), lost(2), started(3), attempt_failed(3, 0), started(4)];
    assert_eq!(
        given::<Job>(not_in_a_row).decide(JobCommand::Lose { attempt: 4, at: at(100) }),
        Ok(vec![lost(4)])
    );
}

#[test]
fn a_handed_back_job_can_start_at_once_and_costs_no_attempt() {
    let back = JobEvent::JobHandedBack { attempt: 1, kind: kind(), ran: ran(), log: log() };
    let job = given::<Job>([queued_event(), started(1)]);
    assert_eq!(
        job.decide(JobCommand::HandBack { attempt: 1, log: log(), at: at(100) }),
        Ok(vec![back.clone()])
    );
    let again = given::<Job>([queued_event(), started(1), back, started(2)]);
    assert_eq!(again.decide(finish(2, failed())), Ok(vec![attempt_failed(2, 110)]));
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let cancelled = cancelled_event(0, None, None);
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
    let cancelled = Ok(vec![cancelled_event(1, ran(), Some(log()))]);
    assert_eq!(asked.decide(finish(1, Ending::Cancelled)), cancelled);
    assert_eq!(asked.decide(finish(1, failed())), cancelled);
    assert_eq!(asked.decide(JobCommand::HandBack { attempt: 1, log: log(), at: at(100) }), cancelled);
    let lose = asked.decide(JobCommand::Lose { attempt: 1, at: at(100) });
    assert_eq!(lose, Ok(vec![lost(1), cancelled_event(1, None, None)]));
}

#[test]
fn what_finished_before_the_stop_reached_it_did_finish() {
    let asked = given::<Job>([queued_event(), started(1), JobEvent::JobCancelRequested {}]);
    assert_eq!(asked.decide(finish(1, succeeded())), Ok(vec![completed(None, vec![])]));
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
    assert_eq!(job.admit(&JobCommand::Retry { at: at(0) }, &operator), Ok(()));
    assert_eq!(
        job.admit(&JobCommand::Retry { at: at(0) }, &viewer),
        Err(Denied::Forbidden(Permission::JobsRun))
    );
}

#[test]
fn a_final_failure_is_not_tried_again() {
    let job = given::<Job>([queued_event(), started(1)]);
    let decided = job.decide(finish(1, Ending::Failed(Failure { is_final: true, ..failure() }))).unwrap();
    assert!(matches!(decided[..], [JobEvent::JobFailed { reason: FailureReason::Final, attempt: 1, .. }]));
}

#[test]
fn the_pause_is_spread_and_an_attempt_may_ask_for_a_longer_one() {
    let backoff = Backoff { factor: 3.0, cap_seconds: 100, jitter: 0.2 };
    let pause = |failures, dice, asked| backoff.pause(10, failures, dice, asked).num_milliseconds();
    assert_eq!([pause(0, 0.0, None), pause(0, 0.5, None), pause(0, 1.0, None)], [8_000, 10_000, 12_000]);
    assert_eq!([pause(1, 0.5, None), pause(2, 0.5, None), pause(3, 0.5, None)], [30_000, 90_000, 100_000]);
    assert_eq!([pause(0, 1.0, Some(40)), pause(2, 0.5, Some(40))], [40_000, 90_000]);
    assert_eq!(pause(u32::MAX, 1.0, Some(u32::MAX)), 86_400_000, "a day at most");
    assert_eq!(Backoff::default().pause(0, 9, 1.0, None).num_milliseconds(), 0);
}

#[test]
fn what_failed_or_was_cancelled_can_be_tried_anew_and_has_all_its_attempts() {
    let failed_for_good = JobEvent::JobFailed {
        attempt: 2,
        kind: kind(),
        ran: ran(),
        exit_code: Some(1),
        error: "exit code 1".into(),
        reason: FailureReason::AttemptsExhausted,
        result: None,
        artifacts: vec![],
        log: Some(log()),
    };
    let retried = JobEvent::JobRetried { run_at: at(200) };
    let retry = JobCommand::Retry { at: at(200) };
    let ended = [queued_event(), started(1), attempt_failed(1, 110), started(2), failed_for_good];
    assert_eq!(given::<Job>(ended.clone()).decide(retry.clone()), Ok(vec![retried.clone()]));
    let again = given::<Job>(ended.into_iter().chain([retried.clone(), started(3)]));
    assert_eq!(again.decide(finish(3, failed())), Ok(vec![attempt_failed(3, 110)]));

    let cancelled =
        [queued_event(), started(1), JobEvent::JobCancelRequested {}, cancelled_event(1, ran(), None)];
    let again = given::<Job>(cancelled.into_iter().chain([retried, started(2)]));
    assert_eq!(
        again.decide(finish(2, failed())),
        Ok(vec![attempt_failed(2, 110)]),
        "nobody wants it stopped"
    );
}

#[test]
fn what_waits_is_tried_at_once_and_what_runs_or_is_done_is_not_tried() {
    let waiting = given::<Job>([queued_event(), started(1), attempt_failed(1, 110)]);
    let sooner = Ok(vec![JobEvent::JobRetried { run_at: at(50) }]);
    assert_eq!(waiting.decide(JobCommand::Retry { at: at(50) }), sooner);
    assert_eq!(waiting.decide(JobCommand::Retry { at: at(110) }), Ok(vec![]), "it is due already");
    let running = given::<Job>([queued_event(), started(1)]);
    assert_eq!(
        running.decide(JobCommand::Retry { at: at(1) }),
        Err(JobError::NotRetryable(JobStatus::Running))
    );
    let done = given::<Job>([queued_event(), started(1), completed(None, vec![])]);
    assert_eq!(
        done.decide(JobCommand::Retry { at: at(1) }),
        Err(JobError::NotRetryable(JobStatus::Completed))
    );
}

#[test]
fn its_place_is_held_until_it_starts_or_will_not() {
    let mut new = queue();
    new.unique = Some("place".into());
    let waiting = given::<Job>([queued(new.clone())]);
    assert_eq!(waiting.unique_claim(), Some("place"));
    assert_eq!(given::<Job>([queued(new.clone()), started(1)]).unique_claim(), None);
    assert_eq!(given::<Job>([queued(new), cancelled_event(0, None, None)]).unique_claim(), None);
}

#[test]
fn a_clock_that_went_back_makes_no_attempt_shorter_than_nothing() {
    let late = JobEvent::JobStarted { attempt: 1, worker: "w".into(), at: Some(at(500)) };
    let decided = given::<Job>([queued_event(), late]).decide(finish(1, succeeded())).unwrap();
    let JobEvent::JobCompleted { ran, .. } = &decided[0] else { unreachable!("{decided:?}") };
    assert_eq!(ran.as_ref().unwrap().milliseconds, 0);
}
