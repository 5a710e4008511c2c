//! Keys are destroyed: on every node, for good, and nothing else with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::ledger::{Ledger, LedgerError, SealError};
use serde_json::json;
use sqlx::Executor as _;
use tests::{Database, eventually, within};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sealing::{about, opened, personal};
use super::support::{Hearing, LOCK, lane_waits, store_keys, whole_log};

pub(crate) async fn register(ledger: &Ledger, subject: &str, id: &str) {
    ledger.append(about(subject, id, json!({ "name": personal(subject, id) }))).await.unwrap();
}

/// The names in the log, as this node opens them; `None` for erased ones.
pub(crate) async fn names(ledger: &Ledger) -> Vec<Option<String>> {
    try_names(ledger).await.unwrap()
}

/// As [`names`], where the database may be out of reach.
pub(crate) async fn try_names(ledger: &Ledger) -> Result<Vec<Option<String>>, LedgerError> {
    let mut log = ledger.read(0, 1_000).await?;
    log.retain(|event| event.payload.value().get("name").is_some());
    ledger.open_personal(&mut log).await?;
    let name = |event: ::ledger::Recorded| {
        let erased = event.payload.value()["name"]["erased"] == json!(true);
        assert_eq!(event.metadata.ip.as_deref(), Some(if erased { "erased" } else { "192.0.2.77" }));
        (!erased).then(|| event.payload.value()["name"]["personal"].as_str().unwrap().to_owned())
    };
    Ok(log.into_iter().map(name).collect())
}

fn some(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| (!name.is_empty()).then(|| (*name).to_owned())).collect()
}

async fn stored_keys(database: &Database) -> Vec<String> {
    let sql = "select id from data_keys order by id";
    sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_erased_on_one_node_is_erased_on_all() {
    let database = Database::new().await;
    let (here, there, deaf) =
        (Hearing::start(&database).await, Hearing::start(&database).await, database.ledger());
    for (subject, id) in [("ada", "1"), ("bob", "2")] {
        register(&here.ledger, subject, id).await;
    }
    for node in [&here.ledger, &there.ledger, &deaf] {
        assert_eq!(names(node).await, some(&["1", "2"]), "and it is in memory now");
    }
    let log = whole_log(&deaf).await;
    assert_eq!(here.ledger.destroy_subjects(&["ada".to_owned()]).await.unwrap(), 1);
    for node in [&here.ledger, &deaf] {
        assert_eq!(names(node).await, some(&["", "2"]), "at once");
    }
    eventually("the other node forgets", async || {
        (names(&there.ledger).await == some(&["", "2"])).then_some(())
    })
    .await;
    assert_eq!(whole_log(&deaf).await, log, "the log itself is as it was");
    assert_eq!(stored_keys(&database).await, ["subject/bob"]);
    // Whoever does not know whether it was done does it again.
    assert_eq!(there.ledger.destroy_subjects(&["ada".to_owned()]).await.unwrap(), 0);
    assert_eq!(there.ledger.destroy_keys(&[]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_instances_own_key_is_never_destroyed_and_nothing_beside_it() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let hash = ledger.keyed_hash(&["email", "ada@example.org"]).await.unwrap();
    register(&ledger, "ada", "1").await;
    let keys = ["subject/ada", "instance/claims"].map(str::to_owned);
    let refused = ledger.destroy_keys(&keys).await;
    assert!(
        matches!(&refused, Err(LedgerError::Seal(SealError::Indispensable { what })) if what == "instance/claims"),
        "{refused:?}"
    );
    assert_eq!(stored_keys(&database).await, ["instance/claims", "subject/ada"]);
    assert_eq!(names(&ledger).await, some(&["1"]));
    assert_eq!(database.ledger().keyed_hash(&["email", "ada@example.org"]).await.unwrap(), hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_keys_are_destroyed_at_once() {
    let database = Database::new().await;
    let (here, there) = (Hearing::start(&database).await, Hearing::start(&database).await);
    let keys: Vec<String> = (0..4_000).map(|n| format!("secret/{n:040}/1")).collect();
    let kept = "secret/kept/1".to_owned();
    store_keys(&here.ledger, &keys).await;
    store_keys(&here.ledger, std::slice::from_ref(&kept)).await;
    for name in &keys {
        assert!(there.ledger.data_key(name).await.unwrap().is_some());
    }
    assert_eq!(here.ledger.destroy_keys(&keys).await.unwrap(), 4_000);
    assert_eq!(stored_keys(&database).await, [kept.as_str()]);
    eventually("the other node forgets all of them", async || {
        for name in &keys {
            if there.ledger.data_key(name).await.unwrap().is_some() {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(there.ledger.data_key(&kept).await.unwrap().is_some());
}

/// The planner's statistics are samples of what a table holds, and are kept when that is deleted.
#[tokio::test]
async fn a_destroyed_key_is_in_neither_the_table_nor_the_planners_statistics() {
    let database = Database::new().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    let keys: Vec<String> = (0..500).map(|n| format!("secret/{n}/1")).collect();
    store_keys(&ledger, &keys).await;
    behind.execute("analyze data_keys").await.unwrap();
    let sampled = "select attname::text from pg_stats where tablename = 'data_keys' order by 1";
    let sampled: Vec<String> = sqlx::query_scalar(sampled).fetch_all(&mut behind).await.unwrap();
    assert!(sampled.contains(&"id".to_owned()) && !sampled.contains(&"wrapped".to_owned()), "{sampled:?}");
    assert_eq!(ledger.destroy_keys(&keys).await.unwrap(), 500);
    assert_eq!(stored_keys(&database).await, Vec::<String>::new());
}

/// It was sealed with the key that is destroyed before it is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_under_way_while_its_key_is_destroyed_is_erased_from_the_beginning() {
    let database = Database::new().await;
    let (here, there) = (Hearing::start(&database).await, Hearing::start(&database).await);
    register(&here.ledger, "ada", "1").await;
    let mut other = database.connect().await;
    other.execute("begin").await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut other).await.unwrap();
    let mut under_way = Box::pin(register(&here.ledger, "ada", "2"));
    lane_waits(&database, &mut under_way).await;
    assert_eq!(there.ledger.destroy_subjects(&["ada".to_owned()]).await.unwrap(), 1);
    other.execute("commit").await.unwrap();
    within("the append", under_way).await;
    let nodes = [&here.ledger, &there.ledger, &database.ledger()];
    for node in nodes {
        eventually("both are erased", async || (names(node).await == some(&["", ""])).then_some(())).await;
    }
    // Whoever is written about again gets another key: it opens what it sealed and nothing older.
    register(nodes[1], "ada", "3").await;
    for node in nodes {
        assert_eq!(names(node).await, some(&["", "", "3"]));
    }
    assert_eq!(nodes[0].destroy_subjects(&["ada".to_owned()]).await.unwrap(), 1);
    for node in nodes {
        eventually("all are erased", async || (names(node).await == some(&["", "", ""])).then_some(())).await;
    }
}

/// What the readers of the next test have been told: events up to `erasing` may be erased at any moment.
#[derive(Default)]
struct Progress {
    erasing: AtomicUsize,
    done: CancellationToken,
}

/// Reads again and again: what was erased never opens again, and what nobody has erased opens.
async fn read_on(node: Ledger, progress: Arc<Progress>) {
    let mut erased = 0;
    while !progress.done.is_cancelled() {
        let names = names(&node).await;
        let erasing = progress.erasing.load(Ordering::SeqCst);
        for (number, name) in (1..).zip(&names) {
            match name {
                Some(name) => {
                    assert!(number > erased, "{number} opens again, after {erased} was erased");
                    assert_eq!(*name, number.to_string());
                }
                None => assert!(number <= erasing, "{number} does not open; erased is {erasing}"),
            }
        }
        erased = names.iter().take_while(|name| name.is_none()).count();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_never_opens_again_however_many_read_meanwhile() {
    let database = Database::new().await;
    let nodes = [Hearing::start(&database).await, Hearing::start(&database).await];
    let (progress, mut readers) = (Arc::new(Progress::default()), JoinSet::new());
    for node in nodes.iter().flat_map(|node| std::iter::repeat_n(node, 4)) {
        readers.spawn(read_on(node.ledger.clone(), Arc::clone(&progress)));
    }
    for number in 1..=40 {
        let (writer, other) = (&nodes[number % 2].ledger, &nodes[(number + 1) % 2].ledger);
        register(writer, "ada", &number.to_string()).await;
        assert_eq!(names(other).await.pop().unwrap(), Some(number.to_string()));
        progress.erasing.store(number, Ordering::SeqCst);
        assert_eq!(writer.destroy_subjects(&["ada".to_owned()]).await.unwrap(), 1);
        assert!(names(writer).await.iter().all(Option::is_none));
        // The next is sealed by the other node: not before it has forgotten the key.
        eventually("it is erased on the other node", async || {
            names(other).await.iter().all(Option::is_none).then_some(())
        })
        .await;
    }
    progress.done.cancel();
    while let Some(outcome) = within("the readers", readers.join_next()).await {
        outcome.unwrap();
    }
}

/// Two who destroy the same keys in another order do not get in each other's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_destroy_the_same_keys_at_once_all_succeed() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let mut keys: Vec<String> = (0..200).map(|n| format!("secret/{n}/1")).collect();
    store_keys(&ledger, &keys).await;
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        keys.reverse();
        keys.rotate_left(7);
        let (node, keys) = (database.ledger(), keys.clone());
        tasks.spawn(async move { node.destroy_keys(&keys).await.unwrap() });
    }
    assert_eq!(within("all of them", tasks.join_all()).await.into_iter().sum::<u64>(), 200);
    assert_eq!(opened(&ledger).await.len(), 1);
}
