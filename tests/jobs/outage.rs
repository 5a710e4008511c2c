//! PostgreSQL goes away while many jobs run, and comes back.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::{Server, eventually, on_tables};

use super::nodes::{batch, in_all, job_events, sql};
use super::*;

const JOBS: usize = 50;

/// Runs half of the jobs on each of two nodes while the server is gone for a moment; nothing of it shows in their histories.
async fn through(server: Server, outage: impl AsyncFnOnce(Server) -> Server) {
    let setup = || Setup::default().kinds(SHELL).with("WORKER_CONCURRENCY", JOBS / 2);
    let app = TestApp::with_database(server.database().await, setup()).await;
    let other = app.another_node(setup()).await;
    let operator = app.operator();
    let text = format!("echo + >> marks; {}; echo - >> marks; echo done", wait_for("go"));
    let paths = batch(&operator, vec![script(&text); JOBS]).await;
    let marks = || std::fs::read_to_string(app.folder().join("marks")).unwrap_or_default();
    eventually("all of them run", async || (marks().lines().count() == JOBS).then_some(())).await;
    in_all(&app, "running", JOBS as i64).await;
    let server = outage(server).await;
    open_gate(&app, "go");
    eventually("all of them are done", async || {
        let query = on_tables("select count(*) from jobs where status = 'completed'");
        let done: i64 = sqlx::query_scalar(&query).fetch_one(app.ledger.pool()).await.ok()?;
        (done == JOBS as i64).then_some(())
    })
    .await;
    assert_eq!(marks().matches('+').count(), JOBS, "each ran once");
    let mut names: Vec<String> = job_events(&app).await.into_iter().map(|event| event.event_type).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["JobCompleted", "JobQueued", "JobStarted"]);
    for path in &paths {
        assert_eq!(texts(&operator, path, "stdout").await, ["done"]);
    }
    // They go on as before, and no claim is left of what was.
    let job = json!({"kind": "shell", "args": {"script": "true"}, "concurrency_key": "k", "max_attempts": 1});
    for path in batch(&operator, vec![job; 5]).await {
        assert_eq!(ended(&operator, &path).await.str("status"), "completed");
    }
    eventually("no claim is left", async || {
        let query = sqlx::query_scalar("select count(*) from job_claims");
        let left: i64 = query.fetch_one(app.ledger.pool()).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(sql(&app, "update workers set running = running where not lost").await, 2);
    other.stop().await;
    app.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn fifty_jobs_run_through_a_restart_of_the_database() {
    let server = Server::start("jobs-restart").await;
    through(server, async |server: Server| Server::start_again(server.stop().await).await).await;
}

#[tokio::test]
async fn fifty_jobs_run_through_a_crash_of_the_database() {
    let server = Server::start("jobs-crash").await;
    through(server, async |server: Server| {
        let pid = server.pid().unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        eventually("another server", async || server.pid().filter(|present| *present != pid)).await;
        server
    })
    .await;
}
