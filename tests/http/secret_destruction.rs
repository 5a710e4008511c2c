//! Values that are gone for ever: on every node, in every view however it was made, and whoever crashed meanwhile. History stays.

use ::ledger::{Append, Metadata, NewEvent, StreamId};
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};

use super::secret_lists::names;
use super::secret_support::{at_once, destroy, items, keys, path, put, readings, rebuild_everything, reveal};
use super::support::{everything_stored, keep, problem, refused, up_to_now};

/// A secret with three versions.
async fn three_versions(client: &Client) -> Reply {
    let secret = keep(client, "db").await;
    for version in 2..=3 {
        put(client, &path(&secret), &format!("v{version}")).await.expect(200);
    }
    secret
}

async fn destroy_all(client: &Client, path: &str) -> Reply {
    client.post(&format!("{path}/destroy"), json!({})).await
}

async fn history(app: &TestApp, secret: &Reply) -> Vec<Value> {
    items(&app.owner(), &format!("/api/audit/secret/{}/history", secret.str("id"))).await
}

#[tokio::test]
async fn destroyed_versions_are_gone_and_the_others_stay() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let operator = app.operator();
    let secret = three_versions(&operator).await;
    let path = path(&secret);
    for version in 1..=3 {
        reveal(&up_to_now(&app, &other.operator()).await, &path, &format!("?version={version}"))
            .await
            .expect(200);
    }
    let left = destroy(&operator, &path, &[1, 2]).await.expect(200);
    assert_eq!((&left.json["version"], &left.json["destroyed"]), (&json!(3), &json!(false)));
    assert_eq!(keys(&app, &secret).await, 1);
    let there = other.operator().with_header("daybook-position", left.header("daybook-position"));
    let recorded = readings(&app).await;
    for client in [&operator, &app.owner(), &there] {
        for version in [1, 2] {
            let gone = reveal(client, &path, &format!("?version={version}")).await;
            problem(&gone, 410, "version_destroyed");
            // Whoever has it in memory is told likewise.
            let tagged = client.with_header("if-none-match", format!("\"v{version}\""));
            problem(&reveal(&tagged, &path, &format!("?version={version}")).await, 410, "version_destroyed");
        }
        assert_eq!(reveal(client, &path, "").await.expect(200).str("value"), "v3");
    }
    assert_eq!(readings(&app).await, recorded + 3, "what nobody saw is no reading");
    let versions = items(&operator, &format!("{path}/versions")).await;
    let by = format!("user:{}", app.people.operator);
    assert_eq!(versions[0]["destroyed"], false);
    for version in &versions[1..] {
        assert_eq!((&version["destroyed"], &version["destroyed_by"]), (&json!(true), &json!(by)));
        assert!(version["destroyed_at"].is_string() && version["created_at"].is_string());
    }

    // Again is no error and leaves no event; what is new of it is done.
    let again = destroy(&operator, &path, &[1]).await.expect(200);
    assert_eq!(again.header("etag"), left.header("etag"));
    let last = destroy(&operator, &path, &[2, 3]).await.expect(200);
    assert_eq!((&last.json["version"], &last.json["destroyed"]), (&json!(3), &json!(false)));
    problem(&reveal(&operator, &path, "").await, 410, "version_destroyed");
    assert_eq!(keys(&app, &secret).await, 0);
    // It is a secret without a value, until it gets the next one.
    assert_eq!(put(&operator, &path, "v4").await.expect(200).json["version"], 4);
    assert_eq!(reveal(&operator, &path, "").await.expect(200).str("value"), "v4");
}

#[tokio::test]
async fn what_cannot_be_destroyed_is_refused_in_words() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = three_versions(&operator).await;
    let path = path(&secret);
    let ask = async |client: &Client, body: Value| client.post(&format!("{path}/destroy"), body).await;
    for versions in [json!([4]), json!([0]), json!([1, 9])] {
        problem(&ask(&operator, json!({"versions": versions})).await, 404, "version_not_found");
    }
    let many: Vec<u32> = (1..=10_001).collect();
    for versions in [json!([]), json!(many), json!(1), json!("all")] {
        refused(&ask(&operator, json!({"versions": versions})).await, &["versions"]);
    }
    refused(&ask(&operator, json!({"versions": [1, -1]})).await, &["versions[1]"]);
    refused(&ask(&operator, json!({"version": 1})).await, &["version"]);
    let stale = operator.with_header("if-match", "\"1\"");
    problem(&ask(&stale, json!({"versions": [1]})).await, 412, "precondition_failed");
    problem(&ask(&stale, json!({})).await, 412, "precondition_failed");
    problem(&ask(&app.viewer(), json!({})).await, 403, "forbidden");
    problem(&ask(&app.auditor(), json!({})).await, 403, "forbidden");
    problem(&ask(&app.other_team(), json!({})).await, 404, "not_found");
    problem(&ask(&app.other_team(), json!({"versions": [1]})).await, 404, "not_found");
    assert_eq!(keys(&app, &secret).await, 3);
    assert_eq!(history(&app, &secret).await.len(), 3);
}

#[tokio::test]
async fn a_destroyed_secret_is_gone_on_every_node_and_in_every_view_made_anew_and_history_says_so() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (operator, owner) = (app.operator(), app.owner());
    let secret = three_versions(&operator).await;
    let (path, id) = (path(&secret), secret.str("id"));
    let before = app.ledger.head().await.unwrap();
    reveal(&up_to_now(&app, &other.owner()).await, &path, "").await.expect(200);
    let gone = destroy_all(&operator, &path).await.expect(200);
    assert_eq!((&gone.json["deleted"], &gone.json["destroyed"]), (&json!(true), &json!(true)));
    assert_eq!(keys(&app, &secret).await, 0);
    let stored = everything_stored(&app).await;
    assert!(!stored.contains(&format!("secret/{id}/1")) && stored.contains(id));

    let nobody_reads_it = async || {
        let there = up_to_now(&app, &other.owner()).await;
        for client in [&owner, &operator, &there] {
            for query in ["", "?version=1", "?version=2", "?version=3", "?version=9"] {
                problem(&reveal(client, &path, query).await, 410, "secret_destroyed");
            }
        }
        let versions = items(&owner, &format!("{path}/versions")).await;
        assert!(versions.iter().all(|version| version["destroyed"] == true), "{versions:?}");
    };
    nobody_reads_it().await;
    rebuild_everything(&app).await;
    nobody_reads_it().await;
    problem(&reveal(&app.other_team(), &path, "").await, 404, "secret_not_found");
    problem(&reveal(&app.viewer(), &path, "").await, 403, "forbidden");

    // It is found among what was put away, and comes back no more.
    assert!(names(&operator, "").await.is_empty());
    assert_eq!(names(&operator, "deleted=true").await, ["db"]);
    problem(&operator.get(&path).await, 404, "secret_not_found");
    assert_eq!(operator.get(&format!("{path}?deleted=true")).await.expect(200).json, gone.json);
    problem(&operator.post(&format!("{path}/restore"), json!({})).await, 409, "secret_destroyed");
    problem(&operator.post(&format!("{path}/restore"), json!({"name": "x"})).await, 409, "secret_destroyed");
    problem(&put(&operator, &path, "v4").await, 409, "secret_destroyed");
    problem(&operator.patch(&path, json!({"name": "x"})).await, 409, "secret_destroyed");
    problem(&destroy(&operator, &path, &[1]).await, 409, "secret_destroyed");
    let again = destroy_all(&operator, &path).await.expect(200);
    assert_eq!(again.header("etag"), gone.header("etag"));
    keep(&operator, "db").await;

    let events = history(&app, &secret).await;
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["SecretStored", "SecretValueChanged", "SecretValueChanged", "SecretDestroyed"]);
    assert_eq!(events[3]["actor"], format!("user:{}", app.people.operator));
    let state = async |as_of: i64| {
        let url = format!("/api/audit/secret/{id}/state?as_of={as_of}");
        owner.get(&url).await.expect(200).json["state"].clone()
    };
    let (then, now) = (state(before).await, state(app.ledger.head().await.unwrap()).await);
    assert_eq!((&then["destroyed"], &then["version"]), (&json!(false), &json!(3)));
    assert_eq!((&now["destroyed"], &now["version"]), (&json!(true), &json!(3)));
    assert_eq!(items(&owner, &format!("{path}/access")).await.len(), 1, "who read it is still known");
}

#[tokio::test]
async fn a_deleted_secret_can_be_destroyed_and_its_name_stays_with_who_has_it_now() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let old = keep(&operator, "db").await;
    operator.delete(&path(&old)).await.expect(204);
    let new = keep(&operator, "db").await;
    destroy_all(&operator, &path(&old)).await.expect(200);
    assert_eq!((keys(&app, &old).await, keys(&app, &new).await), (0, 1));
    problem(&operator.post("/api/secrets", json!({"name": "db", "value": "v"})).await, 409, "name_taken");
    assert_eq!(reveal(&operator, &path(&new), "").await.expect(200).str("value"), "value of db");
}

#[tokio::test]
async fn of_many_who_destroy_write_and_read_at_once_none_sees_a_value_afterwards() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let operator = app.operator();
    let secret = three_versions(&operator).await;
    let path = path(&secret);
    let replies = at_once(24, |n| {
        let client = if n % 2 == 0 { app.operator() } else { other.operator() };
        let path = path.clone();
        async move {
            match n % 6 {
                0 | 1 => destroy_all(&client, &path).await,
                2 | 3 => put(&client, &path, "late").await,
                _ => reveal(&client, &path, "").await,
            }
        }
    })
    .await;
    for (n, reply) in replies.iter().enumerate() {
        let expected: &[u16] = match n % 6 {
            0 | 1 => &[200],
            2 | 3 => &[200, 409],
            // Not everything is destroyed yet where the views are not yet told.
            _ => &[200, 404, 410],
        };
        assert!(expected.contains(&reply.status) || reply.str("code") == "contended", "{n}: {}", reply.text);
    }
    assert_eq!(keys(&app, &secret).await, 0, "whatever was written before has gone with it");
    problem(&reveal(&up_to_now(&app, &operator).await, &path, "").await, 410, "secret_destroyed");
    let there = up_to_now(&app, &other.operator()).await;
    problem(&reveal(&there, &path, "").await, 410, "secret_destroyed");
}

/// What a process leaves that dies after the event was stored.
async fn only_the_event(app: &TestApp, secret: &Reply, event: (&str, i64, &[u32])) {
    let (event_type, sequence, versions) = event;
    let event = NewEvent {
        stream: StreamId::new("secret", secret.str("id")),
        sequence,
        event_type: event_type.to_owned(),
        event_version: "1".to_owned(),
        payload: json!({event_type: {"versions": versions}}).into(),
    };
    let metadata = Metadata {
        actor: format!("user:{}", app.people.owner),
        team_id: Some(app.people.team.to_string()),
        ..Metadata::default()
    };
    app.ledger.append(Append { events: vec![event], metadata, data_keys: vec![] }).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_undone_of_a_destruction_is_done() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = three_versions(&operator).await;
    let path = path(&secret);
    only_the_event(&app, &secret, ("SecretVersionsDestroyed", 4, &[1, 2])).await;
    eventually("the keys' end", async || (keys(&app, &secret).await == 1).then_some(())).await;
    let now = up_to_now(&app, &operator).await;
    problem(&reveal(&now, &path, "?version=1").await, 410, "version_destroyed");
    assert_eq!(reveal(&now, &path, "").await.expect(200).str("value"), "v3");
    only_the_event(&app, &secret, ("SecretDestroyed", 5, &[3])).await;
    eventually("the last key's end", async || (keys(&app, &secret).await == 0).then_some(())).await;
    problem(&reveal(&up_to_now(&app, &operator).await, &path, "").await, 410, "secret_destroyed");
}

#[tokio::test]
async fn a_destruction_whose_keys_cannot_be_deleted_yet_is_finished_later() {
    use sqlx::Connection as _;

    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = three_versions(&operator).await;
    let path = path(&secret);
    let mut blocker = app.database.connect().await;
    let mut held = blocker.begin().await.unwrap();
    // Keys can be read and nobody can change them.
    sqlx::query("lock table data_keys in exclusive mode").execute(&mut *held).await.unwrap();
    let answer = destroy_all(&operator, &path).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    // The value itself has left the views already.
    problem(&reveal(&up_to_now(&app, &operator).await, &path, "").await, 410, "secret_destroyed");
    assert_eq!(keys(&app, &secret).await, 3);
    held.rollback().await.unwrap();
    eventually("the keys' end", async || (keys(&app, &secret).await == 0).then_some(())).await;
    destroy_all(&operator, &path).await.expect(200);
}
