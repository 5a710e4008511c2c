//! What ends a node and what does not, and what becomes of jobs and requests meanwhile.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use tests::{Client, eventually};

use super::home::{Home, Serving};

/// A job that says that it runs, and ends when it is told to.
const KINDS: &str = r#"
[jobs.gated]
command = ["sh", "-c", "echo > begun; while ! [ -e go ]; do sleep 0.05; done; echo end"]
max_attempts = 1
"#;

/// A node that runs a job, which goes on until the file `go` is there.
async fn busy(home: &Home) -> (Serving, Client, String) {
    let node = home.serve().await;
    let client = node.sign_in(node.admin.as_ref().unwrap()).await;
    let job = client.post("/api/jobs", json!({"kind": "gated"})).await.expect(201);
    eventually("the job runs", async || home.path().join("begun").exists().then_some(())).await;
    (node, client, format!("/api/jobs/{}", job.str("id")))
}

fn let_go(folder: &Path) {
    std::fs::write(folder.join("go"), "").unwrap();
}

async fn completed(client: &Client, path: &str) {
    let job = eventually("the job ends", async || {
        let job = client.get(path).await.expect(200);
        (!["pending", "running"].contains(&job.str("status"))).then_some(job)
    })
    .await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(1)), "{}", job.text);
}

async fn kinds(client: &Client) -> Vec<String> {
    let kinds = client.get("/api/jobs/kinds").await.expect(200);
    kinds.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_hangup_reads_the_kinds_again_and_jobs_go_on() {
    let home = Home::new().file(KINDS);
    let (node, client, job) = busy(&home).await;
    let other = format!("{KINDS}\n[jobs.fresh]\ncommand = ['true']\n");
    std::fs::write(home.path().join("daybook.toml"), &other).unwrap();
    node.process.signal(Signal::HUP);
    eventually("the new kind", async || (kinds(&client).await == ["fresh", "gated"]).then_some(())).await;
    eventually("it is logged", async || node.process.stderr().contains("read again").then_some(())).await;
    let fresh = client.post("/api/jobs", json!({"kind": "fresh"})).await.expect(201);
    completed(&client, &format!("/api/jobs/{}", fresh.str("id"))).await;
    let workers = client.get("/api/workers").await.expect(200);
    assert_eq!(workers.json["items"][0]["kinds"], json!(["fresh", "gated"]));

    // Wrong in two places, no TOML, and gone: each is told, and what was there before stays.
    let wrong = format!("{other}\n[jobs.bad]\ncommand = []\ntimeout_seconds = 0\n");
    std::fs::write(home.path().join("daybook.toml"), wrong).unwrap();
    node.process.signal(Signal::HUP);
    eventually("both problems are logged", async || {
        let log = node.process.stderr();
        (log.contains("jobs.bad.command") && log.contains("jobs.bad.timeout_seconds")).then_some(())
    })
    .await;
    let stayed = || node.process.stderr().matches("those before stay").count();
    std::fs::write(home.path().join("daybook.toml"), "[jobs").unwrap();
    node.process.signal(Signal::HUP);
    eventually("that it is no TOML", async || (stayed() == 2).then_some(())).await;
    std::fs::remove_file(home.path().join("daybook.toml")).unwrap();
    node.process.signal(Signal::HUP);
    eventually("that it is gone", async || (stayed() == 3).then_some(())).await;
    assert_eq!(kinds(&client).await, ["fresh", "gated"]);

    // A kind that is left out is not taken any more; what runs of it ends as it would have.
    std::fs::write(home.path().join("daybook.toml"), "[jobs.fresh]\ncommand = ['true']\n").unwrap();
    node.process.signal(Signal::HUP);
    eventually("the kind is gone", async || (kinds(&client).await == ["fresh"]).then_some(())).await;
    client.post("/api/jobs", json!({"kind": "gated"})).await.expect(422);
    let_go(home.path());
    completed(&client, &job).await;
    node.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn signals_that_mean_nothing_kill_no_job() {
    let home = Home::new().file(KINDS);
    let (node, client, job) = busy(&home).await;
    let stray = [
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::PIPE,
        Signal::IO,
        Signal::XFSZ,
        Signal::TTIN,
        Signal::TTOU,
        Signal::HUP,
    ];
    for signal in stray {
        node.process.signal(signal);
        client.get(&job).await.expect(200);
    }
    let_go(home.path());
    completed(&client, &job).await;
    let ended = node.stop(Signal::TERM).await.expect(0);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[tokio::test]
async fn while_jobs_drain_the_api_answers_and_takes_up_no_new_ones() {
    for stop in [Signal::TERM, Signal::QUIT] {
        let home = Home::new().file(KINDS).with("WORKER_DRAIN_SECONDS", 600);
        let (node, client, job) = busy(&home).await;
        let admin = node.admin.clone().unwrap();
        node.process.signal(stop);
        let refused = eventually("it is not ready any more", async || {
            let ready = node.anon().get("/readyz").await;
            (ready.status == 503).then_some(ready)
        })
        .await;
        assert_eq!(refused.str("code"), "not_ready");
        node.anon().get("/livez").await.expect(200);
        // People sign in, read and write; what is queued waits for another worker.
        let again = node.sign_in(&admin).await;
        let waiting = again.post("/api/jobs", json!({"kind": "gated"})).await.expect(201);
        again.post("/api/secrets", json!({"name": "s", "value": "v"})).await.expect(201);
        assert_eq!(client.get(&job).await.expect(200).str("status"), "running");
        let waiting = format!("/api/jobs/{}", waiting.str("id"));
        assert_eq!(again.get(&waiting).await.expect(200).str("status"), "pending");
        let_go(home.path());
        node.process.ended().await.expect(0);

        let node = home.serve().await;
        let client = node.sign_in(&admin).await;
        completed(&client, &job).await;
        completed(&client, &waiting).await;
        node.stop(Signal::TERM).await.expect(0);
    }
}

#[tokio::test]
async fn whoever_asks_twice_does_not_wait() {
    let home = Home::new().file(KINDS).with("WORKER_DRAIN_SECONDS", 600);
    let (node, _, _) = busy(&home).await;
    node.process.signal(Signal::TERM);
    eventually("it is stopping", async || (node.anon().get("/readyz").await.status == 503).then_some(()))
        .await;
    node.stop(Signal::TERM).await.expect(130);
    home.is_quiet().await;
}

#[tokio::test]
async fn a_task_that_fails_is_shown_and_started_again() {
    let home = Home::new().file("[jobs.quick]\ncommand = ['true']\n");
    // Where jobs are to run there is a file: the worker cannot begin.
    std::fs::create_dir(home.data()).unwrap();
    let work = home.data().join("work");
    std::fs::write(&work, "").unwrap();
    let node = home.serve().await;
    let health = eventually("the failing task is shown", async || {
        let health = node.anon().get("/api/health").await;
        let tasks = health.json["tasks"].as_array().unwrap().clone();
        tasks.into_iter().find(|task| task["name"] == "worker")
    })
    .await;
    assert_eq!(health["last_error"], "it ended by itself");
    let metrics = node.anon().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("task_failures_total{task=\"worker\"}"), "{metrics}");
    // What does not depend on it goes on.
    let client = node.sign_in(node.admin.as_ref().unwrap()).await;
    let job = client.post("/api/jobs", json!({"kind": "quick"})).await.expect(201);
    std::fs::remove_file(&work).unwrap();
    eventually("the job runs once the worker does", async || {
        let job = client.get(&format!("/api/jobs/{}", job.str("id"))).await.expect(200);
        (job.str("status") == "completed").then_some(())
    })
    .await;
    node.stop(Signal::TERM).await.expect(0);
}
