//! The same request twice has one effect and one answer.

use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};

use super::support::{count, problem, refused};

const STORED: &str = "select count(*) from events where event_type = 'SecretStored'";

async fn store(client: &Client, key: &str, name: &str) -> Reply {
    store_value(client, key, name, "v").await
}

async fn store_value(client: &Client, key: &str, name: &str, value: &str) -> Reply {
    client
        .with_header("idempotency-key", key)
        .post("/api/secrets", json!({"name": name, "value": value}))
        .await
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_whatever_has_happened_since() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let first = store(&operator, "k1", "db").await.expect(201);
    let again = store(&operator, "k1", "db").await.expect(201);
    let same = |reply: &Reply| {
        assert_eq!(reply.json, first.json);
        assert_eq!(reply.header("etag"), first.header("etag"));
        assert_eq!(reply.header("daybook-position"), first.header("daybook-position"));
    };
    same(&again);
    let path = format!("/api/secrets/{}", first.str("id"));
    operator.put(&format!("{path}/value"), json!({"value": "v2"})).await.expect(200);
    operator.get(&format!("{path}/value")).await.expect(200);
    same(&store(&operator, "k1", "db").await.expect(201));
    operator.delete(&path).await.expect(204);
    same(&store(&operator, "k1", "db").await.expect(201));
    // The path under its other name is the same request.
    let other_mount = operator.with_header("idempotency-key", "k1");
    same(&other_mount.post("/api/v1/secrets", json!({"name": "db", "value": "v"})).await.expect(201));
    assert_eq!(count(&app, STORED).await, 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let first = store(&operator, "k1", "db").await.expect(201);
    let other_body = store(&operator, "k1", "db2").await;
    problem(&other_body, 422, "idempotency_key_reused");
    refused(&other_body, &["Idempotency-Key"]);
    problem(&store_value(&operator, "k1", "db", "w").await, 422, "idempotency_key_reused");
    // Another person, another team, another key: requests of their own.
    problem(&store(&app.owner(), "k1", "db").await, 409, "name_taken");
    store(&app.owner(), "k1", "db3").await.expect(201);
    let elsewhere = store(&app.other_team(), "k1", "db").await.expect(201);
    assert_ne!(elsewhere.json["id"], first.json["id"]);
    problem(&store(&operator, "k2", "db").await, 409, "name_taken");
    // A request that failed has not used its key up.
    store(&operator, "k2", "db4").await.expect(201);
    assert_eq!(count(&app, STORED).await, 4);
}

#[tokio::test]
async fn a_key_is_1_to_255_visible_characters() {
    let app = TestApp::start().await;
    let operator = app.operator();
    for bad in ["", "a b", "ключ", &"k".repeat(256)] {
        refused(&store(&operator, bad, "db").await, &["Idempotency-Key"]);
    }
    store(&operator, &"k".repeat(255), "db").await.expect(201);
}

#[tokio::test]
async fn registering_twice_under_one_key_makes_one_account_and_one_answer() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let anon = app.anon().with_header("idempotency-key", "reg-1");
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada"});
    let first = anon.post("/api/auth/register", body.clone()).await.expect(201);
    let credentials = json!({"email": "ada@example.org", "password": PASSWORD});
    let signed_in = app.anon().post("/api/auth/login", credentials).await.expect(200);
    let ada = app.anon().with_token(signed_in.str("access_token"));
    ada.patch("/api/auth/me", json!({"name": "Countess"})).await.expect(200);
    let again = anon.post("/api/auth/register", body).await.expect(201);
    assert_eq!(again.json, first.json);
    assert_eq!(again.header("etag"), first.header("etag"));
    let other = json!({"email": "bob@example.org", "password": PASSWORD, "name": "Bob"});
    problem(&anon.post("/api/auth/register", other).await, 422, "idempotency_key_reused");
}

#[tokio::test]
async fn of_32_at_once_on_two_nodes_one_has_the_effect() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let clients = [app.operator(), other.operator()];
    for round in 0..3 {
        let (key, name) = (format!("k{round}"), format!("db{round}"));
        let replies = join_all((0..32).map(|n| {
            let (client, key, name) = (clients[n % 2].clone(), key.clone(), name.clone());
            async move { store(&client, &key, &name).await }
        }))
        .await;
        let (made, busy): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
        assert!(!made.is_empty());
        let answers: std::collections::BTreeSet<String> =
            made.iter().map(|reply| reply.text.clone()).collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        busy.iter().for_each(|reply| problem(reply, 409, "idempotency_key_in_use"));
        assert_eq!(count(&app, STORED).await, round + 1);
        for client in &clients {
            let again: Value = store(client, &key, &name).await.expect(201).json;
            assert_eq!(again, made[0].json);
        }
    }
    assert_eq!(count(&app, STORED).await, 3);
}
