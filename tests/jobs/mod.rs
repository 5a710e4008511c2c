//! Jobs over HTTP, and the workers that run them.

mod artifacts;
mod asking;
mod bulk;
mod endings;
mod fairness;
mod histories;
mod host;
mod http_circuits;
mod http_kind;
mod http_walls;
mod keys;
mod kinds;
mod large_results;
mod listed_workers;
mod listing;
mod log_chunks;
mod log_search;
mod lost;
mod many;
mod nodes;
mod outage;
mod output;
mod pausing;
mod queueing;
mod reports;
mod retention;
mod retrying;
mod schedules;
mod secrets;
mod unique;
mod watching;
mod workers;

use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};

/// Runs whatever script a test gives it, where the tests' `daybook.toml` is.
const SHELL: &str = r#"
[jobs.shell]
description = "Runs a script"
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
"#;

/// A node that runs scripts.
async fn shell_app() -> TestApp {
    TestApp::with(Setup::default().kinds(SHELL)).await
}

/// A script that is tried once.
fn script(text: &str) -> Value {
    json!({"kind": "shell", "args": {"script": text}, "max_attempts": 1})
}

/// The same with other fields too.
fn with(mut body: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut body, more) else { panic!("two objects") };
    fields.extend(more);
    body
}

/// Waits in a job's script until the test has made the file `name` beside `daybook.toml`.
fn wait_for(name: &str) -> String {
    format!("until [ -e {name} ]; do sleep 0.02; done")
}

/// Lets those go on who [`wait_for`] the file.
fn open_gate(app: &TestApp, name: &str) {
    std::fs::write(app.folder().join(name), "").unwrap();
}

/// Queues a job; its path.
async fn queue(client: &Client, body: Value) -> String {
    let job = client.post("/api/jobs", body).await.expect(201);
    format!("/api/jobs/{}", job.str("id"))
}

/// The id in a job's path.
fn id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// What `path` shows, once the views may be read: while much is being folded they answer `views_behind`.
async fn shown(client: &Client, path: &str) -> Reply {
    let reply = eventually("the views", async || {
        let reply = client.get(path).await;
        (reply.str("code") != "views_behind").then_some(reply)
    })
    .await;
    reply.expect(200)
}

/// The job once `wanted` says so.
async fn when(what: &str, client: &Client, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    eventually(what, async || {
        let job = shown(client, path).await;
        wanted(&job).then_some(job)
    })
    .await
}

/// The job once it stands so.
async fn until(client: &Client, path: &str, status: &str) -> Reply {
    when(&format!("{path} is {status}"), client, path, |job| job.str("status") == status).await
}

/// The job once nothing can happen to it any more.
async fn ended(client: &Client, path: &str) -> Reply {
    let over = |job: &Reply| ["completed", "failed", "cancelled"].contains(&job.str("status"));
    when("the job's end", client, path, over).await
}

/// A job run to its end.
async fn run(client: &Client, body: Value) -> (String, Reply) {
    let path = queue(client, body).await;
    let job = ended(client, &path).await;
    (path, job)
}

/// The job's whole log, through all pages.
async fn log(client: &Client, path: &str) -> Vec<Value> {
    let mut lines = vec![];
    let mut page = client.get(&format!("{path}/logs?limit=200")).await.expect(200);
    loop {
        lines.extend(page.json["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page.json["next"].as_str() else { return lines };
        page = client.get(&format!("{path}/logs?limit=200&cursor={next}")).await.expect(200);
    }
}

/// What the job printed on one stream.
async fn texts(client: &Client, path: &str, stream: &str) -> Vec<String> {
    let lines = log(client, path).await;
    let of_stream = lines.iter().filter(|line| line["stream"] == stream);
    of_stream.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the job has printed this.
async fn printed(client: &Client, path: &str, text: &str) {
    eventually(&format!("{path} prints {text:?}"), async || {
        log(client, path).await.iter().any(|line| line["text"] == text).then_some(())
    })
    .await;
}

/// The names of the job's events, in order.
async fn events(app: &TestApp, path: &str) -> Vec<String> {
    history(app, path).await.into_iter().map(|event| event.event_type).collect()
}

/// The job's events as the log has them.
async fn history(app: &TestApp, path: &str) -> Vec<ledger::Recorded> {
    let stream = ledger::StreamId::new("job", id(path));
    app.ledger.read_stream(&stream, 0, None, 1_000).await.unwrap()
}
