//! The ways in which a job ends.

use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::*;

const KINDS: &str = r#"
[jobs.absent]
command = ["no-such-program-anywhere"]
max_attempts = 1

[jobs.beside]
command = ["./beside.sh"]
max_attempts = 1

[jobs.text]
command = ["./daybook.toml"]
max_attempts = 1
"#;

/// Neither the process nor a zombie of it.
fn is_gone(pid: &str) -> bool {
    let pid: u32 = pid.trim().parse().unwrap();
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

#[tokio::test]
async fn a_job_ends_with_its_exit_code_or_signal() {
    let app = shell_app().await;
    let operator = app.operator();
    for (text, status, exit_code, error) in [
        ("echo fine", "completed", json!(0), Value::Null),
        ("exit 7", "failed", json!(7), json!("it ended with exit code 7")),
        ("kill -SEGV $$", "failed", Value::Null, json!("it was ended by signal 11")),
        ("kill -KILL $$", "failed", Value::Null, json!("it was ended by signal 9")),
    ] {
        let (_, job) = run(&operator, script(text)).await;
        assert_eq!(job.str("status"), status, "{text}");
        assert_eq!((&job.json["exit_code"], &job.json["error"]), (&exit_code, &error), "{text}");
        assert_eq!(job.json["attempt"], 1);
        assert!(job.str("started_at") <= job.str("finished_at") && !job.str("started_at").is_empty());
        assert!(job.str("finished_at").ends_with('Z') && job.json["next_attempt_at"].is_null());
        assert!(!job.str("worker").is_empty());
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_fails_the_job_in_words() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    for (kind, error) in [
        ("absent", "the command `no-such-program-anywhere` was not found in PATH"),
        ("beside", "the command `./beside.sh` does not exist"),
        ("text", "the command `./daybook.toml` ("),
    ] {
        let (path, job) = run(&operator, json!({"kind": kind})).await;
        assert_eq!((job.str("status"), &job.json["exit_code"]), ("failed", &Value::Null), "{kind}");
        assert!(job.str("error").starts_with(error), "{}", job.str("error"));
        assert_eq!(texts(&operator, &path, "system").await, [job.str("error")]);
    }
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped_with_all_it_started() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = "sleep 600 & echo $!; echo $$; wait";
    let (path, job) = run(&operator, with(script(text), json!({"timeout_seconds": 1}))).await;
    assert_eq!((job.str("status"), job.str("error")), ("failed", "it ran longer than 1 seconds"));
    assert_eq!(texts(&operator, &path, "system").await, ["timeout of 1 s reached; stopping"]);
    let pids = texts(&operator, &path, "stdout").await;
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| is_gone(pid)), "{pids:?}");
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once() {
    let app = shell_app().await;
    let operator = app.operator();
    let path = queue(&operator, with(script("echo never"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    let job = operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert_eq!((job.str("status"), &job.json["attempt"]), ("cancelled", &json!(0)));
    assert!(job.json["next_attempt_at"].is_null() && !job.str("finished_at").is_empty());
    let again = operator.post(&format!("{path}/cancel"), json!({})).await.expect(409);
    assert_eq!(again.str("code"), "job_ended");
    assert_eq!(events(&app, &path).await, ["JobQueued", "JobCancelled"]);
}

#[tokio::test]
async fn a_job_that_never_ends_is_cancelled() {
    let app = shell_app().await;
    let operator = app.operator();
    // It does not listen to SIGTERM before it has said so.
    let text = "trap 'echo goodbye; exit 0' TERM; echo $$; echo ready; while :; do sleep 0.05; done";
    let path = queue(&operator, script(text)).await;
    printed(&operator, &path, "ready").await;
    let refused = app.viewer().post(&format!("{path}/cancel"), json!({})).await;
    refused.expect(403);
    let first = operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert!(["running", "cancelled"].contains(&first.str("status")), "{}", first.text);
    // A second wish changes nothing, whether or not the worker was faster.
    let second = operator.post(&format!("{path}/cancel"), json!({})).await;
    assert!([200, 409].contains(&second.status), "{}", second.text);
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["cancel_requested"]), ("cancelled", &json!(false)));
    assert_eq!(texts(&operator, &path, "system").await, ["cancelled; stopping"]);
    let out = texts(&operator, &path, "stdout").await;
    assert_eq!(out[1..], ["ready", "goodbye"]);
    assert!(is_gone(&out[0]));
    let names = events(&app, &path).await;
    assert_eq!(names, ["JobQueued", "JobStarted", "JobCancelRequested", "JobCancelled"]);
    operator.post(&format!("{path}/cancel"), json!({})).await.expect(409);
}

#[tokio::test]
async fn cancelling_what_has_ended_is_a_conflict_and_a_strangers_job_is_not_there() {
    let app = shell_app().await;
    let operator = app.operator();
    let (path, _) = run(&operator, script("true")).await;
    let refused = operator.post(&format!("{path}/cancel"), json!({})).await.expect(409);
    assert_eq!((refused.str("code"), refused.str("detail")), ("job_ended", "the job is completed already"));
    for missing in ["/api/jobs/0198c5a0-0000-7000-8000-000000000000/cancel", "/api/jobs/not-an-id/cancel"] {
        operator.post(missing, json!({})).await.expect(404);
    }
}
