//! Several nodes append to one log at once: two ledgers in this process, and one in another.

use std::process::Stdio;

use sqlx::Executor as _;
use tests::{Database, connect_from_environment, within};
use tokio::process::Command;

use super::support::{Attempt, Crowd, LOCK, Seed, Watcher, append, assert_whole_log, lane_waits, whole_log};

/// Says to the second process where to leave its journal.
const JOURNAL: &str = "DAYBOOK_TESTS_JOURNAL";

const CROWD: Crowd = Crowd { node: "first", writers: 24, streams: 8, each: 10, dropped: 15 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_at_once() {
    let seed = Seed::new();
    let database = Database::new().await;
    let (first, second) = (database.ledger(), database.ledger());
    let watchers = [Watcher::start(&first, seed.rng()), Watcher::start(&second, seed.rng())];
    let crowds = [CROWD.start(&first, &seed), Crowd { node: "second", ..CROWD }.start(&second, &seed)];
    let mut attempts = vec![];
    for crowd in crowds {
        let journal = crowd.finish().await;
        assert_eq!(journal.lost(), Vec::<String>::new());
        attempts.extend(journal.attempts());
    }
    let log = whole_log(&first).await;
    assert_whole_log(&log, &attempts);
    for watcher in watchers {
        assert_eq!(watcher.seen(log.len() as i64).await, log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_at_once() {
    let seed = Seed::new();
    let database = Database::new().await;
    let ledger = database.ledger();
    let watcher = Watcher::start(&ledger, seed.rng());
    let journal = tempfile::NamedTempFile::new().unwrap();
    let mut second = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ledger::two_nodes::is_the_second_process"])
        .envs(database.environment())
        .env(JOURNAL, journal.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Ours begin when the other has begun, so that they are at it together.
    let theirs = ledger.follow(0).next(1).await.unwrap();
    assert!(theirs[0].payload.value()["attempt"].as_str().unwrap().starts_with("second/"));
    let ours = CROWD.start(&ledger, &seed).finish().await;
    assert!(within("the second process", second.wait()).await.unwrap().success());
    let mut attempts: Vec<Attempt> = serde_json::from_reader(journal.as_file()).unwrap();
    attempts.extend(ours.attempts());
    let log = whole_log(&ledger).await;
    assert_whole_log(&log, &attempts);
    assert_eq!(watcher.seen(log.len() as i64).await, log);
}

/// Not a test: what [`two_processes_at_once`] starts. It does nothing by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_the_second_process() {
    let Some(ledger) = connect_from_environment() else { return };
    let crowd = Crowd { node: "second", ..CROWD };
    let journal = crowd.start(&ledger, &Seed::new()).finish().await;
    std::fs::write(std::env::var(JOURNAL).unwrap(), serde_json::to_vec(&journal.attempts()).unwrap())
        .unwrap();
}

/// Under `repeatable read` the function would look at the log as it was before it got the lock.
#[tokio::test]
async fn a_database_with_another_default_isolation_orders_nodes_as_well() {
    let database = Database::new().await;
    let mut other = database.connect().await;
    let name: String =
        sqlx::query_scalar("select current_database()::text").fetch_one(&mut other).await.unwrap();
    let sql = format!("alter database {name} set default_transaction_isolation = 'repeatable read'");
    other.execute(sqlx::raw_sql(&sql)).await.unwrap();
    // Another node that has just got the lock, held fast.
    other.execute("begin isolation level read committed").await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut other).await.unwrap();
    let ledger = database.ledger();
    let mut ours = Box::pin(ledger.append(append(&[("a", 1)])));
    lane_waits(&database, &mut ours).await;
    let theirs = "select append_events('{0}', '{story}', '{b}', '{1}', '{Happened}', '{1}', array['{}'], array['{}'], \
                  '{0}', '{story}', '{b}', '{0}', '{}', '{}', '{}', '{}')";
    other.execute(sqlx::raw_sql(theirs)).await.unwrap();
    other.execute("commit").await.unwrap();
    assert_eq!(within("our append", ours).await.unwrap().position, 2);
}
