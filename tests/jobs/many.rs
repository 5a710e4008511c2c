//! Many jobs in one request: all of them, or none.

use std::collections::BTreeSet;

use serde_json::json;

use super::nodes::{edge, job_events};
use super::*;

const KINDS: &str = r#"
[jobs.report]
command = ["true", "{day}"]
params.day = { type = "string", pattern = '\d{4}-\d{2}-\d{2}' }

[jobs.nothing]
command = ["true"]
"#;

fn report(day: &str) -> Value {
    json!({"kind": "report", "args": {"day": day}})
}

fn nothing(priority: u8) -> Value {
    json!({"kind": "nothing", "priority": priority})
}

#[tokio::test]
async fn a_thousand_jobs_are_one_append_in_the_order_asked_for() {
    let app = edge(KINDS).await;
    let operator = app.operator().with_header("x-request-id", "batch-1");
    let jobs: Vec<Value> = (0..1_000).map(|n| nothing((n % 10) as u8)).collect();
    let made = operator.post("/api/jobs/batch", json!({"jobs": jobs})).await.expect(201);
    let items = made.json["items"].as_array().unwrap();
    let ids: BTreeSet<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!((items.len(), ids.len()), (1_000, 1_000));
    let events = job_events(&app).await;
    assert_eq!(events.len(), 1_000);
    let first = events[0].position;
    for (place, (event, item)) in events.iter().zip(items).enumerate() {
        assert_eq!((event.event_type.as_str(), event.position), ("JobQueued", first + place as i64));
        assert_eq!(event.stream.aggregate_id, item["id"].as_str().unwrap());
        assert_eq!(event.payload.value()["JobQueued"]["priority"], place % 10);
        assert_eq!((&item["existing"], event.at), (&json!(false), events[0].at));
    }
    assert_eq!(made.header("daybook-position"), events[999].position.to_string());
    // Whoever queued them sees all of them at once.
    let mut page = operator.get("/api/jobs?limit=200&status=pending&fields=id").await.expect(200);
    let mut listed = 0;
    loop {
        listed += page.json["items"].as_array().unwrap().len();
        let Some(next) = page.json["next"].as_str() else { break };
        let path = format!("/api/jobs?limit=200&status=pending&fields=id&cursor={next}");
        page = operator.get(&path).await.expect(200);
    }
    assert_eq!(listed, 1_000);
}

#[tokio::test]
async fn what_is_wrong_with_one_is_named_and_none_is_queued() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let good = || report("2026-01-02");
    let batch = |jobs: Vec<Value>| json!({"jobs": jobs});
    let cases = [
        (batch(vec![]), vec!["jobs"]),
        (batch(vec![nothing(1); 1_001]), vec!["jobs"]),
        (batch(vec![good(), good(), good(), report("today"), good()]), vec!["jobs[3].args.day"]),
        (
            batch(vec![
                json!({"kind": "nope"}),
                good(),
                json!({"kind": "nothing", "priority": 10, "args": {"x": 1}}),
            ]),
            vec!["jobs[0].kind", "jobs[2].args.x", "jobs[2].priority"],
        ),
        (batch(vec![json!({"kind": "nothing", "unique_key": ""})]), vec!["jobs[0].unique_key"]),
        (json!({}), vec!["jobs"]),
        (json!({"jobs": [], "when": "now"}), vec!["when"]),
    ];
    for (body, fields) in cases {
        let refused = operator.post("/api/jobs/batch", body).await.expect(422);
        assert_eq!(refused.fields(), fields, "{}", refused.text);
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    // Of a thousand mistakes some are told.
    let refused = operator.post("/api/jobs/batch", batch(vec![report("x"); 1_000])).await.expect(422);
    assert_eq!((refused.fields().len(), refused.fields()[99]), (100, "jobs[99].args.day"));
    for item in [json!(7), json!({"kind": 7}), json!({"args": {}}), json!({"kind": "nothing", "when": 1})] {
        let refused = operator.post("/api/jobs/batch", batch(vec![good(), item])).await.expect(422);
        assert!(refused.fields()[0].starts_with("jobs[1]"), "{}", refused.text);
    }
    for client in [app.viewer(), app.auditor()] {
        client.post("/api/jobs/batch", batch(vec![good()])).await.expect(403);
    }
    assert_eq!(job_events(&app).await.len(), 0);
}

#[tokio::test]
async fn a_repeated_batch_with_an_idempotency_key_queues_nothing_more() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let keyed = operator.with_header("idempotency-key", "nightly");
    let body = json!({"jobs": [nothing(1), report("2026-01-02"), nothing(3)]});
    let first = keyed.post("/api/jobs/batch", body.clone()).await.expect(201);
    let head = app.ledger.head().await.unwrap();
    let again = keyed.post("/api/jobs/batch", body.clone()).await.expect(201);
    assert_eq!(first.json, again.json);
    assert_eq!(app.ledger.head().await.unwrap(), head);
    let other = keyed.post("/api/jobs/batch", json!({"jobs": [nothing(1)]})).await.expect(422);
    assert_eq!((other.str("code"), other.fields()), ("idempotency_key_reused", vec!["Idempotency-Key"]));
    // At the same time, from two nodes.
    let another = app
        .another_node(
            Setup::default()
                .kinds(KINDS)
                .roles(api::server::Roles { worker: false, ..api::server::Roles::ALL }),
        )
        .await;
    let racing =
        [app.operator(), another.operator()].map(|client| client.with_header("idempotency-key", "race"));
    let asking = (0..10).map(|n| racing[n % 2].post("/api/jobs/batch", body.clone()));
    let answers = futures::future::join_all(asking).await;
    let made: BTreeSet<String> = answers
        .iter()
        .filter(|answer| answer.status == 201)
        .map(|answer| answer.json["items"].to_string())
        .collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    assert_eq!(job_events(&app).await.len(), 6);
    another.stop().await;
}
