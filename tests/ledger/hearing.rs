//! A node that does not hear which keys are destroyed remembers none.

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Executor as _, PgConnection};
use tests::{Database, Server, eventually};

use super::destroying::{names, register, try_names};
use super::support::{Hearing, remembers, remove_row};

/// The connections on which nodes hear.
const LISTENING: &str =
    "from pg_stat_activity where datname = current_database() and application_name = 'daybook keys'";

async fn terminate_listeners(behind: &mut PgConnection) -> i64 {
    let sql = format!("select count(pg_terminate_backend(pid)) {LISTENING}");
    sqlx::query_scalar(&sql).fetch_one(behind).await.unwrap()
}

/// Says whether anybody may connect to the database; who is connected stays.
async fn open_to_newcomers(behind: &mut PgConnection, open: bool) {
    let name: String = sqlx::query_scalar("select current_database()::text").fetch_one(behind).await.unwrap();
    let sql = format!("alter database {name} allow_connections {open}");
    // From another database: nobody may lock their own.
    Server::shared().await.connect().await.execute(sqlx::raw_sql(&sql)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_was_never_told_to_listen_remembers_nothing() {
    let database = Database::new().await;
    let ledger = database.ledger();
    register(&ledger, "ada", "1").await;
    assert_eq!(names(&ledger).await, [Some("1".to_owned())]);
    remove_row(&database, "subject/ada").await;
    assert_eq!(names(&ledger).await, [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_erased_while_nothing_was_heard_is_erased_all_the_same() {
    let database = Database::new().await;
    let node = Hearing::start(&database).await;
    let (other, mut behind) = (database.ledger(), database.connect().await);
    register(&other, "ada", "1").await;
    assert_eq!(names(&node.ledger).await, [Some("1".to_owned())], "and it is in memory now");
    open_to_newcomers(&mut behind, false).await;
    assert_eq!(terminate_listeners(&mut behind).await, 1);
    // Their pools may want another connection, and not get it.
    eventually("ada is erased", async || other.destroy_subjects(&["ada".to_owned()]).await.ok()).await;
    eventually("the node does not trust its memory", async || {
        (try_names(&node.ledger).await.ok()? == [None]).then_some(())
    })
    .await;
    open_to_newcomers(&mut behind, true).await;
    remembers(&node.ledger, &database).await;
    assert_eq!(names(&node.ledger).await, [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_connection_is_lost_again_and_again_hears_again_each_time() {
    let database = Database::new().await;
    let node = Hearing::start(&database).await;
    let (other, mut behind) = (database.ledger(), database.connect().await);
    for round in 1..4 {
        let subject = format!("subject of {round}");
        register(&other, &subject, &round.to_string()).await;
        assert_eq!(names(&node.ledger).await.pop().unwrap(), Some(round.to_string()));
        assert_eq!(terminate_listeners(&mut behind).await, 1);
        other.destroy_subjects(&[subject]).await.unwrap();
        eventually("it is erased", async || {
            names(&node.ledger).await.iter().all(Option::is_none).then_some(())
        })
        .await;
        remembers(&node.ledger, &database).await;
    }
}

/// Neither an error nor a notice comes: the server's end of the connection has stopped, as behind a cable that was pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_connection_has_died_without_a_word_does_not_trust_its_memory() {
    let database = Database::new().await;
    let node = Hearing::start(&database).await;
    let (other, mut behind) = (database.ledger(), database.connect().await);
    register(&other, "ada", "1").await;
    assert_eq!(names(&node.ledger).await, [Some("1".to_owned())], "and it is in memory now");
    let sql = format!("select pid {LISTENING}");
    let pid: i32 = sqlx::query_scalar(&sql).fetch_one(&mut behind).await.unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    other.destroy_subjects(&["ada".to_owned()]).await.unwrap();
    eventually("the node does not trust its memory", async || {
        (names(&node.ledger).await == [None]).then_some(())
    })
    .await;
    // It finds itself another connection.
    remembers(&node.ledger, &database).await;
    assert_eq!(names(&node.ledger).await, [None]);
    kill_process(pid, Signal::CONT).unwrap();
}
