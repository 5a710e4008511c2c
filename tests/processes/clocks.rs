//! Nodes and databases whose clocks are wrong: real processes with a shifted time of day.

use chrono::{DateTime, TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::json;
use tests::{Client, Database, FalseClock, Reply, eventually};

use super::home::{Home, Serving};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

const KINDS: &str = r#"
[jobs.echo]
command = ["sh", "-c", "echo hello"]
[jobs.stubborn]
command = ["sh", "-c", "echo $$ >> pids; [ $DAYBOOK_ATTEMPT = 1 ] && exec sleep 600; true"]
[jobs.flaky]
command = ["sh", "-c", "[ $DAYBOOK_ATTEMPT = 1 ] && exit 1; true"]
retry_delay_seconds = 1
"#;

/// Nodes with these clocks, in seconds ahead of the database's, on one database; all work.
async fn nodes(ahead: [i64; 2]) -> (Database, [(Home, FalseClock); 2], [Serving; 2]) {
    let database = Database::new().await;
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, database.encryption_key());
    let home = |ahead| {
        let home = Home::new().file(KINDS).with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", &key);
        let home = home.with("JWT_SECRET", "the tests' own secret, of more than 32 characters");
        let clock = FalseClock::new(home.path(), "node", ahead);
        let [(preload, library), (variable, file)] = clock.environment();
        (home.with(preload, library).with(variable, file), clock)
    };
    let [one, two] = [home(ahead[0]), home(ahead[1])];
    // The first makes the admin.
    let first = one.0.serve().await;
    let second = two.0.serve().await;
    (database, [one, two], [first, second])
}

/// A private server that goes by a clock of its own, and a node that uses it.
async fn false_database(ahead: i64) -> (Home, FalseClock, Serving) {
    let home = Home::new().file(KINDS).with("ACCESS_TOKEN_MINUTES", 15);
    let clock = FalseClock::new(home.path(), "database", ahead);
    let home = home.with("PATH", clock.path_of_postgres());
    let node = home.serve().await;
    (home, clock, node)
}

async fn completed(client: &Client, id: &str) -> Reply {
    eventually("the job is done", async || {
        let job = client.get(&format!("/api/jobs/{id}")).await.expect(200);
        assert_ne!(job.str("status"), "failed", "{}", job.text);
        (job.str("status") == "completed").then_some(job)
    })
    .await
}

async fn run(client: &Client, kind: &str) -> Reply {
    let queued = client.post("/api/jobs", json!({"kind": kind})).await.expect(201);
    completed(client, queued.str("id")).await
}

/// How far the node is ahead of the database, as it measures it.
async fn skew(node: &Serving) -> f64 {
    let text = node.anon().get("/metrics").await.expect(200).text;
    let line = text.lines().find(|line| line.starts_with("clock_skew_seconds ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn moment(reply: &Reply, field: &str) -> DateTime<Utc> {
    reply.str(field).parse().unwrap()
}

#[tokio::test]
async fn nodes_whose_clocks_differ_by_hours_work_together() {
    // 30 seconds would do for a user to notice; hours leave no doubt within a test's patience.
    for ahead in [[2 * HOUR, -2 * HOUR], [-400 * DAY, 400 * DAY]] {
        let (_database, _homes, [one, two]) = nodes(ahead).await;
        let admin = one.admin.clone().unwrap();
        for (signs_in, other) in [(&one, &two), (&two, &one)] {
            let here = signs_in.sign_in(&admin).await;
            let there = here.speaking_to(other.address);
            // What is shown as just made can be asked for as of that moment, anywhere.
            let made = here
                .post("/api/secrets", json!({"name": format!("s{}", signs_in.address.port()), "value": "v"}))
                .await;
            let made = made.expect(201);
            let state =
                format!("/api/audit/secret/{}/state?as_of={}", made.str("id"), made.str("created_at"));
            there.get(&state).await.expect(200);
            here.get(&state).await.expect(200);
            let future = made.str("created_at").parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(30);
            let future = future.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            for client in [&here, &there] {
                let state = format!("/api/audit/secret/{}/state?as_of={future}", made.str("id"));
                client.get(&state).await.expect(422);
            }
            // What is to run now runs now.
            let job = run(&there, "echo").await;
            let late = moment(&job, "run_at") - moment(&job, "created_at");
            assert!(late.abs() < TimeDelta::minutes(5), "{late}: {}", job.text);
            let retried = run(&here, "flaky").await;
            assert_eq!(retried.json["attempt"], 2);
            let logs = there.get(&format!("/api/jobs/{}/logs", job.str("id"))).await.expect(200);
            let at: DateTime<Utc> = logs.json["items"][0]["at"].as_str().unwrap().parse().unwrap();
            assert!((at - moment(&job, "created_at")).abs() < TimeDelta::minutes(5), "{}", logs.text);
            // What ends ends by the one clock.
            let end = moment(&made, "created_at") + TimeDelta::minutes(30);
            let key = json!({"name": "k", "scopes": ["secrets:list"], "expires_at": end});
            let key = here.post("/api/auth/api-keys", key).await.expect(201);
            for node in [signs_in, other] {
                Client::new(node.address, Some(key.str("key").to_owned()))
                    .get("/api/secrets")
                    .await
                    .expect(200);
            }
            let past = moment(&made, "created_at") - TimeDelta::minutes(30);
            let key = json!({"name": "k", "scopes": ["secrets:list"], "expires_at": past});
            there.post("/api/auth/api-keys", key).await.expect(422);
            let views = there.get("/api/projections").await.expect(200);
            for view in views.json["items"].as_array().unwrap() {
                let (behind, rate) = (&view["behind_seconds"], view["events_per_second"].as_f64().unwrap());
                assert!(behind.as_f64().unwrap() < 300.0 && (0.0..1e6).contains(&rate), "{view}");
            }
        }
        for (node, ahead) in [(&one, ahead[0]), (&two, ahead[1])] {
            let measured = skew(node).await;
            assert!((measured - ahead as f64).abs() < 60.0, "{measured} for {ahead}");
        }
        for node in [one, two] {
            let ended = node.stop(Signal::TERM).await.expect(0);
            assert!(ended.stderr.contains("clock and the database's differ"), "{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_set_while_it_runs_goes_on_as_before() {
    let (_database, homes, [one, two]) = nodes([0, 0]).await;
    let clock = &homes[0].1;
    let client = one.sign_in(one.admin.as_ref().unwrap()).await;
    run(&client, "echo").await;
    for ahead in [2 * HOUR, -10 * 60, 3 * DAY, 0] {
        clock.set(ahead);
        // The token from before, and one from now.
        run(&client, "echo").await;
        let again = one.sign_in(one.admin.as_ref().unwrap()).await;
        run(&again.speaking_to(two.address), "flaky").await;
        eventually("the difference is measured", async || {
            ((skew(&one).await - ahead as f64).abs() < 60.0).then_some(())
        })
        .await;
    }
    for node in [one, two] {
        node.stop(Signal::TERM).await.expect(0);
    }
}

#[tokio::test]
async fn a_node_far_ahead_removes_nothing_early() {
    let (_database, [(one, clock), two], [first, second]) = nodes([0, 0]).await;
    let client = first.sign_in(first.admin.as_ref().unwrap()).await;
    let job = run(&client, "echo").await;
    let admin = first.admin.clone().unwrap();
    first.stop(Signal::TERM).await.expect(0);
    second.stop(Signal::TERM).await.expect(0);
    drop(two);
    clock.set(400 * DAY);
    let one = one.with("JOB_RETENTION_DAYS", 1);
    let ahead = one.serve().await;
    eventually("a round of retention", async || {
        let text = ahead.anon().get("/metrics").await.expect(200).text;
        text.lines().any(|line| line.starts_with("job_retention_rounds_total ")).then_some(())
    })
    .await;
    let client = ahead.sign_in(&admin).await;
    let logs = client.get(&format!("/api/jobs/{}/logs", job.str("id"))).await.expect(200);
    assert_eq!(logs.json["items"].as_array().unwrap().len(), 1, "{}", logs.text);
    ahead.stop(Signal::TERM).await.expect(0);
}

/// A time by the database's clock: of something that was just recorded there.
async fn recorded(client: &Client, name: &str) -> Reply {
    client.post("/api/secrets", json!({"name": name, "value": "v"})).await.expect(201)
}

#[tokio::test]
async fn a_database_whose_clock_is_set_while_nodes_run_breaks_nothing() {
    let (home, clock, node) = false_database(0).await;
    let admin = node.admin.clone().unwrap();
    let mut client = node.sign_in(&admin).await;
    let (mut number, mut last) = (0, 0);
    // Back by ten minutes and by two hours, forward, and back again by more.
    for ahead in [0, -10 * 60, -2 * HOUR, 3 * HOUR, -5 * HOUR, 0] {
        run(&client, "echo").await;
        clock.set(ahead);
        number += 1;
        // Before it is noticed as well as after.
        node.anon().get("/readyz").await.expect(200);
        eventually("the node notices", async || {
            ((skew(&node).await + ahead as f64).abs() < 60.0).then_some(())
        })
        .await;
        let signed_in = node.sign_in(&admin).await;
        // Nothing that is read stands still: the write is read with its position.
        let made = recorded(&signed_in, &format!("after-{number}")).await;
        let position: i64 = made.header("daybook-position").parse().unwrap();
        assert!(position > last, "{position} after {last}");
        last = position;
        let waits = signed_in.with_header("daybook-position", position);
        waits.get("/api/secrets").await.expect(200);
        let audit = waits.get("/api/audit/events?aggregate_type=secret&limit=1").await.expect(200);
        assert_eq!(audit.json["items"][0]["aggregate_id"], made.str("id"), "{}", audit.text);
        let state = format!("/api/audit/secret/{}/state?as_of={}", made.str("id"), made.str("created_at"));
        signed_in.get(&state).await.expect(200);
        run(&signed_in, "echo").await;
        run(&signed_in, "flaky").await;
        for view in signed_in.get("/api/projections").await.expect(200).json["items"].as_array().unwrap() {
            let rate = view["events_per_second"].as_f64().unwrap();
            assert!(view["state"] == "live" && (0.0..1e6).contains(&rate), "{ahead}: {view}");
        }
        node.anon().get("/readyz").await.expect(200);
        client = signed_in;
    }
    node.stop(Signal::TERM).await.expect(0);
    drop(home);
}

#[tokio::test]
async fn tokens_from_before_the_clock_was_set_back_are_refused_with_a_hint_and_refreshed() {
    let (_home, clock, node) = false_database(0).await;
    let (email, password) = node.admin.clone().unwrap();
    let body = json!({"email": email, "password": password});
    let tokens = node.anon().post("/api/auth/login", body.clone()).await.expect(200);
    let client = Client::new(node.address, Some(tokens.str("access_token").to_owned()));
    client.get("/api/auth/me").await.expect(200);
    clock.set(-2 * HOUR);
    let refused = eventually("the clock is noticed", async || {
        let reply = client.get("/api/auth/me").await;
        (reply.status == 401).then_some(reply)
    })
    .await;
    assert!(refused.str("detail").contains("clock_skew_seconds"), "{}", refused.text);
    let refreshed = json!({"refresh_token": tokens.str("refresh_token")});
    let refreshed = node.anon().post("/api/auth/refresh", refreshed).await.expect(200);
    client.with_token(refreshed.str("access_token")).get("/api/auth/me").await.expect(200);
    // Forward again: tokens end, sessions go on.
    clock.set(2 * HOUR);
    let fresh = json!({"refresh_token": refreshed.str("refresh_token")});
    let fresh = node.anon().post("/api/auth/refresh", fresh).await.expect(200);
    client.with_token(fresh.str("access_token")).get("/api/auth/me").await.expect(200);
    node.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn what_was_held_before_the_clock_was_set_back_is_taken_up_after_it() {
    let (home, clock, node) = false_database(0).await;
    let admin = node.admin.clone().unwrap();
    let client = node.sign_in(&admin).await;
    let job = client.post("/api/jobs", json!({"kind": "stubborn"})).await.expect(201);
    let pids = || std::fs::read_to_string(home.path().join("pids")).unwrap_or_default();
    eventually("the job runs", async || pids().ends_with('\n').then_some(())).await;
    // A worker, a holder of reactors and of mails that is gone, and a clock that is behind all they have written.
    node.stop(Signal::KILL).await;
    clock.set(-2 * HOUR);
    home.is_quiet().await;
    let node = home.serve().await;
    let client = node.sign_in(&admin).await;
    let job = completed(&client, job.str("id")).await;
    assert_eq!(job.json["attempt"], 2);
    let invited = json!({"email": "guest@example.org", "role": "viewer"});
    client.post("/api/team/invitations", invited).await.expect(201);
    let letters = || std::fs::read_dir(home.data().join("mail")).map_or(0, Iterator::count);
    eventually("the invitation is mailed", async || (letters() > 0).then_some(())).await;
    node.stop(Signal::TERM).await.expect(0);
}
