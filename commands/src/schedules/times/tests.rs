#![allow(clippy::unwrap_used)]
use super::*;

fn timing(cron: &str, zone: &str) -> Timing {
    Timing::Cron { cron: CronExpression::parse(cron).unwrap(), time_zone: TimeZoneName::parse(zone).unwrap() }
}

fn times(cron: &str, zone: &str) -> Times {
    Times::of(&timing(cron, zone)).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next `n` moments after `from`, as the clocks of the zone show them.
fn next(cron: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
    let times = times(cron, zone);
    times.iter_after(at(from)).take(n).map(|moment| times.local(moment)).collect()
}

/// In Berlin the clocks go from 02:00 to 03:00 on this day.
const BEFORE_SPRING: &str = "2026-03-28T23:30:00Z";
/// In Berlin they go from 03:00 back to 02:00 on this day.
const BEFORE_AUTUMN: &str = "2026-10-24T22:30:00Z";

#[test]
fn a_time_that_the_clocks_leave_out_comes_at_the_first_moment_after_the_gap() {
    let spring = |cron, n| next(cron, "Europe/Berlin", BEFORE_SPRING, n);
    assert_eq!(spring("30 2 * * *", 2), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    assert_eq!(spring("0 2 * * *", 2), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    // Also when it is one of several times of the day.
    assert_eq!(
        spring("30 2,14 * * *", 3),
        ["2026-03-29T03:00:00+02:00", "2026-03-29T14:30:00+02:00", "2026-03-30T02:30:00+02:00"]
    );
    // What is on that moment anyway does not come twice, nor do several times of one gap.
    assert_eq!(spring("0 2,3 * * *", 2), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]);
    assert_eq!(
        spring("*/20 2 * * *", 3),
        ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:20:00+02:00"]
    );
    assert_eq!(spring("0 30 2 29 3 *", 2), ["2026-03-29T03:00:00+02:00", "2027-03-29T02:30:00+02:00"]);
}

#[test]
fn a_time_that_the_clocks_show_twice_comes_the_first_time() {
    let autumn = |cron, n| next(cron, "Europe/Berlin", BEFORE_AUTUMN, n);
    assert_eq!(autumn("30 2 * * *", 2), ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
    assert_eq!(
        autumn("30 2,14 * * *", 3),
        ["2026-10-25T02:30:00+02:00", "2026-10-25T14:30:00+01:00", "2026-10-26T02:30:00+01:00"]
    );
    assert_eq!(
        autumn("*/30 2 * * *", 3),
        ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:00:00+01:00"]
    );
    // Whoever asks while the clocks show it for the second time is told of the next day.
    let second = "2026-10-25T01:10:00Z";
    assert_eq!(next("30 2 * * *", "Europe/Berlin", second, 1), ["2026-10-26T02:30:00+01:00"]);
}

#[test]
fn what_names_every_hour_goes_by_time_that_passes() {
    let steps = |cron: &str, from: &str, n: usize| -> Vec<i64> {
        let moments: Vec<_> = times(cron, "Europe/Berlin").iter_after(at(from)).take(n).collect();
        moments.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect()
    };
    for from in [BEFORE_SPRING, BEFORE_AUTUMN] {
        for (cron, seconds, n) in [
            ("*/15 * * * *", 900, 30),
            ("0 * * * *", 3_600, 8),
            ("30 0-23 * * *", 3_600, 8),
            ("* * * * * *", 1, 20_000),
        ] {
            assert_eq!(steps(cron, from, n), vec![seconds; n - 1], "{cron} from {from}");
        }
    }
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
        ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"]
    );
}

#[test]
fn whenever_one_asks_the_next_moment_is_the_same() {
    for cron in ["*/15 * * * *", "30 2 * * *", "10,40 1-3 * * *", "@hourly", "0 */2 * * *"] {
        let times = times(cron, "Europe/Berlin");
        for from in [BEFORE_SPRING, BEFORE_AUTUMN] {
            let all: Vec<_> = times.iter_after(at(from)).take(24).collect();
            for minute in 0..300 {
                let asked = at(from) + TimeDelta::seconds(minute * 60 + 1);
                let expected = all.iter().find(|moment| **moment > asked).unwrap();
                assert_eq!(times.after(asked).as_ref(), Some(expected), "{cron} after {asked}");
            }
        }
    }
}

#[test]
fn zones_with_stranger_clocks_keep_the_rule() {
    // Half an hour.
    assert_eq!(
        next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 1),
        ["2026-10-04T02:30:00+11:00"]
    );
    // At midnight: there is no 00:00 on that day.
    assert_eq!(
        next("0 0 6 9 *", "America/Santiago", "2026-09-05T12:00:00Z", 1),
        ["2026-09-06T01:00:00-03:00"]
    );
    // A whole day.
    assert_eq!(
        next("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00Z", 1),
        ["2011-12-31T00:00:00+14:00"]
    );
}

#[test]
fn what_people_write_is_understood() {
    let berlin = |cron, n| next(cron, "Europe/Berlin", "2026-11-20T22:59:59Z", n);
    assert_eq!(berlin("@daily", 1), ["2026-11-21T00:00:00+01:00"]);
    assert_eq!(berlin("30 6 * * MON-FRI", 1), ["2026-11-23T06:30:00+01:00"]);
    assert_eq!(berlin("0 9 1 jan,jul *", 1), ["2027-01-01T09:00:00+01:00"]);
    assert_eq!(
        berlin("*/20 0 0 * * *", 3),
        ["2026-11-21T00:00:00+01:00", "2026-11-21T00:00:20+01:00", "2026-11-21T00:00:40+01:00"]
    );
    assert_eq!(berlin("0 0 L * *", 1), ["2026-11-30T00:00:00+01:00"]);
    assert_eq!(berlin("0 0 * * 7", 1), ["2026-11-22T00:00:00+01:00"]);
    // As cron has it, either day will do; with a plus both are asked for.
    assert_eq!(berlin("0 0 1 * MON", 1), ["2026-11-23T00:00:00+01:00"]);
    assert_eq!(berlin("0 0 1 * +MON", 1), ["2027-02-01T00:00:00+01:00"]);
    assert_eq!(next("0 0 29 2 *", "UTC", "2026-11-20T00:00:00Z", 1), ["2028-02-29T00:00:00+00:00"]);
}

#[test]
fn what_means_nothing_is_told_by_field() {
    let wrong = |cron: &str| {
        Times::of(&timing(cron, "UTC")).map_err(|(field, invalid)| (field, invalid.0)).unwrap_err()
    };
    for (cron, told) in [
        ("60 * * * *", "minutes"),
        ("* 24 * * *", "hours"),
        ("* * 32 * *", "days of the month"),
        ("* * 0 * *", "days of the month"),
        ("* * * 13 *", "months"),
        ("* * * * 8", "days of the week"),
        ("* * * * FOO", "days of the week"),
        ("61 * * * * *", "seconds"),
        ("*/0 * * * *", "minutes"),
        ("5-1 * * * *", "minutes"),
        ("1;reboot * * * *", "minutes"),
        ("* * * *", "5 fields"),
        ("* * * * * * 2027", "5 fields"),
        ("@reboot", "5 fields"),
        ("soon", "5 fields"),
    ] {
        let (field, message) = wrong(cron);
        assert!(field == "cron" && message.contains(told), "{cron}: {message}");
    }
    for zone in ["Europe/Atlantis", "europe/berlin", "+01:00x", "CEST/../../etc"] {
        let Ok(time_zone) = TimeZoneName::parse(zone) else { continue };
        let timing = Timing::Cron { cron: CronExpression::parse("@daily").unwrap(), time_zone };
        assert_eq!(Times::of(&timing).unwrap_err().0, "time_zone", "{zone}");
    }
}

#[test]
fn what_never_comes_is_known_to_have_no_moment() {
    for cron in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "* * * 30 2 *", "0 0 30 2 +MON", "0 0 1-7 1 +MON#5"] {
        assert_eq!(times(cron, "Europe/Berlin").after(at("2026-01-01T00:00:00Z")), None, "{cron}");
    }
}

#[test]
fn the_latest_are_found_without_going_through_all() {
    let (first, last) = (at("1990-01-01T00:00:00Z"), at("2026-11-21T12:00:00Z"));
    let found = |cron: &str, most| times(cron, "UTC").latest(first, last, most);
    let seconds = found("* * * * * *", 3);
    assert_eq!(seconds, [11, 10, 9].map(|n| last - TimeDelta::seconds(n - 9)));
    assert_eq!(found("0 0 1 1 *", 2), [at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")]);
    assert_eq!(found("0 0 1 1 *", 100).len(), 37, "the first moment is one of them");
    let burst = found("* * 3 * * *", 100);
    assert_eq!((burst.len(), burst.last()), (100, Some(&at("2026-11-21T03:59:59Z"))));
    assert!(times("@daily", "UTC").latest(last, first, 5).is_empty());
}

#[test]
fn a_single_moment_comes_once() {
    let once = Times::of(&Timing::Once { run_at: at("2026-11-21T12:00:00Z") }).unwrap();
    assert_eq!(once.after(at("2026-11-21T11:59:59.999Z")), Some(at("2026-11-21T12:00:00Z")));
    assert_eq!(once.after(at("2026-11-21T12:00:00Z")), None);
    assert_eq!(once.latest(at("2026-11-21T12:00:00Z"), at("2027-01-01T00:00:00Z"), 5).len(), 1);
}
