//! Two nodes on one database.

use api::server::Roles;
use domain::{Role, Team, TeamCommand};
use serde_json::json;
use tests::{Setup, TestApp, eventually};

use super::support::{keep, problem};
use crate::ledger::support::remembers;

#[tokio::test]
async fn what_one_node_wrote_the_other_shows_from_that_position_on() {
    let one = TestApp::start().await;
    let other = one.another_node(Setup::default()).await;
    for n in 0..25 {
        let (here, there) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let secret = keep(&here.operator(), &format!("s{n}")).await;
        let reader = there.viewer().with_header("daybook-position", secret.header("daybook-position"));
        let seen = reader.get(&format!("/api/secrets/{}", secret.str("id"))).await.expect(200);
        assert_eq!(seen.json, secret.json);
        assert_eq!(seen.header("etag"), secret.header("etag"));
        let list = reader.get("/api/secrets?limit=200").await.expect(200);
        assert_eq!(list.json["items"].as_array().unwrap().len(), n + 1);
    }
    other.stop().await;
    keep(&one.operator(), "after").await;
}

#[tokio::test]
async fn the_other_nodes_cache_never_serves_the_old_version() {
    let one = TestApp::start().await;
    let other = one.another_node(Setup::default()).await;
    let secret = keep(&one.operator(), "db").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    for version in 2..=51 {
        // The other node holds the present version before it becomes the old one.
        other.operator().get(&path).await.expect(200);
        let changed = one
            .operator()
            .put(&format!("{path}/value"), json!({"value": format!("v{version}")}))
            .await
            .expect(200);
        let reader = other.operator().with_header("daybook-position", changed.header("daybook-position"));
        let seen = reader.get(&path).await.expect(200);
        assert_eq!(seen.json["version"], version);
        if version % 10 == 0 {
            assert_eq!(
                reader.get(&format!("{path}/value")).await.expect(200).str("value"),
                format!("v{version}")
            );
        }
    }
}

#[tokio::test]
async fn who_loses_a_role_on_one_node_loses_it_on_the_other() {
    let one = TestApp::start().await;
    let other = one.another_node(Setup::default()).await;
    let secret = keep(&one.operator(), "db").await;
    let value = format!("/api/secrets/{}/value", secret.str("id"));
    let there = other.operator();
    there.with_header("daybook-position", secret.header("daybook-position")).get(&value).await.expect(200);
    let mut context = commands::Context::system(Some(one.people.team));
    context.caller.permissions = Role::Owner.permissions();
    let order = async |command| {
        one.commands.execute::<Team>(&context, one.people.team, None, command).await.unwrap();
    };
    let user_id = one.people.operator;
    order(TeamCommand::ChangeRole { user_id, role: Role::Viewer }).await;
    // Without a position: by itself, and soon.
    let refused = eventually("the refusal", async || {
        let reply = there.get(&value).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    problem(&refused, 403, "forbidden");
    order(TeamCommand::RemoveMember { user_id }).await;
    let refused = eventually("the closed door", async || {
        let reply = there.get("/api/secrets").await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    problem(&refused, 404, "team_not_found");
}

/// Whatever its role, a node remembers keys only because it hears which are destroyed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_destroyed_on_one_node_opens_nothing_on_any_other() {
    let one = TestApp::start().await;
    let none = Roles { api: false, worker: false, follower: false };
    let roles = [
        Roles { api: true, ..none },
        Roles { worker: true, ..none },
        Roles { follower: true, ..none },
        Roles { api: true, follower: true, ..none },
    ];
    let secret = keep(&one.operator(), "db").await;
    let (key, path) =
        (format!("secret/{}/1", secret.str("id")), format!("/api/secrets/{}/value", secret.str("id")));
    let mut nodes = vec![];
    for roles in roles {
        let node = one.another_node(Setup::default().roles(roles)).await;
        remembers(&node.ledger, &one.database).await;
        assert!(node.ledger.data_key(&key).await.unwrap().is_some());
        nodes.push(node);
    }
    nodes[0].operator().get(&path).await.expect(200);
    assert_eq!(one.ledger.destroy_keys(std::slice::from_ref(&key)).await.unwrap(), 1);
    assert_ne!(one.operator().get(&path).await.status, 200);
    for node in &nodes {
        eventually("the node forgets", async || {
            node.ledger.data_key(&key).await.unwrap().is_none().then_some(())
        })
        .await;
    }
    assert_ne!(nodes[0].operator().get(&path).await.status, 200);
    for node in nodes {
        node.stop().await;
    }
}
