//! Rows and checkpoints move together, whoever is killed; no event is skipped, none is folded twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::commands::{Commands, Context};
use ::projections::Options;
use domain::{AccessEvent, SecretId};
use sqlx::{Executor as _, PgConnection};
use tests::{Database, eventually, on_tables, within};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::support::{NO_TIME, Node, changed, revealed, rows, secret_id, stored, team_id, terminate_all};
use crate::ledger::support::Seed;

/// As one snapshot of the database has it: `secret_reads` has counted each event up to its checkpoint once, and `audit` has listed
/// each.
async fn assert_together(behind: &mut PgConnection) {
    let counts = "select (select coalesce(sum((row->>'count')::bigint), 0)::bigint from secret_reads), \
                  (select count(*) from events e where e.position <= c.position and event_type = 'SecretRevealed') \
                  from checkpoints c where view = 'secret_reads'";
    let (counted, happened): (i64, i64) =
        sqlx::query_as(&on_tables(counts)).fetch_one(&mut *behind).await.unwrap();
    assert_eq!(counted, happened, "reads of secrets, up to the checkpoint");
    let lists = "select (select coalesce(array_agg(position order by position), '{}') from audit), \
                 (select coalesce(array_agg(e.position order by e.position), '{}') from events e \
                  where e.position <= c.position and e.aggregate_type <> 'claim') \
                 from checkpoints c where view = 'audit'";
    let (listed, happened): (Vec<i64>, Vec<i64>) =
        sqlx::query_as(&on_tables(lists)).fetch_one(behind).await.unwrap();
    assert_eq!(listed, happened, "positions of the audit trail, up to the checkpoint");
}

/// Writers of one record of access after the other, whatever happens to their connections.
struct Writers {
    stored: Arc<AtomicUsize>,
    done: CancellationToken,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(nodes: &[&Node], each: usize, secret_id: SecretId) -> Self {
        let (stored, done) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for node in nodes.iter().flat_map(|node| std::iter::repeat_n(node, each)) {
            let record = record_all(node.commands.clone(), secret_id, stored.clone(), done.clone());
            tasks.spawn(record);
        }
        Self { stored, done, tasks }
    }

    /// Waits until so many more were stored.
    async fn go_on(&self, further: usize) {
        let goal = self.stored.load(Ordering::SeqCst) + further;
        eventually("further events", async || (self.stored.load(Ordering::SeqCst) >= goal).then_some(()))
            .await;
    }

    async fn finish(mut self) {
        self.done.cancel();
        while let Some(outcome) = within("the writers", self.tasks.join_next()).await {
            outcome.unwrap();
        }
    }
}

async fn record_all(
    commands: Commands,
    secret_id: SecretId,
    stored: Arc<AtomicUsize>,
    done: CancellationToken,
) {
    let event = AccessEvent::SecretRevealed { secret_id, version: 1, reason: None };
    // Records of no team are no reads of a secret.
    let context = Context::system(Some(team_id()));
    while !done.is_cancelled() {
        // Whoever is cut off does not know whether it was stored; the log does.
        match commands.record(&context, &event).await {
            Ok(_) => drop(stored.fetch_add(1, Ordering::SeqCst)),
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_checkpoints_move_together_while_everybody_is_thrown_out_again_and_again() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    let database = Database::new().await;
    let nodes = [
        Node::following(&database).await,
        Node::following(&database).await,
        Node::listening(&database).await,
    ];
    let mut behind = database.connect().await;
    let writers = Writers::start(&[&nodes[0], &nodes[1]], 3, secret_id());
    for _ in 0..12 {
        writers.go_on(1 + rng.below(40) as usize).await;
        eventually("somebody to throw out", async || (terminate_all(&mut behind).await > 0).then_some(()))
            .await;
        assert_together(&mut behind).await;
    }
    writers.finish().await;
    let head = nodes[0].ledger.head().await.unwrap();
    for node in &nodes {
        node.passed(head).await;
    }
    assert_together(&mut behind).await;
    for status in nodes[2].views.status().await.unwrap() {
        assert_eq!((status.state.as_str(), status.behind_events), ("live", 0), "{status:?}");
    }
    nodes[0].assert_right().await;
}

/// The batch has written one view's row and waits for the other's when its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_cut_off_in_the_middle_leaves_nothing_behind() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let id = secret_id();
    let before = node.append(vec![stored(id, team_id(), "one"), revealed(id)]).await;
    node.passed(before).await;
    let (mut keeper, mut behind) = (database.connect().await, database.connect().await);
    keeper.execute("begin").await.unwrap();
    keeper.execute(on_tables("lock table secret_reads in exclusive mode").as_str()).await.unwrap();
    let position = node.append(vec![changed(id, 2), revealed(id)]).await;
    let sql = on_tables(
        "select count(pg_terminate_backend(pid)) from pg_locks where not granted and relation = 'secret_reads'::regclass",
    );
    eventually("a batch in the middle", async || {
        let ended: i64 = sqlx::query_scalar(&sql).fetch_one(&mut behind).await.unwrap();
        (ended > 0).then_some(())
    })
    .await;
    // Not even the row that was written before is there, nor any checkpoint.
    for view in ["secrets", "secret_reads"] {
        assert_eq!(node.status(view).await.position, before, "{view}");
    }
    assert_eq!(rows(&mut behind, "secrets").await[0].2["version"], 1);
    keeper.execute("rollback").await.unwrap();
    node.passed(position).await;
    assert_eq!(node.views.secrets().across_teams().get(id).await.unwrap().unwrap().version, 2);
    let access = node.views.secret_reads().across_teams().get(id).await.unwrap().unwrap();
    assert_eq!(access.count, 2);
    assert_together(&mut behind).await;
}

/// As when a fleet is deployed node by node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_and_no_event_is_skipped_or_folded_twice() {
    let database = Database::new().await;
    let writer = Node::idle(&database, Options::default()).await;
    let mut nodes = vec![Node::following(&database).await, Node::following(&database).await];
    let mut behind = database.connect().await;
    let writers = Writers::start(&[&writer], 4, secret_id());
    for _ in 0..5 {
        nodes.push(Node::following(&database).await);
        writers.go_on(30).await;
        nodes.remove(0).stop().await;
        assert_together(&mut behind).await;
    }
    writers.finish().await;
    for node in nodes {
        node.caught_up().await;
        node.stop().await;
    }
    // Nobody follows now; who comes takes up where the last has stopped.
    let position = writer.append(vec![revealed(secret_id())]).await;
    let late = Node::following(&database).await;
    late.passed(position).await;
    assert_together(&mut behind).await;
    late.assert_right().await;
}

#[tokio::test]
async fn who_waits_where_nobody_follows_is_told_how_far_the_views_are() {
    let database = Database::new().await;
    let following = Node::following(&database).await;
    let reached = following.append(vec![revealed(secret_id())]).await;
    following.passed(reached).await;
    following.stop().await;
    for node in [Node::listening(&database).await, Node::idle(&database, Options::default()).await] {
        node.passed(reached).await;
        let position = node.append(vec![revealed(secret_id())]).await;
        let behind = node.views.wait_view("secret_reads", position, NO_TIME).await.unwrap_err();
        assert!(behind.reached < position, "{behind:?}");
    }
}
