//! What happens when the server, its supervisor or its watchdog is killed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use ledger::private::PrivateServer;

use crate::support::*;

#[tokio::test]
async fn recovers_by_itself_when_the_server_is_killed() {
    let folder = folder();
    let server = start(folder.path()).await;
    remember(&server, "durable").await;
    let pid = server.pid().unwrap();
    kill(pid);
    replaced(&server, pid).await;
    assert_eq!(words(&server).await, "durable");
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn recovers_although_a_busy_backend_outlives_the_killed_server() {
    let folder = folder();
    let server = start(folder.path()).await;
    let mut busy = connect(&server).await;
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut busy).await.unwrap();
    let query = tokio::spawn(async move {
        sqlx::query("DO 'BEGIN LOOP NULL; END LOOP; END'").execute(&mut busy).await.is_err()
    });
    let mut watcher = connect(&server).await;
    let active = format!("SELECT state FROM pg_stat_activity WHERE pid = {backend}");
    eventually("the backend is busy", async || (text(&mut watcher, &active).await == "active").then_some(()))
        .await;
    let pid = server.pid().unwrap();
    kill(pid);
    replaced(&server, pid).await;
    assert!(query.await.unwrap());
    // A zombie, which it may be until the system's first process waits for it, has no arguments.
    assert!(fs::read(format!("/proc/{backend}/cmdline")).unwrap_or_default().is_empty());
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_running_and_a_new_start_finds_the_data() {
    let folder = folder();
    let server = start(folder.path()).await;
    remember(&server, "before").await;
    server.stop().await;
    let (other, _) = Other::start(folder.path());
    other.kill();
    assert_nothing_runs(folder.path()).await;
    let server = start(folder.path()).await;
    assert_eq!(words(&server).await, "before");
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_start_in_the_moment_after_the_supervisor_was_killed_gets_a_fresh_server() {
    let folder = folder();
    for _ in 0..3 {
        let (other, pid) = Other::start(folder.path());
        other.kill();
        let server = start(folder.path()).await;
        assert_ne!(server.pid(), Some(pid));
        remember(&server, "w").await;
        server.stop().await;
        assert_nothing_runs(folder.path()).await;
    }
}

#[tokio::test]
async fn another_user_starts_it_again_when_the_supervisor_was_killed() {
    let folder = folder();
    let (other, pid) = Other::start(folder.path());
    let server = start(folder.path()).await;
    remember(&server, "shared").await;
    other.kill();
    replaced(&server, pid).await;
    assert_eq!(words(&server).await, "shared");
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_start_killed_during_initdb_is_not_half_a_cluster() {
    let folder = folder();
    let other = Other::spawn(folder.path());
    let unfinished = async || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        names
            .filter(|path| path.to_string_lossy().contains("postgres.new-"))
            .find(|path| path.join("data").exists())
    };
    let unfinished = eventually("initdb at work", unfinished).await;
    other.kill();
    assert!(!folder.path().join("postgres").exists());
    assert_nothing_runs(&unfinished).await;
    let server = start(folder.path()).await;
    assert!(!unfinished.exists());
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_stale_pid_file_naming_somebody_else_is_recovered() {
    let folder = folder();
    let server = start(folder.path()).await;
    let pid_file = server.directory().join("data/postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    let owner = fs::metadata(&pid_file).unwrap();
    server.stop().await;
    let mut bystander = Command::new("/bin/sh");
    bystander.args(["-c", "read -r _"]).stdin(Stdio::piped()).current_dir("/");
    if owner.uid() != rustix::process::geteuid().as_raw() {
        bystander.uid(owner.uid()).gid(owner.gid());
    }
    let mut bystander = bystander.spawn().unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", bystander.id())).unwrap();
    std::os::unix::fs::chown(&pid_file, Some(owner.uid()), Some(owner.gid())).unwrap();

    let server = start(folder.path()).await;
    assert_ne!(server.pid(), Some(bystander.id()));
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander was harmed");
    server.stop().await;
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let folder = folder();
    let given_up =
        tokio::time::timeout(Duration::from_millis(300), PrivateServer::start_or_join(folder.path())).await;
    drop(given_up);
    // Whatever it had got to, the next one comes in after it and leaves cleanly.
    let server = start(folder.path()).await;
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_killed_watchdog_is_replaced_and_still_does_its_work() {
    let folder = folder();
    let (other, _) = Other::start(folder.path());
    let old = watchdog(folder.path()).await;
    kill(old);
    eventually("another watchdog", async || Some(watchdog(folder.path()).await).filter(|&new| new != old))
        .await;
    other.kill();
    assert_nothing_runs(folder.path()).await;
}
