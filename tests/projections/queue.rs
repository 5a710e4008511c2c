//! What a look at the queue costs: it must not depend on what else waits.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{JobEvent, JobId, TeamEvent, TeamId};
use ledger::NewEvent;
use projections::QueuePlace;
use tests::{Database, eventually};
use uuid::Uuid;

use super::support::{Node, event, team_id, user_id};

/// Jobs of each crowd.
const CROWD: usize = 3_000;
/// Index entries that a look reads at most.
const MOST_READ: i64 = 2_000;

#[derive(Clone, Copy)]
struct Waiting<'a> {
    team: TeamId,
    kind: &'a str,
    due: DateTime<Utc>,
    key: Option<&'a str>,
}

impl Waiting<'_> {
    fn queued(self) -> (JobId, NewEvent) {
        let id = JobId(Uuid::now_v7());
        let queued = JobEvent::JobQueued {
            team_id: self.team,
            kind: self.kind.to_owned(),
            args: serde_json::Map::new(),
            priority: 5,
            run_at: self.due,
            max_attempts: 3,
            timeout_seconds: 9,
            retry_delay_seconds: 1,
            concurrency_key: self.key.map(str::to_owned),
            backoff: domain::Backoff::default(),
            concurrency_limit: 1,
            unique: None,
            schedule_id: None,
        };
        (id, event("job", id, 1, queued))
    }

    async fn crowd(self, node: &Node) {
        node.append((0..CROWD).map(|_| self.queued().1).collect()).await;
    }
}

fn created(team: TeamId, slug: &str) -> NewEvent {
    let created = TeamEvent::TeamCreated {
        team_id: team,
        name: "Team".to_owned(),
        slug: slug.to_owned(),
        owner: user_id(),
    };
    event("team", team, 1, created)
}

/// Entries of the indexes of jobs that were read so far, but for the key's, by which the follower finds rows.
async fn entries_read(database: &Database) -> i64 {
    let sql = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes \
               where relname like 'jobs%' and indexrelname not like '%pkey'";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

#[tokio::test]
async fn a_look_does_not_depend_on_how_many_wait_that_cannot_be_started() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let (team, paused, kind_paused, now) = (team_id(), team_id(), team_id(), Utc::now());
    let (early, soon, later) =
        (now - TimeDelta::hours(2), now - TimeDelta::hours(1), now + TimeDelta::hours(1));
    let mine = Waiting { team, kind: "report", due: early, key: None };
    let paused_kind = TeamEvent::JobsPaused { kind: Some("report".to_owned()) };
    let setup = vec![
        created(paused, "paused"),
        event("team", paused, 2, TeamEvent::JobsPaused { kind: None }),
        created(kind_paused, "kind-paused"),
        event("team", kind_paused, 2, paused_kind),
    ];
    node.append(setup).await;
    Waiting { kind: "other", ..mine }.crowd(&node).await;
    Waiting { team: paused, ..mine }.crowd(&node).await;
    Waiting { team: kind_paused, ..mine }.crowd(&node).await;
    Waiting { due: later, ..mine }.crowd(&node).await;
    Waiting { due: later, key: Some("later"), ..mine }.crowd(&node).await;
    let held = Waiting { key: Some("held"), ..mine };
    let (runs, running) = held.queued();
    let begun = JobEvent::JobStarted { attempt: 1, worker: "w".to_owned(), at: None };
    node.append(vec![running, event("job", runs, 2, begun)]).await;
    held.crowd(&node).await;
    // Behind all of them, one of each sort that can be started.
    let (free, free_queued) = Waiting { due: soon, ..mine }.queued();
    let (keyed, keyed_queued) = Waiting { due: soon, key: Some("free"), ..mine }.queued();
    node.passed(node.append(vec![free_queued, keyed_queued]).await).await;

    let kinds = ["report".to_owned(), "backup".to_owned()];
    let jobs = node.views.jobs().across_teams();
    let found = jobs.ready(now, 10, &kinds).await.unwrap();
    let found: Vec<String> = found.into_iter().map(|job| job.id).collect();
    assert_eq!(found, [free.to_string(), keyed.to_string()]);
    let next = jobs.next_due(&QueuePlace::default(), now, &kinds).await.unwrap().unwrap();
    assert!((next - later).abs() < TimeDelta::milliseconds(2));

    drop(node);
    eventually("the connections are closed", async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database()";
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap();
        (left == 1).then_some(())
    })
    .await;
    let read = entries_read(&database).await;
    assert!(read > 0 && read < MOST_READ, "{read} entries were read");
}

#[tokio::test]
async fn of_very_many_teams_each_has_its_turn() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let (now, mut events, mut ids) = (Utc::now(), vec![], vec![]);
    for _ in 0..900 {
        let due = now - TimeDelta::hours(1);
        let (id, queued) = Waiting { team: team_id(), kind: "report", due, key: None }.queued();
        ids.push(id.to_string());
        events.push(queued);
    }
    node.passed(node.append(events).await).await;
    let (jobs, kinds) = (node.views.jobs().across_teams(), ["report".to_owned()]);
    let (mut place, mut seen) = (QueuePlace::default(), std::collections::BTreeSet::new());
    for _ in 0..4 {
        let ready = jobs.ready_from(&place, now, 1_000, &kinds).await.unwrap();
        assert!(!ready.jobs.is_empty() && ready.more);
        seen.extend(ready.jobs.into_iter().map(|job| job.id));
        place = ready.next;
    }
    assert_eq!(seen, ids.into_iter().collect());
}
