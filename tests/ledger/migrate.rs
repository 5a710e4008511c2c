//! The tables are brought up to date, again and again and by several at once.

use std::process::Stdio;

use futures::future::join_all;
use tests::{Database, connect_from_environment, within};
use tokio::process::Command;

use super::support::{append, whole_log};

const CHILD: &str = "DAYBOOK_TESTS_MIGRATES";

async fn tables(database: &Database) -> Vec<String> {
    let sql = "select tablename::text from pg_tables where schemaname = 'public' order by 1";
    sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.unwrap()
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = Database::empty().await;
    let ledger = database.ledger();
    assert_eq!(tables(&database).await, Vec::<String>::new());
    ledger.migrate().await.unwrap();
    let made = tables(&database).await;
    assert!(made.contains(&"events".to_owned()) && made.contains(&"data_keys".to_owned()), "{made:?}");
    ledger.append(append(&[("a", 1)])).await.unwrap();
    ledger.migrate().await.unwrap();
    database.ledger().migrate().await.unwrap();
    assert_eq!(tables(&database).await, made);
    assert_eq!(whole_log(&ledger).await.len(), 1);
}

#[tokio::test]
async fn several_processes_migrate_at_once() {
    let database = Database::empty().await;
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::migrate::is_another_process"])
            .envs(database.environment())
            .env(CHILD, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut others = [start(), start()];
    let ours: Vec<_> = (0..4).map(|_| database.ledger()).collect();
    let outcomes = join_all(ours.iter().map(::ledger::Ledger::migrate)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for other in &mut others {
        assert!(within("another process", other.wait()).await.unwrap().success());
    }
    ours[0].append(append(&[("a", 1)])).await.unwrap();
}

/// Not a test: what [`several_processes_migrate_at_once`] starts. It does nothing by itself.
#[tokio::test]
async fn is_another_process() {
    if std::env::var_os(CHILD).is_some() {
        connect_from_environment().unwrap().migrate().await.unwrap();
    }
}

#[tokio::test]
async fn a_database_of_another_history_is_refused_in_words() {
    let database = Database::new().await;
    let mut owner = database.connect().await;
    sqlx::query("update _sqlx_migrations set checksum = 'x' where version = 1")
        .execute(&mut owner)
        .await
        .unwrap();
    let error = database.ledger().migrate().await.unwrap_err().to_string();
    assert!(error.starts_with("the event log's tables could not be brought up to date: "), "{error}");
}
