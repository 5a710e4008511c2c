//! `kill -9` of the backend that appends, and of the whole server. Each test has a server of its own.

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tests::{Database, Server, eventually};

use super::support::{Crowd, Seed, Watcher, Writers, assert_whole_log, whole_log};

const CROWD: Crowd = Crowd { node: "one", writers: 32, streams: 8, each: 12, dropped: 10 };

fn kill(pid: i32) {
    // One that is gone already is as dead as it should be.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

async fn connect(database: &Database) -> PgConnection {
    use sqlx::ConnectOptions as _;
    eventually("the server answers", async || database.connect_options().connect().await.ok()).await
}

async fn pids(connection: &mut PgConnection, condition: &str) -> Vec<i32> {
    let sql = format!("select pid from pg_stat_activity where {condition}");
    sqlx::query_scalar(&sql).fetch_all(connection).await.unwrap()
}

async fn check(database: &Database, ledger: &::ledger::Ledger, crowd: Writers, watcher: Watcher) {
    let journal = crowd.finish().await;
    let lost = journal.lost();
    assert!(!lost.is_empty());
    assert!(
        lost.iter().all(|words| words.starts_with("the event log's database is not available: ")),
        "{lost:?}"
    );
    let log = whole_log(ledger).await;
    assert_whole_log(&log, &journal.attempts());
    assert_eq!(watcher.seen(log.len() as i64).await, log);
    // And on disk as in the connections that were there.
    assert_eq!(whole_log(&database.ledger()).await, log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_that_appends_is_killed() {
    let seed = Seed::new();
    let server = Server::start("backend-killed").await;
    let database = server.database().await;
    let ledger = database.ledger();
    let watcher = Watcher::start(&ledger, seed.rng());
    let crowd = CROWD.start(&ledger, &seed);
    let mut rng = seed.rng();
    for part in 0..3 {
        crowd.amid(part, 3, &mut rng).await;
        let mut connection = connect(&database).await;
        let appends = "query like '%append_events%' and pid <> pg_backend_pid()";
        let lane =
            eventually("the lane's connection", async || pids(&mut connection, appends).await.pop()).await;
        kill(lane);
        // The server ends all its backends, this one too, and recovers.
        eventually("the server notices", async || connection.ping().await.is_err().then_some(())).await;
    }
    check(&database, &ledger, crowd, watcher).await;
    drop(database);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_server_is_killed() {
    let seed = Seed::new();
    let server = Server::start("server-killed").await;
    let database = server.database().await;
    let ledger = database.ledger();
    let watcher = Watcher::start(&ledger, seed.rng());
    let crowd = CROWD.start(&ledger, &seed);
    let mut rng = seed.rng();
    for part in 0..2 {
        crowd.amid(part, 2, &mut rng).await;
        let mut connection = connect(&database).await;
        let children = pids(&mut connection, "true").await;
        let postmaster = server.pid().unwrap();
        kill(postmaster as i32);
        children.into_iter().for_each(kill);
        eventually("another server", async || server.pid().filter(|pid| *pid != postmaster)).await;
    }
    check(&database, &ledger, crowd, watcher).await;
    drop(database);
    server.stop().await;
}
