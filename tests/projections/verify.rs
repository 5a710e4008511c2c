//! A row that is not what the log says is named.

use ::projections::{Difference, Options, Projections, RebuildError, Verified};
use serde_json::{Value, json};
use sqlx::postgres::PgQueryResult;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, on_tables};

use super::support::{Node, registered, secret_id, stored, team_id, user_id};

async fn run(behind: &mut PgConnection, sql: &str) -> Result<PgQueryResult, sqlx::Error> {
    behind.execute(sqlx::raw_sql(&on_tables(sql))).await
}

async fn verified(views: &Projections, view: &str) -> Verified {
    views.verify(view, |_| {}).await.unwrap()
}

/// The one row that differs.
async fn difference(views: &Projections, view: &str) -> Difference {
    let found = verified(views, view).await;
    assert_eq!(found.different, 1, "{found:#?}");
    let [difference] = found.differences.try_into().unwrap();
    difference
}

/// A followed log with `secrets` secrets and one user, nobody at work on it any more, and a way into its tables.
async fn settled(secrets: usize) -> (Database, Node, PgConnection) {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let team = team_id();
    let mut events = vec![registered(user_id(), "Ada")];
    events.extend((0..secrets).map(|n| stored(secret_id(), team, &format!("secret-{n:03}"))));
    node.append(events).await;
    node.caught_up().await;
    node.stop().await;
    let idle = Node::idle(&database, Options::default()).await;
    let behind = database.connect().await;
    (database, idle, behind)
}

#[tokio::test]
async fn a_corrupted_row_is_shown_beside_what_it_should_be() {
    let (_database, node, mut behind) = settled(2).await;
    let corrupt = r#"update secrets set row = row || '{"version": 7}' where row->>'name' = 'secret-001'"#;
    run(&mut behind, corrupt).await.unwrap();
    let difference = difference(&node.views, "secrets").await;
    let (live, folded) = (difference.live.unwrap(), difference.folded.unwrap());
    assert_eq!((&live["version"], &folded["version"]), (&json!(7), &json!(1)));
    assert_eq!((&live["name"], &folded["id"]), (&json!("secret-001"), &json!(difference.key)));
}

#[tokio::test]
async fn a_missing_row_is_named() {
    let (_database, node, mut behind) = settled(2).await;
    let key: String =
        sqlx::query_scalar(&on_tables("delete from secrets where row->>'name' = 'secret-000' returning key"))
            .fetch_one(&mut behind)
            .await
            .unwrap();
    let difference = difference(&node.views, "secrets").await;
    assert_eq!((&difference.key, &difference.live), (&key, &None));
    assert_eq!(difference.folded.unwrap()["name"], "secret-000");
    assert_eq!(verified(&node.views, "secrets").await.rows, 1);
}

#[tokio::test]
async fn a_surplus_row_is_named() {
    let (_database, node, mut behind) = settled(1).await;
    run(&mut behind, r#"insert into secrets (key, position, row) values ('x', 1, '{"id": "x"}')"#)
        .await
        .unwrap();
    let expected = Difference { key: "x".to_owned(), live: Some(json!({ "id": "x" })), folded: None };
    assert_eq!(difference(&node.views, "secrets").await, expected);
}

#[tokio::test]
async fn rows_of_a_view_that_keeps_no_rows_in_memory_are_compared_as_well() {
    let (_database, node, mut behind) = settled(3).await;
    run(&mut behind, "delete from audit where position = 2").await.unwrap();
    let missing = difference(&node.views, "audit").await;
    assert_eq!((missing.key.as_str(), missing.live), ("00000000000000000002", None));
    run(&mut behind, "insert into audit (key, position, row) values ('00000000000000000002', 2, '{}')")
        .await
        .unwrap();
    assert_eq!(difference(&node.views, "audit").await.live, Some(json!({})));
}

#[tokio::test]
async fn what_nobody_is_shown_is_compared_and_not_shown() {
    let (_database, node, mut behind) = settled(1).await;
    run(&mut behind, r#"update secrets set row = row || '{"sealed": "forged"}'"#).await.unwrap();
    run(&mut behind, r#"update users set row = row || '{"password_hash": "forged"}'"#).await.unwrap();
    for (view, field) in [("secrets", "sealed"), ("users", "password_hash")] {
        let difference = difference(&node.views, view).await;
        assert_eq!(difference.live.unwrap()[field], "sealed", "{view}");
        assert_eq!(difference.folded.unwrap()[field], "sealed", "{view}");
    }
}

#[tokio::test]
async fn a_hundred_differences_are_named_and_all_are_counted() {
    let (_database, node, mut behind) = settled(140).await;
    run(&mut behind, r#"update secrets set row = row || '{"deleted": true}' where key <> ''"#).await.unwrap();
    let found = verified(&node.views, "secrets").await;
    assert_eq!((found.rows, found.different, found.differences.len()), (140, 140, 100));
    assert!(
        found.differences.iter().all(|d| d.live.as_ref().is_some_and(|row| row["deleted"] == json!(true)))
    );
}

#[tokio::test]
async fn a_rebuild_mends_what_a_verification_finds() {
    let (_database, node, mut behind) = settled(3).await;
    run(&mut behind, "delete from secrets where row->>'name' = 'secret-001'").await.unwrap();
    run(&mut behind, r#"update secrets set row = row || '{"version": 7}'"#).await.unwrap();
    run(&mut behind, "insert into secrets (key, position, row) values ('x', 1, '{}')").await.unwrap();
    assert_eq!(verified(&node.views, "secrets").await.different, 4);
    node.views.rebuild("secrets", |_| {}).await.unwrap();
    node.assert_right().await;
}

#[tokio::test]
async fn an_empty_log_is_right() {
    let (_database, node, mut behind) = settled(0).await;
    assert_eq!(
        verified(&node.views, "jobs").await,
        Verified {
            position: 1,
            reached: 1,
            state: "live".to_owned(),
            fault: None,
            rows: 0,
            different: 0,
            differences: vec![]
        }
    );
    run(&mut behind, "insert into jobs (key, position, row) values ('x', 1, 'null')").await.unwrap();
    assert_eq!(difference(&node.views, "jobs").await.live, Some(Value::Null));
}

#[tokio::test]
async fn a_view_that_does_not_exist_can_neither_be_verified_nor_rebuilt() {
    let (_database, node, _) = settled(0).await;
    let name = "users; drop table users";
    assert!(
        matches!(node.views.verify(name, |_| {}).await, Err(RebuildError::Unknown(view)) if view.0 == name)
    );
    assert!(
        matches!(node.views.rebuild(name, |_| {}).await, Err(RebuildError::Unknown(view)) if view.0 == name)
    );
    assert_eq!(node.views.wait_view(name, 0, tests::LIMIT).await.unwrap_err().reached, 0);
}
