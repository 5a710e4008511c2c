//! The server throws everybody out at random moments.

use std::collections::HashSet;

use futures::future::join_all;
use serde_json::json;
use tests::{Database, within};

use super::sealing::{about, opened, personal};
use super::support::{Crowd, Seed, Watcher, append, assert_whole_log, whole_log};

const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                         where datname = current_database() and pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_after_all_connections_were_terminated_again_and_again() {
    let seed = Seed::new();
    let database = Database::new().await;
    let ledger = database.ledger();
    let watcher = Watcher::start(&ledger, seed.rng());
    let crowd = Crowd { node: "one", writers: 32, streams: 8, each: 12, dropped: 10 }.start(&ledger, &seed);
    let mut server = database.connect().await;
    let mut rng = seed.rng();
    for part in 0..8 {
        crowd.amid(part, 8, &mut rng).await;
        let ended: i64 = sqlx::query_scalar(TERMINATE).fetch_one(&mut server).await.unwrap();
        assert!(ended > 0);
    }
    let journal = crowd.finish().await;
    let lost = journal.lost();
    // Batches that a closed connection has certainly not stored are sent again; a few may have been about to commit.
    assert!(lost.len() <= 8, "{lost:?}");
    assert!(
        lost.iter().all(|words| words.starts_with("the event log's database is not available: ")),
        "{lost:?}"
    );
    let log = whole_log(&ledger).await;
    assert_whole_log(&log, &journal.attempts());
    assert_eq!(watcher.seen(log.len() as i64).await, log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_event_without_its_key_and_no_key_without_its_event() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let mut server = database.connect().await;
    for round in 0..6 {
        let people = (0..100).map(|n| format!("{round}-{n}")).collect::<Vec<_>>();
        let appends = people.iter().map(|p| ledger.append(about(p, p, json!({ "name": personal(p, p) }))));
        let terminate = sqlx::query(TERMINATE).execute(&mut server);
        let (outcomes, _) = futures::join!(join_all(appends), terminate);
        assert!(
            outcomes.iter().all(|outcome| outcome.is_ok() || outcome.as_ref().is_err_and(|e| e.is_passing()))
        );
    }
    let log = opened(&database.ledger()).await;
    for event in &log {
        let person = &event.stream.aggregate_id;
        assert_eq!(event.payload, json!({ "name": personal(person, person) }));
    }
    let keys: Vec<String> =
        sqlx::query_scalar("select id from data_keys").fetch_all(&mut server).await.unwrap();
    let people = log.iter().map(|event| format!("subject/{}", event.stream.aggregate_id));
    assert_eq!(keys.into_iter().collect::<HashSet<_>>(), people.collect::<HashSet<_>>());
}

#[tokio::test]
async fn a_ledger_waits_for_a_database_that_is_not_there_yet() {
    let database = Database::empty().await;
    let ledger = database.ledger();
    let error = ledger.append(append(&[("a", 1)])).await.unwrap_err();
    assert!(error.to_string().contains("append_events"), "it has no tables: {error}");
    ledger.migrate().await.unwrap();
    let appended = within("an append", ledger.append(append(&[("a", 1)]))).await.unwrap();
    assert_eq!(appended.position, 1);
}
