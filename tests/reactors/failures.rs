//! Events that cannot be dealt with: tried again, or put aside, and never simply skipped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ::commands::reactor::{ReactorError, ReactorOptions, decode};
use ::ledger::Ledger;
use sqlx::{Executor as _, PgConnection};
use tests::eventually;

use super::support::{Act, Outbox, Running, database, happen, lines, quick, written};
use crate::projections::support::{registered, user_id};

/// Position, tries and error of what was put aside.
async fn aside(behind: &mut PgConnection) -> Vec<(i64, i32, String)> {
    let sql =
        "select position, tries, error from reactor_failures where reactor = 'outbox' order by position";
    sqlx::query_as(sql).fetch_all(behind).await.unwrap()
}

fn lasting(cause: &str) -> Act {
    Act::Fail(ReactorError::Lasting(cause.to_owned()))
}

/// What a newer Daybook writes about a user.
async fn newer(ledger: &Ledger) -> i64 {
    let mut append = crate::ledger::support::append(&[]);
    append.events.push(::ledger::NewEvent { event_version: "99".to_owned(), ..registered(user_id(), "Ada") });
    ledger.append(append).await.unwrap().position
}

#[tokio::test]
async fn a_passing_failure_is_tried_until_it_succeeds_and_nothing_overtakes_it() {
    let database = database().await;
    let ledger = database.ledger();
    happen(&ledger, 4).await;
    let failures = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&failures);
    // Far more often than a lasting one would be tried.
    let outbox = Outbox::new(move |event| match event.position {
        2 if counting.fetch_add(1, Ordering::SeqCst) < 12 => {
            Act::Fail(ReactorError::Passing("the mail server is away".to_owned()))
        }
        position => Act::Write(position.to_string()),
    });
    let _running = Running::start(&ledger, &outbox, quick());
    let mut behind = database.connect().await;
    written(&mut behind, 1..=4).await;
    let mut expected = vec![1];
    expected.extend([2; 13]);
    expected.extend([3, 4]);
    assert_eq!(outbox.asked(), expected);
    assert_eq!(aside(&mut behind).await, []);
}

#[tokio::test]
async fn an_event_whose_row_is_damaged_is_put_aside_and_taken_up_when_it_is_mended() {
    let database = database().await;
    let ledger = database.ledger();
    happen(&ledger, 4).await;
    let mut behind = database.connect().await;
    let change = async |behind: &mut PgConnection, set: &str| {
        let sql = format!(
            "alter table events disable trigger events_are_for_ever; update events set {set}; \
             alter table events enable trigger events_are_for_ever"
        );
        behind.execute(sqlx::raw_sql(&sql)).await.unwrap();
    };
    change(&mut behind, "payload = '{\"x\": \"geheim\\ud800\"}' where position = 2").await;
    change(&mut behind, "metadata = '[1e999]' where position = 3").await;
    let outbox = Outbox::writing();
    let running = Running::start(&ledger, &outbox, quick());
    written(&mut behind, [1, 4]).await;
    let put_aside = aside(&mut behind).await;
    let which: Vec<_> = put_aside.iter().map(|(position, ..)| *position).collect();
    assert_eq!((which, outbox.asked()), (vec![2, 3], vec![1, 4]));
    for (_, _, error) in &put_aside {
        assert!(error.contains("cannot be read") && !error.contains("geheim"), "{error}");
    }
    running.stop().await;
    change(&mut behind, "payload = '{}', metadata = '{}' where position in (2, 3)").await;
    let _running = Running::start(&ledger, &outbox, quick());
    written(&mut behind, [1, 4, 2, 3]).await;
    assert_eq!(aside(&mut behind).await, []);
}

#[tokio::test]
async fn a_lasting_failure_is_tried_some_times_and_put_aside_and_the_others_go_on() {
    let database = database().await;
    let ledger = database.ledger();
    happen(&ledger, 2).await;
    let unknown = newer(&ledger).await;
    happen(&ledger, 3).await;
    let outbox = Outbox::new(|event| match event.position {
        1 => lasting(&format!("no\0{}", "ä".repeat(3_000))),
        4 => Act::Refused,
        5 => Act::Panic,
        position if event.stream.aggregate_type == "user" => match decode(event) {
            Ok(_) => Act::Write(position.to_string()),
            Err(error) => Act::Fail(error),
        },
        position => Act::Write(position.to_string()),
    });
    let running = Running::start(&ledger, &outbox, quick());
    let mut behind = database.connect().await;
    written(&mut behind, [2, 6]).await;
    assert_eq!(outbox.asked(), [1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6]);
    let put_aside = aside(&mut behind).await;
    let which: Vec<_> = put_aside.iter().map(|(position, tries, _)| (*position, *tries)).collect();
    assert_eq!(which, [(1, 3), (unknown, 3), (4, 3), (5, 3)]);
    assert_eq!(put_aside[0].2, format!("no{}", "ä".repeat(998)));
    assert!(put_aside[1].2.contains("UserRegistered version 99 is not known"), "{}", put_aside[1].2);
    assert!(put_aside[2].2.contains("too long"), "{}", put_aside[2].2);
    assert_eq!(put_aside[3].2, "the reactor panicked");
    running.stop().await;
}

#[tokio::test]
async fn what_was_put_aside_is_tried_once_more_by_the_next_process() {
    let database = database().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    happen(&ledger, 4).await;
    let older = Outbox::new(|event| match event.position {
        4 => Act::Write("4".to_owned()),
        _ => lasting("not known to this version"),
    });
    let running = Running::start(&ledger, &older, quick());
    written(&mut behind, [4]).await;
    running.stop().await;
    let newer = Outbox::new(|event| match event.position {
        1 => lasting("still not known"),
        2 => Act::Nothing,
        position => Act::Write(position.to_string()),
    });
    let running = Running::start(&ledger, &newer, quick());
    written(&mut behind, [4, 3]).await;
    happen(&ledger, 1).await;
    written(&mut behind, [4, 3, 5]).await;
    assert_eq!(newer.asked(), [1, 2, 3, 5]);
    assert_eq!(aside(&mut behind).await, [(1, 4, "still not known".to_owned())]);
    running.stop().await;
}

/// When everything fails, something else is wrong: better to stand still than to go through the whole log and put all of it aside.
#[tokio::test]
async fn a_reactor_that_has_put_too_much_aside_goes_no_further_before_something_succeeds() {
    let database = database().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    happen(&ledger, 4).await;
    let broken = Arc::new(AtomicBool::new(true));
    let looking = Arc::clone(&broken);
    let outbox = Outbox::new(move |event| match looking.load(Ordering::SeqCst) {
        true => lasting("no template"),
        false => Act::Write(event.position.to_string()),
    });
    let _running = Running::start(&ledger, &outbox, ReactorOptions { most_aside: 2, ..quick() });
    // Well beyond the tries after which an event is put aside otherwise.
    let third = eventually("the third event, again and again", async || {
        let asked = outbox.asked();
        (asked.len() >= 6 + 8).then_some(asked)
    })
    .await;
    assert_eq!(third[..6], [1, 1, 1, 2, 2, 2]);
    assert!(third[6..].iter().all(|position| *position == 3), "{third:?}");
    assert_eq!(aside(&mut behind).await.len(), 2);
    broken.store(false, Ordering::SeqCst);
    written(&mut behind, [3, 4]).await;
}

#[tokio::test]
async fn a_reaction_that_takes_too_long_has_failed() {
    let database = database().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    happen(&ledger, 2).await;
    let gate = super::support::Gate::closed();
    let outbox = Outbox::new(move |event| match event.position {
        1 => Act::WaitAndWrite(gate.clone()),
        position => Act::Write(position.to_string()),
    });
    let patience = Duration::from_millis(20);
    let _running = Running::start(&ledger, &outbox, ReactorOptions { patience, ..quick() });
    written(&mut behind, [2]).await;
    assert_eq!(aside(&mut behind).await, [(1, 3, "the reaction took too long".to_owned())]);
}

/// What was read before somebody was erased is not remembered by a reactor that is still trying.
#[tokio::test]
async fn who_is_erased_between_two_tries_is_erased_in_the_second() {
    use crate::ledger::sealing::{about, personal};
    let database = database().await;
    let ledger = database.ledger();
    let payload = serde_json::json!({ "name": personal("ada", "Ada") });
    ledger.append(about("ada", "1", payload)).await.unwrap();
    let erased = Arc::new(AtomicBool::new(false));
    let looking = Arc::clone(&erased);
    let outbox = Outbox::new(move |event| match looking.load(Ordering::SeqCst) {
        true => Act::Write(event.payload.value()["name"]["personal"].as_str().unwrap_or("erased").to_owned()),
        false => Act::Fail(ReactorError::Passing("not yet".to_owned())),
    });
    let _running = Running::start(&ledger, &outbox, quick());
    eventually("a first try", async || (!outbox.asked().is_empty()).then_some(())).await;
    ledger.destroy_subjects(&["ada".to_owned()]).await.unwrap();
    // The next but one was begun after that.
    let asked = outbox.asked().len();
    eventually("further tries", async || (outbox.asked().len() >= asked + 2).then_some(())).await;
    erased.store(true, Ordering::SeqCst);
    let mut behind = database.connect().await;
    let lines = eventually("a line", async || {
        let lines = lines(&mut behind).await;
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines, [(1, "erased".to_owned())]);
}
