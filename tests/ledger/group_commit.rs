//! Many callers at once share few transactions.

use ::ledger::AppendError;
use futures::future::join_all;
use tests::{Database, within};

use super::support::{LOCK, append, lane_waits, whole_log};

/// Events of one transaction carry its id in the row's `xmin`.
const TRANSACTIONS: &str = "select count(distinct xmin::text) from events";

#[tokio::test]
async fn callers_at_once_share_transactions() {
    let database = Database::new().await;
    let ledger = database.ledger();
    // So that connecting does not gather them.
    ledger.append(append(&[("first", 1)])).await.unwrap();
    let ids: Vec<String> = (0..64).map(|n| n.to_string()).collect();
    for round in 1..=10 {
        let outcomes = join_all(ids.iter().map(|id| ledger.append(append(&[(id, round)])))).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    let transactions: i64 =
        sqlx::query_scalar(TRANSACTIONS).fetch_one(&mut database.connect().await).await.unwrap();
    assert!(transactions <= 1 + 640 / 4, "{transactions} transactions for 641 commands");
}

#[tokio::test]
async fn one_caller_pays_for_its_own_transactions_only() {
    let database = Database::new().await;
    let ledger = database.ledger();
    for n in 1..=10 {
        ledger.append(append(&[("a", n), ("b", n)])).await.unwrap();
    }
    let transactions: i64 =
        sqlx::query_scalar(TRANSACTIONS).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(transactions, 10);
}

#[tokio::test]
async fn what_has_gathered_goes_in_at_once_and_a_conflict_fails_only_its_own_command() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("taken", 1)])).await.unwrap();
    let mut holder = database.connect().await;
    sqlx::query("select pg_advisory_lock($1)").bind(LOCK).execute(&mut holder).await.unwrap();
    let mut first = Box::pin(ledger.append(append(&[("first", 1)])));
    lane_waits(&database, &mut first).await;
    let events = |n: usize| match n % 5 {
        0 => vec![(n.to_string(), 1), ("taken".to_owned(), 1)],
        1 => vec![(n.to_string(), 2)],
        _ => vec![(n.to_string(), 1), (format!("{n} more"), 1), (n.to_string(), 2)],
    };
    let commands = (0..100).map(|n| {
        let events = events(n);
        append(&events.iter().map(|(id, sequence)| (id.as_str(), *sequence)).collect::<Vec<_>>())
    });
    let mut gathered = Box::pin(join_all(commands.map(|command| ledger.append(command))));
    assert!(futures::poll!(&mut gathered).is_pending());
    sqlx::query("select pg_advisory_unlock_all()").execute(&mut holder).await.unwrap();
    first.await.unwrap();
    let mut next = 3;
    for (n, outcome) in within("the others", gathered).await.into_iter().enumerate() {
        if n % 5 < 2 {
            assert_eq!(outcome, Err(AppendError::Conflict), "{n}");
        } else {
            let appended = outcome.unwrap();
            assert_eq!((appended.first, appended.position), (next, next + 2), "{n}");
            next += 3;
        }
    }
    let transactions: i64 = sqlx::query_scalar(TRANSACTIONS).fetch_one(&mut holder).await.unwrap();
    assert_eq!(transactions, 3, "one for each of the first two, one for all that waited");
}

/// Two commands on one stream cannot share a statement: whether the second fits depends on the first.
#[tokio::test]
async fn commands_on_one_stream_keep_their_order_and_do_not_fail_each_other() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let chain: Vec<_> = (1..=50).map(|n| append(&[("chain", n)])).collect();
    let outcomes = join_all(chain.into_iter().map(|next| ledger.append(next))).await;
    let positions: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().position).collect();
    assert_eq!(positions, (1..=50).collect::<Vec<_>>());
    assert!(whole_log(&ledger).await.iter().all(|event| event.sequence == event.position));
}
