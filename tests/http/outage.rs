//! PostgreSQL fails while Daybook serves: refusals that say so, a cause in the log, recovery without a restart.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::Executor as _;
use tests::{Reply, Server, Setup, TestApp, eventually, on_tables};

use super::log;
use super::support::{count, keep, problem};

/// The lines of the log that speak of a request and are more than news.
fn logged(request_id: &str) -> Vec<String> {
    let log = log::text();
    let lines = log.lines().filter(|line| line.contains(request_id) && !line.contains("\"level\":\"INFO\""));
    lines.map(str::to_owned).collect()
}

/// Makes sure of a 503 that tells when to come back and nothing of the inside, and of its cause in the log.
#[track_caller]
fn unavailable(reply: &Reply) {
    problem(reply, 503, reply.str("code"));
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1, "{:?}", reply.headers);
    for inside in ["sqlx", "os error", "socket", "postgres", "No space", "lock"] {
        assert!(!reply.text.to_lowercase().contains(inside), "{}", reply.text);
    }
    let lines = logged(reply.str("request_id"));
    let caused = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["fields"]["cause"].as_str().is_some_and(|cause| cause.len() > 10)
    };
    assert!(lines.iter().any(caused), "no cause in the log: {lines:?} for {}", reply.text);
}

async fn serves_again(app: &TestApp, name: &str) {
    eventually("a write", async || {
        let reply = app.operator().post("/api/secrets", json!({"name": name, "value": "v"})).await;
        // An answer that was lost may stand for a write that was not.
        (reply.status == 201 || reply.str("code") == "name_taken").then_some(())
    })
    .await;
    eventually("readiness", async || (app.anon().get("/readyz").await.status == 200).then_some(())).await;
    let list = app.operator().get("/api/secrets?limit=200").await.expect(200);
    assert!(list.text.contains(name));
}

#[tokio::test]
async fn without_its_database_it_says_so_and_goes_on_when_it_is_back() {
    log::keep();
    let server = Server::start("outage").await;
    let app = TestApp::on_database(server.database().await).await;
    let secret = keep(&app.operator(), "db").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    let folder = server.stop().await;

    let operator = app.operator();
    let login = json!({"email": "owner@example.org", "password": tests::PASSWORD});
    let anon = app.anon();
    let ready = eventually("unreadiness", async || {
        let reply = anon.get("/readyz").await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    problem(&ready, 503, "not_ready");
    let value = format!("{path}/value");
    let (list, write, reveal, events, sign_in) = tokio::join!(
        operator.get("/api/secrets"),
        operator.post("/api/secrets", json!({"name": "lost", "value": "v"})),
        operator.get(&value),
        operator.get("/api/audit/events"),
        anon.post("/api/auth/login", login),
    );
    [&list, &write, &reveal, &events, &sign_in].into_iter().for_each(unavailable);
    assert!(!reveal.text.contains("value of db"));
    let health = anon.get("/api/health").await.expect(503);
    assert_eq!((health.str("status"), health.str("database")), ("failing", "unavailable"));
    anon.get("/livez").await.expect(200);
    anon.get("/openapi.json").await.expect(200);
    // What is wrong with a request is still told: that needs no database.
    problem(&anon.get("/api/secrets").await, 401, "unauthorized");

    let server = Server::start_again(folder).await;
    serves_again(&app, "after").await;
    let seen = operator.get(&path).await.expect(200);
    assert_eq!(seen.str("name"), "db");
    assert_eq!(operator.get(&value).await.expect(200).str("value"), "value of db");
    app.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_server() {
    log::keep();
    let server = Server::start("killed").await;
    let app = TestApp::on_database(server.database().await).await;
    keep(&app.operator(), "before").await;
    let pid = server.pid().unwrap();
    // Eight writers who do not wait for each other, and the kill amid their writes.
    let write = |n: usize| {
        let operator = app.operator();
        async move {
            let mut stored = vec![];
            for round in 0..12 {
                let name = format!("w{n}-{round}");
                let reply = operator.post("/api/secrets", json!({"name": name, "value": name})).await;
                match reply.status {
                    201 => stored.push((name, reply.str("id").to_owned())),
                    // The write is done; the answer could not be read back.
                    504 => {}
                    _ => unavailable(&reply),
                }
            }
            stored
        }
    };
    let kill = async {
        eventually("some writes", async || (app.ledger.head().await.unwrap_or(0) > 40).then_some(())).await;
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    };
    let (stored, ()) = tokio::join!(join_all((0..8).map(write)), kill);
    serves_again(&app, "after").await;
    assert_ne!(server.pid(), Some(pid));
    let reader = app.operator().with_header("daybook-position", app.ledger.head().await.unwrap());
    for (name, id) in stored.into_iter().flatten() {
        let value = reader.get(&format!("/api/secrets/{id}/value")).await.expect(200);
        assert_eq!(value.str("value"), name);
    }
    let gaps = "select max(position) - count(*) from events";
    assert_eq!(count(&app, gaps).await, 0);
    app.stop().await;
    server.stop().await;
}

/// Batches of views are committed without waiting for the disk, so a crash of the server takes some of them back.
#[tokio::test]
async fn after_a_crash_of_the_server_no_read_is_older_than_its_position() {
    log::keep();
    let server = Server::start("taken-back").await;
    let app = TestApp::on_database(server.database().await).await;
    let secret = keep(&app.operator(), "db").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    for round in 0..3 {
        let pid = server.pid().unwrap();
        let mut last = None;
        for write in 0..8 {
            let body = json!({"value": format!("{round}-{write}")});
            let written = app.operator().put(&format!("{path}/value"), body).await.expect(200);
            last = Some((written.header("daybook-position").to_owned(), format!("{round}-{write}")));
        }
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        let (position, value) = last.unwrap();
        let reader = app.operator().with_header("daybook-position", &position);
        let seen = eventually("a read", async || {
            let value = format!("{path}/value");
            let (one, list) = tokio::join!(reader.get(&value), reader.get("/api/secrets?prefix=db"));
            if list.status == 200 {
                assert_eq!(list.json["items"][0]["version"], round * 8 + 9, "an older list");
            }
            (one.status == 200).then_some(one)
        })
        .await;
        assert_eq!(seen.str("value"), value, "an older value");
        serves_again(&app, &format!("after-{round}")).await;
    }
    app.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_write_whose_answer_cannot_be_made_is_told_as_done() {
    let setup = Setup::default().kinds("[jobs.noop]\ndescription = \"Nothing\"\ncommand = [\"true\"]\n");
    let app = TestApp::with(setup).await;
    let cases = [
        ("jobs", "/api/jobs", json!({"kind": "noop"}), "JobQueued"),
        ("secrets", "/api/secrets", json!({"name": "db", "value": "v"}), "SecretStored"),
    ];
    for (view, path, body, event) in cases {
        // The table goes from under the view; each request still finds what it needs in others.
        let drop_table = on_tables(&format!("drop table {view} cascade"));
        app.database.connect().await.execute(drop_table.as_str()).await.unwrap();
        let reply = app.operator().post(path, body).await;
        problem(&reply, 503, "done_not_shown");
        let position: i64 = reply.header("daybook-position").parse().unwrap();
        let stored =
            format!("select count(*) from events where event_type = '{event}' and position <= {position}");
        assert_eq!(count(&app, &stored).await, 1, "{}", reply.text);
        app.projections.rebuild(view, |_| {}).await.unwrap();
        eventually("the list", async || {
            let list = app.operator().with_header("daybook-position", position.to_string()).get(path).await;
            (list.status == 200 && list.json["items"].as_array().unwrap().len() == 1).then_some(())
        })
        .await;
    }
}

/// A file system of one mebibyte, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(path: PathBuf, owner: &fs::Metadata) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let options = format!("size=1m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) { Some(Self(path)) } else { None }
    }

    /// Leaves no room.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn move_events_to(app: &TestApp, disk: &Path) {
    let mut connection = app.database.connect().await;
    let make = format!("create tablespace small location '{}'", disk.display());
    for sql in [make.as_str(), "alter table events set tablespace small"] {
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_room() {
    log::keep();
    let server = Server::start("full").await;
    let cluster = server.cluster().to_owned();
    let Some(disk) = SmallDisk::mount(cluster.join("small"), &fs::metadata(cluster.join("data")).unwrap())
    else {
        eprintln!("not tried: a full disk; this process may not mount one");
        server.stop().await;
        return;
    };
    let app = TestApp::on_database(server.database().await).await;
    keep(&app.operator(), "before").await;
    move_events_to(&app, &disk.0).await;
    let mut stored = vec![keep(&app.operator(), "moved").await];
    let filler = disk.fill();
    let operator = app.operator();
    let refused = eventually("the end of the room", async || {
        let name = format!("w{}", stored.len());
        let reply = operator.post("/api/secrets", json!({"name": name, "value": name})).await;
        if reply.status == 201 {
            stored.push(reply);
            return None;
        }
        Some(reply)
    })
    .await;
    unavailable(&refused);
    problem(&refused, 503, "database_full");
    assert!(refused.str("detail").contains("Nothing was done"), "{}", refused.text);
    assert!(logged(refused.str("request_id")).iter().any(|line| line.contains("no space left")));
    assert!(log::text().contains("No space left on device"), "what the server said is in the log");
    // Reading goes on, but for what must be recorded.
    let path = format!("/api/secrets/{}", stored[0].str("id"));
    operator.get(&path).await.expect(200);
    // A record is smaller than a secret: some may still fit.
    let refused = eventually("the end of the last page", async || {
        let reply = operator.get(&format!("{path}/value")).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    problem(&refused, 503, "not_recorded");

    fs::remove_file(filler).unwrap();
    serves_again(&app, "after").await;
    for secret in &stored {
        operator.get(&format!("/api/secrets/{}/value", secret.str("id"))).await.expect(200);
    }
    let listed = count(&app, "select count(*) from events where event_type = 'SecretStored'").await;
    assert_eq!(listed, 1 + stored.len() as i64 + 1, "what was refused was not stored");
    app.stop().await;
    server.stop().await;
}
