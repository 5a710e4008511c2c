//! A view is made anew while it goes on serving reads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::projections::{AuditFilter, Options, Progress, Projections, RebuildError, SecretFilter};
use domain::{SecretId, TeamId};
use sqlx::{Executor as _, PgConnection};
use tests::{Database, eventually, on_tables, within};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::support::{Node, changed, half_made, registered, rows, secret_id, stored, team_id, user_id};

const WRITERS: usize = 4;
const ROUNDS: usize = 5;

/// Two nodes that follow, and one that leaves it to them.
struct Crowd {
    nodes: [Node; 3],
    team: TeamId,
    secrets: Vec<SecretId>,
    done: CancellationToken,
}

impl Crowd {
    async fn gather(database: &Database) -> Self {
        let following = [Node::following(database).await, Node::following(database).await];
        let [one, two] = following;
        let nodes = [one, two, Node::listening(database).await];
        let (team, secrets) = (team_id(), (0..WRITERS).map(|_| secret_id()).collect::<Vec<_>>());
        let events = secrets.iter().map(|id| stored(*id, team, &id.to_string())).collect();
        let position = nodes[0].append(events).await;
        for node in &nodes {
            node.passed(position).await;
        }
        Self { nodes, team, secrets, done: CancellationToken::new() }
    }

    /// Changes one secret again and again, and reads it on every node as soon as that says that it knows of the change.
    async fn write(&self, id: SecretId) -> u32 {
        let mut version = 1;
        while !self.done.is_cancelled() {
            version += 1;
            let position = self.nodes[version as usize % 2].append(vec![changed(id, version)]).await;
            for (number, node) in self.nodes.iter().enumerate() {
                node.passed(position).await;
                let secrets = node.views.secrets().of(self.team);
                let by_id = secrets.get(id).await.unwrap().unwrap().version;
                let by_name = secrets.by_name(&id.to_string()).await.unwrap().unwrap().version;
                assert_eq!((by_id, by_name), (version, version), "on node {number}");
                let filter = AuditFilter { aggregate_id: Some(id.to_string()), ..AuditFilter::default() };
                let trail = node.views.audit().of_instance().list(&filter, None, 1_000).await.unwrap();
                assert_eq!(trail[0].position, position, "on node {number}");
            }
        }
        version
    }

    /// Reads all the time without waiting for anything: there is always everything, and nothing gets older.
    async fn read(&self, views: &Projections) {
        let mut before = vec![1; WRITERS];
        while !self.done.is_cancelled() {
            let all = views.secrets().of(self.team).list(&SecretFilter::default(), None, 100).await.unwrap();
            let versions: Vec<u32> = all.iter().map(|secret| secret.version).collect();
            assert_eq!(versions.len(), WRITERS, "a table that is not whole was seen");
            assert!(
                versions.iter().zip(&before).all(|(now, before)| now >= before),
                "{before:?}, then {versions:?}"
            );
            before = versions;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_views_are_rebuilt_no_read_fails_and_none_is_stale() {
    let database = Database::new().await;
    let crowd = Arc::new(Crowd::gather(&database).await);
    let mut work = JoinSet::new();
    for id in crowd.secrets.clone() {
        let crowd = crowd.clone();
        work.spawn(async move { assert!(crowd.write(id).await > 2) });
    }
    for number in 0..3 {
        let crowd = crowd.clone();
        work.spawn(async move { crowd.read(&crowd.nodes[number].views).await });
    }
    let [one, two, three] = &crowd.nodes;
    for round in 0..ROUNDS {
        let (first, second, _) = within("the rebuilds", async {
            tokio::join!(one.views.rebuild("secrets", |_| {}), two.views.rebuild("secrets", |_| {}), async {
                three.views.rebuild("audit", |_| {}).await.unwrap()
            },)
        })
        .await;
        assert!(first.is_ok() || second.is_ok(), "round {round}: {first:?}, {second:?}");
        for outcome in [first, second] {
            assert!(
                matches!(outcome, Ok(()) | Err(RebuildError::AlreadyRunning(_))),
                "round {round}: {outcome:?}"
            );
        }
    }
    crowd.done.cancel();
    while let Some(outcome) = within("the writers and readers", work.join_next()).await {
        outcome.unwrap();
    }
    one.assert_right().await;
}

/// Somebody who is in the middle of reading a view's table, and so keeps a rebuilt one from taking its place.
struct SlowReader(PgConnection);

impl SlowReader {
    async fn of(database: &Database, view: &str) -> Self {
        let mut connection = database.connect().await;
        let begin = on_tables(&format!("begin; lock table {view} in access share mode"));
        connection.execute(sqlx::raw_sql(&begin)).await.unwrap();
        Self(connection)
    }

    async fn leaves(mut self) {
        self.0.execute("rollback").await.unwrap();
    }
}

fn rebuilding(node: &Node, view: &'static str) -> JoinHandle<Result<(), RebuildError>> {
    let views = node.views.clone();
    tokio::spawn(async move { views.rebuild(view, |_| {}).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rebuilds_of_a_view_one_is_told_that_the_other_is_at_it() {
    let database = Database::new().await;
    let crowd = Crowd::gather(&database).await;
    let [one, two, _] = &crowd.nodes;
    let reader = SlowReader::of(&database, "secrets").await;
    let first = rebuilding(one, "secrets");
    two.becomes("secrets", "rebuilding").await;
    let second = two.views.rebuild("secrets", |_| {}).await;
    assert!(matches!(&second, Err(RebuildError::AlreadyRunning(view)) if view == "secrets"), "{second:?}");
    two.views.rebuild("users", |_| {}).await.unwrap();
    // Meanwhile writes and reads go on.
    let position = two.append(vec![changed(crowd.secrets[0], 2)]).await;
    for node in &crowd.nodes {
        node.passed(position).await;
        assert_eq!(
            node.views.secrets().of(crowd.team).get(crowd.secrets[0]).await.unwrap().unwrap().version,
            2
        );
    }
    assert!(!first.is_finished());
    reader.leaves().await;
    within("the first rebuild", first).await.unwrap().unwrap();
    assert_eq!(two.status("secrets").await.state, "live");
    two.views.rebuild("secrets", |_| {}).await.unwrap();
    two.assert_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_never_gets_its_turn_gives_up_and_leaves_the_view_as_it_was() {
    let database = Database::new().await;
    let crowd = Crowd::gather(&database).await;
    let mut behind = database.connect().await;
    let before = rows(&mut behind, "secrets").await;
    let options = Options { swap_patience: Duration::from_millis(200), ..Options::default() };
    let hasty = Node::idle(&database, options).await;
    let reader = SlowReader::of(&database, "secrets").await;
    let outcome = within("the rebuild's end", hasty.views.rebuild("secrets", |_| {})).await;
    assert!(matches!(&outcome, Err(RebuildError::Blocked(view)) if view == "secrets"), "{outcome:?}");
    reader.leaves().await;
    assert_eq!(rows(&mut behind, "secrets").await, before);
    assert_eq!(half_made(&mut behind, "secrets").await, Vec::<String>::new());
    assert_eq!(crowd.nodes[0].status("secrets").await.state, "live");
    let position = crowd.nodes[0].append(vec![changed(crowd.secrets[0], 2)]).await;
    crowd.nodes[1].passed(position).await;
    crowd.nodes[1].assert_right().await;
}

/// Ends the process's part, as a crash of it does, or the server's.
async fn crash(rebuild: JoinHandle<Result<(), RebuildError>>, whose: &str, behind: &mut PgConnection) {
    if whose == "the process" {
        rebuild.abort();
        assert!(rebuild.await.unwrap_err().is_cancelled());
        return;
    }
    let sql = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted \
               and classid = x'64627265'::int::oid and database = (select oid from pg_database where datname = current_database())";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(behind).await.unwrap());
    let outcome = within("the rebuild's end", rebuild).await.unwrap();
    assert!(matches!(outcome, Err(RebuildError::Read(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crashed_rebuild_left_is_dropped_by_the_next() {
    let database = Database::new().await;
    let crowd = Crowd::gather(&database).await;
    let node = &crowd.nodes[0];
    let mut behind = database.connect().await;
    for whose in ["the process", "the server"] {
        let reader = SlowReader::of(&database, "secrets").await;
        let rebuild = rebuilding(node, "secrets");
        node.becomes("secrets", "rebuilding").await;
        let left =
            eventually("a half-made table", async || half_made(&mut behind, "secrets").await.pop()).await;
        crash(rebuild, whose, &mut behind).await;
        node.becomes("secrets", "live").await;
        assert_eq!(half_made(&mut behind, "secrets").await, [left], "{whose}");
        reader.leaves().await;
        node.assert_right().await;
        node.views.rebuild("secrets", |_| {}).await.unwrap();
        assert_eq!(half_made(&mut behind, "secrets").await, Vec::<String>::new(), "{whose}");
        node.assert_right().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_tells_how_far_it_has_got() {
    let database = Database::new().await;
    let node = Node::idle(&database, Options { rebuild_page: 10, ..Options::default() }).await;
    let users = (0..45).map(|n| registered(user_id(), &n.to_string())).collect();
    let head = node.append(users).await;
    let told = Mutex::new(vec![]);
    node.views.rebuild("users", |progress| told.lock().unwrap().push(progress)).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.iter().all(|progress| progress.head == head), "{told:?}");
    let stretches: Vec<i64> = told.iter().map(|progress| progress.folded).collect();
    assert_eq!(stretches, [10, 20, 30, 40, 45, 45]);
    assert_eq!(told.last(), Some(&Progress { folded: head, head }));
    // Nobody followed: the rebuild has brought the view to the end of the log by itself.
    let status = node.status("users").await;
    assert_eq!((status.position, status.rows, status.behind_events), (head, 45, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another_shape_and_lost_ones_are_made_anew_by_whoever_follows() {
    let database = Database::new().await;
    let crowd = Crowd::gather(&database).await;
    let head = crowd.nodes[0].append(vec![registered(user_id(), "Ada")]).await;
    crowd.nodes[0].passed(head).await;
    for node in crowd.nodes {
        node.stop().await;
    }
    let mut behind = database.connect().await;
    let live = [rows(&mut behind, "secrets").await, rows(&mut behind, "users").await];
    let spoil = "update checkpoints set state = 'outdated' where view = 'secrets'; \
                 update secrets set row = row || '{\"version\": 7}'; drop table users; drop table audit; \
                 delete from checkpoints where view = 'audit'";
    behind.execute(sqlx::raw_sql(&on_tables(spoil))).await.unwrap();
    let node = Node::following(&database).await;
    for view in ["secrets", "users", "audit"] {
        eventually(view, async || {
            let status = node.status(view).await;
            (status.state == "live" && status.position == head).then_some(())
        })
        .await;
    }
    assert_eq!([rows(&mut behind, "secrets").await, rows(&mut behind, "users").await], live);
    node.assert_right().await;
}
