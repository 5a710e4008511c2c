//! A node and its database's owner, and a node whose requests use up their connections.

use std::time::Duration;

use api::server::Roles;
use futures::future::join_all;
use sqlx::Executor as _;
use tests::{Database, Setup, TestApp};

use super::support::keep;

/// What an owner may have set, all at once.
const HOSTILE: &str = "do $$ declare setting text; begin \
    foreach setting in array array['default_transaction_isolation = serializable', 'row_security = off', \
        'idle_session_timeout = 100', 'idle_in_transaction_session_timeout = 1', 'lock_timeout = 1', \
        'client_min_messages = debug5', 'bytea_output = escape', 'intervalstyle = iso_8601', 'datestyle = German', \
        'timezone = \"Asia/Kathmandu\"', 'extra_float_digits = -15', 'synchronous_commit = off', 'jit_above_cost = 0', \
        'plan_cache_mode = force_custom_plan', 'standard_conforming_strings = off'] loop \
        execute format('alter database %I set %s', current_database(), setting); \
    end loop; end $$";

#[tokio::test]
async fn an_owners_defaults_change_nothing() {
    let database = Database::new().await;
    database.connect().await.execute(sqlx::raw_sql(HOSTILE)).await.unwrap();
    let app = TestApp::on_database(database).await;
    let secret = keep(&app.operator(), "db").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    assert_eq!(app.operator().get(&format!("{path}/value")).await.expect(200).str("value"), "value of db");
    for view in app.projections.names() {
        app.projections.rebuild(view, |_| ()).await.unwrap_or_else(|error| panic!("{view}: {error}"));
        assert_eq!(app.projections.verify(view, |_| ()).await.unwrap().different, 0, "{view}");
    }
    app.operator().get("/api/secrets").await.expect(200);
    app.auditor().get("/api/audit/events").await.expect(200);
    app.owner().get("/api/team").await.expect(200);
    app.stop().await;
}

#[tokio::test]
async fn requests_that_use_up_their_connections_stop_neither_views_nor_appends() {
    let app = TestApp::start().await;
    let roles = Roles { api: true, worker: false, follower: false };
    let other = app.another_node(Setup::default().roles(roles)).await;
    let held = join_all((0..5).map(|_| app.ledger.pool().acquire())).await;
    assert!(held.iter().all(Result::is_ok));
    let written = keep(&other.operator(), "meanwhile").await;
    let position = written.header("daybook-position").parse().unwrap();
    app.projections.wait(position, Duration::from_secs(20)).await.unwrap();
    drop(held);
    app.operator().get(&format!("/api/secrets/{}", written.str("id"))).await.expect(200);
    other.stop().await;
    app.stop().await;
}
