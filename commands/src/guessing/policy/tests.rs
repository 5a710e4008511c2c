use super::*;

const PURPOSES: [Purpose; 3] = [Purpose::SignIn, Purpose::SecondFactor, Purpose::Confirmation];

fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn fresh() -> Tallies {
    let new = Tally::new(start());
    Tallies { pair: new.clone(), network: new.clone(), account: new }
}

/// Fails again and again, each time as soon as that may be done; says how long it had to wait before each.
fn failing(tallies: &mut Tallies, purpose: Purpose, times: usize) -> Vec<u64> {
    let mut now = start();
    let mut waits = vec![];
    for _ in 0..times {
        let wait = match tallies.clone().reserve(purpose, now) {
            Ok(_) => Duration::ZERO,
            Err(wait) => wait,
        };
        now += wait;
        assert!(tallies.reserve(purpose, now).is_ok(), "waiting was in vain after {waits:?}");
        waits.push(wait.as_secs());
    }
    waits
}

/// One account that is tried from everywhere, so that neither pair nor network counts.
fn from_everywhere(
    tallies: &mut Tallies,
    purpose: Purpose,
    now: DateTime<Utc>,
) -> Result<Reserved, Duration> {
    (tallies.pair, tallies.network) = (Tally::new(now), Tally::new(now));
    tallies.reserve(purpose, now)
}

#[test]
fn five_failures_are_free_and_then_the_delay_doubles_up_to_a_quarter_of_an_hour() {
    let waits = failing(&mut fresh(), Purpose::SignIn, 20);
    assert_eq!(waits[..5], [0; 5]);
    assert_eq!(waits[5..], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900, 900]);
}

#[test]
fn it_stays_a_quarter_of_an_hour_however_many_fail() {
    for failures in [40, 1_000, i32::MAX - 1, i32::MAX] {
        let mut tallies = fresh();
        tallies.pair.failures = failures;
        assert!(tallies.reserve(Purpose::SignIn, start()).is_ok());
        assert_eq!(tallies.pair.wait(start()), Duration::from_secs(900), "{failures}");
    }
}

#[test]
fn an_attempt_that_is_too_soon_changes_nothing() {
    for purpose in PURPOSES {
        let mut tallies = fresh();
        failing(&mut tallies, purpose, 8);
        let before = tallies.clone();
        for _ in 0..100 {
            assert!(tallies.reserve(purpose, before.pair.updated_at).is_err());
        }
        assert_eq!(tallies, before);
    }
}

#[test]
fn a_success_begins_anew_and_gives_the_network_back_its_own_attempt_only() {
    let mut tallies = fresh();
    failing(&mut tallies, Purpose::SignIn, 4);
    tallies.network.failures = 15;
    let now = start() + TimeDelta::seconds(9);
    let Ok(reserved) = tallies.reserve(Purpose::SignIn, now) else { panic!("the fifth is free") };
    assert_eq!((tallies.pair.failures, tallies.network.failures, tallies.account.failures), (5, 16, 5));
    tallies.succeed(reserved, now);
    assert_eq!((tallies.pair.failures, tallies.network.failures, tallies.account.failures), (0, 15, 0));
    assert_eq!(tallies.pair.known_until, Some(now + TimeDelta::days(90)));
    assert_eq!(failing(&mut tallies, Purpose::SignIn, 6), [0, 0, 0, 0, 0, 1]);
}

#[test]
fn an_attempt_that_did_not_take_place_leaves_no_trace_but_its_time() {
    for (purpose, failures) in PURPOSES.into_iter().zip([0, 4, 12]) {
        let mut tallies = fresh();
        failing(&mut tallies, purpose, failures);
        let now = tallies.pair.updated_at + tallies.pair.wait(tallies.pair.updated_at);
        let before = [&tallies.pair, &tallies.network, &tallies.account].map(|tally| tally.failures);
        let Ok(reserved) = tallies.reserve(purpose, now) else { panic!("it has waited") };
        tallies.withdraw(reserved);
        let after = [&tallies.pair, &tallies.network, &tallies.account].map(|tally| tally.failures);
        assert_eq!(before, after);
        assert!(tallies.reserve(purpose, now).is_ok(), "the next one may be made at once");
    }
}

#[test]
fn a_network_has_twenty_failures_on_other_accounts() {
    let mut tallies = fresh();
    let mut fails = |now| {
        (tallies.pair, tallies.account) = (Tally::new(now), Tally::new(now));
        tallies.reserve(Purpose::SignIn, now).err().map(|wait| wait.as_secs())
    };
    let outcomes: Vec<_> = (0..21).map(|_| fails(start())).collect();
    assert_eq!(outcomes[..20], [None; 20]);
    assert_eq!(outcomes[20], Some(1));
    let later = start() + TimeDelta::seconds(1);
    assert_eq!((fails(later), fails(later)), (None, Some(2)));
}

#[test]
fn where_somebody_has_signed_in_the_network_and_the_account_do_not_count() {
    for purpose in PURPOSES {
        let mut tallies = fresh();
        let Ok(reserved) = tallies.reserve(purpose, start()) else { panic!("the first is free") };
        tallies.succeed(reserved, start());
        let blocked = Tally {
            failures: 90,
            blocked_until: Some(start() + TimeDelta::minutes(14)),
            ..Tally::new(start())
        };
        (tallies.network, tallies.account) = (blocked.clone(), blocked.clone());
        let reserved = tallies.reserve(purpose, start());
        assert_eq!(reserved, Ok(Reserved { hold: Duration::ZERO, known: true }));
        tallies.succeed(Reserved { hold: Duration::ZERO, known: true }, start());
        assert_eq!((&tallies.network, &tallies.account), (&blocked, &blocked), "neither counted nor reset");
        // Somebody else behind the same address may make them wait, but not for long.
        let waits = failing(&mut tallies, purpose, 20);
        assert_eq!(waits[..5], [0; 5]);
        assert_eq!(waits[5..], [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60, 60, 60]);
        // After three months they are a stranger again.
        let later = start() + TimeDelta::days(91);
        tallies.network.blocked_until = Some(later + TimeDelta::seconds(7));
        assert_eq!(tallies.reserve(purpose, later), Err(Duration::from_secs(7)));
    }
}

#[test]
fn at_sign_in_failures_from_everywhere_slow_the_answer_and_never_refuse_it() {
    let mut tallies = fresh();
    let mut holds = vec![];
    for _ in 0..1_000 {
        match from_everywhere(&mut tallies, Purpose::SignIn, start()) {
            Ok(reserved) => holds.push(reserved.hold.as_millis()),
            Err(wait) => panic!("refused for {wait:?} after {}", holds.len()),
        }
    }
    assert_eq!(holds[..10], [0; 10]);
    assert_eq!(holds[10..15], [250, 500, 1_000, 2_000, 3_000]);
    assert!(holds[15..].iter().all(|hold| *hold == 3_000));
}

/// Otherwise many machines would go through the million codes for somebody whose password they know.
#[test]
fn failures_from_everywhere_make_the_next_code_wait() {
    for purpose in [Purpose::SecondFactor, Purpose::Confirmation] {
        let mut tallies = fresh();
        for number in 0..10 {
            let hold = from_everywhere(&mut tallies, purpose, start()).map(|reserved| reserved.hold);
            assert_eq!(hold, Ok(Duration::ZERO), "{number}");
        }
        assert_eq!(from_everywhere(&mut tallies, purpose, start()), Err(Duration::from_secs(1)));
        let mut now = start();
        for _ in 0..20 {
            now += from_everywhere(&mut tallies, purpose, now).err().unwrap_or_default();
            assert!(from_everywhere(&mut tallies, purpose, now).is_ok());
        }
        assert_eq!(from_everywhere(&mut tallies, purpose, now), Err(Duration::from_secs(900)));
    }
}

#[test]
fn an_hour_of_quiet_is_forgotten_and_less_is_not() {
    for (minutes, forgotten) in [(59, false), (60, true), (6_000, true)] {
        let mut tallies = fresh();
        failing(&mut tallies, Purpose::SignIn, 12);
        let later = tallies.pair.updated_at + TimeDelta::minutes(minutes);
        assert!(tallies.reserve(Purpose::SignIn, later).is_ok());
        assert_eq!(tallies.pair.failures, if forgotten { 1 } else { 13 }, "{minutes}");
        assert_eq!(tallies.reserve(Purpose::SignIn, later).is_ok(), forgotten, "{minutes}");
    }
}
