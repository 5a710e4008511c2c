//! Types of actions that are added, and what kinds say of themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use commands::jobs::action::{Action, Actions, BoxFuture, Run};
use commands::jobs::process::{Ending, Finished};
use commands::jobs::{ArgProblem, Reading, Values};
use serde_json::json;
use tests::{Setup, TestApp};

use super::*;

/// From now on checking whether one may greet the ghost panics: a worker does so again before it runs what was queued.
static HAUNTED: AtomicBool = AtomicBool::new(false);

/// The one file: an action that greets somebody, or waits, or fails badly.
#[derive(Debug)]
struct Greet {
    greeting: String,
}

impl Action for Greet {
    fn check(&self, values: &Values) -> Vec<ArgProblem> {
        assert!(values.text("whom") != Some("the ghost") || !HAUNTED.load(Ordering::SeqCst), "boo");
        let unknown = values.text("whom") == Some("nobody");
        unknown.then(|| ArgProblem::new("whom", "is not here")).into_iter().collect()
    }

    fn outline(&self, values: &Values) -> Vec<String> {
        vec![self.greeting.clone(), values.text("whom").unwrap_or_default().to_owned()]
    }

    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, Finished> {
        Box::pin(async move {
            let work = async {
                let whom = run.values.text("whom").unwrap_or_default();
                run.say(format!("{} {whom}", self.greeting)).await;
                match whom {
                    "everybody" => std::future::pending().await,
                    "the dead" => panic!("they do not answer"),
                    _ => {}
                }
                let result = Some(json!({"greeted": whom, "attempt": run.attempt}));
                Finished {
                    result: result.map(Into::into),
                    ..Finished::without_process(Ending::Exited { code: 0 })
                }
            };
            run.until_stopped(work).await
        })
    }
}

fn read(reading: &mut Reading<'_, '_>) -> Option<Arc<dyn Action>> {
    Some(Arc::new(Greet { greeting: reading.text("greeting")? }))
}

const KINDS: &str = r#"
[jobs.greet]
type = "greet"
greeting = "hello"
params.whom.type = "string"
max_attempts = 1
"#;

/// A node that can greet: the one line.
async fn greeting_app() -> TestApp {
    TestApp::with(Setup::default().kinds(KINDS).actions(Actions::built_in().with("greet", read))).await
}

fn greet(whom: &str) -> Value {
    json!({"kind": "greet", "args": {"whom": whom}})
}

#[tokio::test]
async fn a_type_that_is_one_file_and_one_line_runs_jobs() {
    let app = greeting_app().await;
    let operator = app.operator();
    let (path, job) = run(&operator, greet("world")).await;
    assert_eq!(
        (job.str("status"), &job.json["result"]),
        ("completed", &json!({"greeted": "world", "attempt": 1}))
    );
    assert_eq!(texts(&operator, &path, "system").await, ["hello world"]);
    let refused = operator.post("/api/jobs", greet("nobody")).await.expect(422);
    assert_eq!(refused.json["errors"], json!([{"field": "args.whom", "message": "is not here"}]));
    let kinds = operator.get("/api/jobs/kinds").await.expect(200);
    assert_eq!(kinds.json["items"][0]["type"], "greet");
}

#[tokio::test]
async fn a_job_of_an_added_type_is_cancelled_and_times_out_like_any_other() {
    let app = greeting_app().await;
    let operator = app.operator();
    let path = queue(&operator, greet("everybody")).await;
    printed(&operator, &path, "hello everybody").await;
    operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert_eq!(ended(&operator, &path).await.str("status"), "cancelled");
    let (_, job) = run(&operator, with(greet("everybody"), json!({"timeout_seconds": 1}))).await;
    assert_eq!((job.str("status"), job.str("error")), ("failed", "it ran longer than 1 seconds"));
}

#[tokio::test]
async fn an_added_type_that_panics_fails_its_job_and_nothing_else() {
    let app = greeting_app().await;
    let operator = app.operator();
    let (path, job) = run(&operator, greet("the dead")).await;
    assert_eq!((job.str("status"), job.str("error")), ("failed", "it panicked"));
    assert_eq!(texts(&operator, &path, "system").await, ["hello the dead", "it panicked"]);
    let (_, job) = run(&operator, greet("world")).await;
    assert_eq!(job.str("status"), "completed");
}

#[tokio::test]
async fn an_attempt_that_panics_before_it_runs_has_failed_and_takes_no_slot() {
    let setup = Setup::default().kinds(KINDS).actions(Actions::built_in().with("greet", read));
    let app = TestApp::with(setup.with("WORKER_CONCURRENCY", 1)).await;
    let operator = app.operator();
    operator.post("/api/jobs/pause", json!({})).await.expect(200);
    let mut paths = vec![];
    for _ in 0..3 {
        paths.push(queue(&operator, greet("the ghost")).await);
    }
    HAUNTED.store(true, Ordering::SeqCst);
    operator.post("/api/jobs/resume", json!({})).await.expect(200);
    for path in paths {
        let job = ended(&operator, &path).await;
        assert_eq!((job.str("status"), job.str("error")), ("failed", "it panicked"));
    }
    let (_, job) = run(&operator, greet("world")).await;
    assert_eq!(job.str("status"), "completed");
}

#[tokio::test]
async fn a_kind_shows_what_it_says_of_its_jobs() {
    let kinds = r#"
[jobs.careful]
command = ["true"]
retry_delay_seconds = 5
retry_factor = 1.5
retry_cap_seconds = 60
retry_jitter = 0
final_exit_codes = [64, 65]
concurrency_limit = 4
unique = true
limits = { memory_mb = 512, cpu_seconds = 10, open_files = 64, file_mb = 1, processes = 8 }
output_kb = 64
artifacts_mb = 0
"#;
    let app = TestApp::with(Setup::default().kinds(kinds)).await;
    let shown = app.viewer().get("/api/jobs/kinds").await.expect(200);
    let expected = json!({"name": "careful", "type": "command", "description": "", "params": [], "secrets": {}, "timeout_seconds": 3600,
        "max_attempts": null, "retry_delay_seconds": 5, "retry_factor": 1.5, "retry_cap_seconds": 60, "retry_jitter": 0.0,
        "final_exit_codes": [64, 65], "concurrency_limit": 4, "unique": true, "output_kb": 64, "artifacts_mb": 0,
        "limits": {"memory_bytes": 536_870_912, "cpu_seconds": 10, "open_files": 64, "file_bytes": 1_048_576, "processes": 8}});
    assert_eq!(shown.json["items"], json!([expected]));
}
