//! The list of workers, draining them, and what a worker is told to run.

use std::net::SocketAddr;

use serde_json::json;
use tests::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::nodes::{edge, sql, worker};
use super::*;
use crate::http::support::{audited, said};

const KINDS: &str = r#"
[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1

[jobs.nothing]
command = ["true"]
"#;

fn nothing() -> Value {
    json!({"kind": "nothing"})
}

async fn workers(client: &Client) -> Vec<Value> {
    client.get("/api/workers").await.expect(200).json["items"].as_array().unwrap().clone()
}

/// The worker of this name once `wanted` says so.
async fn listed(what: &str, client: &Client, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        workers(client).await.into_iter().find(|worker| worker["name"] == name && wanted(worker))
    })
    .await
}

/// The names on the list once there are so many.
async fn names(client: &Client, count: usize) -> Vec<String> {
    eventually(&format!("{count} workers"), async || {
        let all = workers(client).await;
        let names = all.iter().map(|worker| worker["name"].as_str().unwrap().to_owned());
        (all.len() == count).then(|| names.collect())
    })
    .await
}

#[tokio::test]
async fn each_worker_is_listed_with_its_host_kinds_and_load() {
    let app = edge(KINDS).await;
    let viewer = app.viewer();
    assert_eq!(workers(&viewer).await, [] as [Value; 0]);
    let one = worker(&app, KINDS, 3).await;
    let first = names(&viewer, 1).await.remove(0);
    let setup = Setup::default().kinds(KINDS).with("WORKER_CONCURRENCY", 7).with("WORKER_KINDS", "nothing");
    let two = app.another_node(setup).await;
    let second = names(&viewer, 2).await.into_iter().find(|name| *name != first).unwrap();
    let path = queue(&app.operator(), script(&format!("echo up; {}", wait_for("go")))).await;
    printed(&app.operator(), &path, "up").await;
    let busy = listed("a beat that tells its load", &viewer, &first, |worker| worker["running"] == 1).await;
    assert_eq!((&busy["concurrency"], &busy["kinds"]), (&json!(3), &json!(["nothing", "shell"])));
    assert_eq!((&busy["pid"], &busy["state"]), (&json!(std::process::id()), &json!("working")));
    assert_eq!(busy["version"], env!("CARGO_PKG_VERSION"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(busy["host"], host.trim());
    assert_eq!(app.operator().get(&path).await.expect(200).str("worker"), first);
    let idle = listed("the other", &viewer, &second, |_| true).await;
    assert_eq!((&idle["concurrency"], &idle["kinds"]), (&json!(7), &json!(["nothing"])));
    let beat = idle["last_beat_at"].as_str().unwrap().to_owned();
    assert!(idle["started_at"].as_str().unwrap() <= beat.as_str());
    listed("another beat", &viewer, &second, |worker| worker["last_beat_at"].as_str().unwrap() > &*beat)
        .await;
    open_gate(&app, "go");
    ended(&app.operator(), &path).await;
    // Who stops in order leaves the list; who is given up stays for a while, and says so.
    two.stop().await;
    assert_eq!(names(&viewer, 1).await, std::slice::from_ref(&first));
    let lost = "insert into workers (name, host, pid, version, kinds, concurrency, lost) \
                values ('gone', 'elsewhere', 1, '0', '{}', 1, true)";
    sql(&app, lost).await;
    assert_eq!(listed("the lost one", &viewer, "gone", |_| true).await["state"], "lost");
    app.anon().get("/api/workers").await.expect(401);
    one.stop().await;
}

#[tokio::test]
async fn a_drained_worker_takes_no_more_but_ends_what_it_has_and_may_be_resumed() {
    let app = edge(KINDS).await;
    let (operator, admin) = (app.operator(), app.admin());
    let node = worker(&app, KINDS, 4).await;
    let name = names(&operator, 1).await.remove(0);
    let running = queue(&operator, script(&format!("echo up; {}", wait_for("go")))).await;
    printed(&operator, &running, "up").await;
    admin.post(&format!("/api/workers/{name}/drain"), json!({})).await.expect(204);
    let told = listed("its drain", &operator, &name, |worker| worker["state"] == "draining").await;
    // It hears of it with a beat of its own, which comes after this one at the latest.
    let beat = |worker: &Value| worker["last_beat_at"].as_str().unwrap().to_owned();
    let heard = listed("a beat", &operator, &name, |worker| beat(worker) > beat(&told)).await;
    listed("one more", &operator, &name, |worker| beat(worker) > beat(&heard)).await;
    let waiting = queue(&operator, nothing()).await;
    open_gate(&app, "go");
    assert_eq!(ended(&operator, &running).await.str("status"), "completed");
    let job = operator.get(&waiting).await.expect(200);
    assert_eq!((job.str("status"), &job.json["waiting"]["for"]), ("pending", &json!("worker")));
    assert_eq!(job.json["waiting"]["detail"], "no worker runs the kind nothing");
    // Another one does what it leaves.
    let other = worker(&app, KINDS, 1).await;
    let job = ended(&operator, &waiting).await;
    assert!(job.str("status") == "completed" && job.str("worker") != name, "{}", job.text);
    other.stop().await;
    let waiting = queue(&operator, nothing()).await;
    admin.post(&format!("/api/workers/{name}/resume"), json!({})).await.expect(204);
    let job = ended(&operator, &waiting).await;
    assert_eq!((job.str("status"), job.str("worker")), ("completed", name.as_str()));
    let records = audited(&app, &admin, "type=WorkerDrained").await;
    let said: Vec<_> = records.iter().map(|event| (said(event, "worker"), said(event, "draining"))).collect();
    assert_eq!(said, [(&json!(name), &json!(false)), (&json!(name), &json!(true))]);
    assert_eq!(records[0]["actor"], format!("user:{}", app.people.admin));
    node.stop().await;
}

#[tokio::test]
async fn only_the_admin_drains_and_only_what_there_is() {
    let app = edge(KINDS).await;
    let node = worker(&app, KINDS, 1).await;
    let name = names(&app.viewer(), 1).await.remove(0);
    for verb in ["drain", "resume"] {
        let path = format!("/api/workers/{name}/{verb}");
        for client in [app.owner(), app.operator(), app.viewer(), app.auditor(), app.other_team()] {
            client.post(&path, json!({})).await.expect(403);
        }
        app.anon().post(&path, json!({})).await.expect(401);
        for none in ["none-such", "a%00", "a%0Ab", &"x".repeat(301)] {
            let unknown = app.admin().post(&format!("/api/workers/{none}/{verb}"), json!({})).await;
            assert_eq!(unknown.expect(404).str("code"), "worker_not_found", "{none}");
        }
    }
    sql(&app, "update workers set lost = true").await;
    // It goes on under another name, and nobody drains the dead.
    app.admin().post(&format!("/api/workers/{name}/drain"), json!({})).await.expect(404);
    assert_eq!(audited(&app, &app.admin(), "type=WorkerDrained").await.len(), 0);
    node.stop().await;
}

#[tokio::test]
async fn who_was_given_up_while_it_was_drained_is_drained_under_its_new_name_too() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let node = worker(&app, KINDS, 1).await;
    let name = names(&operator, 1).await.remove(0);
    app.admin().post(&format!("/api/workers/{name}/drain"), json!({})).await.expect(204);
    let beat = |worker: &Value| worker["last_beat_at"].as_str().unwrap().to_owned();
    let told = listed("its drain", &operator, &name, |worker| worker["state"] == "draining").await;
    let heard = listed("a beat", &operator, &name, |worker| beat(worker) > beat(&told)).await;
    listed("one more", &operator, &name, |worker| beat(worker) > beat(&heard)).await;
    sql(&app, "update workers set lost = true").await;
    let other = names(&operator, 2).await.into_iter().find(|other| *other != name).unwrap();
    assert_eq!(listed("itself again", &operator, &other, |_| true).await["state"], "draining");
    let path = queue(&operator, nothing()).await;
    assert_eq!(
        operator.get(&path).await.expect(200).json["waiting"]["detail"],
        "no worker runs the kind nothing"
    );
    app.admin().post(&format!("/api/workers/{other}/resume"), json!({})).await.expect(204);
    assert_eq!(ended(&operator, &path).await.str("worker"), other);
    node.stop().await;
}

#[tokio::test]
async fn a_worker_runs_only_the_kinds_it_is_given() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let only = |kinds: &'static str| Setup::default().kinds(KINDS).with("WORKER_KINDS", kinds);
    let one = app.another_node(only("nothing")).await;
    let first = names(&operator, 1).await.remove(0);
    let urgent = queue(&operator, with(script("true"), json!({"priority": 9}))).await;
    for _ in 0..5 {
        assert_eq!(run(&operator, nothing()).await.1.str("worker"), first);
    }
    let job = operator.get(&urgent).await.expect(200);
    assert_eq!(
        (job.str("status"), job.json["waiting"]["detail"].as_str()),
        ("pending", Some("no worker runs the kind shell"))
    );
    let two = app.another_node(only("shell")).await;
    let job = ended(&operator, &urgent).await;
    assert!(job.str("status") == "completed" && job.str("worker") != first, "{}", job.text);
    one.stop().await;
    two.stop().await;
}

/// Stops the node beside the test, and waits until it has heard of it.
async fn stopping(node: TestApp) -> tokio::task::JoinHandle<()> {
    let address = node.address;
    let stop = tokio::spawn(node.stop());
    eventually("it is not ready any more", async || (!is_ready(address).await).then_some(())).await;
    stop
}

/// Also no: it does not listen.
async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await;
    asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.contains(" 200 ")
}

#[tokio::test]
async fn what_ends_while_its_worker_drains_is_done_and_the_rest_is_handed_back() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let setup = |seconds: u32| Setup::default().kinds(KINDS).with("WORKER_DRAIN_SECONDS", seconds);
    let patient = app.another_node(setup(50)).await;
    let path = queue(&operator, script(&format!("echo up; {}", wait_for("go")))).await;
    printed(&operator, &path, "up").await;
    let stop = stopping(patient).await;
    let late = queue(&operator, nothing()).await;
    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(1)));
    stop.await.unwrap();
    assert_eq!(operator.get(&late).await.expect(200).str("status"), "pending", "it took no more");

    let hasty = app.another_node(setup(1)).await;
    assert_eq!(ended(&operator, &late).await.str("status"), "completed");
    let path = queue(&operator, script("echo up; [ $DAYBOOK_ATTEMPT = 2 ] || exec sleep 600")).await;
    printed(&operator, &path, "up").await;
    stopping(hasty).await.await.unwrap();
    assert_eq!(events(&app, &path).await, ["JobQueued", "JobStarted", "JobHandedBack"]);
    let next = worker(&app, KINDS, 1).await;
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
    next.stop().await;
}
