//! Several nodes on one queue.

use std::collections::BTreeMap;

use api::server::Roles;
use futures::StreamExt as _;
use serde_json::json;
use tests::{Setup, TestApp, eventually, on_tables};

use super::*;

const JOBS: usize = 200;

#[tokio::test]
async fn two_nodes_run_each_job_exactly_once() {
    let setup =
        || Setup::default().kinds("[jobs.nothing]\ncommand = ['true']\n").with("WORKER_CONCURRENCY", 4);
    let one = TestApp::with(setup()).await;
    let two = one.another_node(setup()).await;
    let clients = [one.operator(), two.operator()];
    let queueing = (0..JOBS).map(|n| queue(&clients[n % 2], json!({"kind": "nothing"})));
    let paths: Vec<String> = futures::stream::iter(queueing).buffer_unordered(16).collect().await;
    eventually("all jobs are done", async || {
        let sql = on_tables("select count(*) from jobs where status = 'completed'");
        let done: i64 = sqlx::query_scalar(&sql).fetch_one(one.ledger.pool()).await.unwrap();
        (done == JOBS as i64).then_some(())
    })
    .await;
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut workers: BTreeMap<String, usize> = BTreeMap::new();
    for event in one.ledger.read(0, 10_000).await.unwrap() {
        if event.stream.aggregate_type != "job" {
            continue;
        }
        if event.event_type == "JobStarted" {
            let payload = event.payload.value();
            let worker = payload["JobStarted"]["worker"].as_str().unwrap();
            *workers.entry(worker.to_owned()).or_default() += 1;
        }
        seen.entry(event.stream.aggregate_id).or_default().push(event.event_type);
    }
    assert_eq!(seen.len(), JOBS);
    for path in &paths {
        assert_eq!(seen[id(path)], ["JobQueued", "JobStarted", "JobCompleted"]);
    }
    assert_eq!(workers.len(), 2, "both nodes worked: {workers:?}");
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_node_that_stops_hands_its_job_back_and_another_finishes_it() {
    let setup = || Setup::default().kinds(SHELL);
    let one = TestApp::with(setup()).await;
    let text = "echo $$; if [ $DAYBOOK_ATTEMPT = 1 ]; then echo up; exec sleep 600; fi";
    let path = queue(&one.operator(), script(text)).await;
    printed(&one.operator(), &path, "up").await;
    let pid = texts(&one.operator(), &path, "stdout").await[0].clone();
    let two = one.another_node(setup()).await;
    let database = one.database.clone();
    one.stop().await;
    assert!(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty(), "{pid} still runs");
    let job = ended(&two.operator(), &path).await;
    // With one attempt allowed: being handed back costs none.
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
    let names = events(&two, &path).await;
    assert_eq!(names, ["JobQueued", "JobStarted", "JobHandedBack", "JobStarted", "JobCompleted"]);
    let log = texts(&two.operator(), &path, "system").await;
    assert_eq!(log, ["the worker is shutting down; the job is handed back"]);
    let mut connection = database.connect().await;
    let leases: i64 =
        sqlx::query_scalar("select count(*) from job_claims").fetch_one(&mut connection).await.unwrap();
    assert_eq!(leases, 0);
    two.stop().await;
}

#[tokio::test]
async fn a_node_that_only_works_hears_of_jobs_and_of_cancellations() {
    let setup = || Setup::default().kinds(SHELL);
    let edge = TestApp::with(setup().roles(Roles { worker: false, ..Roles::ALL })).await;
    let only_worker = Roles { worker: true, api: false, follower: false };
    let worker = edge.another_node(setup().roles(only_worker)).await;
    let operator = edge.operator();
    let path = queue(&operator, script("echo up; exec sleep 600")).await;
    printed(&operator, &path, "up").await;
    operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert_eq!(ended(&operator, &path).await.str("status"), "cancelled");
    // It answers probes, and nothing else.
    assert_eq!(worker.anon().get("/livez").await.expect(200).text, "ok\n");
    worker.operator().get("/api/jobs").await.expect(404);
    worker.stop().await;
}
