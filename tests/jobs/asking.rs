//! Asking for jobs: what there is, what is refused, and asking twice.

use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::*;

const KINDS: &str = r#"
[jobs.report]
description = "Builds a report"
command = ["true", "{day}", "--rows={rows}", "{style}"]
params.day = { type = "string", pattern = '\d{4}-\d{2}-\d{2}', description = "Which day" }
params.rows = { type = "integer", min = 1, max = 500, default = 100 }
params.style = { type = "string", enum = ["short", "long"], required = false }
secrets = { DB_PASSWORD = "report-db" }
timeout_seconds = 900
max_attempts = 4

[jobs.nothing]
command = ["true"]
"#;

async fn app() -> TestApp {
    let roles = api::server::Roles { worker: false, ..api::server::Roles::ALL };
    TestApp::with(Setup::default().kinds(KINDS).roles(roles)).await
}

#[tokio::test]
async fn the_kinds_are_listed_with_what_they_take() {
    let app = app().await;
    let kinds = app.viewer().get("/api/jobs/kinds").await.expect(200);
    let kinds = kinds.json["items"].as_array().unwrap();
    assert_eq!(kinds.iter().map(|kind| &kind["name"]).collect::<Vec<_>>(), ["nothing", "report"]);
    let report = &kinds[1];
    assert_eq!(report["description"], "Builds a report");
    assert_eq!(report["secrets"], json!({"DB_PASSWORD": "report-db"}));
    assert_eq!((&report["timeout_seconds"], &report["max_attempts"]), (&json!(900), &json!(4)));
    let params = report["params"].as_array().unwrap();
    let param = |name: &str| params.iter().find(|param| param["name"] == name).unwrap();
    let day = param("day");
    assert_eq!((&day["type"], &day["required"]), (&json!("string"), &json!(true)));
    assert_eq!((&day["pattern"], &day["description"]), (&json!(r"\d{4}-\d{2}-\d{2}"), &json!("Which day")));
    let rows = param("rows");
    assert_eq!((&rows["min"], &rows["max"], &rows["default"]), (&json!(1), &json!(500), &json!(100)));
    assert_eq!(rows["required"], false);
    assert_eq!(param("style")["enum"], json!(["short", "long"]));
}

#[tokio::test]
async fn what_is_wrong_is_named_field_by_field_and_nothing_is_queued() {
    let app = app().await;
    let operator = app.operator();
    let report = |args: Value| json!({"kind": "report", "args": args});
    let nothing = |more: Value| with(json!({"kind": "nothing"}), more);
    let cases = [
        (json!({}), vec!["kind"]),
        (json!({"kind": "nope"}), vec!["kind"]),
        (json!({"kind": "Not a kind\u{0}"}), vec!["kind"]),
        (report(json!({})), vec!["args.day"]),
        (report(json!({"day": "21 May"})), vec!["args.day"]),
        (report(json!({"day": "2026-01-02\n; rm -rf"})), vec!["args.day"]),
        (report(json!({"day": 20260102})), vec!["args.day"]),
        (report(json!({"day": "2026-01-02", "rows": 0})), vec!["args.rows"]),
        (report(json!({"day": "2026-01-02", "rows": 501})), vec!["args.rows"]),
        (report(json!({"day": "2026-01-02", "rows": 1.5})), vec!["args.rows"]),
        (report(json!({"day": "2026-01-02", "style": "wide"})), vec!["args.style"]),
        (report(json!({"day": "2026-01-02", "shape": "round"})), vec!["args.shape"]),
        (report(json!({"rows": "many", "shape": 1})), vec!["args.shape", "args.day", "args.rows"]),
        (nothing(json!({"args": {"x": 1}})), vec!["args.x"]),
        (nothing(json!({"args": []})), vec!["args"]),
        (nothing(json!({"priority": 10})), vec!["priority"]),
        (nothing(json!({"priority": -1})), vec!["priority"]),
        (nothing(json!({"priority": 256})), vec!["priority"]),
        (nothing(json!({"max_attempts": 0})), vec!["max_attempts"]),
        (nothing(json!({"max_attempts": 101})), vec!["max_attempts"]),
        (nothing(json!({"timeout_seconds": 0})), vec!["timeout_seconds"]),
        (nothing(json!({"timeout_seconds": 86_401})), vec!["timeout_seconds"]),
        (nothing(json!({"concurrency_key": ""})), vec!["concurrency_key"]),
        (nothing(json!({"concurrency_key": "x\u{0}y"})), vec!["concurrency_key"]),
        (nothing(json!({"run_at": "tomorrow"})), vec!["run_at"]),
        (nothing(json!({"run_at": "2026-01-02"})), vec!["run_at"]),
        (nothing(json!({"run_at": "+12345-01-01T00:00:00Z"})), vec!["run_at"]),
        (nothing(json!({"run_at": "9999-12-31T23:59:59.9999Z"})), vec!["run_at"]),
        (nothing(json!({"run_at": "-0001-01-01T00:00:00Z"})), vec!["run_at"]),
        (nothing(json!({"when": "now"})), vec!["when"]),
        (
            nothing(json!({"priority": 10, "max_attempts": 0, "timeout_seconds": 0, "args": {"x": 1}})),
            vec!["args.x", "timeout_seconds", "max_attempts", "priority"],
        ),
    ];
    for (body, fields) in cases {
        let refused = operator.post("/api/jobs", body.clone()).await.expect(422);
        assert_eq!(refused.fields(), fields, "{body}: {}", refused.text);
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    assert_eq!(operator.get("/api/jobs").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn the_bounds_themselves_are_accepted_and_the_rest_is_filled_in() {
    let app = app().await;
    let operator = app.operator();
    let widest = json!({
        "kind": "report", "args": {"day": "2026-01-02", "rows": 500, "style": "long"}, "priority": 9,
        "max_attempts": 100, "timeout_seconds": 86_400, "run_at": "2999-01-01T00:00:00.125+01:00",
        "concurrency_key": "reports",
    });
    let job = operator.post("/api/jobs", widest).await.expect(201);
    assert_eq!((&job.json["priority"], &job.json["max_attempts"]), (&json!(9), &json!(100)));
    assert_eq!(job.json["timeout_seconds"], 86_400);
    assert_eq!(
        (job.str("run_at"), job.str("next_attempt_at")),
        ("2998-12-31T23:00:00.125Z", "2998-12-31T23:00:00.125Z")
    );
    assert_eq!(job.str("concurrency_key"), "reports");

    let least = json!({"kind": "report", "args": {"day": "2026-01-02"}, "priority": 0});
    let job = operator.post("/api/jobs", least).await.expect(201);
    assert_eq!((job.str("status"), &job.json["attempt"]), ("pending", &json!(0)));
    assert_eq!(
        (&job.json["priority"], &job.json["max_attempts"]),
        (&json!(0), &json!(4)),
        "the kind's attempts"
    );
    assert_eq!(job.json["timeout_seconds"], 900, "the kind's timeout");
    assert_eq!(job.str("created_by"), format!("user:{}", app.people.operator));
    assert!(!job.header("etag").is_empty());
    let position = job.header("daybook-position").to_owned();
    let shown =
        operator.with_header("daybook-position", position).get(&format!("/api/jobs/{}", job.str("id"))).await;
    let mut shown = shown.expect(200).json;
    assert_eq!(
        shown["waiting"],
        json!({"for": "worker", "detail": "no worker runs the kind report", "place": null})
    );
    shown["waiting"] = Value::Null;
    assert_eq!(shown, job.json);
    let usual = operator.post("/api/jobs", json!({"kind": "nothing"})).await.expect(201);
    assert_eq!(usual.json["max_attempts"], 3, "MAX_JOB_RETRIES");
}

#[tokio::test]
async fn a_repeated_request_with_an_idempotency_key_queues_once() {
    let app = app().await;
    let operator = app.operator();
    let keyed = operator.with_header("idempotency-key", "monday");
    let body = json!({"kind": "nothing", "priority": 7});
    let first = keyed.post("/api/jobs", body.clone()).await.expect(201);
    let again = keyed.post("/api/jobs", body.clone()).await.expect(201);
    assert_eq!(first.json, again.json);
    let other = keyed.post("/api/jobs", json!({"kind": "nothing", "priority": 8})).await.expect(422);
    assert_eq!((other.str("code"), other.fields()), ("idempotency_key_reused", vec!["Idempotency-Key"]));
    // Somebody else's key is another key, even in the same team.
    let owners = app.owner().with_header("idempotency-key", "monday").post("/api/jobs", body.clone()).await;
    assert_ne!(owners.expect(201).str("id"), first.str("id"));

    let racing = operator.with_header("idempotency-key", "tuesday");
    let answers = join_all((0..8).map(|_| racing.post("/api/jobs", body.clone()))).await;
    let made: std::collections::BTreeSet<&str> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.str("id")).collect();
    assert_eq!(made.len(), 1, "one job for all who got one");
    let others = answers.iter().filter(|answer| answer.status != 201);
    others
        .for_each(|answer| assert_eq!((answer.status, answer.str("code")), (409, "idempotency_key_in_use")));
    let all = operator.get("/api/jobs").await.expect(200);
    assert_eq!(all.json["items"].as_array().unwrap().len(), 3);
}
