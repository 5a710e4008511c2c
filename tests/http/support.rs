//! What the stories share.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::SessionId;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, TestApp};

/// Keeps a secret of this name.
pub(crate) async fn keep(client: &Client, name: &str) -> Reply {
    client.post("/api/secrets", json!({"name": name, "value": format!("value of {name}")})).await.expect(201)
}

/// Signs in one of those whom the harness makes, by name.
pub(crate) async fn sign_in(app: &TestApp, name: &str) -> Reply {
    let body = json!({"email": format!("{name}@example.org"), "password": PASSWORD});
    app.anon().post("/api/auth/login", body).await.expect(200)
}

/// Exchanges a refresh token.
pub(crate) async fn refresh(app: &TestApp, token: &str) -> Reply {
    app.anon().post("/api/auth/refresh", json!({"refresh_token": token})).await
}

/// The session that an access token is of.
pub(crate) fn session_of(access_token: &str) -> SessionId {
    let claims = BASE64URL.decode(access_token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["sid"].as_str().unwrap().parse().unwrap()
}

/// Makes sure that the reply is a problem document of this status and code, about this very request.
#[track_caller]
pub(crate) fn problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.str("code")), (status, code), "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.json["status"], status);
    assert_eq!(reply.str("type"), format!("/problems/{code}"));
    assert!(!reply.str("title").is_empty() && !reply.str("detail").is_empty(), "{}", reply.text);
    assert_eq!(reply.str("request_id"), reply.header("x-request-id"));
}

/// Makes sure that the reply is a 422 that names exactly these fields.
#[track_caller]
pub(crate) fn refused(reply: &Reply, fields: &[&str]) {
    assert_eq!(reply.status, 422, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.fields(), fields, "{}", reply.text);
}

/// The same client, whose reads see everything that has happened so far.
pub(crate) async fn up_to_now(app: &TestApp, client: &Client) -> Client {
    client.with_header("daybook-position", app.ledger.head().await.unwrap())
}

/// The audit trail's events of this query, newest first, all that has happened so far included.
pub(crate) async fn audited(app: &TestApp, client: &Client, query: &str) -> Vec<Value> {
    let client = up_to_now(app, client).await;
    let reply = client.get(&format!("/api/audit/events?limit=200&{query}")).await.expect(200);
    reply.json["items"].as_array().unwrap().clone()
}

/// What an event of the audit trail says of a field.
pub(crate) fn said<'a>(event: &'a Value, field: &str) -> &'a Value {
    let changes = event["changes"].as_array().unwrap();
    changes.iter().find(|change| change["field"] == field).map_or(&Value::Null, |change| &change["after"])
}

/// The number of rows that a query behind the program's back counts.
pub(crate) async fn count(app: &TestApp, sql: &str) -> i64 {
    let mut connection = app.database.connect().await;
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

/// All that stands in the database, as text: bytes as hexadecimal digits.
pub(crate) async fn everything_stored(app: &TestApp) -> String {
    let mut connection = app.database.connect().await;
    let tables =
        "select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    let mut everything = String::new();
    for table in tables {
        let rows = format!("select coalesce(string_agg(t::text, chr(10)), '') from \"{table}\" t");
        let rows: String = sqlx::query_scalar(&rows).fetch_one(&mut connection).await.unwrap();
        everything.push_str(&rows);
    }
    everything
}
