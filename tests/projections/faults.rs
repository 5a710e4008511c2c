//! An event that this version cannot read stops the views that need it, and no others.

use ::ledger::NewEvent;
use ::projections::{Options, ReadError, RebuildError};
use domain::{Personal, SecretEvent, UserEvent, UserId};
use serde_json::json;
use tests::{Database, LIMIT, eventually, on_tables};

use super::support::{Node, event, half_made, registered, rows, secret_id, stored, team_id, user_id};

/// What a newer Daybook writes about the user.
fn newer(id: UserId) -> NewEvent {
    let renamed = UserEvent::UserRenamed { name: Personal::new(id, "x") };
    NewEvent { event_version: "99".to_owned(), ..event("user", id, 2, renamed) }
}

/// Personal data that no key has sealed.
fn forged(id: UserId) -> NewEvent {
    let renamed = UserEvent::UserRenamed {
        name: Personal::Sealed { sealed: "AAAA".to_owned(), subject: id.to_string() },
    };
    event("user", id, 2, renamed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_stops_the_views_that_need_it_and_status_says_so() {
    for (bad, says) in [(newer as fn(UserId) -> NewEvent, "version 99"), (forged, "")] {
        let database = Database::new().await;
        let nodes = [
            Node::following(&database).await,
            Node::following(&database).await,
            Node::listening(&database).await,
        ];
        let (ada, secret) = (user_id(), secret_id());
        let good = nodes[0].append(vec![registered(ada, "Ada")]).await;
        nodes[0].passed(good).await;
        let stopped_at = nodes[0].append(vec![bad(ada)]).await;
        let head =
            nodes[1].append(vec![registered(user_id(), "Bob"), stored(secret, team_id(), "one")]).await;
        for node in &nodes {
            node.views.wait_view("secrets", head, LIMIT).await.unwrap();
            // They do not keep those waiting who wait for everything.
            for view in ["users", "audit"] {
                let status = node.becomes(view, "failed").await;
                assert_eq!((status.position, status.behind_events), (good, head - good), "{view}");
                let error = status.last_error.unwrap();
                assert!(
                    error.starts_with(&format!("event {stopped_at}: ")) && error.contains(says),
                    "{error}"
                );
                assert_eq!(
                    node.views.wait_view(view, head, LIMIT).await.unwrap_err().reached,
                    good,
                    "{view}"
                );
            }
            // Who has written does not wait for them.
            node.views.settle(head, LIMIT).await.unwrap();
            let behind = node.views.wait(head, LIMIT).await.unwrap_err();
            assert!(["users", "audit"].contains(&behind.view), "{behind}");
            for view in ["teams", "memberships", "secrets", "jobs", "secret_reads"] {
                let status = node.status(view).await;
                assert_eq!((status.state.as_str(), status.position), ("live", head), "{view}");
                assert!(node.views.verify(view, |_| {}).await.unwrap().is_right(), "{view}");
            }
            // What the stopped views have may not be true any more: nobody is told.
            // A node that only listens may answer from what it knew for less than a second more.
            let refused = eventually("the refusal", async || node.views.users().get(ada).await.err()).await;
            assert!(
                matches!(&refused, ReadError::Behind(behind) if (behind.view, behind.reached) == ("users", good)),
                "{refused:?}"
            );
            let verified = node.views.verify("users", |_| {}).await.unwrap();
            assert!(!verified.is_right() && verified.fault.is_some(), "{verified:?}");
            assert!(node.views.secrets().across_teams().get(secret).await.unwrap().is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_meets_what_it_cannot_read_leaves_the_rows_there_are() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let ada = user_id();
    let good = node.append(vec![registered(ada, "Ada")]).await;
    node.passed(good).await;
    let stopped_at = node.append(vec![newer(ada)]).await;
    node.becomes("users", "failed").await;
    let said = format!("event {stopped_at}: ");
    let rebuilt = node.views.rebuild("users", |_| {}).await;
    assert!(
        matches!(&rebuilt, Err(RebuildError::Read(error)) if error.to_string().starts_with(&said)),
        "{rebuilt:?}"
    );
    node.views.rebuild("secrets", |_| {}).await.unwrap();
    let mut behind = database.connect().await;
    assert_eq!(half_made(&mut behind, "users").await, Vec::<String>::new());
    assert_eq!(rows(&mut behind, "users").await[0].2["name"], "Ada");
    assert_eq!(node.status("users").await.state, "failed");
}

/// The node was away: what it could read and what it could not come to it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_what_cannot_be_read_is_there() {
    let database = Database::new().await;
    let writer = Node::idle(&database, Options::default()).await;
    let (ada, bob) = (user_id(), user_id());
    let secret = secret_id();
    let before = writer.append(vec![registered(ada, "Ada"), registered(bob, "Bob")]).await;
    let head = writer.append(vec![newer(ada), stored(secret, team_id(), "one")]).await;
    let node = Node::following(&database).await;
    node.views.wait_view("secrets", head, LIMIT).await.unwrap();
    for view in ["users", "audit"] {
        assert_eq!(node.becomes(view, "failed").await.position, before, "{view}");
    }
    let rows = rows(&mut database.connect().await, "users").await;
    assert!(rows.iter().any(|row| row.2["name"] == "Bob" && row.0 == bob.to_string()), "{rows:?}");
}

/// A view that has failed is tried again after a while: as when the node was replaced by one that can read the event, or the row
/// that stood in the way was mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_goes_on_once_nothing_is_in_its_way() {
    let database = Database::new().await;
    let options = Options { retry: std::time::Duration::from_millis(50), ..Options::default() };
    let node = Node::following_with(&database, options).await;
    let (secret, team) = (secret_id(), team_id());
    let good = node.append(vec![stored(secret, team, "one")]).await;
    node.passed(good).await;
    let mut behind = database.connect().await;
    let spoil = on_tables("update secrets set row = row - 'version'");
    sqlx::query(&spoil).execute(&mut behind).await.unwrap();
    let deleted = event("secret", secret, 2, SecretEvent::SecretDeleted {});
    let head = node.append(vec![deleted, registered(user_id(), "Ada")]).await;
    let error = node.becomes("secrets", "failed").await.last_error.unwrap();
    assert!(error.starts_with(&format!("row {secret} of secrets: ")), "{error}");
    node.views.wait_view("users", head, LIMIT).await.unwrap();
    sqlx::query(&on_tables("update secrets set row = row || $1"))
        .bind(json!({ "version": 1 }))
        .execute(&mut behind)
        .await
        .unwrap();
    let status = node.becomes("secrets", "live").await;
    assert_eq!((status.position, status.last_error), (head, None));
    eventually("the row", async || {
        let row = node.views.secrets().across_teams().get(secret).await.unwrap().unwrap();
        row.deleted.then_some(())
    })
    .await;
    node.assert_right().await;
}
