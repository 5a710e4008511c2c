//! What the views' handles give, and to whom they give nothing.

use std::collections::BTreeMap;

use ::ledger::{Append, Metadata, NewEvent, StreamId};
use ::projections::{Audit, AuditFilter, JobFilter, SecretFilter, TeamReader};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{ClaimEvent, JobEvent, JobId, JobStatus, LogDigest, Role, TeamEvent, TeamId};
use tests::Database;
use uuid::Uuid;

use super::support::{Node, changed, event, registered, revealed, secret_id, stored, team_id, user_id};

fn queued(id: JobId, team_id: TeamId, priority: u8, run_at: DateTime<Utc>, turn: Option<&str>) -> NewEvent {
    let queued = JobEvent::JobQueued {
        team_id,
        kind: "report".to_owned(),
        args: serde_json::Map::new(),
        priority,
        run_at,
        max_attempts: 3,
        timeout_seconds: 9,
        retry_delay_seconds: 1,
        concurrency_key: turn.map(str::to_owned),
        backoff: domain::Backoff::default(),
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    };
    event("job", id, 1, queued)
}

fn started(id: JobId) -> NewEvent {
    event("job", id, 2, JobEvent::JobStarted { attempt: 1, worker: "w".to_owned(), at: None })
}

fn job_id() -> JobId {
    JobId(Uuid::now_v7())
}

async fn node() -> (Database, Node) {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    (database, node)
}

#[tokio::test]
async fn people_are_found_by_address_in_any_case_and_their_teams_by_them() {
    let (_database, node) = node().await;
    let (ada, bob, team) = (user_id(), user_id(), team_id());
    let created = TeamEvent::TeamCreated {
        team_id: team,
        name: "Main".to_owned(),
        slug: "main".to_owned(),
        owner: ada,
    };
    let added = TeamEvent::MemberAdded { user_id: bob, role: Role::Viewer };
    let events = vec![
        registered(ada, "Ada"),
        registered(bob, "Bob"),
        event("team", team, 1, created),
        event("team", team, 2, added),
    ];
    node.passed(node.append(events).await).await;
    let row = node.views.users().by_email("ada@example.org").await.unwrap().unwrap();
    assert_eq!((row.id.as_str(), row.email.as_str()), (ada.to_string().as_str(), "Ada@Example.org"));
    assert_eq!(row, *node.views.users().get(ada).await.unwrap().unwrap());
    assert_eq!(
        node.views.users().by_email("Ada@Example.org").await.unwrap(),
        None,
        "only the canonical form is asked for"
    );
    let members: BTreeMap<_, _> = [(ada, Role::Owner), (bob, Role::Viewer)].into();
    assert_eq!(node.views.teams().by_slug("main").await.unwrap().unwrap().members, members);
    assert_eq!(node.views.memberships().get(bob).await.unwrap().unwrap().role_in(team), Some(Role::Viewer));
    assert_eq!(node.views.memberships().get(user_id()).await.unwrap(), None);
}

#[tokio::test]
async fn secrets_are_found_by_what_is_known_of_them_in_their_team_only() {
    let (_database, node) = node().await;
    let (id, team) = (secret_id(), team_id());
    let events = vec![stored(id, team, "db/main"), changed(id, 2), stored(secret_id(), team_id(), "db/main")];
    node.passed(node.append(events).await).await;
    let secrets = node.views.secrets().of(team);
    let found = async |q: &str, tag: &str, prefix: &str| {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let filter =
            SecretFilter { q: given(q), tag: given(tag), prefix: given(prefix), ..SecretFilter::default() };
        secrets.list(&filter, None, 10).await.unwrap().len()
    };
    for (q, tag, prefix) in
        [("", "", ""), ("DB/M", "", ""), ("BACK\\SLASH\tAND\nL", "prod", "db/"), ("slash", "", "")]
    {
        assert_eq!(found(q, tag, prefix).await, 1, "{q:?} {tag:?} {prefix:?}");
    }
    for (q, tag, prefix) in [("%", "", ""), ("", "pro", ""), ("", "", "b/"), ("\0", "", ""), ("", "\0", "")] {
        assert_eq!(found(q, tag, prefix).await, 0, "{q:?} {tag:?} {prefix:?}");
    }
    let after = Some(("db/main", "\u{ff}"));
    assert_eq!(secrets.list(&SecretFilter::default(), after, 10).await.unwrap(), []);
    assert_eq!(secrets.by_name("db/main").await.unwrap().unwrap().version, 2);
    assert_eq!(secrets.by_name("db/mai").await.unwrap(), None);
    let value = async |version| {
        let row = node.views.secret_versions().of(team).version(id, version).await.unwrap();
        row.and_then(|row| row.sealed.clone())
    };
    assert_eq!(
        (value(1).await.as_deref(), value(2).await.as_deref(), value(3).await),
        (Some("b25l"), Some("value 2"), None)
    );
}

#[tokio::test]
async fn the_queue_gives_what_is_due_the_most_urgent_first_and_lets_jobs_take_turns() {
    let (_database, node) = node().await;
    let (team, now) = (team_id(), Utc::now());
    let [low, high, later, runs, waits] = std::array::from_fn(|_| job_id());
    let at = |seconds| now + TimeDelta::seconds(seconds);
    let events = vec![
        queued(low, team, 1, at(-9), None),
        queued(high, team, 8, at(-1), None),
        queued(later, team, 9, at(3_600), None),
        queued(runs, team, 9, at(-1), Some("one")),
        started(runs),
        queued(waits, team, 9, at(-1), Some("one")),
    ];
    node.passed(node.append(events).await).await;
    let (jobs, kinds) = (node.views.jobs().across_teams(), ["report".to_owned()]);
    let ready = async |now, kinds: &[String]| {
        jobs.ready(now, 10, kinds)
            .await
            .unwrap()
            .into_iter()
            .map(|job| job.id.parse().map(JobId).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ready(now, &kinds).await, [high, low]);
    assert_eq!(ready(at(3_601), &kinds).await, [later, high, low]);
    assert_eq!(ready(now, &["backup".to_owned()]).await, []);
    let running = async |live: &[String]| {
        let found = jobs.running_without(live, 10).await.unwrap();
        found.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(running(&["other".to_owned()]).await, [runs]);
    assert_eq!(running(&["other".to_owned(), "w".to_owned()]).await, []);
    let listed = async |status, kind: &str| {
        let filter =
            JobFilter { statuses: vec![status], kind: Some(kind.to_owned()), ..JobFilter::default() };
        node.views.jobs().of(team).list(&filter, None, 10).await.unwrap().len()
    };
    assert_eq!(
        (listed(JobStatus::Pending, "report").await, listed(JobStatus::Running, "report").await),
        (4, 1)
    );
    assert_eq!(listed(JobStatus::Pending, "backup").await, 0);
}

#[tokio::test]
async fn the_trail_has_everything_but_claims_with_what_stands_beside_it() {
    let (_database, node) = node().await;
    let (ada, team, id) = (user_id(), team_id(), secret_id());
    let events = vec![
        registered(ada, "Ada"),
        stored(id, team, "one"),
        event("claim", "c", 1, ClaimEvent::Released {}),
        revealed(id),
    ];
    let metadata = Metadata {
        actor: format!("user:{ada}"),
        team_id: Some(team.to_string()),
        request_id: Some("r1".to_owned()),
        subject: Some(ada.to_string()),
        ip: Some("192.0.2.77".to_owned()),
        user_agent: Some("curl".to_owned()),
        ..Metadata::default()
    };
    let appended = node.ledger.append(Append { events, metadata, data_keys: vec![] }).await.unwrap();
    node.passed(appended.position).await;
    let positions = async |seen: TeamReader<'_, Audit>, filter: AuditFilter| {
        let rows = seen.list(&filter, None, 100).await.unwrap();
        rows.into_iter().map(|row| row.position).collect::<Vec<_>>()
    };
    let trail = async |filter: AuditFilter| {
        let of_team = positions(node.views.audit().of(team), filter.clone()).await;
        // That somebody has an account is no team's, whichever they spoke for.
        let mut of_instance = positions(node.views.audit().of_instance(), filter.clone()).await;
        of_instance.retain(|position| *position != 1);
        assert_eq!(of_team, of_instance);
        assert!(positions(node.views.audit().of(team_id()), filter).await.is_empty(), "another team's");
        of_team
    };
    let millisecond = TimeDelta::milliseconds(1);
    let by = AuditFilter {
        actor: Some(format!("user:{ada}")),
        request_id: Some("r1".to_owned()),
        from: Some(appended.at),
        to: Some(appended.at + millisecond),
        ..AuditFilter::default()
    };
    assert_eq!(trail(by.clone()).await, [4, 2]);
    assert_eq!(trail(AuditFilter { event_type: Some("SecretStored".to_owned()), ..by.clone() }).await, [2]);
    let others = [
        AuditFilter { from: Some(appended.at + millisecond), ..by.clone() },
        AuditFilter { to: Some(appended.at), ..by.clone() },
    ];
    for filter in others {
        assert!(trail(filter.clone()).await.is_empty(), "{filter:?}");
    }
    let always = AuditFilter {
        from: Some("0000-01-01T00:00:00Z".parse().unwrap()),
        to: Some("9999-12-31T23:59:59.999999Z".parse().unwrap()),
        ..AuditFilter::default()
    };
    assert_eq!(trail(always.clone()).await, [4, 2]);
    assert!(trail(AuditFilter { to: always.from, ..always }).await.is_empty());
    let of_team = node.views.audit().of(team);
    let newest = of_team.list(&by, None, 1).await.unwrap().remove(0);
    assert_eq!((newest.event_type.as_str(), newest.ip.as_deref()), ("SecretRevealed", Some("192.0.2.77")));
    let before = of_team.list(&by, Some(4), 1).await.unwrap().remove(0);
    assert_eq!(before.position, 2);
    let access = node.views.secret_reads().across_teams().get(id).await.unwrap().unwrap();
    assert_eq!((access.count, access.actor.clone()), (1, format!("user:{ada}")));
}

/// PostgreSQL's text cannot hold U+0000, and a job's output can.
#[tokio::test]
async fn nul_is_neither_found_nor_in_the_way() {
    let (_database, node) = node().await;
    let (team, id) = (team_id(), job_id());
    let failed = JobEvent::JobAttemptFailed {
        attempt: 1,
        kind: "report".to_owned(),
        ran: None,
        exit_code: Some(1),
        error: "a\0b".to_owned(),
        retry_at: Utc::now(),
        result: None,
        artifacts: vec![],
        log: LogDigest::default(),
    };
    let events = vec![queued(id, team, 1, Utc::now(), None), started(id), event("job", id, 3, failed)];
    node.passed(node.append(events).await).await;
    let row = node.views.jobs().of(team).get(id).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("a\u{fffd}b"));
    node.assert_right().await;
    assert!(node.views.secrets().of(team).by_name("\0").await.unwrap().is_none());
    assert!(node.views.secrets().of(team).get("\0").await.unwrap().is_none());
    assert!(node.views.users().by_email("\0").await.unwrap().is_none());
    assert!(node.views.state("secret", "\0", None).await.unwrap().is_none());
    assert!(node.views.history(&StreamId::new("secret", "\0"), 0, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn nobody_is_shown_what_is_sealed_but_that_it_changed() {
    let (_database, node) = node().await;
    let id = secret_id();
    let position = node.append(vec![stored(id, team_id(), "one"), changed(id, 2)]).await;
    let history = node.views.history(&StreamId::new("secret", id), 0, 10).await.unwrap();
    let changes: Vec<_> =
        history[1].changes.iter().map(|change| (change.field.as_str(), change.after.to_string())).collect();
    assert_eq!(changes, [("sealed", "\"sealed\"".to_owned()), ("version", "2".to_owned())]);
    let first = node.views.state("secret", &id.to_string(), Some(position - 1)).await.unwrap().unwrap();
    assert_eq!(
        (first.row.value()["version"].to_string(), first.row.value()["sealed"].as_str()),
        ("1".to_owned(), Some("sealed"))
    );
    assert_eq!((first.sequence, first.position), (1, position - 1));
    assert_eq!(node.views.state("claim", "c", None).await.unwrap(), None, "what has no view has no state");
}
