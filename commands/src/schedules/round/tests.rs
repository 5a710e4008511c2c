#![allow(clippy::unwrap_used)]
use domain::{CronExpression, KindName, ScheduleName, TimeZoneName, Timing};
use serde_json::Map;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

fn plan(cron: &str, catch_up: CatchUp) -> Plan {
    Plan {
        name: ScheduleName::parse("s").unwrap(),
        kind: KindName::parse("k").unwrap(),
        args: Map::new(),
        timing: Timing::Cron {
            cron: CronExpression::parse(cron).unwrap(),
            time_zone: TimeZoneName::parse("UTC").unwrap(),
        },
        catch_up,
        catch_up_window_seconds: 86_400,
        priority: None,
        max_attempts: None,
        timeout_seconds: None,
        concurrency_key: None,
    }
}

fn round_of(plan: &Plan, waited_for: DateTime<Utc>, now: DateTime<Utc>) -> Option<Round> {
    Round::at(plan, &Times::of(&plan.timing).unwrap(), waited_for, now)
}

fn round(cron: &str, catch_up: CatchUp, waited_for: &str, now: &str) -> Round {
    round_of(&plan(cron, catch_up), at(waited_for), at(now)).unwrap()
}

fn skipped(from: &str, to: &str, missed: u32) -> Option<Skipped> {
    Some(Skipped { from: at(from), to: at(to), missed })
}

const ALL: [CatchUp; 3] = [CatchUp::None, CatchUp::Last, CatchUp::All];

#[test]
fn nothing_happens_before_its_time_nor_when_the_clock_was_put_back() {
    let plan = plan("0 * * * *", CatchUp::All);
    for now in ["11:59:59.999", "03:00:00"] {
        assert_eq!(round_of(&plan, at("12:00:00"), at(now)), None);
    }
}

#[test]
fn what_is_found_within_a_minute_leads_to_a_job_whatever_is_said_of_catching_up() {
    for catch_up in ALL {
        let round = round("*/20 * * * * *", catch_up, "12:00:00", "12:00:59");
        assert_eq!(round.dues, [at("12:00:00"), at("12:00:20"), at("12:00:40")], "{catch_up:?}");
        assert_eq!((round.skipped, round.next), (None, Some(at("12:01:00"))));
    }
}

#[test]
fn after_a_pause_of_daybook_nothing_the_last_or_all_are_made_up_for() {
    let after = |catch_up| round("0 * * * *", catch_up, "08:00:00", "11:30:00");
    let none = after(CatchUp::None);
    assert_eq!((none.dues, none.skipped), (vec![], skipped("08:00:00", "11:00:00", 4)));
    let last = after(CatchUp::Last);
    assert_eq!((last.dues, last.skipped), (vec![at("11:00:00")], skipped("08:00:00", "10:00:00", 3)));
    let all = after(CatchUp::All);
    assert_eq!(all.dues, ["08:00:00", "09:00:00", "10:00:00", "11:00:00"].map(at));
    assert_eq!(all.skipped, None);
    assert_eq!([none.next, last.next, all.next], [Some(at("12:00:00")); 3]);
}

#[test]
fn the_last_one_is_the_present_one_if_there_is_one() {
    let last = round("0 * * * *", CatchUp::Last, "08:00:00", "11:00:05");
    assert_eq!((last.dues, last.skipped), (vec![at("11:00:00")], skipped("08:00:00", "10:00:00", 3)));
}

#[test]
fn what_is_older_than_the_window_is_over() {
    for (catch_up, dues) in [(CatchUp::Last, vec![]), (CatchUp::All, vec![])] {
        let short = Plan { catch_up_window_seconds: 600, ..plan("0 * * * *", catch_up) };
        let round = round_of(&short, at("08:00:00"), at("11:30:00")).unwrap();
        assert_eq!((round.dues, round.skipped), (dues, skipped("08:00:00", "11:00:00", 4)));
    }
    let short = Plan { catch_up_window_seconds: 7_200, ..plan("0 * * * *", CatchUp::All) };
    let round = round_of(&short, at("08:00:00"), at("11:30:00")).unwrap();
    assert_eq!(
        (round.dues, round.skipped),
        (vec![at("10:00:00"), at("11:00:00")], skipped("08:00:00", "09:00:00", 2))
    );
}

#[test]
fn a_clock_that_is_put_far_ahead_brings_a_bounded_number_of_jobs() {
    let (waited_for, now) = (at("12:00:00"), at("12:00:00") + TimeDelta::days(3_650));
    for (catch_up, jobs) in [(CatchUp::None, 61), (CatchUp::Last, 61), (CatchUp::All, 100)] {
        let round = round_of(&plan("* * * * * *", catch_up), waited_for, now).unwrap();
        assert_eq!(round.dues.len(), jobs, "{catch_up:?}");
        assert_eq!(round.dues.last(), Some(&now));
        let skipped = round.skipped.unwrap();
        assert_eq!((skipped.from, skipped.missed), (waited_for, 1_000));
        assert!(skipped.to < round.dues[0] && round.next.unwrap() > now);
    }
}

#[test]
fn a_single_moment_is_caught_up_with_like_any_other_and_nothing_follows() {
    let once =
        |catch_up| Plan { timing: Timing::Once { run_at: at("08:00:00") }, ..plan("@daily", catch_up) };
    for (catch_up, jobs) in [(CatchUp::None, 0), (CatchUp::Last, 1), (CatchUp::All, 1)] {
        let round = round_of(&once(catch_up), at("08:00:00"), at("11:30:00")).unwrap();
        assert_eq!((round.dues.len(), round.skipped.is_some(), round.next), (jobs, jobs == 0, None));
    }
}
