//! Several processes on one data folder or one database.

use rustix::process::Signal;
use serde_json::json;
use tests::{Client, Database, eventually};

use super::home::{Home, Serving};

/// The first attempt never ends by itself.
const KINDS: &str = r#"
[jobs.stubborn]
command = ["sh", "-c", "echo $$ >> pids; [ $DAYBOOK_ATTEMPT = 1 ] && exec sleep 600; true"]
max_attempts = 1
"#;

fn runs(pid: &str) -> bool {
    !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

#[tokio::test]
async fn a_second_process_joins_and_goes_on_when_the_first_stops() {
    let home = Home::new();
    let first = home.serve().await;
    let admin = first.admin.clone().unwrap();
    let second = home.serve().await;
    assert!(second.admin.is_none());
    let made = first.sign_in(&admin).await.post("/api/secrets", json!({"name": "a", "value": "v"})).await;
    let secret = format!("/api/secrets/{}", made.expect(201).str("id"));
    let client = second.sign_in(&admin).await;
    let postgres = home.postgres();
    first.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.postgres(), postgres, "the server was handed over, not restarted");
    client.get(&secret).await.expect(200);
    client.put(&format!("{secret}/value"), json!({"value": "w"})).await.expect(200);
    second.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

/// Runs a job, kills the node that has it with `kill -9`, and waits until the other one has run it again.
async fn lose_a_worker(
    home: &Home,
    nodes: [Serving; 2],
    admin: &(String, String),
) -> (Serving, Client, String) {
    // Signed in to both before: the private server is away for a moment when its supervisor is killed.
    let clients = [nodes[0].sign_in(admin).await, nodes[1].sign_in(admin).await];
    let client = &clients[0];
    let job = client.post("/api/jobs", json!({"kind": "stubborn"})).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    let pids = || std::fs::read_to_string(home.path().join("pids")).unwrap_or_default();
    eventually("the job runs", async || pids().ends_with('\n').then_some(())).await;
    // The process may be there before the view says so.
    let worker = eventually("who runs it", async || {
        client.get(&path).await.expect(200).json["worker"].as_str().map(str::to_owned)
    })
    .await;
    // host-pid-random
    let pid: u32 = worker.rsplit('-').nth(1).unwrap().parse().unwrap();
    let [one, two] = nodes;
    let [client_of_one, client_of_two] = clients.clone();
    let (lost, left, client) =
        if one.process.pid() == pid { (one, two, client_of_two) } else { (two, one, client_of_one) };
    assert_eq!(lost.process.pid(), pid, "{worker}");
    lost.stop(Signal::KILL).await;
    eventually("the job's process dies with its worker", async || (!runs(pids().trim())).then_some(())).await;
    let done = eventually("the job has run again", async || {
        let job = client.get(&path).await;
        (job.str("status") == "completed").then_some(job)
    })
    .await;
    assert_eq!((&done.json["attempt"], pids().lines().count()), (&json!(2), 2));
    assert_ne!(done.str("worker"), worker);
    let history = client.get(&format!("/api/audit/job/{}/history", job.str("id"))).await.expect(200);
    let events =
        history.json["items"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap());
    let events: Vec<_> = events.collect();
    assert_eq!(events, ["JobQueued", "JobStarted", "JobLost", "JobStarted", "JobCompleted"]);
    (left, client, job.str("id").to_owned())
}

#[tokio::test]
async fn a_killed_nodes_job_runs_again_on_another_of_the_same_database() {
    let database = Database::new().await;
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, database.encryption_key());
    let home = Home::new().file(KINDS).with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
    let first = home.serve().await;
    let admin = first.admin.clone().unwrap();
    let second = home.serve().await;
    let (left, client, job) = lose_a_worker(&home, [first, second], &admin).await;

    // The lost attempt's result, had it come late.
    let commands = commands::Commands::new(&database.ledger());
    let finish = domain::JobCommand::Finish {
        attempt: 1,
        ending: domain::Ending::Succeeded { result: None, artifacts: vec![] },
        log: domain::LogDigest::default(),
        at: chrono::Utc::now(),
        dice: 0.5,
    };
    let team = client.get("/api/auth/me").await.expect(200).json["teams"][0]["id"].as_str().unwrap().parse();
    let context = commands::Context::system(Some(team.unwrap()));
    let late = commands.execute::<domain::Job>(&context, &job, None, finish).await.unwrap_err();
    assert_eq!(late.refusal_code(), Some("wrong_attempt"));
    left.stop(Signal::TERM).await.expect(0);
    assert!(!home.data().join("postgres").exists(), "no private server beside a configured one");
}

#[tokio::test]
async fn a_killed_nodes_job_runs_again_on_another_of_the_same_folder() {
    let home = Home::new().file(KINDS);
    let first = home.serve().await;
    let admin = first.admin.clone().unwrap();
    let second = home.serve().await;
    let (left, ..) = lose_a_worker(&home, [first, second], &admin).await;
    left.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_stopped_process_hands_its_job_back_to_another() {
    let home = Home::new().file(KINDS);
    let first = home.serve().await;
    let client = first.sign_in(first.admin.as_ref().unwrap()).await;
    let job = client.post("/api/jobs", json!({"kind": "stubborn"})).await.expect(201);
    let pids = || std::fs::read_to_string(home.path().join("pids")).unwrap_or_default();
    eventually("the job runs", async || pids().ends_with('\n').then_some(())).await;
    let admin = first.admin.clone().unwrap();
    first.stop(Signal::TERM).await.expect(0);
    assert!(!runs(pids().trim()));
    assert_eq!(home.processes(), Vec::<u32>::new());
    // Nobody was there; the next start takes it on.
    let second = home.serve().await;
    let client = second.sign_in(&admin).await;
    eventually("the job has run", async || {
        let job = client.get(&format!("/api/jobs/{}", job.str("id"))).await.expect(200);
        (job.str("status") == "completed" && job.json["attempt"] == 2).then_some(())
    })
    .await;
    second.stop(Signal::TERM).await.expect(0);
}
