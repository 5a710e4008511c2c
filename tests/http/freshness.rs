//! Views that stand still answer nobody: what is told is true, or it is a 503 that names the view.

use domain::{Personal, UserEvent};
use ledger::{Append, Metadata, NewEvent, StreamId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tests::{Client, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::api_keys::{KEYS, make};
use super::secret_support::{grant, path, put, reveal};
use super::support::{keep, problem, sign_in};

/// Somebody who holds the checkpoints and does not let go, as a follower that was stopped in the middle of a batch would.
struct Held(PgConnection);

impl Held {
    async fn by(app: &TestApp) -> Self {
        let mut connection = app.database.connect().await;
        sqlx::query("begin").execute(&mut connection).await.unwrap();
        sqlx::query("select 1 from checkpoints for update").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    async fn let_go(mut self) {
        sqlx::query("rollback").execute(&mut self.0).await.unwrap();
    }
}

#[track_caller]
fn behind(reply: &Reply) {
    problem(reply, 503, "views_behind");
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(reply.str("detail").contains("The view "), "{}", reply.text);
}

#[tokio::test]
async fn what_was_revoked_opens_nothing_while_the_views_stand_still() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let secret = keep(&app.operator(), "db").await;
    let value = format!("{}/value", path(&secret));
    let session = sign_in(&app, "operator").await;
    let of_session = app.anon().with_token(session.str("access_token"));
    let of_session = of_session.with_header("daybook-team", app.people.team);
    let key = make(&app.operator(), &["secrets:reveal", "secrets:read"]).await.expect(201);
    let of_key = app.anon().with_token(key.str("key"));
    let granted = grant(&app.owner(), &path(&secret), app.people.viewer, 5).await.expect(201);
    let everybody = [of_session, of_key, app.viewer()];
    for client in &everybody {
        client.get(&value).await.expect(200);
    }

    let held = Held::by(&app).await;
    let (ended, revoked, withdrawn) = tokio::join!(
        everybody[0].post("/api/auth/logout", Value::Null),
        async { app.operator().delete(&format!("{KEYS}/{}", key.str("id"))).await },
        async { app.owner().delete(&format!("{}/grants/{}", path(&secret), granted.str("id"))).await },
    );
    assert_eq!([ended.status, revoked.status, withdrawn.status], [204; 3]);
    for client in &everybody {
        for node in [&app, &other] {
            behind(&client.speaking_to(node.address).get(&value).await);
        }
    }
    let ready = app.anon().get("/readyz").await;
    problem(&ready, 503, "not_ready");
    let health = other.anon().get("/api/health").await.expect(503);
    assert_eq!((health.str("views"), health.str("database")), ("behind", "ok"));
    assert!(!health.json["not_live"].as_array().unwrap().is_empty());

    held.let_go().await;
    for (client, status) in everybody.iter().zip([401, 401, 403]) {
        for node in [&app, &other] {
            let client = client.speaking_to(node.address);
            let refused = eventually("an answer", async || {
                let reply = client.get(&value).await;
                (reply.status != 503).then_some(reply)
            })
            .await;
            assert_eq!(refused.status, status, "{}", refused.text);
        }
    }
    eventually("readiness", async || (app.anon().get("/readyz").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn nobody_is_told_what_was_true_before_the_views_stood_still() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let held = Held::by(&app).await;
    let changed = put(&operator, &path(&secret), "new").await.expect(200);
    assert_eq!(changed.json["version"], 2, "it is done, and the answer says what was written");
    behind(&operator.get(&format!("{}/value", path(&secret))).await);
    behind(&operator.get("/api/secrets").await);
    let asking = operator.with_header("daybook-position", changed.header("daybook-position"));
    problem(&asking.get("/api/secrets").await, 504, "views_behind");
    let login = json!({"email": "owner@example.org", "password": tests::PASSWORD});
    behind(&app.anon().post("/api/auth/login", login).await);
    held.let_go().await;
    let seen = eventually("the value", async || {
        let reply = reveal(&operator, &path(&secret), "").await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(seen.str("value"), "new");
}

/// What a newer Daybook writes.
async fn append_newer(app: &TestApp, event: NewEvent) {
    let newer = NewEvent { event_version: "99".to_owned(), ..event };
    let metadata = Metadata { actor: "system".to_owned(), ..Metadata::default() };
    app.ledger.append(Append { events: vec![newer], metadata, data_keys: vec![] }).await.unwrap();
}

async fn is_failing(app: &TestApp, view: &str) {
    let found = eventually("the failure", async || {
        let health = app.anon().get("/api/health").await;
        let views = health.json["not_live"].as_array().unwrap();
        let found = views.iter().find(|found| found["name"] == view && found["state"] == "failed").cloned();
        found.inspect(|_| assert_eq!(health.str("views"), "failed"))
    })
    .await;
    assert!(found["last_error"].as_str().unwrap().contains("version 99"), "{found}");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_stops_the_views_that_need_it_and_what_they_would_let_in() {
    let app = TestApp::start().await;
    let session = sign_in(&app, "owner").await;
    let owner = app.anon().with_token(session.str("access_token"));
    let user = domain::UserId(Uuid::now_v7());
    let renamed = UserEvent::UserRenamed { name: Personal::new(user, "x") };
    append_newer(
        &app,
        NewEvent {
            stream: StreamId::new("user", user),
            sequence: 1,
            event_type: "UserRenamed".to_owned(),
            event_version: "1".to_owned(),
            payload: serde_json::to_value(renamed).unwrap().into(),
        },
    )
    .await;
    is_failing(&app, "users").await;
    let refused = owner.get("/api/auth/me").await;
    behind(&refused);
    behind(&owner.post("/api/auth/logout", Value::Null).await);
    problem(&app.anon().get("/readyz").await, 503, "not_ready");
}

#[tokio::test]
async fn a_failed_view_stops_no_other() {
    let app = TestApp::start().await;
    let secret = keep(&app.operator(), "db").await;
    append_newer(
        &app,
        NewEvent {
            stream: StreamId::new("schedule", Uuid::now_v7()),
            sequence: 1,
            event_type: "ScheduleDeleted".to_owned(),
            event_version: "1".to_owned(),
            payload: json!({"ScheduleDeleted": {}}).into(),
        },
    )
    .await;
    is_failing(&app, "schedules").await;
    // Secrets go on, with a position or without; schedules and the audit log do not.
    let changed = put(&app.operator(), &path(&secret), "new").await.expect(200);
    let asking = app.operator().with_header("daybook-position", changed.header("daybook-position"));
    assert_eq!(reveal(&asking, &path(&secret), "").await.expect(200).str("value"), "new");
    behind(&app.operator().get("/api/schedules").await);
    let trail: Client = app.auditor();
    behind(&trail.get("/api/audit/events").await);
}
