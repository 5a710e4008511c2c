//! Changes of secrets, told as they happen.

mod ends;
mod resuming;

use api::server::Roles;
use futures::future::{Either, select};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, EventStream, Setup, StreamEvent, TestApp};

use super::support::{keep, problem, refused};

const CHANGES: &str = "/api/secrets/changes";

/// A stream that tells everything from now on.
async fn listening(client: &Client) -> EventStream {
    listening_to(client, CHANGES).await
}

async fn listening_to(client: &Client, path: &str) -> EventStream {
    let mut stream = client.stream(path).await;
    stream.expect("ready").await;
    stream
}

fn position(event: &StreamEvent) -> i64 {
    assert_eq!(event.data["position"].to_string(), event.id, "{event:?}");
    event.id.parse().unwrap()
}

fn value_path(secret: &Value) -> String {
    format!("/api/secrets/{}/value", secret["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_change_is_told_with_its_name_and_version_and_nothing_of_the_value() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let mut stream = listening(&app.viewer()).await;
    let kept = keep(&operator, "payments/db").await;
    let path = format!("/api/secrets/{}", kept.str("id"));
    let changed = operator.put(&format!("{path}/value"), json!({"value": "the next"})).await.expect(200);
    let deleted = operator.delete(&path).await.expect(204);
    let mut before = 0;
    for (reply, event, version) in [
        (&kept, "stored", json!(1)),
        (&changed, "value_changed", json!(2)),
        (&deleted, "deleted", Value::Null),
    ] {
        let told = stream.expect("secret").await;
        let position = position(&told);
        // The claim on the name goes with it.
        let written: i64 = reply.header("daybook-position").parse().unwrap();
        assert!(before < position && position <= written, "{before} {position} {written}");
        before = written;
        let expected = json!({
            "id": kept.str("id"), "name": "payments/db", "team_id": app.people.team, "event": event,
            "version": version, "position": position,
        });
        assert_eq!(told.data, expected);
    }
}

#[tokio::test]
async fn whoever_hears_of_a_change_on_any_node_reads_it_there() {
    let one = TestApp::start().await;
    let two = one.another_node(Setup::default()).await;
    let only_api = Roles { api: true, worker: false, follower: false };
    let three = one.another_node(Setup::default().roles(only_api)).await;
    let nodes = [&one, &two, &three];
    let secret = keep(&one.operator(), "db").await.json;
    let mut streams = vec![];
    for node in nodes {
        streams.push(listening(&node.viewer()).await);
    }
    for version in 2..=25 {
        let value = json!({"value": format!("v{version}")});
        let writer =
            nodes[version % 3].operator().with_header("daybook-position", one.ledger.head().await.unwrap());
        writer.put(&value_path(&secret), value).await.expect(200);
        for (node, stream) in nodes.iter().zip(&mut streams) {
            assert_eq!(stream.expect("secret").await.data["version"], version);
            // Without naming a position.
            let read = node.operator().get(&value_path(&secret)).await.expect(200);
            assert_eq!(read.str("value"), format!("v{version}"));
        }
    }
}

#[tokio::test]
async fn nothing_is_told_before_the_view_shows_it() {
    let app = TestApp::start().await;
    let secret = keep(&app.operator(), "db").await.json;
    let mut stream = listening(&app.viewer()).await;
    // As a follower that has stopped in the middle of a batch.
    let mut blocker = app.database.connect().await;
    sqlx::query("begin").execute(&mut blocker).await.unwrap();
    sqlx::query("select 1 from checkpoints for update").execute(&mut blocker).await.unwrap();
    {
        let operator = app.operator();
        let (path, body) = (value_path(&secret), json!({"value": "v2"}));
        let (told, written) = (std::pin::pin!(stream.next()), std::pin::pin!(operator.put(&path, body)));
        match select(told, written).await {
            Either::Left((told, _)) => panic!("told too early: {told:?}"),
            // It has waited for the view, in vain.
            Either::Right((written, _)) => assert_eq!(written.expect(200).json["version"], 2),
        }
    }
    sqlx::query("rollback").execute(&mut blocker).await.unwrap();
    assert_eq!(stream.expect("secret").await.data["version"], 2);
    assert_eq!(app.operator().get(&value_path(&secret)).await.expect(200).str("value"), "v2");
}

#[tokio::test]
async fn a_quiet_stream_says_how_far_it_is_and_is_not_compressed() {
    let app = TestApp::start().await;
    let mut stream = listening(&app.viewer().with_header("accept-encoding", "gzip")).await;
    let theirs = keep(&app.other_team(), "db").await;
    let head: i64 = theirs.header("daybook-position").parse().unwrap();
    let alive = stream.next().await.unwrap();
    assert_eq!((alive.kind.as_str(), &alive.data), ("", &Value::Null));
    assert!(alive.id.parse::<i64>().unwrap() >= head, "{alive:?}");
    keep(&app.operator(), "ours").await;
    assert_eq!(stream.expect("secret").await.data["name"], "ours");
}

#[tokio::test]
async fn another_teams_changes_are_not_told() {
    let app = TestApp::start().await;
    let mut ours = listening(&app.viewer()).await;
    let mut theirs = listening(&app.other_team()).await;
    let since = app.ledger.head().await.unwrap();
    for n in 0..10 {
        keep(&app.operator(), &format!("ours/{n}")).await;
        keep(&app.other_team(), &format!("theirs/{n}")).await;
    }
    let mut ours_again = app.viewer().stream(&format!("{CHANGES}?after={since}")).await;
    for stream in [&mut ours, &mut ours_again] {
        for n in 0..10 {
            assert_eq!(stream.expect("secret").await.data["name"], format!("ours/{n}"));
        }
    }
    for n in 0..10 {
        let told = theirs.expect("secret").await.data;
        assert_eq!(
            (&told["name"], &told["team_id"]),
            (&json!(format!("theirs/{n}")), &json!(app.people.other_team))
        );
    }
    ours_again.expect("ready").await;
}

#[tokio::test]
async fn a_prefix_leaves_out_what_does_not_begin_with_it() {
    let app = TestApp::start().await;
    let since = app.ledger.head().await.unwrap();
    let mut live = listening_to(&app.viewer(), &format!("{CHANGES}?prefix=payments/")).await;
    for name in ["payments/a", "payment", "other/payments/b", "payments/c/d"] {
        keep(&app.operator(), name).await;
    }
    let mut again = app.viewer().stream(&format!("{CHANGES}?prefix=payments/&after={since}")).await;
    for stream in [&mut live, &mut again] {
        for name in ["payments/a", "payments/c/d"] {
            assert_eq!(stream.expect("secret").await.data["name"], name);
        }
    }
    again.expect("ready").await;
}

#[tokio::test]
async fn who_may_not_read_about_secrets_hears_nothing() {
    let app = TestApp::start().await;
    problem(&app.auditor().get(CHANGES).await, 403, "forbidden");
    problem(&app.anon().get(CHANGES).await, 401, "unauthorized");
    problem(
        &app.as_user(app.people.viewer).with_header("daybook-team", app.people.other_team).get(CHANGES).await,
        404,
        "team_not_found",
    );
    for (scope, may) in [("secrets:read", true), ("jobs:read", false)] {
        let made = app.operator().post("/api/auth/api-keys", json!({"name": scope, "scopes": [scope]})).await;
        let program = app.anon().with_token(made.expect(201).str("key"));
        match may {
            true => drop(listening(&program).await),
            false => problem(&program.get(CHANGES).await, 403, "forbidden"),
        }
    }
}

#[tokio::test]
async fn what_is_no_position_and_no_prefix_is_refused_by_name() {
    let app = TestApp::start().await;
    let viewer = app.viewer();
    for (query, field) in
        [("after=-1", "after"), ("after=x", "after"), ("after=", "after"), ("before=1", "before")]
    {
        refused(&viewer.get(&format!("{CHANGES}?{query}")).await, &[field]);
    }
    refused(&viewer.get(&format!("{CHANGES}?prefix={}", "x".repeat(513))).await, &["prefix"]);
    for id in ["x", "-1", "1.5", "99999999999999999999"] {
        refused(&viewer.with_header("last-event-id", id).get(CHANGES).await, &["Last-Event-ID"]);
    }
    // A browser that was told to forget its id sends none.
    drop(listening(&viewer.with_header("last-event-id", "")).await);
    let asked = viewer.send(viewer.request(Method::POST, CHANGES)).await;
    problem(&asked, 405, "method_not_allowed");
}
