//! After any history, what is made anew is what was there.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::PgConnection;
use tests::{Database, on_tables};

use super::support::{History, Node, Rows, rows};
use crate::ledger::support::Seed;

const HISTORIES: usize = 3;
const STEPS: usize = 220;

async fn tables(node: &Node, database: &mut PgConnection) -> Vec<(&'static str, Rows)> {
    let mut tables = vec![];
    for view in node.views.names() {
        tables.push((view, rows(database, view).await));
    }
    tables
}

/// Who administers the instance, as the register beside the accounts has it and as the accounts do.
async fn admins(database: &mut PgConnection) -> (BTreeSet<String>, BTreeSet<String>) {
    let register = "select payload from events where event_type = 'AdminsAre' order by position desc limit 1";
    let register: Option<Value> = sqlx::query_scalar(register).fetch_optional(&mut *database).await.unwrap();
    let register = register.map(|event| event["AdminsAre"]["user_ids"].clone());
    let accounts = rows(database, "users").await.into_iter().map(|(id, _, row)| (id, row));
    let active = accounts.filter(|(_, row)| row["admin"] == true && row["active"] == true).map(|(id, _)| id);
    let ids = register.unwrap_or(Value::Array(vec![]));
    (ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect(), active.collect())
}

/// Two nodes follow while the history is made, so that who folds how much at once is as random as the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_history_every_view_is_what_the_log_says_and_rebuilt_rows_are_the_live_ones() {
    let seed = Seed::new();
    for _ in 0..HISTORIES {
        let database = Database::new().await;
        let nodes = [Node::following(&database).await, Node::following(&database).await];
        History::begin(&nodes[0], seed.rng()).await.steps(STEPS).await;
        let head = nodes[0].caught_up().await;
        let mut behind = database.connect().await;
        let (registered, active) = admins(&mut behind).await;
        assert_eq!(registered, active);
        let live = tables(&nodes[0], &mut behind).await;
        for (view, rows) in &live {
            assert!(!rows.is_empty(), "{view}");
            let verified = nodes[1].views.verify(view, |_| {}).await.unwrap();
            assert_eq!((verified.different, verified.position), (0, head), "{view}: {verified:#?}");
            assert_eq!(verified.rows, rows.len() as u64, "{view}");
        }
        for (view, _) in &live {
            nodes[1].views.rebuild(view, |_| {}).await.unwrap();
        }
        let rebuilt = tables(&nodes[0], &mut behind).await;
        for ((view, live), (_, rebuilt)) in live.iter().zip(&rebuilt) {
            assert_eq!(live, rebuilt, "{view}");
        }
        nodes[0].assert_right().await;
    }
}

/// The rows are made by the one who comes late in a few large batches, and by the others in many small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_history_afterwards_comes_to_the_same_rows() {
    let seed = Seed::new();
    let database = Database::new().await;
    let early = Node::following(&database).await;
    History::begin(&early, seed.rng()).await.steps(STEPS).await;
    early.caught_up().await;
    early.stop().await;
    let mut behind = database.connect().await;
    let late = Node::idle(&database, ::projections::Options::default()).await;
    let live = tables(&late, &mut behind).await;
    for view in late.views.names() {
        let empty = on_tables(&format!("delete from {view}"));
        sqlx::query(&empty).execute(&mut behind).await.unwrap();
    }
    sqlx::query("update checkpoints set position = 0").execute(&mut behind).await.unwrap();
    let small = ::projections::Options { page: 7, ..::projections::Options::default() };
    let late = Node::following_with(&database, small).await;
    late.caught_up().await;
    for ((view, before), (_, after)) in live.iter().zip(&tables(&late, &mut behind).await) {
        assert_eq!(before, after, "{view}");
    }
}

/// What others' events say of somebody who was forgotten stands opened in the rows of these views until they are made anew.
const MADE_ANEW: [&str; 3] = ["audit", "secret_access", "teams"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_forgotten_is_in_no_view_that_was_made_anew_and_nothing_brings_them_back() {
    let seed = Seed::new();
    let database = Database::new().await;
    let nodes = [Node::following(&database).await, Node::following(&database).await];
    let mut history = History::begin(&nodes[0], seed.rng()).await.forgetting();
    while history.forgotten().is_empty() {
        history.steps(STEPS / 2).await;
    }
    history.steps(STEPS / 2).await;
    let forgotten = history.forgotten();
    let head = nodes[0].caught_up().await;
    for view in nodes[0].views.names() {
        if !MADE_ANEW.contains(&view) {
            let verified = nodes[1].views.verify(view, |_| {}).await.unwrap();
            assert_eq!((verified.different, verified.position), (0, head), "{view}: {verified:#?}");
        }
    }
    for view in MADE_ANEW {
        nodes[1].views.rebuild(view, |_| {}).await.unwrap();
    }
    nodes[0].assert_right().await;
    let mut behind = database.connect().await;
    let (registered, active) = admins(&mut behind).await;
    assert_eq!(registered, active);
    let everything = format!("{:?}", tables(&nodes[0], &mut behind).await).to_lowercase();
    assert!(everything.contains("@example.org"), "those who are there are shown");
    for email in forgotten {
        assert!(!everything.contains(&email.to_lowercase()), "{email}");
    }
}

/// Rows that do not fit into memory are put into the table and loaded again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_may_keep_no_rows_comes_to_the_same_rows() {
    let seed = Seed::new();
    let database = Database::new().await;
    let early = Node::following(&database).await;
    History::begin(&early, seed.rng()).await.steps(STEPS).await;
    early.caught_up().await;
    let mut behind = database.connect().await;
    let live = tables(&early, &mut behind).await;
    let options = ::projections::Options { rebuild_page: 7, rebuild_bytes: 0, ..Default::default() };
    let poor = Node::idle(&database, options).await;
    for (view, _) in &live {
        poor.views.rebuild(view, |_| {}).await.unwrap();
    }
    for ((view, live), (_, rebuilt)) in live.iter().zip(&tables(&early, &mut behind).await) {
        assert_eq!(live, rebuilt, "{view}");
    }
}
