//! The auditor's tools: `events` and `state`, beside a serving node and without one.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::eventually;

use super::home::Home;

/// The contract's fields of an event.
const FIELDS: [&str; 12] = [
    "position",
    "at",
    "type",
    "version",
    "aggregate_type",
    "aggregate_id",
    "sequence",
    "actor",
    "team_id",
    "request_id",
    "ip",
    "changes",
];

fn positions(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["position"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn an_auditor_reads_the_log_and_the_past_with_and_without_a_server() {
    let home = Home::new();
    let serving = home.serve().await;
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let body = json!({"name": "report-db", "value": "first value", "description": "before"});
    let asked = client.with_header("x-request-id", "from-the-test");
    let made = asked.post("/api/secrets", body).await.expect(201);
    let thing = format!("secret/{}", made.str("id"));
    let path = format!("/api/secrets/{}/value", made.str("id"));
    client.put(&path, json!({"value": "second value"})).await.expect(200);

    look(&home, &thing).await;
    let before = home.run(&["events", "--format", "jsonl"]).await.expect(0).stdout;
    serving.stop(Signal::TERM).await.expect(0);
    look(&home, &thing).await;
    assert_eq!(home.processes(), Vec::<u32>::new(), "a command's own server ends with it");
    assert_eq!(home.run(&["events", "--format", "jsonl"]).await.expect(0).stdout, before);
}

async fn look(home: &Home, thing: &str) {
    let events = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    assert_eq!(positions(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    for event in &events {
        let fields: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(FIELDS.iter().all(|field| fields.contains(field)), "{event}");
    }
    let text = Value::Array(events.clone()).to_string();
    assert!(!text.contains("first value") && !text.contains("second value") && !text.contains("argon2"));

    let late = home.run(&["events", "--format", "jsonl", "--from", "3"]).await.expect(0).json_lines();
    assert_eq!(late, events[2..]);
    let beyond = (events.len() + 1).to_string();
    let nothing = home.run(&["events", "--from", &beyond]).await.expect(1);
    assert!(nothing.stderr.contains(&format!("position {}", events.len())), "{}", nothing.stderr);

    let one = home.run(&["events", "--format", "jsonl", "--aggregate", thing]).await.expect(0).json_lines();
    let names: Vec<_> = one.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["SecretStored", "SecretValueChanged"]);
    assert_eq!((&one[0]["request_id"], &one[0]["ip"]), (&json!("from-the-test"), &json!("127.0.0.1")));
    assert!(one[0]["actor"].as_str().unwrap().starts_with("user:"));
    let version = one[1]["changes"].as_array().unwrap().iter().find(|change| change["field"] == "version");
    assert_eq!(version, Some(&json!({"field": "version", "before": 1, "after": 2})));

    let pretty = home.run(&["events"]).await.expect(0).stdout;
    assert!(pretty.contains(&format!("SecretStored         {thing}  by user:")), "{pretty}");
    assert!(pretty.contains("version: 1 -> 2") || pretty.contains("version: null -> 2"), "{pretty}");

    let stored = &one[0];
    let state = async |as_of: &str| home.run(&["state", thing, "--as-of", as_of]).await;
    let position = stored["position"].as_i64().unwrap();
    let then: Value = serde_json::from_str(&state(&position.to_string()).await.expect(0).stdout).unwrap();
    assert_eq!((&then["state"]["version"], &then["state"]["name"]), (&json!(1), &json!("report-db")));
    assert_eq!(
        (&then["as_of"], &then["position"], &then["sequence"]),
        (&json!(position), &json!(position), &json!(1))
    );
    let at = stored["at"].as_str().unwrap();
    let by_time: Value = serde_json::from_str(&state(at).await.expect(0).stdout).unwrap();
    assert_eq!(by_time["state"]["version"], 1);
    let now: Value = serde_json::from_str(&home.run(&["state", thing]).await.expect(0).stdout).unwrap();
    assert_eq!((&now["state"]["version"], &now["as_of"]), (&json!(2), &json!(events.len())));
    assert!(!now.to_string().contains("sealed\":\"") || now["state"]["sealed"] == "sealed", "{now}");

    let before = state(&(position - 1).to_string()).await.expect(1);
    assert!(before.stderr.contains(&format!("there was no {thing} at position {}", position - 1)));
    state("2001-01-01T00:00:00Z").await.expect(1);
    state("2999-01-01T00:00:00Z").await.expect(2);
    state(&beyond).await.expect(2);
}

#[tokio::test]
async fn following_sees_what_comes_later() {
    let home = Home::new();
    let serving = home.serve().await;
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let mut follower = home.start(&["events", "--follow", "--format", "jsonl"]);
    follower.line("the past", |line| line.contains("\"UserRegistered\"")).await;
    for name in ["one", "two"] {
        let made = client.post("/api/secrets", json!({"name": name, "value": "v"})).await.expect(201);
        follower.line("what came later", |line| line.contains(made.str("id"))).await;
    }
    // It stays when the node that started the private server goes.
    serving.stop(Signal::TERM).await.expect(0);
    let admin = home.run(&["admin", "create", "--email", "late@example.org"]).await.expect(0);
    assert!(admin.stdout.contains("late@example.org"));
    follower.line("the late admin", |line| line.contains("late@example.org")).await;
    let ended = follower.stop(Signal::INT).await;
    let events = ended.json_lines();
    assert_eq!(positions(&events), (1..=events.len() as i64).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_reader_that_has_enough_is_no_failure_and_a_full_disk_is_one() {
    let home = Home::new();
    home.run(&["admin", "create", "--email", "ops@example.org"]).await.expect(0);
    for arguments in [&["events"][..], &["projections", "status"], &["migrate"]] {
        let mut closed = home.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        closed.stdout(writer).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = closed.spawn().unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        drop(closed);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("on-release"), "{arguments:?}: {stderr}");
    }
    let mut full = home.command(&["events", "--format", "jsonl"]);
    full.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    full.stdin(Stdio::null()).stderr(Stdio::piped());
    let child = full.spawn().unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "an export that was cut short is not done: {stderr}");
    eventually("its server is gone", async || home.processes().is_empty().then_some(())).await;
}
