//! Guessing at passwords and codes, against a real database: what is counted, by whom, and what is forgotten.

mod clock;

use std::net::IpAddr;
use std::time::Duration;

use ::commands::{Attempt, AttemptError, Guessing, Purpose};
use futures::future::join_all;
use tests::within;

use clock::Clock;

const ACCOUNT: &str = "ada@example.org";
const HOME: &str = "192.0.2.1";

/// The address number `n` of a crowd.
fn crowd(n: usize) -> String {
    format!("2001:db8:{n:x}::1")
}

async fn attempt(node: &Guessing, account: &str, address: &str) -> Result<Attempt, AttemptError> {
    attempt_at(node, Purpose::SignIn, account, address).await
}

async fn attempt_at(
    node: &Guessing,
    purpose: Purpose,
    account: &str,
    address: &str,
) -> Result<Attempt, AttemptError> {
    let address: IpAddr = address.parse().unwrap();
    within("an attempt", node.reserve(purpose, account, address)).await
}

/// Whether an attempt may be made; it fails.
async fn may(node: &Guessing, account: &str, address: &str) -> bool {
    wait(node, account, address).await.is_none()
}

/// How long the next attempt has to wait, in whole seconds rounded up; if it may be made, it fails.
async fn wait(node: &Guessing, account: &str, address: &str) -> Option<u64> {
    match attempt(node, account, address).await {
        Ok(_) => None,
        Err(AttemptError::TooSoon { wait }) => Some(wait.as_millis().div_ceil(1_000).try_into().unwrap()),
        Err(AttemptError::Uncounted(error)) => panic!("{error}"),
    }
}

async fn sign_in(node: &Guessing, account: &str, address: &str) {
    attempt(node, account, address).await.unwrap().succeeded().await;
}

#[tokio::test]
async fn the_delay_doubles_with_each_failure_up_to_a_quarter_of_an_hour_on_every_node() {
    let clock = Clock::new().await;
    let nodes = [clock.node(), clock.node()];
    for number in 0..5 {
        assert!(may(&nodes[number % 2], ACCOUNT, HOME).await, "{number}");
    }
    for (number, seconds) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900].into_iter().enumerate() {
        let node = &nodes[number % 2];
        assert_eq!(wait(node, ACCOUNT, HOME).await, Some(seconds), "after {} failures", number + 5);
        clock.pass(seconds).await;
        assert!(may(node, ACCOUNT, HOME).await, "it has waited {seconds} s");
    }
}

#[tokio::test]
async fn waiting_is_never_in_vain_and_a_success_begins_anew() {
    let clock = Clock::new().await;
    let node = clock.node();
    while may(&node, ACCOUNT, HOME).await {}
    let before = clock.rows().await;
    for _ in 0..20 {
        assert!(!may(&node, ACCOUNT, HOME).await);
        assert!(!may(&node, ACCOUNT, "::ffff:192.0.2.1").await, "the same address in other clothes");
    }
    assert_eq!(clock.rows().await, before);
    clock.pass(1).await;
    sign_in(&node, ACCOUNT, HOME).await;
    for number in 0..5 {
        assert!(may(&node, ACCOUNT, HOME).await, "{number}");
    }
    assert!(!may(&node, ACCOUNT, HOME).await);
}

/// Each is counted before anybody knows how it ends, under one lock for all nodes.
#[tokio::test]
async fn of_64_at_once_only_the_free_ones_get_through() {
    let clock = Clock::new().await;
    let nodes = [clock.node(), clock.node()];
    let at_once = |accounts: usize| {
        let (nodes, clock) = (&nodes, &clock);
        async move {
            let attempts = (0..64).map(async |number: usize| {
                let account = format!("{}@example.org", number % accounts);
                attempt(&nodes[number % 2], &account, HOME).await.is_ok()
            });
            let through = join_all(attempts).await.into_iter().filter(|through| *through).count();
            clock.pass(7_200).await;
            through
        }
    };
    assert_eq!(at_once(1).await, 5, "one account from one address");
    assert_eq!(at_once(64).await, 20, "64 accounts from one address");
    let everywhere = (0..64).map(async |number: usize| {
        let outcome = attempt_at(&nodes[number % 2], Purpose::SecondFactor, ACCOUNT, &crowd(number)).await;
        outcome.is_ok()
    });
    let through = join_all(everywhere).await.into_iter().filter(|through| *through).count();
    assert_eq!(through, 10, "codes of one account from 64 addresses");
}

#[tokio::test]
async fn a_stranger_cannot_lock_anybody_out() {
    let clock = Clock::new().await;
    let node = clock.node();
    sign_in(&node, ACCOUNT, HOME).await;
    // From one address, from a thousand others, and from behind the owner's own address on other accounts.
    while may(&node, ACCOUNT, "198.51.100.7").await {}
    for number in 0..40 {
        assert!(may(&node, ACCOUNT, &crowd(number)).await, "only the answer is slower");
    }
    let mut number = 0;
    while may(&node, &format!("{number}@example.org"), HOME).await {
        number += 1;
    }
    assert_eq!(number, 20);
    let owner = attempt(&node, ACCOUNT, HOME).await.unwrap();
    assert_eq!(owner.hold(), Duration::ZERO, "at home nothing is different");
    owner.withdrawn().await;
    let travelling = attempt(&node, ACCOUNT, "203.0.113.9").await.unwrap();
    assert_eq!(travelling.hold(), Duration::from_secs(3), "elsewhere the answer comes later, and it comes");
    travelling.succeeded().await;
    let next = attempt(&node, ACCOUNT, "203.0.113.10").await.unwrap();
    assert_eq!(next.hold(), Duration::ZERO, "a success ends that as well");
    // Behind the owner's address on the owner's account: the owner waits for a minute at most.
    for _ in 0..30 {
        while may(&node, ACCOUNT, HOME).await {}
        let wait = wait(&node, ACCOUNT, HOME).await.unwrap();
        assert!(wait <= 60, "{wait}");
        clock.pass(wait).await;
    }
    sign_in(&node, ACCOUNT, HOME).await;
}

/// The same for accounts that exist and for those that do not: nobody is asked which.
#[tokio::test]
async fn one_network_cannot_go_from_account_to_account() {
    let clock = Clock::new().await;
    let node = clock.node();
    for number in 0..20 {
        // Its last 64 bits are the client's to choose.
        let address = format!("2001:db8::{number:x}:1");
        assert!(may(&node, &format!("{number}@example.org"), &address).await, "{number}");
    }
    assert_eq!(wait(&node, "anybody@example.org", "2001:db8::1").await, Some(1));
    assert!(may(&node, "anybody@example.org", "2001:db8:0:1::1").await, "the neighbour has done nothing");
    // Who succeeds from there is free of it from then on, and frees nobody else.
    clock.pass(1).await;
    sign_in(&node, ACCOUNT, "2001:db8::1").await;
    assert!(may(&node, "anybody@example.org", "2001:db8::1").await);
    assert_eq!(wait(&node, "somebody@example.org", "2001:db8::1").await, Some(2));
    assert!(may(&node, ACCOUNT, "2001:db8::2").await);
}

#[tokio::test]
async fn what_is_guessed_at_is_counted_apart() {
    let clock = Clock::new().await;
    let node = clock.node();
    while may(&node, ACCOUNT, HOME).await {}
    for purpose in [Purpose::SecondFactor, Purpose::Confirmation] {
        for number in 0..5 {
            assert!(attempt_at(&node, purpose, ACCOUNT, HOME).await.is_ok(), "{purpose:?} {number}");
        }
        assert!(attempt_at(&node, purpose, ACCOUNT, HOME).await.is_err(), "{purpose:?}");
    }
}

#[tokio::test]
async fn what_did_not_take_place_counts_for_nothing() {
    let clock = Clock::new().await;
    let node = clock.node();
    for number in 0..100 {
        let attempt = attempt(&node, ACCOUNT, HOME).await;
        attempt.unwrap_or_else(|error| panic!("{number}: {error}")).withdrawn().await;
    }
    // The caller who goes away has guessed.
    for _ in 0..5 {
        drop(attempt(&node, ACCOUNT, HOME).await.unwrap());
    }
    assert!(!may(&node, ACCOUNT, HOME).await);
}

#[tokio::test]
async fn an_hour_of_quiet_is_forgotten_and_three_months_without_a_success() {
    let clock = Clock::new().await;
    let node = clock.node();
    sign_in(&node, ACCOUNT, HOME).await;
    while may(&node, "bob@example.org", "192.0.2.2").await {}
    clock.pass(3_601).await;
    for number in 0..5 {
        assert!(may(&node, "bob@example.org", "192.0.2.2").await, "{number}");
    }
    assert!(!may(&node, "bob@example.org", "192.0.2.2").await);
    let blocked = async || {
        let mut number = 0;
        while may(&node, &format!("{number}@example.org"), HOME).await {
            number += 1;
        }
    };
    clock.pass(89 * 86_400).await;
    blocked().await;
    assert!(may(&node, ACCOUNT, HOME).await, "known for another day");
    clock.pass(86_400).await;
    blocked().await;
    assert!(!may(&node, ACCOUNT, HOME).await, "a stranger again");
}

#[tokio::test]
async fn old_rows_are_removed_and_what_is_still_needed_is_not() {
    let clock = Clock::new().await;
    let node = clock.node();
    sign_in(&node, ACCOUNT, HOME).await;
    for number in 0..40 {
        assert!(may(&node, ACCOUNT, &crowd(number)).await);
    }
    assert_eq!(clock.rows().await, 1 + 1 + 1 + 80, "pairs, networks, one account");
    clock.pass(3_601).await;
    let mut number = 0;
    while clock.rows().await >= 80 {
        number += 1;
        assert!(number <= 64, "it comes with every 64th attempt");
        assert!(may(&node, "bob@example.org", &crowd(1_000 + number)).await);
    }
    let new = i64::try_from(number).unwrap() * 2 + 1;
    assert_eq!(clock.rows().await, 1 + new, "what came since, and the pair that is known");
    clock.pass(91 * 86_400).await;
    for number in 0..64 {
        assert!(may(&node, "carol@example.org", &crowd(2_000 + number)).await);
    }
    assert!(clock.rows().await <= 129, "the pair is gone as well");
}

#[tokio::test]
async fn no_row_tells_whose_it_is_or_from_where() {
    let clock = Clock::new().await;
    let node = clock.node();
    sign_in(&node, ACCOUNT, HOME).await;
    let sql = "select row_to_json(tally)::text from sign_in_attempts tally";
    let rows: Vec<String> =
        sqlx::query_scalar(sql).fetch_all(&mut clock.database().connect().await).await.unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert!(!row.contains(ACCOUNT) && !row.contains("192.0.2"), "{row}");
    }
}

#[tokio::test]
async fn so_many_answers_are_held_back_at_a_time_and_no_more() {
    let clock = Clock::new().await;
    let node = clock.node();
    for number in 0..20 {
        assert!(may(&node, ACCOUNT, &crowd(number)).await);
    }
    let mut held = vec![];
    for number in 0..256 {
        let attempt = attempt(&node, ACCOUNT, &crowd(100 + number)).await.unwrap();
        assert_eq!(attempt.hold(), Duration::from_secs(3));
        held.push(Box::pin(attempt.held_back()));
    }
    for attempt in &mut held {
        assert!(futures::poll!(attempt).is_pending());
    }
    let address: IpAddr = "192.0.2.99".parse().unwrap();
    let refused = within("a refusal", node.begin(Purpose::SignIn, ACCOUNT, address)).await.err();
    let expected = Duration::from_secs(3);
    assert!(matches!(refused, Some(AttemptError::TooSoon { wait }) if wait == expected), "{refused:?}");
    drop(held.pop());
    let mut next = Box::pin(attempt(&node, ACCOUNT, "192.0.2.99").await.unwrap().held_back());
    assert!(futures::poll!(&mut next).is_pending(), "there is a place again, and the refusal did not count");
}

#[tokio::test]
async fn without_the_database_nothing_may_be_guessed() {
    let clock = Clock::new().await;
    let node = clock.node();
    assert!(may(&node, ACCOUNT, HOME).await);
    sqlx::query("alter table sign_in_attempts rename to elsewhere")
        .execute(&mut clock.database().connect().await)
        .await
        .unwrap();
    let refused = attempt(&node, ACCOUNT, HOME).await;
    assert!(matches!(refused, Err(AttemptError::Uncounted(_))));
}
