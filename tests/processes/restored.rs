//! A copy of a database beside the original: schedules, mail and jobs are held until an operator releases them.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgConnection};
use tests::{Client, Database, Server, eventually};

use super::home::{Home, Serving};

const KINDS: &str = "[jobs.mark]\ncommand = ['sh', '-c', 'echo $DAYBOOK_JOB_ID >> ran']\n";
const ADMIN: &str = "admin@example.org";

fn home_of(url: &str, key: &[u8; 32]) -> Home {
    Home::new()
        .file(KINDS)
        .with("DATABASE_URL", url)
        .with("ENCRYPTION_KEY", BASE64.encode(key))
        .with("JWT_SECRET", "one for all nodes, of more than 32 characters")
        .with("ADMIN_EMAIL", ADMIN)
        .with("ADMIN_PASSWORD", "chosen by hand")
}

async fn admin(serving: &Serving) -> Client {
    serving.sign_in(&(ADMIN.to_owned(), "chosen by hand".to_owned())).await
}

async fn effects(serving: &Serving) -> Value {
    serving.anon().get("/api/health").await.expect(200).json["effects"].clone()
}

fn ran(home: &Home) -> usize {
    fs::read_to_string(home.path().join("ran")).unwrap_or_default().lines().count()
}

fn mails(home: &Home) -> usize {
    fs::read_dir(home.data().join("mail")).map_or(0, |files| {
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "eml"))
            .count()
    })
}

/// Waits until the database's clock is so much further.
async fn time_passes(on: &mut PgConnection, seconds: i64) {
    let mut now = async || -> DateTime<Utc> {
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *on).await.unwrap()
    };
    let until = now().await + TimeDelta::seconds(seconds);
    eventually("time passes", async || (now().await >= until).then_some(())).await;
}

/// Everything that has effects is asked for. The job's path.
async fn ask_for_effects(client: &Client, schedule: bool) -> String {
    if schedule {
        let every_second = json!({"name": "tick", "kind": "mark", "cron": "* * * * * *"});
        client.post("/api/schedules", every_second).await.expect(201);
    }
    client.post("/api/auth/password-reset", json!({"email": ADMIN})).await.expect(202);
    let job = client.post("/api/jobs", json!({"kind": "mark"})).await.expect(201);
    format!("/api/jobs/{}", job.str("id"))
}

/// Nothing happens while it is held, and everything once it is released: what was missed meanwhile by the schedule's own rule.
async fn held_until(
    home: &Home,
    serving: &Serving,
    on: &mut PgConnection,
    release: impl AsyncFnOnce(&Client),
) {
    assert_eq!(effects(serving).await, "held");
    let metrics = serving.anon().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("effects_held 1"), "{metrics}");
    let client = admin(serving).await;
    let (jobs, letters) = (ran(home), mails(home));
    let job = ask_for_effects(&client, false).await;
    time_passes(on, 3).await;
    let shown = client.get(&job).await.expect(200);
    assert_eq!(shown.str("status"), "pending", "{}", shown.text);
    assert_eq!((ran(home), mails(home)), (jobs, letters));
    release(&client).await;
    eventually("the job runs", async || {
        (client.get(&job).await.expect(200).str("status") == "completed").then_some(())
    })
    .await;
    eventually("the mail is sent", async || (mails(home) > letters).then_some(())).await;
    eventually("nothing is held", async || (effects(serving).await == "ok").then_some(())).await;
    let metrics = serving.anon().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("effects_held 0"), "{metrics}");
}

async fn copy(server: &mut PgConnection, from: &str, to: &str) {
    server.execute(&*format!("create database \"{to}\" template \"{from}\"")).await.unwrap();
}

#[tokio::test]
async fn a_copy_of_a_database_whose_node_was_not_seen_leaving_is_held_and_the_original_is_not() {
    let server = Server::start("restored").await;
    let mut behind = server.connect().await;
    let database = server.empty_database("daybook").await;
    let key = [7; 32];
    let home = home_of(database.url(), &key);
    let serving = home.serve().await;
    assert!(!serving.process.stdout().contains("HELD"), "{}", serving.process.stdout());
    assert_eq!(effects(&serving).await, "ok");
    let client = admin(&serving).await;
    ask_for_effects(&client, true).await;
    eventually("the schedule fires", async || (ran(&home) > 2).then_some(())).await;
    let mut original = database.connect().await;
    let told = "select count(*) from node_places";
    eventually("it is known where the node runs", async || {
        let told: i64 = sqlx::query_scalar(told).fetch_one(&mut original).await.unwrap();
        (told == 1).then_some(())
    })
    .await;
    serving.stop(Signal::KILL).await;
    let name: String =
        sqlx::query_scalar("select current_database()::text").fetch_one(&mut original).await.unwrap();
    drop(original);
    let copied = format!("{name}-copy");
    eventually("nobody is connected", async || {
        let others = "select count(*) from pg_stat_activity where datname = $1";
        let others: i64 = sqlx::query_scalar(others).bind(&name).fetch_one(&mut behind).await.unwrap();
        (others == 0).then_some(())
    })
    .await;
    copy(&mut behind, &name, &copied).await;

    // After kill -9 the original goes on at once.
    let first = home.serve().await;
    assert!(!first.process.stdout().contains("HELD"), "{}", first.process.stdout());
    let before = ran(&home);
    eventually("its schedule goes on", async || (ran(&home) > before).then_some(())).await;

    let elsewhere = home_of(&database.url().replace(&name, &copied), &key);
    let second = elsewhere.serve().await;
    let banner = second.process.stdout();
    assert!(banner.contains("HELD") && banner.contains("daybook effects release"), "{banner}");
    assert!(banner.contains("not seen leaving"), "{banner}");
    assert!(second.process.stderr().contains("held"), "{}", second.process.stderr());
    assert_eq!(elsewhere.run(&["effects", "status"]).await.expect(0).stdout.split(' ').next(), Some("held"));
    // A restart changes nothing.
    second.stop(Signal::TERM).await.expect(0);
    let second = elsewhere.serve().await;
    let url = database.url().replace(&name, &copied);
    let mut at_copy = sqlx::Connection::connect(&url).await.unwrap();
    held_until(&elsewhere, &second, &mut at_copy, async |_: &Client| {
        let released = elsewhere.run(&["effects", "release", "--yes", "--operator", "ada"]).await.expect(0);
        assert_eq!(released.stdout, "schedules, mail and jobs go on\n");
    })
    .await;
    let records = elsewhere.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    let record = records.iter().find(|event| event["type"] == "EffectsReleased").unwrap().to_string();
    assert!(record.contains("ada") && record.contains("not seen leaving"), "{record}");
    assert_eq!(elsewhere.run(&["effects", "status"]).await.expect(0).stdout, "not held\n");
    assert!(elsewhere.run(&["effects", "release", "--yes"]).await.expect(1).stderr.contains("are not held"));
    // One who was released stays so, also after kill -9.
    second.stop(Signal::KILL).await;
    let second = elsewhere.serve().await;
    assert_eq!(effects(&second).await, "ok");
    second.stop(Signal::TERM).await.expect(0);
    assert_eq!(effects(&first).await, "ok");
    first.stop(Signal::TERM).await.expect(0);
    drop((at_copy, behind, home, elsewhere, database));
    server.stop().await;
}

#[tokio::test]
async fn what_is_said_to_be_restored_is_held_until_an_admin_releases_it() {
    let database = Database::new().await;
    let home = home_of(database.url(), database.encryption_key());
    // It was stopped in order: nothing tells that this is a copy, but that it is said.
    home.serve().await.stop(Signal::TERM).await.expect(0);
    let plain = home.serve().await;
    assert_eq!(effects(&plain).await, "ok");
    let refused = admin(&plain).await.post("/api/effects/release", Value::Null).await.expect(409);
    assert_eq!(refused.str("code"), "not_held");
    plain.stop(Signal::TERM).await.expect(0);
    let serving = Serving::of(home.start(&["serve", "--restored"])).await;
    assert!(serving.process.stdout().contains("HELD"), "{}", serving.process.stdout());
    let mut on = database.connect().await;
    held_until(&home, &serving, &mut on, async |client: &Client| {
        client.post("/api/effects/release", Value::Null).await.expect(204);
    })
    .await;
    serving.stop(Signal::TERM).await.expect(0);

    let home = home.with("RESTORED", "true");
    let first = home.serve().await;
    // Of two nodes each follows what was said to the other.
    let second = home.serve().await;
    assert_eq!((effects(&first).await, effects(&second).await), (json!("held"), json!("held")));
    admin(&first).await.post("/api/effects/release", Value::Null).await.expect(204);
    eventually("the other node follows", async || (effects(&second).await == "ok").then_some(())).await;
    first.stop(Signal::TERM).await.expect(0);
    second.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn the_folder_of_a_private_server_may_be_moved_and_its_copy_is_held() {
    let home = Home::new();
    let serving = home.serve().await;
    eventually("it is known where the node runs", async || {
        let ended = home.run(&["effects", "status", "--json"]).await.expect(0);
        (ended.json_lines()[0]["held"] == false).then_some(())
    })
    .await;
    serving.stop(Signal::KILL).await;
    home.is_quiet().await;
    let other = Home::new();
    let copied = Command::new("cp").arg("-a").arg(home.data()).arg(other.data()).status().unwrap();
    assert!(copied.success());
    let serving = other.serve().await;
    let banner = serving.process.stdout();
    assert!(banner.contains("HELD") && banner.contains("in another folder"), "{banner}");
    serving.stop(Signal::TERM).await.expect(0);

    let moved = Home::new();
    fs::rename(home.data(), moved.data()).unwrap();
    let serving = moved.serve().await;
    assert_eq!(effects(&serving).await, "ok", "{}", serving.process.stdout());
    serving.stop(Signal::TERM).await.expect(0);
}
