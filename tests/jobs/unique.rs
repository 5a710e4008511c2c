//! Unique jobs: only one of them waits at a time.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::json;

use super::nodes::{edge, worker};
use super::*;

const KINDS: &str = r#"
[jobs.nothing]
command = ["true"]

[jobs.other]
command = ["true"]

[jobs.solo]
command = ["sh", "-c", "echo {day}; until [ -e go ]; do sleep 0.02; done"]
params.day = { type = "string" }
params.rows = { type = "integer", default = 1 }
unique = true
"#;

fn keyed(key: &str) -> Value {
    json!({"kind": "nothing", "unique_key": key})
}

fn solo(day: &str) -> Value {
    json!({"kind": "solo", "args": {"day": day}})
}

async fn pending(client: &Client) -> usize {
    let page = client.get("/api/jobs?status=pending&limit=200").await.expect(200);
    page.json["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn who_asks_for_a_job_that_waits_already_is_shown_that_one() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    for body in [keyed("monday"), solo("monday")] {
        let first = operator.post("/api/jobs", body.clone()).await.expect(201);
        assert_eq!((first.str("status"), &first.json["unique"]), ("pending", &json!(true)));
        let again = operator.post("/api/jobs", body).await.expect(200);
        assert_eq!(again.json, first.json);
        assert_eq!(again.header("etag"), first.header("etag"));
    }
    // Other keys, arguments, kinds and teams are other jobs; and so is a job that is not unique.
    let nothing = json!({"kind": "nothing"});
    let other_kind = json!({"kind": "other", "unique_key": "monday"});
    let with_rows = json!({"kind": "solo", "args": {"day": "monday", "rows": 2}});
    for body in [keyed("tuesday"), solo("tuesday"), with_rows, other_kind, nothing.clone(), nothing] {
        operator.post("/api/jobs", body).await.expect(201);
    }
    app.other_team().post("/api/jobs", keyed("monday")).await.expect(201);
    app.other_team().post("/api/jobs", solo("monday")).await.expect(201);
    assert_eq!((pending(&operator).await, pending(&app.other_team()).await), (8, 2));
    // What the key stands for is not its arguments.
    let same_key = json!({"kind": "solo", "args": {"day": "friday"}, "unique_key": "k"});
    let first = operator.post("/api/jobs", same_key).await.expect(201);
    let other_day = json!({"kind": "solo", "args": {"day": "sunday"}, "unique_key": "k"});
    assert_eq!(operator.post("/api/jobs", other_day).await.expect(200).str("id"), first.str("id"));
}

#[tokio::test]
async fn wrong_keys_are_refused_and_who_may_not_queue_is_not_told_what_waits() {
    let app = edge(KINDS).await;
    for key in [json!(""), json!("x".repeat(201)), json!(7)] {
        let refused = app.operator().post("/api/jobs", json!({"kind": "nothing", "unique_key": key})).await;
        assert_eq!(refused.expect(422).fields(), ["unique_key"]);
    }
    app.operator().post("/api/jobs", keyed(&"ü".repeat(200))).await.expect(201);
    app.operator().post("/api/jobs", keyed("monday")).await.expect(201);
    let refused = app.viewer().post("/api/jobs", keyed("monday")).await.expect(403);
    assert!(refused.json["id"].is_null(), "{}", refused.text);
}

#[tokio::test]
async fn of_twenty_who_ask_at_once_on_two_nodes_all_get_the_same_job() {
    let app = edge(KINDS).await;
    let another = app
        .another_node(
            Setup::default()
                .kinds(KINDS)
                .roles(api::server::Roles { worker: false, ..api::server::Roles::ALL }),
        )
        .await;
    for body in [keyed("monday"), solo("monday"), keyed("tuesday")] {
        let clients = [app.operator(), another.operator()];
        let asking = (0..20).map(|n| clients[n % 2].post("/api/jobs", body.clone()));
        let answers = join_all(asking).await;
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        let ids: BTreeSet<&str> = answers.iter().map(|answer| answer.str("id")).collect();
        assert_eq!((made, ids.len()), (1, 1), "{answers:?}");
        assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)), "{answers:?}");
    }
    assert_eq!(pending(&app.operator()).await, 3);
    another.stop().await;
}

#[tokio::test]
async fn once_it_has_started_another_may_wait() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let node = worker(&app, KINDS, 4).await;
    let first = queue(&operator, solo("monday")).await;
    printed(&operator, &first, "monday").await;
    let second = queue(&operator, with(solo("monday"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    assert_ne!(first, second);
    let third = operator.post("/api/jobs", solo("monday")).await.expect(200);
    assert_eq!(third.str("id"), id(&second), "that one waits now");
    // The end of the first is nothing to the second.
    open_gate(&app, "go");
    assert_eq!(ended(&operator, &first).await.str("status"), "completed");
    assert_eq!(operator.post("/api/jobs", solo("monday")).await.expect(200).str("id"), id(&second));
    node.stop().await;
}

#[tokio::test]
async fn who_is_cancelled_while_it_waits_frees_its_place() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let first = queue(&operator, solo("monday")).await;
    operator.post(&format!("{first}/cancel"), json!({})).await.expect(200);
    let second = queue(&operator, solo("monday")).await;
    let filter = json!({"action": "cancel", "filter": {"kind": "solo"}});
    assert_eq!(operator.post("/api/jobs/bulk", filter).await.expect(200).json["changed"], 1);
    let third = queue(&operator, solo("monday")).await;
    assert_eq!(BTreeSet::from([&first, &second, &third]).len(), 3);
    // Cancelled once more, it does not give up what is another's by now.
    operator.post(&format!("{first}/cancel"), json!({})).await.expect(409);
    assert_eq!(operator.post("/api/jobs", solo("monday")).await.expect(200).str("id"), id(&third));
}

#[tokio::test]
async fn a_batch_may_ask_for_the_same_job_twice() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let before = queue(&operator, keyed("monday")).await;
    let jobs = [keyed("monday"), keyed("tuesday"), solo("a"), keyed("tuesday"), solo("a"), solo("b")];
    let made = operator.post("/api/jobs/batch", json!({"jobs": jobs})).await.expect(201);
    let items = made.json["items"].as_array().unwrap();
    let existing: Vec<_> = items.iter().map(|item| item["existing"].as_bool().unwrap()).collect();
    assert_eq!(existing, [true, false, false, true, true, false]);
    assert_eq!((&items[0]["id"], &items[3]["id"]), (&json!(id(&before)), &items[1]["id"]));
    assert_eq!(items[4]["id"], items[2]["id"]);
    assert_eq!(pending(&operator).await, 4);
    // All of them wait: nothing is stored.
    let head = app.ledger.head().await.unwrap();
    let again = operator.post("/api/jobs/batch", json!({"jobs": jobs})).await.expect(201);
    assert!(again.json["items"].as_array().unwrap().iter().all(|item| item["existing"] == true));
    assert_eq!(app.ledger.head().await.unwrap(), head);
}

#[tokio::test]
async fn an_idempotency_key_repeats_the_answer_whatever_became_of_the_job() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let keyed_client = operator.with_header("idempotency-key", "once");
    let first = keyed_client.post("/api/jobs", solo("monday")).await.expect(201);
    let path = format!("/api/jobs/{}", first.str("id"));
    let second_key = operator.with_header("idempotency-key", "twice");
    let found = second_key.post("/api/jobs", solo("monday")).await.expect(200);
    assert_eq!(found.str("id"), first.str("id"));
    operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    // Its place is free, but these are answers to earlier requests.
    assert_eq!(keyed_client.post("/api/jobs", solo("monday")).await.expect(201).str("id"), first.str("id"));
    assert_eq!(second_key.post("/api/jobs", solo("monday")).await.expect(200).str("id"), first.str("id"));
    let other = second_key.post("/api/jobs", solo("tuesday")).await.expect(422);
    assert_eq!(other.str("code"), "idempotency_key_reused");
    assert_eq!(pending(&operator).await, 0);
    assert_ne!(queue(&operator, solo("monday")).await, path);
}
