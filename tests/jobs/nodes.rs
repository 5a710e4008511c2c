//! Nodes that queue and nodes that work, and what the log says of who ran when.

use std::collections::BTreeSet;

use api::server::Roles;
use ledger::Recorded;
use serde_json::{Value, json};
use tests::{Client, Setup, TestApp, eventually, on_tables};

use super::id;

/// A node that runs no jobs, so that what is queued waits until a test starts [`worker`].
pub(super) async fn edge(kinds: &str) -> TestApp {
    TestApp::with(Setup::default().kinds(kinds).roles(Roles { worker: false, ..Roles::ALL })).await
}

/// One more node on the same database, which runs so many jobs at a time.
pub(super) async fn worker(app: &TestApp, kinds: &str, concurrency: usize) -> TestApp {
    app.another_node(Setup::default().kinds(kinds).with("WORKER_CONCURRENCY", concurrency)).await
}

/// Queues jobs with one request; their paths, in order.
pub(super) async fn batch(client: &Client, jobs: Vec<Value>) -> Vec<String> {
    let made = client.post("/api/jobs/batch", json!({"jobs": jobs})).await.expect(201);
    let items = made.json["items"].as_array().unwrap();
    items.iter().map(|item| format!("/api/jobs/{}", item["id"].as_str().unwrap())).collect()
}

/// All events of jobs, in order.
pub(super) async fn job_events(app: &TestApp) -> Vec<Recorded> {
    let mut events: Vec<Recorded> = vec![];
    loop {
        let after = events.last().map_or(0, |event| event.position);
        let page = app.ledger.read(after, 5_000).await.unwrap();
        if page.is_empty() {
            break;
        }
        events.extend(page);
    }
    events.retain(|event| event.stream.aggregate_type == "job");
    events
}

/// The ids of jobs in the order of their starts.
pub(super) async fn starts(app: &TestApp) -> Vec<String> {
    let started = job_events(app).await.into_iter().filter(|event| event.event_type == "JobStarted");
    started.map(|event| event.stream.aggregate_id).collect()
}

/// The place of a job's first start among all starts, from 0.
pub(super) async fn place(app: &TestApp, path: &str) -> usize {
    starts(app).await.iter().position(|started| started == id(path)).expect("it has started")
}

/// How many of these jobs ran at the same time at most, as the log has it.
pub(super) async fn most_at_once(app: &TestApp, paths: &[String]) -> usize {
    let among: BTreeSet<&str> = paths.iter().map(|path| id(path)).collect();
    let (mut running, mut most) = (BTreeSet::new(), 0);
    for event in job_events(app).await {
        let job = event.stream.aggregate_id;
        if !among.contains(job.as_str()) {
            continue;
        }
        match event.event_type.as_str() {
            "JobStarted" => assert!(running.insert(job), "started while it ran"),
            "JobQueued" | "JobCancelRequested" | "JobRetried" => {}
            _ => _ = running.remove(&job),
        }
        most = most.max(running.len());
    }
    most
}

/// Waits until so many jobs of the client's team stand so.
pub(super) async fn count_of(client: &Client, status: &str, count: usize) {
    eventually(&format!("{count} jobs are {status}"), async || {
        let page = client.get(&format!("/api/jobs?limit=200&status={status}&fields=id")).await.expect(200);
        (page.json["items"].as_array().unwrap().len() == count).then_some(())
    })
    .await;
}

/// Waits until so many jobs of all teams stand so.
pub(super) async fn in_all(app: &TestApp, status: &str, count: i64) {
    eventually(&format!("{count} jobs are {status}"), async || {
        let query = on_tables("select count(*) from jobs where status = $1");
        let query = sqlx::query_scalar(&query).bind(status);
        let present: i64 = query.fetch_one(app.ledger.pool()).await.unwrap();
        (present == count).then_some(())
    })
    .await;
}

/// Does something behind the program's back; how many rows it changed.
pub(super) async fn sql(app: &TestApp, text: &str) -> u64 {
    sqlx::raw_sql(&on_tables(text)).execute(app.ledger.pool()).await.unwrap().rows_affected()
}
