//! The second wall between teams: PostgreSQL shows a team's rows to the team alone, whatever is asked of it.

use std::time::Duration;

use ::ledger::{Append, Metadata, NewEvent};
use ::projections::{
    AuditFilter, JobFilter, Options, Projections, SecretAccessFilter, SecretFilter, Whose, with_tables,
};
use chrono::Utc;
use domain::{
    CatchUp, JobEvent, JobId, KindName, Plan, ScheduleEvent, ScheduleId, ScheduleName, SecretId, TeamId,
    Timing,
};
use futures::future::join_all;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, Server, on_tables, within};
use tokio::time::timeout;
use uuid::Uuid;

use super::support::{History, Node, event, registered, revealed, secret_id, stored, team_id, user_id};
use crate::ledger::support::Seed;

/// The views whose rows are teams'.
const OWNED: [&str; 8] = [
    "secrets",
    "secret_versions",
    "secret_reads",
    "secret_access",
    "jobs",
    "job_reports",
    "schedules",
    "audit",
];

/// A team with a secret that somebody has seen and a job, and so a part of the trail.
#[derive(Clone, Copy)]
struct Party {
    team: TeamId,
    secret: SecretId,
    job: JobId,
    schedule: ScheduleId,
}

impl Party {
    async fn join(node: &Node) -> Self {
        let (job, schedule) = (JobId(Uuid::now_v7()), ScheduleId(Uuid::now_v7()));
        let party = Self { team: team_id(), secret: secret_id(), job, schedule };
        let events = vec![
            stored(party.secret, party.team, "db/main"),
            queued(party.job, party.team),
            revealed(party.secret),
            scheduled(party.schedule, party.team),
        ];
        let metadata = Metadata {
            actor: "system".to_owned(),
            team_id: Some(party.team.to_string()),
            ..Metadata::default()
        };
        node.ledger.append(Append { events, metadata, data_keys: vec![] }).await.unwrap();
        party
    }

    /// View and key of its rows, of the views whose keys are known beforehand.
    fn rows(self) -> [(&'static str, String); 5] {
        [
            ("secrets", self.secret.to_string()),
            ("secret_versions", format!("{}/{:010}", self.secret, 1)),
            ("secret_reads", self.secret.to_string()),
            ("jobs", self.job.to_string()),
            ("schedules", self.schedule.to_string()),
        ]
    }
}

fn table(view: &str) -> String {
    with_tables(&format!("{{{view}}}"))
}

/// Rows of `view` that [`Party::join`] makes, of the views that have a row for each event.
fn of_party(view: &str) -> usize {
    if view == "audit" { 4 } else { 1 }
}

fn scheduled(id: ScheduleId, team_id: TeamId) -> NewEvent {
    let plan = Plan {
        name: ScheduleName::parse("hourly").unwrap(),
        kind: KindName::parse("report").unwrap(),
        args: serde_json::Map::new(),
        timing: Timing::Once { run_at: Utc::now() },
        catch_up: CatchUp::Last,
        catch_up_window_seconds: 60,
        priority: None,
        max_attempts: None,
        timeout_seconds: None,
        concurrency_key: None,
    };
    event("schedule", id, 1, ScheduleEvent::ScheduleCreated { team_id, plan, next: Utc::now() })
}

fn queued(id: JobId, team_id: TeamId) -> NewEvent {
    let queued = JobEvent::JobQueued {
        team_id,
        kind: "report".to_owned(),
        args: serde_json::Map::new(),
        priority: 5,
        run_at: Utc::now(),
        max_attempts: 1,
        timeout_seconds: 9,
        retry_delay_seconds: 1,
        concurrency_key: None,
        backoff: domain::Backoff::default(),
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    };
    event("job", id, 1, queued)
}

/// Two teams, and an event that is no team's.
async fn two_teams(node: &Node) -> [Party; 2] {
    let parties = [Party::join(node).await, Party::join(node).await];
    node.append(vec![registered(user_id(), "Ada")]).await;
    node.caught_up().await;
    parties
}

type Seen = Vec<(String, Option<String>)>;

/// Key and team of all rows of a view that a connection sees: nothing asks for a team.
async fn seen(connection: &mut PgConnection, view: &str) -> Seen {
    let sql = on_tables(&format!("select key, row->>'team_id' from {view} order by key"));
    sqlx::query_as(&sql).fetch_all(connection).await.unwrap()
}

/// With the connections that requests use, and no word of a team in the query, everybody sees their own.
async fn assert_confined(views: &Projections, parties: &[Party; 2]) {
    for (party, other) in [(parties[0], parties[1]), (parties[1], parties[0])] {
        let mut connection = views.confined(Whose::Team(party.team)).await.unwrap();
        let own = Some(party.team.to_string());
        for (view, key) in party.rows() {
            assert_eq!(seen(&mut connection, view).await, [(key, own.clone())], "{view}");
        }
        for view in ["secret_access", "audit"] {
            let rows = seen(&mut connection, view).await;
            assert_eq!(rows.len(), of_party(view), "{view}: {rows:?}");
            assert!(rows.iter().all(|(_, team)| *team == own), "{view}: {rows:?}");
        }
        for view in OWNED {
            let keys: Vec<String> =
                other.rows().into_iter().filter(|(named, _)| *named == view).map(|(_, key)| key).collect();
            let table = table(view);
            let sql = format!(
                "select count(*) from {table} where key = any($1) or team_id = $2 or row::text like $3"
            );
            let asked = sqlx::query_scalar(&sql).bind(keys).bind(other.team.to_string());
            let asked = asked.bind(format!("%{}%", other.secret));
            let found: i64 = asked.fetch_one(&mut *connection).await.unwrap();
            assert_eq!(found, 0, "what is another's is not there even for who knows its name: {view}");
        }
    }
    let mut connection = views.confined(Whose::Instance).await.unwrap();
    for view in OWNED.into_iter().filter(|view| *view != "audit") {
        assert_eq!(seen(&mut connection, view).await, [], "who audits the instance sees no secrets: {view}");
    }
    let trail = seen(&mut connection, "audit").await;
    assert_eq!(trail.iter().filter(|(_, team)| team.is_none()).count(), 1, "what is no team's: {trail:?}");
    assert_eq!(trail.len(), 9);
}

/// What the readers give, which is what the handlers get.
async fn assert_read(views: &Projections, parties: &[Party; 2]) {
    for (party, other) in [(parties[0], parties[1]), (parties[1], parties[0])] {
        let secrets = views.secrets().of(party.team);
        let versions = views.secret_versions().of(party.team);
        let jobs = views.jobs().of(party.team);
        assert_eq!(secrets.get(party.secret).await.unwrap().unwrap().team_id, party.team);
        assert_eq!(secrets.list(&SecretFilter::default(), None, 10).await.unwrap().len(), 1);
        assert_eq!(secrets.by_name("db/main").await.unwrap().unwrap().id, party.secret.to_string());
        assert!(versions.version(party.secret, 1).await.unwrap().is_some());
        assert_eq!(jobs.get(party.job).await.unwrap().unwrap().team_id, party.team);
        assert_eq!(jobs.list(&JobFilter::default(), None, 10).await.unwrap().len(), 1);
        let trail = views.audit().of(party.team).list(&AuditFilter::default(), None, 10).await.unwrap();
        assert_eq!(trail.iter().map(|row| row.team_id).collect::<Vec<_>>(), [Some(party.team); 4]);
        let reads = views.secret_reads().of(party.team);
        let read = reads.get(party.secret).await.unwrap().unwrap();
        assert_eq!((read.team_id, read.count), (party.team, 1));
        let both = [party.secret.to_string(), other.secret.to_string()];
        let last = reads.last_reads(&both).await.unwrap();
        assert_eq!(last.into_keys().collect::<Vec<_>>(), both[..1]);
        let access = views.secret_access().of(party.team);
        let of_secret = |id| SecretAccessFilter { secret_id: Some(id), ..SecretAccessFilter::default() };
        for filter in [SecretAccessFilter::default(), of_secret(party.secret)] {
            let rows = access.list(&filter, None, 10).await.unwrap();
            assert_eq!(rows.iter().map(|row| row.secret_id).collect::<Vec<_>>(), [party.secret]);
        }
        assert_eq!(versions.list(party.secret, None, 10).await.unwrap().len(), 1);
        assert_eq!(versions.list(other.secret, None, 10).await.unwrap(), []);
        assert_eq!(access.list(&of_secret(other.secret), None, 10).await.unwrap(), []);
        assert_eq!(reads.get(other.secret).await.unwrap(), None);
        assert_eq!(secrets.get(other.secret).await.unwrap(), None);
        assert_eq!(jobs.get(other.job).await.unwrap(), None);
        assert_eq!(versions.version(other.secret, 1).await.unwrap(), None);
    }
}

/// The first wall is taken away: what is asked names no team, or another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_another_teams_rows_are_not_there() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let parties = two_teams(&node).await;
    assert_confined(&node.views, &parties).await;
    assert_read(&node.views, &parties).await;
    for view in OWNED {
        node.views.rebuild(view, |_| {}).await.unwrap();
    }
    assert_confined(&node.views, &parties).await;
    assert_read(&node.views, &parties).await;
}

/// What a version before this one has left, and what a restored dump has where the role was missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_without_walls_get_them_at_the_start_and_are_read_while_they_wait_for_their_rebuild() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let parties = two_teams(&node).await;
    node.stop().await;
    let mut behind = database.connect().await;
    let of_all = |sql: &str| OWNED.map(|view| sql.replace("VIEW", &table(view))).concat();
    let older = of_all(
        "drop policy own_team on VIEW; alter table VIEW disable row level security; \
         update checkpoints set state = 'outdated' where view = 'VIEW'; revoke all on VIEW from daybook_api; ",
    ) + "revoke select (view, position) on checkpoints from daybook_api";
    let restored = "drop policy own_team on secrets; drop policy own_team on audit; drop policy own_team on secret_access; \
                    revoke all on {secrets}, {jobs}, {secret_versions} from daybook_api"
        .to_owned();
    let loosened = "alter table secrets disable row level security; drop policy own_team on jobs; \
                    create policy own_team on jobs using (true); alter table secret_reads disable row level security; \
                    drop policy own_team on secret_versions; create policy own_team on secret_versions using (true)"
        .to_owned();
    for what in [older, restored, loosened] {
        behind.execute(sqlx::raw_sql(&with_tables(&on_tables(&what)))).await.unwrap();
        let fresh = Node::idle(&database, Options::default()).await;
        assert_confined(&fresh.views, &parties).await;
        assert_read(&fresh.views, &parties).await;
        let follower = Node::following(&database).await;
        for view in OWNED {
            follower.becomes(view, "live").await;
        }
        assert_confined(&fresh.views, &parties).await;
        assert_read(&fresh.views, &parties).await;
        follower.assert_right().await;
        follower.stop().await;
    }
}

/// The tables that a role may read any of.
async fn readable(connection: &mut PgConnection, role: &str) -> Vec<String> {
    let sql = "select relname::text from pg_class where relnamespace = 'public'::regnamespace
                   and relkind in ('r', 'p', 'v', 'm', 'S') and has_any_column_privilege($1, oid, 'select') order by relname";
    sqlx::query_scalar(sql).bind(role).fetch_all(connection).await.unwrap()
}

async fn refused(connection: &mut PgConnection, sql: &str) {
    let error = connection.execute(sqlx::raw_sql(sql)).await.expect_err(sql);
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_team_nothing_is_there_and_the_rest_of_the_database_never_is() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let [party, _] = two_teams(&node).await;
    let mut connection = database.connect().await;
    let mut expected: Vec<String> = OWNED.map(table).into();
    expected.push("checkpoints".to_owned());
    expected.sort_unstable();
    assert_eq!(readable(&mut connection, "daybook_api").await, expected);
    let everything = readable(&mut connection, "daybook").await;
    assert!(everything.contains(&"events".to_owned()) && everything.len() > 10, "{everything:?}");

    connection.execute("set role daybook_api").await.unwrap();
    for team in ["reset daybook.team", "set daybook.team = ''", "set daybook.team = 'null'"] {
        connection.execute(team).await.unwrap();
        for view in OWNED {
            assert_eq!(seen(&mut connection, view).await, [], "{team}: {view}");
        }
    }
    drop(connection);

    let mut connection = node.views.confined(Whose::Team(party.team)).await.unwrap();
    for table in everything.iter().filter(|table| !expected.contains(table) || *table == "checkpoints") {
        refused(&mut connection, &format!("select * from {table}")).await;
    }
    for table in everything.iter().map(String::as_str) {
        refused(&mut connection, &format!("delete from {table}")).await;
        refused(&mut connection, &format!("truncate {table}")).await;
    }
    for view in OWNED {
        refused(&mut connection, &on_tables(&format!("update {view} set row = row"))).await;
        refused(&mut connection, &on_tables(&format!("drop policy own_team on {view}"))).await;
        refused(&mut connection, &on_tables(&format!("alter table {view} disable row level security"))).await;
        refused(
            &mut connection,
            &on_tables(&format!("insert into {view} (key, position, row) values ('x', 1, '{{}}')")),
        )
        .await;
    }
    refused(&mut connection, "select position_at(now())").await;
    refused(&mut connection, "create table mine ()").await;
}

/// There is one connection, so that each reader gets the one that the last has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_left_on_a_connection_does_not_help_the_next() {
    let database = Database::new().await;
    let node = Node::following_with(&database, Options { team_connections: 1, ..Options::default() }).await;
    let parties = two_teams(&node).await;
    // What has failed cannot be used any more: the next one gets another.
    let failed =
        on_tables("begin; set local role none; select 1 / (select count(*) from secrets where key = '')");
    let failed = failed.as_str();
    for left in [
        "reset role",
        "set daybook.team = '*'",
        "reset daybook.team",
        "reset all",
        "set search_path = pg_catalog; set search_path = public",
        "begin",
        failed,
    ] {
        for party in parties {
            let mut connection = node.views.confined(Whose::Team(party.team)).await.unwrap();
            let before = pid(&mut connection).await;
            assert_eq!(connection.execute(sqlx::raw_sql(left)).await.is_err(), left == failed, "{left}");
            drop(connection);
            let mut next = within(left, node.views.confined(Whose::Team(party.team))).await.unwrap();
            assert_eq!(pid(&mut next).await == before, left != failed, "{left}");
        }
        assert_confined(&node.views, &parties).await;
    }
}

async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_in_the_middle_leaves_nothing_to_the_next() {
    let database = Database::new().await;
    let node = Node::following_with(&database, Options { team_connections: 1, ..Options::default() }).await;
    let parties = two_teams(&node).await;
    for round in 0..40 {
        let reading = assert_read(&node.views, &parties);
        let _ = timeout(Duration::from_micros(250 * round), reading).await;
        let party = parties[round as usize % 2];
        let trail = node.views.audit().of(party.team).list(&AuditFilter::default(), None, 10).await.unwrap();
        assert!(trail.len() == 4 && trail.iter().all(|row| row.team_id == Some(party.team)), "{trail:?}");
    }
    assert_confined(&node.views, &parties).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_lost_while_nobody_used_them_are_not_noticed() {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let parties = two_teams(&node).await;
    let mut behind = database.connect().await;
    for _ in 0..3 {
        let mut held = vec![];
        for _ in 0..Options::default().team_connections {
            held.push(node.views.confined(Whose::Team(parties[0].team)).await.unwrap());
        }
        let mut pids = vec![];
        for connection in &mut held {
            pids.push(pid(connection).await);
        }
        drop(held);
        let sql = "select bool_and(pg_terminate_backend(pid, 20000)) from unnest($1) as pid";
        assert!(sqlx::query_scalar::<_, bool>(sql).bind(&pids).fetch_one(&mut behind).await.unwrap());
        assert_confined(&node.views, &parties).await;
        assert_read(&node.views, &parties).await;
    }
}

/// On a server of its own: on the others' the role is there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_make_the_role_at_once_all_may_use_it() {
    let server = Server::start("role").await;
    let mut admin = server.connect().await;
    for user in ["daybook", "maker"] {
        admin
            .execute(sqlx::raw_sql("drop role if exists maker; create role maker login createrole"))
            .await
            .unwrap();
        let mut databases = vec![];
        for _ in 0..4 {
            databases.push(server.empty_database(user).await);
        }
        let ledgers: Vec<_> = databases.iter().chain(&databases).map(Database::ledger).collect();
        let nodes = ledgers.iter().map(|ledger| Projections::new(ledger.clone(), Options::default()));
        let nodes: Vec<_> = nodes.collect();
        for round in 0..10 {
            admin.execute("drop role if exists daybook_api").await.unwrap();
            let outcomes = within("the role", join_all(nodes.iter().map(Projections::make_role))).await;
            assert!(outcomes.iter().all(Result::is_ok), "{user}, round {round}: {outcomes:?}");
        }
        admin.execute("drop role daybook_api").await.unwrap();
    }
    server.stop().await;
}

/// The next view whose rows are teams' cannot be forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_whose_rows_name_a_team_is_behind_the_wall() {
    let seed = Seed::new();
    let database = Database::new().await;
    let node = Node::following(&database).await;
    History::begin(&node, seed.rng()).await.steps(220).await;
    node.caught_up().await;
    let mut behind = database.connect().await;
    let mut owned = vec![];
    for view in node.views.names() {
        let table = table(view);
        let sql = format!("select count(*), count(*) filter (where row ? 'team_id') from {table}");
        let (rows, named): (i64, i64) = sqlx::query_as(&sql).fetch_one(&mut behind).await.unwrap();
        assert!(rows > 0, "{view} has no rows to look at");
        let sql = "select relrowsecurity, exists (select from pg_policy where polrelid = c.oid),
                       exists (select from pg_attribute where attrelid = c.oid and attname = 'team_id')
                   from pg_class c where oid = to_regclass($1)";
        let (secured, policy, column): (bool, bool, bool) =
            sqlx::query_as(sql).bind(&table).fetch_one(&mut behind).await.unwrap();
        let names_team = named > 0 || column;
        assert_eq!((secured, policy), (names_team, names_team), "{view}: `const OWNER` of the view");
        owned.extend(names_team.then_some(view));
    }
    assert_eq!(owned, OWNED);
}
