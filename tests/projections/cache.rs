//! Rows by id come from memory, and are never older than what the node knows of (D6, D7).

use std::sync::Arc;

use ::ledger::{Append, Metadata};
use ::projections::{AuditFilter, Options, Projections, UserRow, with_tables};
use domain::UserId;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use serde_json::json;
use sqlx::Executor as _;
use tests::{Database, TestApp, eventually};

use super::support::{Node, changed, registered, secret_id, stored, team_id, terminate_all, user_id};

/// What is counted on this thread, and nothing of the tests beside it.
struct Counts(PrometheusHandle);

impl Counts {
    fn of(recorder: &PrometheusRecorder) -> Self {
        Self(recorder.handle())
    }

    /// Hits and misses of the view so far.
    fn hits_and_misses(&self, view: &str) -> (u64, u64) {
        let text = self.0.render();
        let count = |name: &str| {
            let start = format!("{name}{{view=\"{view}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
        };
        (count("cache_hits_total"), count("cache_misses_total"))
    }
}

#[tokio::test]
async fn a_row_that_was_just_written_is_read_from_memory_and_counted_as_a_hit() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let counts = Counts::of(&recorder);
    let database = Database::new().await;
    let node = Node::following(&database).await;
    // Before it hears the others, a node keeps nothing.
    warm(&node).await;
    let (hits, misses) = counts.hits_and_misses("secrets");
    let id = secret_id();
    let position = node.append(vec![stored(id, team_id(), "one")]).await;
    node.passed(position).await;
    // Without its row the table has no answer: this one is from memory.
    database.connect().await.execute(with_tables("truncate {secrets}").as_str()).await.unwrap();
    for _ in 0..5 {
        assert_eq!(node.views.secrets().across_teams().get(id).await.unwrap().unwrap().version, 1);
    }
    assert_eq!(counts.hits_and_misses("secrets"), (hits + 5, misses));
    // Lists are not.
    assert!(node.views.secrets().of(team_id()).list(&<_>::default(), None, 10).await.unwrap().is_empty());
    assert_eq!(counts.hits_and_misses("secrets"), (hits + 5, misses));
}

/// Writes and reads until a row is kept.
async fn warm(node: &Node) {
    let mut behind = Vec::new();
    eventually("the node listens", async || {
        let id = secret_id();
        let position = node.append(vec![stored(id, team_id(), &id.to_string())]).await;
        node.passed(position).await;
        behind.push(id);
        let (first, second) = (
            node.views.secrets().across_teams().get(id).await.unwrap(),
            node.views.secrets().across_teams().get(id).await.unwrap(),
        );
        Arc::ptr_eq(&first.unwrap(), &second.unwrap()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_not_in_memory_is_read_once_and_counted_as_a_miss() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let counts = Counts::of(&recorder);
    let database = Database::new().await;
    let (writer, id) = (Node::following(&database).await, secret_id());
    let position = writer.append(vec![stored(id, team_id(), "one")]).await;
    writer.passed(position).await;
    let reader = Node::following(&database).await;
    reader.passed(position).await;
    warm(&reader).await;
    let (hits, misses) = counts.hits_and_misses("secrets");
    for _ in 0..4 {
        assert_eq!(reader.views.secrets().across_teams().get(id).await.unwrap().unwrap().version, 1);
    }
    assert_eq!(counts.hits_and_misses("secrets"), (hits + 3, misses + 1));
    // What does not exist is not remembered: it may come to be.
    for _ in 0..2 {
        assert!(reader.views.secrets().across_teams().get(secret_id()).await.unwrap().is_none());
    }
    assert_eq!(counts.hits_and_misses("secrets"), (hits + 3, misses + 3));
}

#[tokio::test]
async fn metrics_tell_hits_and_misses_of_every_cached_view() {
    let app = TestApp::start().await;
    let owner = app.people.owner;
    for _ in 0..3 {
        app.projections.users().get(owner).await.unwrap().unwrap();
    }
    app.projections.users().get(user_id()).await.unwrap();
    let text = app.anon().get("/metrics").await.expect(200).text;
    let count = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{view=\"users\"}} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // All tests of this process count together.
    assert!(count("cache_hits_total") >= 2 && count("cache_misses_total") >= 1, "{text}");
    app.stop().await;
}

/// What is written on one node is read on another with its position: at once, every time, also where it was just kept in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_a_position_reads_nothing_older_on_any_node() {
    let database = Database::new().await;
    let nodes = [
        Node::following(&database).await,
        Node::following(&database).await,
        Node::listening(&database).await,
    ];
    let id = secret_id();
    nodes[0].append(vec![stored(id, team_id(), "one")]).await;
    for version in 2..60 {
        let (writer, reader) = (&nodes[version as usize % 3], &nodes[(version as usize / 3) % 3]);
        let position = writer.append(vec![changed(id, version)]).await;
        reader.views.wait_view("secrets", position, tests::LIMIT).await.unwrap();
        assert_eq!(reader.views.secrets().across_teams().get(id).await.unwrap().unwrap().version, version);
        // It is kept now, on this node: the next change is made elsewhere.
        assert_eq!(reader.views.secrets().across_teams().get(id).await.unwrap().unwrap().version, version);
    }
}

/// Roles and revocations are read this way: nobody waits for a position there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_elsewhere_reaches_who_waits_for_nothing() {
    let database = Database::new().await;
    let (writer, reader) = (Node::following(&database).await, Node::listening(&database).await);
    let id = secret_id();
    writer.append(vec![stored(id, team_id(), "one")]).await;
    for version in 2..6 {
        writer.append(vec![changed(id, version)]).await;
        eventually("the change", async || {
            let row = reader.views.secrets().across_teams().get(id).await.unwrap()?;
            (row.version == version).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_when_nothing_was_heard_any_more_is_not_used() {
    let database = Database::new().await;
    let nodes = [
        Node::following(&database).await,
        Node::following(&database).await,
        Node::listening(&database).await,
    ];
    let (id, mut behind) = (secret_id(), database.connect().await);
    let position = nodes[0].append(vec![stored(id, team_id(), "one")]).await;
    nodes[0].passed(position).await;
    for version in 2..12 {
        for node in &nodes {
            eventually("a row", async || node.views.secrets().across_teams().get(id).await.ok().flatten())
                .await;
        }
        terminate_all(&mut behind).await;
        let position = eventually("an append", async || {
            let length = nodes[0].ledger.stream_length(&::ledger::StreamId::new("secret", id)).await.ok()?;
            // An append that was cut off may have been stored nevertheless.
            if length < i64::from(version) {
                let metadata = Metadata { actor: "system".to_owned(), ..Metadata::default() };
                let events = vec![changed(id, version)];
                nodes[0].ledger.append(Append { events, metadata, data_keys: vec![] }).await.ok()?;
            }
            nodes[0].ledger.head().await.ok()
        })
        .await;
        for (number, node) in nodes.iter().enumerate() {
            node.passed(position).await;
            let row = eventually("a row", async || {
                node.views.secrets().across_teams().get(id).await.ok().flatten()
            })
            .await;
            assert_eq!(row.version, version, "on node {number}");
        }
    }
}

async fn account(views: &Projections, id: UserId) -> Arc<UserRow> {
    views.users().get(id).await.unwrap().unwrap()
}

/// Erasing is destroying the key. Rows made before still say what they said; a rebuild forgets it, on every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_erased_is_forgotten_by_a_rebuild_and_by_every_cache() {
    let database = Database::new().await;
    let nodes = [Node::following(&database).await, Node::listening(&database).await];
    let (ada, bob) = (user_id(), user_id());
    for (id, name) in [(ada, "Ada"), (bob, "Bob")] {
        let metadata = Metadata {
            actor: format!("user:{id}"),
            subject: Some(id.to_string()),
            ip: Some("192.0.2.77".to_owned()),
            user_agent: Some("curl".to_owned()),
            ..Metadata::default()
        };
        let append = Append { events: vec![registered(id, name)], metadata, data_keys: vec![] };
        nodes[0].ledger.append(append).await.unwrap();
    }
    let head = nodes[0].caught_up().await;
    nodes[1].passed(head).await;
    for node in &nodes {
        assert_eq!(account(&node.views, ada).await.email, "Ada@Example.org");
        assert!(node.views.users().by_email("ada@example.org").await.unwrap().is_some());
    }
    let mut behind = database.connect().await;
    assert_eq!(nodes[0].ledger.destroy_subjects(&[ada.to_string()]).await.unwrap(), 1);
    // On a node of its own, as the command line's is.
    let fresh = Node::idle(&database, Options::default()).await;
    for view in ["users", "audit"] {
        fresh.views.rebuild(view, |_| {}).await.unwrap();
    }
    for node in &nodes {
        eventually("the account is forgotten", async || {
            (account(&node.views, ada).await.email == "erased").then_some(())
        })
        .await;
        assert_eq!(account(&node.views, bob).await.email, "Bob@Example.org");
        assert!(node.views.users().by_email("ada@example.org").await.unwrap().is_none());
        let trail = node.views.audit().of_instance().list(&AuditFilter::default(), None, 10).await.unwrap();
        let seen: Vec<_> = trail.iter().map(|row| (row.ip.as_deref(), row.user_agent.as_deref())).collect();
        assert_eq!(seen, [(Some("192.0.2.77"), Some("curl")), (Some("erased"), Some("erased"))]);
    }
    let whole = super::support::rows(&mut behind, "users").await;
    let kept = json!(whole.iter().map(|(.., row)| row).collect::<Vec<_>>()).to_string();
    assert!(!kept.contains("Ada") && kept.contains("Bob"), "{kept}");
    fresh.assert_right().await;
}
