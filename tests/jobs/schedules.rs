//! Schedules: jobs that run at certain times, each time once.

use std::collections::BTreeSet;

use api::server::Roles;
use chrono::{DateTime, TimeDelta, Utc};
use commands::Context;
use domain::{Caller, CatchUp, CronExpression, KindName, Plan, Role, ScheduleName, TimeZoneName, Timing};
use ledger::Recorded;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};

use super::id;

mod asking;

const KINDS: &str = r#"
[jobs.nothing]
command = ["true"]

[jobs.report]
command = ["true", "{day}"]
params.day = { type = "string", pattern = '\d{4}-\d{2}-\d{2}' }
"#;

const NO_WORKER: Roles = Roles { worker: false, ..Roles::ALL };

fn setup() -> Setup {
    Setup::default().kinds(KINDS)
}

/// A node that makes schedules and does not fire them.
async fn idle() -> TestApp {
    TestApp::with(setup().roles(NO_WORKER)).await
}

/// Makes a schedule of the kind `nothing`; its path.
async fn schedule(client: &Client, more: Value) -> String {
    let body = super::with(json!({"name": "often", "kind": "nothing"}), more);
    let made = client.post("/api/schedules", body).await.expect(201);
    format!("/api/schedules/{}", made.str("id"))
}

async fn show(client: &Client, path: &str) -> Reply {
    client.get(path).await.expect(200)
}

/// The schedule's events as the log has them.
async fn events(app: &TestApp, path: &str) -> Vec<Recorded> {
    let stream = ledger::StreamId::new("schedule", id(path));
    app.ledger.read_stream(&stream, 0, None, 1_000).await.unwrap()
}

/// Waits until the schedule has that many events of this name; these.
async fn happened(app: &TestApp, path: &str, name: &str, number: usize) -> Vec<Value> {
    eventually(&format!("{number} times {name}"), async || {
        let events = events(app, path).await;
        let named = events.into_iter().filter(|event| event.event_type == name);
        let named: Vec<Value> = named.map(|event| event.payload.value()[name].clone()).collect();
        (named.len() >= number).then_some(named)
    })
    .await
}

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Ids of the jobs in the log that this schedule has made.
async fn jobs(app: &TestApp, path: &str) -> BTreeSet<String> {
    let events = app.ledger.read(0, 10_000).await.unwrap();
    let queued = events.into_iter().filter(|event| {
        event.event_type == "JobQueued" && event.payload.value()["JobQueued"]["schedule_id"] == id(path)
    });
    queued.map(|event| event.stream.aggregate_id).collect()
}

#[tokio::test]
async fn each_moment_leads_to_one_job_however_many_nodes_look() {
    let one = TestApp::with(setup()).await;
    let two = one.another_node(setup()).await;
    let three = one.another_node(setup()).await;
    let operator = one.operator();
    let path = schedule(&operator, json!({"cron": "* * * * * *"})).await;
    let fired = happened(&one, &path, "ScheduleFired", 6).await;
    for pair in fired.windows(2) {
        assert_eq!(moment(&pair[1]["due"]) - moment(&pair[0]["due"]), TimeDelta::seconds(1));
        assert_eq!(pair[0]["next"], pair[1]["due"]);
    }
    operator.patch(&path, json!({"paused": true})).await.expect(200);
    let fired = happened(&one, &path, "ScheduleFired", 6).await;
    let made: BTreeSet<String> =
        fired.iter().map(|fired| fired["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(made.len(), fired.len(), "a job for each moment");
    assert_eq!(jobs(&one, &path).await, made, "and no job beside these");
    for job in &made {
        let done = super::ended(&operator, &format!("/api/jobs/{job}")).await;
        assert_eq!((done.str("status"), done.str("created_by")), ("completed", "system"));
    }
    for node in [three, two, one] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_schedule_of_one_moment_fires_once_and_is_over() {
    let app = TestApp::with(setup()).await;
    let operator = app.operator();
    let run_at = Utc::now() + TimeDelta::milliseconds(1_500);
    let path =
        schedule(&operator, json!({"run_at": run_at, "kind": "report", "args": {"day": "2026-01-02"}})).await;
    let waiting = show(&operator, &path).await;
    assert_eq!(
        (&waiting.json["cron"], &waiting.json["next_run_at"]),
        (&json!(null), &waiting.json["run_at"])
    );
    let fired = happened(&app, &path, "ScheduleFired", 1).await;
    assert_eq!(
        (moment(&fired[0]["due"]), &fired[0]["next"]),
        (moment(&waiting.json["run_at"]), &json!(null))
    );
    let over = eventually("the view knows", async || {
        Some(show(&operator, &path).await).filter(|shown| shown.json["fired"] == 1)
    })
    .await;
    assert_eq!((&over.json["next_run_at"], &over.json["last_job_id"]), (&json!(null), &fired[0]["job_id"]));
    let job = super::ended(&operator, &format!("/api/jobs/{}", over.str("last_job_id"))).await;
    assert_eq!(
        (job.str("run_at"), job.json["args"]["day"].as_str()),
        (over.str("run_at"), Some("2026-01-02"))
    );
    let preview = operator.get(&format!("{path}/preview")).await.expect(200);
    assert_eq!(preview.json["items"], json!([]));
}

#[tokio::test]
async fn while_it_is_paused_nothing_fires_and_nothing_of_that_time_is_caught_up_with() {
    let app = TestApp::with(setup()).await;
    let operator = app.operator();
    let path = schedule(&operator, json!({"cron": "* * * * * *", "catch_up": "all"})).await;
    happened(&app, &path, "ScheduleFired", 1).await;
    let paused = operator.patch(&path, json!({"paused": true})).await.expect(200);
    assert_eq!((&paused.json["paused"], &paused.json["next_run_at"]), (&json!(true), &json!(null)));
    let before = events(&app, &path).await;
    // Another one shows that time passes.
    let other = schedule(&operator, json!({"name": "other", "cron": "* * * * * *"})).await;
    happened(&app, &other, "ScheduleFired", 3).await;
    assert_eq!(events(&app, &path).await.len(), before.len(), "nothing happens while it is paused");
    let resumed = operator.patch(&path, json!({"paused": false})).await.expect(200);
    let resumed_at = moment(&resumed.json["updated_at"]);
    assert!(moment(&resumed.json["next_run_at"]) + TimeDelta::seconds(1) > resumed_at);
    let fired = happened(&app, &path, "ScheduleFired", before.len()).await;
    let paused_at = moment(&paused.json["updated_at"]);
    for fired in fired {
        let due = moment(&fired["due"]);
        let within = paused_at < due && due < resumed_at - TimeDelta::seconds(1);
        assert!(!within, "{due} was while it was paused, from {paused_at} to {resumed_at}");
    }
    let names: BTreeSet<_> = events(&app, &path).await.into_iter().map(|event| event.event_type).collect();
    assert!(!names.contains("ScheduleSkipped"), "{names:?}");
}

/// Makes a schedule as if it were some time ago: nobody has looked since.
async fn long_ago(app: &TestApp, name: &str, cron: &str, catch_up: CatchUp, ago: TimeDelta) -> String {
    let permissions = Role::Operator.permissions();
    let team = Some(app.people.team);
    let context = Context::of(Caller { actor: domain::Actor::System, team, permissions });
    let plan = Plan {
        name: ScheduleName::parse(name).unwrap(),
        kind: KindName::parse("nothing").unwrap(),
        args: serde_json::Map::new(),
        timing: Timing::Cron {
            cron: CronExpression::parse(cron).unwrap(),
            time_zone: TimeZoneName::parse("Europe/Berlin").unwrap(),
        },
        catch_up,
        catch_up_window_seconds: 86_400,
        priority: None,
        max_attempts: None,
        timeout_seconds: None,
        concurrency_key: None,
    };
    let made = app.commands.create_schedule(&context, &plan, Utc::now() - ago).await.unwrap();
    app.projections.settle(made.position.unwrap(), tests::LIMIT).await.unwrap();
    format!("/api/schedules/{}", made.id)
}

#[tokio::test]
async fn after_a_downtime_nothing_the_last_or_all_is_made_up_for_once_however_many_nodes_come_back() {
    let down = idle().await;
    let ago = TimeDelta::hours(5);
    // Half an hour away from now, so that no run of the present is among them.
    let cron = format!("{} * * * *", (Utc::now() + TimeDelta::minutes(30)).format("%M"));
    let none = long_ago(&down, "none", &cron, CatchUp::None, ago).await;
    let last = long_ago(&down, "last", &cron, CatchUp::Last, ago).await;
    let all = long_ago(&down, "all", &cron, CatchUp::All, ago).await;
    let many = long_ago(&down, "many", "* * * * *", CatchUp::All, ago).await;
    let one = down.another_node(setup()).await;
    let two = down.another_node(setup()).await;

    let skipped = happened(&down, &none, "ScheduleSkipped", 1).await;
    assert_eq!((&skipped[0]["missed"], jobs(&down, &none).await.len()), (&json!(5), 0));
    let fired = happened(&down, &last, "ScheduleFired", 1).await;
    let skipped = happened(&down, &last, "ScheduleSkipped", 1).await;
    assert_eq!((&skipped[0]["missed"], &skipped[0]["next"]), (&json!(4), &fired[0]["due"]));
    happened(&down, &all, "ScheduleFired", 5).await;
    let fired = happened(&down, &many, "ScheduleFired", 100).await;
    let skipped = happened(&down, &many, "ScheduleSkipped", 1).await;
    assert!(moment(&skipped[0]["to"]) < moment(&fired[0]["due"]), "those longest ago are passed over");

    let operator = down.operator();
    for path in [&none, &last, &all, &many] {
        operator.patch(path, json!({"paused": true})).await.expect(200);
    }
    assert_eq!((jobs(&down, &last).await.len(), jobs(&down, &all).await.len()), (1, 5));
    let fired = happened(&down, &many, "ScheduleFired", 100).await;
    assert_eq!(jobs(&down, &many).await.len(), fired.len());
    let shown = show(&operator, &none).await;
    assert_eq!((&shown.json["fired"], &shown.json["last_run_at"]), (&json!(0), &json!(null)));
    assert!(shown.json["last_skipped_at"].is_string());
    for node in [two, one, down] {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_run_any_more_says_so_and_the_schedule_goes_on() {
    let app = idle().await;
    let operator = app.operator();
    let path =
        schedule(&operator, json!({"cron": "* * * * * *", "kind": "report", "args": {"day": "2026-01-02"}}))
            .await;
    // The kind asks for something else by now.
    let changed = KINDS.replace("params.day", "params.month").replace("{day}", "{month}");
    let worker = app.another_node(Setup::default().kinds(&changed)).await;
    let failed = happened(&app, &path, "ScheduleFailed", 2).await;
    assert!(failed[0]["error"].as_str().unwrap().contains("args.month"), "{failed:?}");
    let shown = eventually("the view knows", async || {
        Some(show(&operator, &path).await).filter(|shown| shown.json["last_error"].is_string())
    })
    .await;
    assert_eq!((&shown.json["fired"], &shown.json["last_job_id"]), (&json!(0), &json!(null)));
    assert!(shown.json["next_run_at"].is_string());
    operator.patch(&path, json!({"kind": "nothing", "args": {}})).await.expect(200);
    happened(&app, &path, "ScheduleFired", 1).await;
    worker.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn the_trail_tells_what_became_of_a_schedule() {
    let app = TestApp::with(setup()).await;
    let path = schedule(&app.operator(), json!({"cron": "* * * * * *"})).await;
    happened(&app, &path, "ScheduleFired", 1).await;
    app.operator().patch(&path, json!({"paused": true})).await.expect(200);
    let history = format!("/api/audit/schedule/{}/history", id(&path));
    let history = app.auditor().get(&history).await.expect(200);
    let types: Vec<_> =
        history.json["items"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!((types[0], types[1]), (&json!("ScheduleCreated"), &json!("ScheduleFired")));
    assert_eq!(types[types.len() - 1], "SchedulePaused");
    let state = format!("/api/audit/schedule/{}/state", id(&path));
    let state = app.auditor().get(&state).await.expect(200);
    assert!(state.text.contains("\"paused\":true"), "{}", state.text);
}
