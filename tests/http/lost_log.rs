//! A log that is not the one that was followed: events deleted, an older copy restored, another event at a known position.

use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tests::{Database, Reply, Setup, TestApp, eventually, on_tables};

use super::support::{count, keep, problem, sign_in};

/// What only a superuser can do: changes the log behind the trigger's back.
async fn tamper(database: &Database, sql: &str) {
    let mut connection = database.connect().await;
    let sql = format!("alter table events disable trigger all; {sql}; alter table events enable trigger all");
    connection.execute(sqlx::raw_sql(&sql)).await.unwrap();
    connection.close().await.unwrap();
}

const NEWEST: &str = "delete from events where position > (select max(position) - 1 from events)";

async fn notices(app: &TestApp) -> Reply {
    eventually("the notice", async || {
        let health = app.anon().get("/api/health").await;
        (health.str("log") == "diverged").then_some(health)
    })
    .await
}

async fn refuses_to_write(app: &TestApp) {
    let refused = app.operator().post("/api/secrets", json!({"name": "late", "value": "v"})).await;
    problem(&refused, 503, "log_diverged");
    let login = json!({"email": "owner@example.org", "password": tests::PASSWORD});
    problem(&app.anon().post("/api/auth/login", login).await, 503, "log_diverged");
    problem(&app.anon().get("/readyz").await, 503, "not_ready");
}

/// As `daybook projections rebuild --all` does.
async fn accept(app: &TestApp, times: i64) {
    let node = app.node().await;
    let accepted = node.accept_log().await.unwrap().expect("something was lost");
    assert!(!accepted.cause.is_empty());
    for view in app.projections.names() {
        eventually(view, async || app.projections.rebuild(view, |_| {}).await.ok()).await;
    }
    node.close().await;
    eventually("readiness", async || (app.anon().get("/readyz").await.status == 200).then_some(())).await;
    let recorded = "select count(*) from events where event_type = 'LogLossAccepted'";
    assert_eq!(count(app, recorded).await, times);
}

#[tokio::test]
async fn the_newest_event_deleted_under_a_running_node_is_noticed_and_accepted() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    keep(&app.operator(), "first").await;
    keep(&app.operator(), "second").await;
    tamper(&app.database, NEWEST).await;
    for node in [&app, &other] {
        let health = notices(node).await;
        assert!(health.str("log_detail").contains("events were lost"), "{}", health.text);
        refuses_to_write(node).await;
    }
    let before = app.ledger.head().await.unwrap();
    accept(&app, 1).await;
    assert!(app.ledger.head().await.unwrap() > before);
    for node in [&app, &other] {
        eventually("a write", async || {
            let name = format!("after-{}", node.address.port());
            let reply = node.operator().post("/api/secrets", json!({"name": name, "value": "v"})).await;
            (reply.status == 201).then_some(())
        })
        .await;
    }
    for view in app.projections.names() {
        let verified = app.projections.verify(view, |_| {}).await.unwrap();
        assert!(verified.is_right(), "{view}: {verified:?}");
    }
}

#[tokio::test]
async fn three_nodes_that_knew_what_was_lost_all_go_on_once_it_is_accepted() {
    let app = TestApp::start().await;
    let (second, third) =
        (app.another_node(Setup::default()).await, app.another_node(Setup::default()).await);
    let nodes = [&app, &second, &third];
    for round in 0..3 {
        keep(&app.operator(), &format!("first-{round}")).await;
        keep(&app.operator(), &format!("second-{round}")).await;
        tamper(&app.database, NEWEST).await;
        for node in nodes {
            notices(node).await;
        }
        accept(&app, round + 1).await;
        for (number, node) in nodes.iter().enumerate() {
            let ready = async || (node.anon().get("/readyz").await.status == 200).then_some(());
            eventually("readiness", ready).await;
            keep(&node.operator(), &format!("after-{round}-{number}")).await;
        }
        let noted = "select count(*) from log_identity where diverged is not null";
        assert_eq!(count(&app, noted).await, 0);
    }
}

#[tokio::test]
async fn another_event_at_a_known_position_is_noticed() {
    let app = TestApp::start().await;
    sign_in(&app, "owner").await;
    // The position is used again, as after a restore; the log is no shorter.
    let again = "update events set recorded_at = recorded_at + interval '1 second'
                 where position = (select max(position) from events)";
    tamper(&app.database, again).await;
    let health = notices(&app).await;
    assert!(health.str("log_detail").contains("is not the one that was known"), "{}", health.text);
    refuses_to_write(&app).await;
    accept(&app, 1).await;
    keep(&app.operator(), "after").await;
}

#[tokio::test]
async fn a_start_on_a_log_below_the_checkpoints_serves_no_writes_until_the_loss_is_accepted() {
    let app = TestApp::start().await;
    keep(&app.operator(), "first").await;
    let head = app.ledger.head().await.unwrap();
    app.projections.wait(head, tests::LIMIT).await.unwrap();
    let app = app.restarted_after(async |database| tamper(database, NEWEST).await).await;
    notices(&app).await;
    refuses_to_write(&app).await;
    accept(&app, 1).await;
    keep(&app.operator(), "after").await;
}

#[tokio::test]
async fn what_one_node_found_holds_for_those_that_start_later() {
    let app = TestApp::start().await;
    keep(&app.operator(), "first").await;
    tamper(&app.database, NEWEST).await;
    notices(&app).await;
    let noted = "select count(*) from log_identity where diverged is not null";
    eventually("the note", async || (count(&app, noted).await == 1).then_some(())).await;
    // All that remembered the lost event is gone.
    let forget = on_tables("update checkpoints set position = 0, digest = null, state = 'outdated'");
    app.database.connect().await.execute(forget.as_str()).await.unwrap();
    let later = app.another_node_at_once().await;
    notices(&later).await;
    refuses_to_write(&later).await;
}
