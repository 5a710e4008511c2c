//! Workers in processes of their own.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Client, Database, eventually};
use tokio::time::timeout;

use super::home::{Home, Serving};

/// How long a job whose worker was killed may wait until it runs again: what users are promised.
const PROMISED: Duration = Duration::from_secs(30);

/// The first attempt and a process that it starts never end by themselves.
const KINDS: &str = r#"
[jobs.stubborn]
command = ["sh", "-c", "if [ $DAYBOOK_ATTEMPT = 1 ]; then sleep 600 & echo $$ $! >> pids; exec sleep 600; fi; echo again"]
max_attempts = 1
"#;

fn runs(pid: &str) -> bool {
    !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

/// The worker of this process as the list has it, once `wanted` says so.
async fn worker_of(client: &Client, pid: u32, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("the worker on the list", async || {
        let all = client.get("/api/workers").await.expect(200).json["items"].as_array().unwrap().clone();
        all.into_iter().find(|worker| worker["pid"] == pid && wanted(worker))
    })
    .await
}

fn name(worker: &Value) -> String {
    worker["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_job_of_a_killed_worker_runs_again_in_time_on_another() {
    let database = Database::new().await;
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, database.encryption_key());
    let home = Home::new().file(KINDS).with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
    let front = home.serve().await;
    let client = front.sign_in(front.admin.as_ref().unwrap()).await;
    let elsewhere = Serving::of(home.start(&["serve", "--roles", "worker"])).await;
    let lost = name(&worker_of(&client, elsewhere.process.pid(), |_| true).await);
    // The job is to be run by the worker that is nothing else.
    let here = name(&worker_of(&client, front.process.pid(), |_| true).await);
    client.post(&format!("/api/workers/{here}/drain"), json!({})).await.expect(204);
    let beat = |worker: &Value| worker["last_beat_at"].as_str().unwrap().to_owned();
    let told = worker_of(&client, front.process.pid(), |worker| worker["state"] == "draining").await;
    let heard = worker_of(&client, front.process.pid(), |worker| beat(worker) > beat(&told)).await;
    worker_of(&client, front.process.pid(), |worker| beat(worker) > beat(&heard)).await;
    let job = client.post("/api/jobs", json!({"kind": "stubborn"})).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    let pids = || std::fs::read_to_string(home.path().join("pids")).unwrap_or_default();
    eventually("the job runs", async || pids().ends_with('\n').then_some(())).await;
    eventually("who runs it", async || {
        (client.get(&path).await.expect(200).str("worker") == lost).then_some(())
    })
    .await;
    client.post(&format!("/api/workers/{here}/resume"), json!({})).await.expect(204);

    elsewhere.stop(Signal::KILL).await;
    let again = eventually("the job has run again", async || {
        let job = client.get(&path).await.expect(200);
        (job.str("status") == "completed").then_some(job)
    });
    let again = timeout(PROMISED, again).await.expect("within 30 seconds");
    assert_eq!((&again.json["attempt"], again.str("worker")), (&json!(2), here.as_str()));
    eventually("its processes are gone", async || (!pids().split_whitespace().any(runs)).then_some(())).await;
    assert_eq!(pids().split_whitespace().count(), 2);
    let attempts = client.get(&format!("{path}/attempts")).await.expect(200).json["items"].clone();
    assert_eq!((&attempts[0]["outcome"], &attempts[0]["worker"]), (&json!("lost"), &json!(lost)));
    let stream = ledger::StreamId::new("job", job.str("id"));
    let history = database.ledger().read_stream(&stream, 0, None, 100).await.unwrap();
    let event = history.iter().find(|event| event.event_type == "JobLost").unwrap();
    assert_eq!(event.payload.value()["JobLost"]["ran"]["worker"], lost.as_str());
    let gone = client.get("/api/workers").await.expect(200).json["items"].as_array().unwrap().clone();
    let gone = gone.iter().find(|worker| worker["name"] == lost.as_str()).unwrap();
    assert_eq!(gone["state"], "lost");
    front.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn a_worker_that_is_to_run_an_unknown_kind_does_not_start() {
    let home = Home::new().file(KINDS).with("WORKER_KINDS", "stubborn,nope");
    for arguments in [&["check"][..], &["serve"], &["serve", "--roles", "worker"]] {
        let ended = home.run(arguments).await.expect(1);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("WORKER_KINDS") && said.contains("`nope`"), "{arguments:?}: {said}");
        assert!(!said.contains("`stubborn`"), "{said}");
    }
    assert_eq!(home.processes(), Vec::<u32>::new());
}
