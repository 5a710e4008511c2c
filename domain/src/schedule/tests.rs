#![allow(clippy::unwrap_used)]
use uuid::Uuid;

use super::*;
use crate::event::testing::given;
use crate::{Actor, Permissions, Role};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn team() -> TeamId {
    TeamId(Uuid::from_u128(1))
}

fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn plan() -> Plan {
    Plan {
        name: ScheduleName::parse("Nightly report").unwrap(),
        kind: KindName::parse("report").unwrap(),
        args: Map::new(),
        timing: Timing::Cron {
            cron: CronExpression::parse("* * * * *").unwrap(),
            time_zone: TimeZoneName::parse("Europe/Berlin").unwrap(),
        },
        catch_up: CatchUp::Last,
        catch_up_window_seconds: 86_400,
        priority: None,
        max_attempts: None,
        timeout_seconds: None,
        concurrency_key: None,
    }
}

fn renamed() -> Plan {
    Plan { name: ScheduleName::parse("Report").unwrap(), ..plan() }
}

fn created() -> ScheduleEvent {
    ScheduleEvent::ScheduleCreated { team_id: team(), plan: plan(), next: at(60) }
}

fn fired(due: i64, n: u128, next: i64) -> ScheduleEvent {
    ScheduleEvent::ScheduleFired { due: at(due), job_id: job(n), next: Some(at(next)) }
}

fn queued(due: i64, n: u128) -> Firing {
    Firing::Queued { due: at(due), job_id: job(n) }
}

fn fire(firings: Vec<Firing>, next: i64) -> ScheduleCommand {
    ScheduleCommand::Fire { skipped: None, firings, next: Some(at(next)) }
}

fn amend(plan: Option<Plan>, paused: Option<bool>, next: Option<i64>) -> ScheduleCommand {
    ScheduleCommand::Amend { plan, paused, next: next.map(at) }
}

fn when(events: &[ScheduleEvent], command: ScheduleCommand) -> Result<Vec<ScheduleEvent>, ScheduleError> {
    given::<Schedule>(events.iter().cloned()).decide(command)
}

#[test]
fn a_schedule_is_created_once() {
    let create = || ScheduleCommand::Create { team_id: team(), plan: plan(), next: at(60) };
    assert_eq!(when(&[], create()), Ok(vec![created()]));
    assert_eq!(when(&[created()], create()), Err(ScheduleError::AlreadyExists));
    assert_eq!(
        when(&[created(), ScheduleEvent::ScheduleDeleted {}], create()),
        Err(ScheduleError::AlreadyExists)
    );
}

#[test]
fn a_moment_is_dealt_with_once() {
    assert_eq!(when(&[created()], fire(vec![queued(60, 1)], 120)), Ok(vec![fired(60, 1, 120)]));
    let after = [created(), fired(60, 1, 120)];
    assert_eq!(when(&after, fire(vec![queued(60, 2)], 120)), Err(ScheduleError::NotDue(at(60))));
    // A clock that went back brings moments that are over.
    assert_eq!(when(&after, fire(vec![queued(0, 2)], 60)), Err(ScheduleError::NotDue(at(0))));
    assert_eq!(when(&after, fire(vec![queued(120, 2)], 180)), Ok(vec![fired(120, 2, 180)]));
}

#[test]
fn no_moment_before_the_announced_one_is_the_schedules() {
    assert_eq!(when(&[created()], fire(vec![queued(59, 1)], 60)), Err(ScheduleError::NotDue(at(59))));
}

#[test]
fn several_moments_are_dealt_with_in_order_and_each_says_what_comes_next() {
    let three = vec![
        queued(60, 1),
        Firing::Failed { due: at(120), error: "there is no such kind".into() },
        queued(180, 3),
    ];
    let failed = ScheduleEvent::ScheduleFailed {
        due: at(120),
        error: "there is no such kind".into(),
        next: Some(at(180)),
    };
    assert_eq!(when(&[created()], fire(three, 240)), Ok(vec![fired(60, 1, 120), failed, fired(180, 3, 240)]));
    let twice = vec![queued(60, 1), queued(60, 2)];
    assert_eq!(when(&[created()], fire(twice, 240)), Err(ScheduleError::NotDue(at(60))));
    let early = fire(vec![queued(60, 1)], 60);
    assert_eq!(when(&[created()], early), Err(ScheduleError::NotDue(at(60))));
}

#[test]
fn what_is_passed_over_comes_first_and_does_not_come_back() {
    let skip = |from, to| Some(Skipped { from: at(from), to: at(to), missed: 2 });
    let command = |skipped, due, n| ScheduleCommand::Fire {
        skipped,
        firings: vec![queued(due, n)],
        next: Some(at(240)),
    };
    let skipped =
        ScheduleEvent::ScheduleSkipped { from: at(60), to: at(120), missed: 2, next: Some(at(180)) };
    assert_eq!(
        when(&[created()], command(skip(60, 120), 180, 1)),
        Ok(vec![skipped.clone(), fired(180, 1, 240)])
    );
    assert_eq!(when(&[created()], command(skip(60, 120), 120, 1)), Err(ScheduleError::NotDue(at(120))));
    assert_eq!(when(&[created()], command(skip(0, 120), 180, 1)), Err(ScheduleError::NotDue(at(0))));
    assert_eq!(when(&[created()], command(skip(120, 60), 180, 1)), Err(ScheduleError::NotDue(at(60))));
    assert_eq!(when(&[created(), skipped], command(None, 120, 1)), Err(ScheduleError::NotDue(at(120))));
}

#[test]
fn one_command_deals_with_a_bounded_number() {
    let many = |n: i64| (1..=n).map(|n| queued(60 * n, 1)).collect::<Vec<_>>();
    assert_eq!(when(&[created()], fire(many(100), 60_000)).map(|events| events.len()), Ok(100));
    assert_eq!(when(&[created()], fire(many(101), 60_000)), Err(ScheduleError::TooMany));
}

#[test]
fn nothing_fires_while_it_rests_and_what_was_due_meanwhile_is_over() {
    let paused = [created(), ScheduleEvent::SchedulePaused {}];
    assert_eq!(when(&[created()], amend(None, Some(true), None)), Ok(vec![ScheduleEvent::SchedulePaused {}]));
    assert_eq!(when(&paused, amend(None, Some(true), None)), Ok(vec![]));
    assert_eq!(when(&paused, fire(vec![queued(60, 1)], 120)), Err(ScheduleError::Paused));
    let resumed = ScheduleEvent::ScheduleResumed { next: Some(at(600)) };
    assert_eq!(when(&paused, amend(None, Some(false), Some(600))), Ok(vec![resumed.clone()]));
    let resumed = [&paused[..], &[resumed]].concat();
    assert_eq!(when(&resumed, fire(vec![queued(60, 1)], 700)), Err(ScheduleError::NotDue(at(60))));
    assert_eq!(when(&resumed, fire(vec![queued(600, 1)], 700)), Ok(vec![fired(600, 1, 700)]));
}

#[test]
fn an_amendment_says_all_that_is_wanted_and_when_it_comes_next() {
    let amended = |next: Option<i64>| ScheduleEvent::ScheduleAmended { plan: renamed(), next: next.map(at) };
    assert_eq!(when(&[created()], amend(Some(renamed()), None, Some(90))), Ok(vec![amended(Some(90))]));
    assert_eq!(when(&[created()], amend(Some(plan()), Some(false), Some(60))), Ok(vec![]));
    assert_eq!(
        when(&[created()], amend(Some(renamed()), Some(true), Some(90))),
        Ok(vec![amended(None), ScheduleEvent::SchedulePaused {}])
    );
    let paused = [created(), ScheduleEvent::SchedulePaused {}];
    assert_eq!(when(&paused, amend(Some(renamed()), None, Some(90))), Ok(vec![amended(None)]));
    assert_eq!(
        when(&paused, amend(Some(renamed()), Some(false), Some(90))),
        Ok(vec![amended(None), ScheduleEvent::ScheduleResumed { next: Some(at(90)) }])
    );
}

#[test]
fn no_amendment_brings_a_moment_back() {
    let after = [created(), fired(60, 1, 120)];
    let refused = Err(ScheduleError::NotDue(at(60)));
    assert_eq!(when(&after, amend(Some(renamed()), None, Some(60))), refused);
    let paused = [&after[..], &[ScheduleEvent::SchedulePaused {}]].concat();
    assert_eq!(when(&paused, amend(None, Some(false), Some(60))), refused);
}

#[test]
fn what_is_deleted_is_no_more() {
    let deleted = [created(), ScheduleEvent::ScheduleDeleted {}];
    assert_eq!(when(&[created()], ScheduleCommand::Delete), Ok(vec![ScheduleEvent::ScheduleDeleted {}]));
    for command in [ScheduleCommand::Delete, amend(None, Some(true), None), fire(vec![queued(60, 1)], 120)] {
        assert_eq!(when(&deleted, command.clone()), Err(ScheduleError::NotFound));
        assert_eq!(when(&[], command), Err(ScheduleError::NotFound));
    }
    let schedule = given::<Schedule>(deleted);
    assert_eq!((schedule.team(), schedule.next(), schedule.plan()), (None, None, None));
}

#[test]
fn what_a_view_knows_is_as_good_as_the_events() {
    let (plan, next, handled) = (plan(), Some(at(120)), Some(at(60)));
    let known = KnownSchedule { team_id: team(), plan, paused: false, next, handled };
    assert_eq!(Schedule::known(known), given::<Schedule>([created(), fired(60, 1, 120)]));
}

#[test]
fn people_change_what_is_wanted_and_daybook_alone_fires() {
    let schedule = given::<Schedule>([created()]);
    let caller = |team, permissions| Caller { actor: Actor::System, team: Some(team), permissions };
    let firing = fire(vec![queued(60, 1)], 120);
    let operator = caller(team(), Role::Operator.permissions());
    assert_eq!(schedule.admit(&ScheduleCommand::Delete, &operator), Ok(()));
    assert_eq!(schedule.admit(&firing, &operator), Err(Denied::Forbidden(Permission::JobsWork)));
    let viewer = caller(team(), Role::Viewer.permissions());
    assert_eq!(
        schedule.admit(&ScheduleCommand::Delete, &viewer),
        Err(Denied::Forbidden(Permission::JobsRun))
    );
    let stranger = caller(TeamId(Uuid::from_u128(2)), Role::Owner.permissions());
    assert_eq!(schedule.admit(&ScheduleCommand::Delete, &stranger), Err(Denied::NotFound));
    assert_eq!(schedule.admit(&firing, &caller(team(), Permissions::schedule())), Ok(()));
}

#[test]
fn both_kinds_of_timing_are_stored_flat_and_read_back() {
    let once = Plan { timing: Timing::Once { run_at: at(60) }, ..plan() };
    for plan in [plan(), once] {
        let event = ScheduleEvent::ScheduleCreated { team_id: team(), plan, next: at(60) };
        let stored = serde_json::to_value(&event).unwrap();
        assert_eq!(serde_json::from_value::<ScheduleEvent>(stored).unwrap(), event);
    }
    let stored = serde_json::to_value(created()).unwrap();
    assert_eq!(stored["ScheduleCreated"]["time_zone"], "Europe/Berlin");
}
