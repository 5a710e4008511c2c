//! Pausing a kind, or all jobs of a team.

use serde_json::json;

use super::nodes::{count_of, edge, in_all, worker};
use super::*;

const KINDS: &str = r#"
[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1

[jobs.nothing]
command = ["true"]
"#;

fn nothing() -> Value {
    json!({"kind": "nothing"})
}

fn waits_for_pause(job: &Reply, detail: &str) {
    assert_eq!(job.json["waiting"], json!({"for": "pause", "detail": detail, "place": null}), "{}", job.text);
}

#[tokio::test]
async fn a_paused_kind_does_not_start_while_others_do_and_what_runs_goes_on() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let nodes = [worker(&app, KINDS, 2).await, worker(&app, KINDS, 2).await];
    let running = queue(&operator, script(&format!("echo up; {}", wait_for("go")))).await;
    printed(&operator, &running, "up").await;
    let paused = operator.post("/api/jobs/pause", json!({"kind": "shell"})).await.expect(200);
    assert_eq!(paused.json, json!({"all": false, "kinds": ["shell"]}));
    assert!(!paused.header("daybook-position").is_empty());
    let waiting = queue(&operator, with(script("true"), json!({"priority": 9}))).await;
    // What comes after it overtakes it, on both nodes.
    let others: Vec<_> = futures::future::join_all((0..8).map(|_| run(&operator, nothing()))).await;
    assert!(others.iter().all(|(_, job)| job.str("status") == "completed"));
    waits_for_pause(&operator.get(&waiting).await.expect(200), "jobs of the kind shell are paused");
    // Another team's jobs of the kind are its own.
    assert_eq!(run(&app.other_team(), script("true")).await.1.str("status"), "completed");
    open_gate(&app, "go");
    assert_eq!(ended(&operator, &running).await.str("status"), "completed");
    assert_eq!(operator.get(&waiting).await.expect(200).str("status"), "pending");
    let shown = app.viewer().get("/api/jobs/pauses").await.expect(200);
    assert_eq!(shown.json, json!({"all": false, "kinds": ["shell"]}));
    assert_eq!(app.other_team().get("/api/jobs/pauses").await.expect(200).json["kinds"], json!([]));
    let resumed = operator.post("/api/jobs/resume", json!({"kind": "shell"})).await.expect(200);
    assert_eq!(resumed.json, json!({"all": false, "kinds": []}));
    assert_eq!(ended(&operator, &waiting).await.str("status"), "completed");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_paused_team_starts_nothing_until_it_is_resumed() {
    let app = edge(KINDS).await;
    let (operator, other) = (app.operator(), app.other_team());
    let node = worker(&app, KINDS, 2).await;
    let paused = operator.post("/api/jobs/pause", json!({})).await.expect(200);
    assert_eq!(paused.json, json!({"all": true, "kinds": []}));
    // Once more changes nothing.
    let head = app.ledger.head().await.unwrap();
    assert_eq!(operator.post("/api/jobs/pause", json!({})).await.expect(200).json, paused.json);
    assert_eq!(app.ledger.head().await.unwrap(), head);
    let paths = [queue(&operator, nothing()).await, queue(&operator, script("true")).await];
    for _ in 0..5 {
        assert_eq!(run(&other, nothing()).await.1.str("status"), "completed");
    }
    for path in &paths {
        waits_for_pause(&operator.get(path).await.expect(200), "the team's jobs are paused");
    }
    // A kind's pause is another matter: resuming the team does not end it.
    operator.post("/api/jobs/pause", json!({"kind": "nothing"})).await.expect(200);
    let resumed = operator.post("/api/jobs/resume", json!({})).await.expect(200);
    assert_eq!(resumed.json, json!({"all": false, "kinds": ["nothing"]}));
    assert_eq!(ended(&operator, &paths[1]).await.str("status"), "completed");
    waits_for_pause(&operator.get(&paths[0]).await.expect(200), "jobs of the kind nothing are paused");
    operator.post("/api/jobs/resume", json!({"kind": "nothing"})).await.expect(200);
    assert_eq!(ended(&operator, &paths[0]).await.str("status"), "completed");
    node.stop().await;
}

#[tokio::test]
async fn a_waiting_job_can_be_cancelled_while_its_kind_is_paused() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    operator.post("/api/jobs/pause", json!({"kind": "nothing"})).await.expect(200);
    let path = queue(&operator, nothing()).await;
    let cancelled = operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert_eq!(cancelled.str("status"), "cancelled");
    operator.post("/api/jobs/resume", json!({"kind": "nothing"})).await.expect(200);
    let node = worker(&app, KINDS, 2).await;
    run(&operator, nothing()).await;
    assert_eq!(operator.get(&path).await.expect(200).json["attempt"], 0);
    node.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_so_is_who_may_not() {
    let app = edge(KINDS).await;
    for verb in ["pause", "resume"] {
        let path = format!("/api/jobs/{verb}");
        let wrong =
            [(json!({"kind": "Not a kind"}), "kind"), (json!({"kind": 7}), "kind"), (json!({"x": 1}), "x")];
        for (body, field) in wrong {
            assert_eq!(app.operator().post(&path, body).await.expect(422).fields(), [field]);
        }
        for client in [app.viewer(), app.auditor()] {
            client.post(&path, json!({})).await.expect(403);
        }
        app.anon().post(&path, json!({})).await.expect(401);
    }
    let unknown = app.operator().post("/api/jobs/pause", json!({"kind": "nope"})).await.expect(422);
    assert_eq!(unknown.fields(), ["kind"]);
    // A kind that there is no more can still be resumed: that changes nothing.
    app.operator().post("/api/jobs/resume", json!({"kind": "nope"})).await.expect(200);
    assert_eq!(
        app.viewer().get("/api/jobs/pauses").await.expect(200).json,
        json!({"all": false, "kinds": []})
    );
}

#[tokio::test]
async fn pausing_and_resuming_while_many_run_loses_none() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    super::nodes::batch(&operator, vec![nothing(); 120]).await;
    let nodes = [worker(&app, KINDS, 3).await, worker(&app, KINDS, 3).await];
    for round in 0..6 {
        let body = if round % 2 == 0 { json!({}) } else { json!({"kind": "nothing"}) };
        operator.post("/api/jobs/pause", body.clone()).await.expect(200);
        count_of(&operator, "running", 0).await;
        operator.post("/api/jobs/resume", body).await.expect(200);
    }
    in_all(&app, "completed", 120).await;
    assert_eq!(super::nodes::starts(&app).await.len(), 120);
    for node in nodes {
        node.stop().await;
    }
}
