//! Cancelling and retrying what a filter picks: one recorded command that says what it did.

use std::collections::{BTreeMap, BTreeSet};

use commands::jobs::{JobDefaults, JobRequest, Kinds};
use domain::ScheduleId;
use serde_json::json;

use super::nodes::{batch, edge, in_all, job_events, worker};
use super::*;
use crate::http::support::{audited, said};

const KINDS: &str = r#"
[jobs.good]
command = ["true"]

[jobs.bad]
command = ["false"]
max_attempts = 1

[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1
"#;

fn kind(name: &str) -> Value {
    json!({"kind": name})
}

async fn bulk(client: &Client, action: &str, filter: Value) -> Reply {
    client.post("/api/jobs/bulk", json!({"action": action, "filter": filter})).await.expect(200)
}

fn skipped(reply: &Reply) -> BTreeMap<&str, &str> {
    let skipped = reply.json["skipped"].as_array().unwrap();
    skipped.iter().map(|item| (item["id"].as_str().unwrap(), item["code"].as_str().unwrap())).collect()
}

/// (matched, changed, more)
fn counts(reply: &Reply) -> (u64, u64, bool) {
    let number = |field: &str| reply.json[field].as_u64().unwrap();
    (number("matched"), number("changed"), reply.json["more"].as_bool().unwrap())
}

#[tokio::test]
async fn a_filter_picks_by_kind_time_and_id_and_the_command_is_recorded_once() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let mut paths = batch(&operator, vec![kind("good"), kind("bad"), kind("good")]).await;
    paths.push(queue(&operator, kind("bad")).await);
    let theirs = queue(&app.other_team(), kind("good")).await;
    let head = app.ledger.head().await.unwrap();

    let done = bulk(&operator, "cancel", json!({"kind": "good"})).await;
    assert_eq!((counts(&done), skipped(&done)), ((2, 2, false), BTreeMap::new()));
    let stored = app.ledger.read(head, 100).await.unwrap();
    let names: Vec<_> = stored.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(names, ["JobCancelled", "JobCancelled", "JobsChangedInBulk"], "one append");
    assert_eq!(done.header("daybook-position"), stored[2].position.to_string());
    for (path, status) in paths.iter().zip(["cancelled", "pending", "cancelled", "pending"]) {
        assert_eq!(operator.get(path).await.expect(200).str("status"), status);
    }
    assert_eq!(app.other_team().get(&theirs).await.expect(200).str("status"), "pending");

    // By time: the last one was queued after the others.
    let from = operator.get(&paths[3]).await.expect(200).str("created_at").to_owned();
    let before = bulk(&operator, "cancel", json!({"to": from, "kind": "bad"})).await;
    let since = bulk(&operator, "cancel", json!({"from": from})).await;
    assert_eq!((counts(&before), counts(&since)), ((1, 1, false), (1, 1, false)));

    let records = audited(&app, &app.auditor(), "type=JobsChangedInBulk").await;
    assert_eq!(records.len(), 3);
    let first = &records[2];
    assert_eq!((said(first, "action"), said(first, "matched")), (&json!("cancel"), &json!(2)), "{first}");
    assert_eq!(said(first, "changed"), &json!(2));
    assert_eq!(first["actor"], format!("user:{}", app.people.operator));
    assert!(first.to_string().contains("\"good\""), "what was asked for: {first}");

    // Back again, those that were cancelled: they are named, or their status is.
    let named = bulk(&operator, "retry", json!({"status": "cancelled", "kind": "good"})).await;
    assert_eq!(counts(&named), (2, 2, false));
    assert_eq!(operator.get(&paths[0]).await.expect(200).str("status"), "pending");
    let due = bulk(&operator, "retry", json!({"ids": [id(&paths[0])]})).await;
    assert_eq!(
        (skipped(&due), counts(&due)),
        (BTreeMap::from([(id(&paths[0]), "job_unchanged")]), (1, 0, false))
    );
    // Nothing fits: that is recorded too.
    assert_eq!(counts(&bulk(&operator, "retry", json!({"kind": "none-such"})).await), (0, 0, false));
    assert_eq!(audited(&app, &app.auditor(), "type=JobsChangedInBulk").await.len(), 6);
}

#[tokio::test]
async fn of_named_jobs_each_that_is_left_is_said_why() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let node = worker(&app, KINDS, 3).await;
    let (good, _) = run(&operator, kind("good")).await;
    let (bad, _) = run(&operator, kind("bad")).await;
    let running = queue(&operator, script("echo up; exec sleep 600")).await;
    printed(&operator, &running, "up").await;
    let later = queue(&operator, with(kind("good"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    let theirs =
        queue(&app.other_team(), with(kind("good"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    let nobodys = "01890000-0000-7000-8000-000000000000";
    let ids = json!([id(&good), id(&bad), id(&running), id(&later), id(&theirs), nobodys, nobodys]);

    let done = bulk(&operator, "retry", json!({"ids": ids})).await;
    let expected = BTreeMap::from([
        (id(&good), "job_not_retryable"),
        (id(&running), "job_not_retryable"),
        (id(&theirs), "job_not_found"),
        (nobodys, "job_not_found"),
    ]);
    assert_eq!((skipped(&done), counts(&done)), (expected, (4, 2, false)));
    for path in [&bad, &later] {
        ended(&operator, path).await;
    }

    let done = bulk(&operator, "cancel", json!({"ids": ids})).await;
    let expected = BTreeMap::from([
        (id(&good), "job_ended"),
        (id(&bad), "job_ended"),
        (id(&later), "job_ended"),
        (id(&theirs), "job_not_found"),
        (nobodys, "job_not_found"),
    ]);
    assert_eq!((skipped(&done), counts(&done)), (expected, (4, 1, false)));
    assert_eq!(ended(&operator, &running).await.str("status"), "cancelled");
    assert_eq!(app.other_team().get(&theirs).await.expect(200).str("status"), "pending");
    // Ids and another condition: what does not fit is not looked at.
    let done = bulk(&operator, "retry", json!({"ids": [id(&good), id(&bad)], "status": "failed"})).await;
    assert_eq!((skipped(&done), counts(&done)), (BTreeMap::new(), (1, 1, false)));
    node.stop().await;
}

#[tokio::test]
async fn what_a_schedule_queued_is_cancelled_together() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let by_hand = queue(&operator, kind("good")).await;
    let (one, other) = (ScheduleId(uuid::Uuid::now_v7()), ScheduleId(uuid::Uuid::now_v7()));
    let kinds = Kinds::parse(KINDS, &api::node::actions()).unwrap();
    let defaults = JobDefaults { max_attempts: 1, retry_delay_seconds: 1 };
    let jobs = [one, one, other].map(|schedule| {
        let request =
            JobRequest { kind: "good".to_owned(), schedule_id: Some(schedule), ..JobRequest::default() };
        request.checked(&kinds, defaults, app.people.team, chrono::Utc::now()).unwrap()
    });
    let context = commands::Context::system(Some(app.people.team));
    let queued = app.commands.queue_jobs(&context, jobs.to_vec()).await.unwrap();
    let operator = operator.with_header("daybook-position", queued.position.unwrap());
    let done = bulk(&operator, "cancel", json!({"schedule_id": one.to_string()})).await;
    assert_eq!(counts(&done), (2, 2, false));
    let left = operator.get("/api/jobs?status=pending&fields=id,schedule_id").await.expect(200);
    let left: Vec<_> = left.json["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(left, [&json!(queued.jobs[2].id), &json!(id(&by_hand))]);
}

#[tokio::test]
async fn more_than_a_thousand_are_changed_a_thousand_at_a_time_the_newest_first() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let oldest = queue(&operator, kind("good")).await;
    batch(&operator, vec![kind("good"); 1_000]).await;
    assert_eq!(counts(&bulk(&operator, "cancel", json!({})).await), (1_000, 1_000, true));
    assert_eq!(operator.get(&oldest).await.expect(200).str("status"), "pending");
    assert_eq!(counts(&bulk(&operator, "cancel", json!({})).await), (1, 1, false));
    in_all(&app, "cancelled", 1_001).await;
}

#[tokio::test]
async fn nonsense_is_refused_by_field() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let ids = vec!["01890000-0000-7000-8000-000000000000"; 1_001];
    for (body, field) in [
        (json!({"action": "cancel", "filter": {"ids": ids}}), "filter.ids"),
        (json!({"action": "cancel", "filter": {"ids": ["x"]}}), "filter.ids[0]"),
        (json!({"action": "destroy", "filter": {}}), "action"),
        (json!({"action": "cancel", "filter": {"status": "done"}}), "filter.status"),
        (json!({"action": "cancel", "filter": {"kind": "a\u{0}"}}), "filter.kind"),
        (json!({"action": "cancel", "filter": {"kind": "x".repeat(64)}}), "filter.kind"),
        (json!({"action": "cancel", "filter": {"colour": "red"}}), "filter.colour"),
        (json!({"action": "cancel", "filter": {"from": "yesterday"}}), "filter.from"),
        (json!({"action": "cancel"}), "filter"),
        (json!({"filter": {}}), "action"),
    ] {
        let refused = operator.post("/api/jobs/bulk", body.clone()).await.expect(422);
        assert_eq!(refused.fields(), [field], "{body}: {}", refused.text);
    }
    for client in [app.viewer(), app.auditor()] {
        client.post("/api/jobs/bulk", json!({"action": "cancel", "filter": {}})).await.expect(403);
    }
}

#[tokio::test]
async fn cancelling_many_while_they_start_and_end_loses_none() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let paths = batch(&operator, vec![kind("good"); 150]).await;
    let nodes = [worker(&app, KINDS, 2).await, worker(&app, KINDS, 2).await];
    tests::eventually("some have ended", async || {
        let ended = job_events(&app).await.into_iter().filter(|event| event.event_type == "JobCompleted");
        (ended.count() >= 10).then_some(())
    })
    .await;
    let done = bulk(&operator, "cancel", json!({"kind": "good"})).await;
    let (matched, changed, more) = counts(&done);
    assert!(matched >= changed && !more, "{}", done.text);
    assert!(skipped(&done).values().all(|code| *code == "job_ended"), "{}", done.text);
    assert_eq!(skipped(&done).len() as u64, matched - changed);
    assert!(changed > 0, "{}", done.text);
    for path in &paths {
        ended(&operator, path).await;
    }
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let mut asked = BTreeSet::new();
    for event in job_events(&app).await {
        match event.event_type.as_str() {
            "JobCompleted" => *ends.entry(event.stream.aggregate_id).or_default() += 1,
            "JobCancelled" => {
                asked.insert(event.stream.aggregate_id.clone());
                *ends.entry(event.stream.aggregate_id).or_default() += 1;
            }
            "JobCancelRequested" => _ = asked.insert(event.stream.aggregate_id),
            _ => {}
        }
    }
    assert_eq!((ends.len(), ends.values().max()), (150, Some(&1)), "each ended once");
    assert_eq!(asked.len() as u64, changed, "what it said is what it did");
    for node in nodes {
        node.stop().await;
    }
}
