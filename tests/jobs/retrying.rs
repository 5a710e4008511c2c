//! Trying again: what a kind says of it, what somebody asks for, and what is told of each attempt.

use chrono::{DateTime, TimeDelta, Utc};
use commands::Context;
use domain::{Job, JobCommand, JobId};
use serde_json::json;

use super::nodes::{edge, sql, worker};
use super::*;

const KINDS: &str = r#"
[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1

[jobs.patient]
command = ["sh", "-c", "exit 3"]
max_attempts = 4
retry_delay_seconds = 1
retry_factor = 3
retry_cap_seconds = 2
retry_jitter = 0

[jobs.strict]
command = ["sh", "-c", "exit {code}"]
params.code = { type = "integer" }
max_attempts = 3
retry_delay_seconds = 1
retry_jitter = 0
final_exit_codes = [64, 65]

[jobs.later]
command = ["sh", "-c", "[ $DAYBOOK_ATTEMPT = 2 ]"]
max_attempts = 2
retry_delay_seconds = 86400
"#;

async fn attempts(client: &Client, path: &str) -> Vec<Value> {
    let page = client.get(&format!("{path}/attempts")).await.expect(200);
    page.json["items"].as_array().unwrap().clone()
}

fn outcomes(attempts: &[Value]) -> Vec<&str> {
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect()
}

async fn retry(client: &Client, path: &str) -> Reply {
    client.post(&format!("{path}/retry"), json!({})).await
}

#[tokio::test]
async fn the_pause_grows_as_the_kind_says_up_to_its_cap() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let (path, job) = run(&operator, json!({"kind": "patient"})).await;
    assert_eq!((job.str("status"), job.str("reason")), ("failed", "attempts_exhausted"));
    let history = history(&app, &path).await;
    let mut pauses = vec![];
    for pair in history.windows(2) {
        let [started, failed] = pair else { unreachable!() };
        let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
        if failed.event_type == "JobAttemptFailed" {
            let failed = &failed.payload.value()["JobAttemptFailed"];
            let ran = TimeDelta::milliseconds(failed["ran"]["milliseconds"].as_i64().unwrap());
            let ended = time(&started.payload.value()["JobStarted"]["at"]) + ran;
            pauses.push((time(&failed["retry_at"]) - ended).num_milliseconds());
        }
    }
    // The attempt's length is told in whole milliseconds.
    let rounded: Vec<i64> = pauses.iter().map(|pause| pause / 10 * 10).collect();
    assert_eq!(rounded, [1_000, 2_000, 2_000], "{pauses:?}");
    let made = attempts(&operator, &path).await;
    assert_eq!(outcomes(&made), ["failed"; 4]);
    assert_eq!(made[3]["reason"], "attempts_exhausted");
}

#[tokio::test]
async fn an_exit_code_that_the_kind_calls_final_is_not_tried_again() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let strict = |code: i32| json!({"kind": "strict", "args": {"code": code}});
    for code in [64, 65] {
        let (path, job) = run(&operator, strict(code)).await;
        assert_eq!(
            (job.str("status"), job.str("reason"), &job.json["attempt"]),
            ("failed", "final", &json!(1))
        );
        let made = attempts(&operator, &path).await;
        assert_eq!(
            (made.len(), &made[0]["exit_code"], &made[0]["reason"]),
            (1, &json!(code), &json!("final"))
        );
    }
    let path = queue(&operator, strict(66)).await;
    let waits = |job: &Reply| job.str("status") == "pending" && job.json["attempt"] == 1;
    let job = when("another try", &operator, &path, waits).await;
    assert_eq!((&job.json["exit_code"], &job.json["reason"]), (&json!(66), &Value::Null));
    assert_eq!(ended(&operator, &path).await.json["attempt"], 3);
}

#[tokio::test]
async fn a_job_that_failed_or_was_cancelled_begins_anew() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let (path, job) = run(&operator, script("[ -e fixed ]")).await;
    assert_eq!(job.str("status"), "failed");
    // With one attempt allowed, which it has again each time.
    for attempt in 2..4 {
        let asked = retry(&operator, &path).await.expect(200);
        assert_eq!((asked.str("status"), &asked.json["finished_at"]), ("pending", &Value::Null));
        assert!(!asked.header("etag").is_empty() && !asked.header("daybook-position").is_empty());
        let job = ended(&operator, &path).await;
        assert_eq!((job.str("status"), &job.json["attempt"]), ("failed", &json!(attempt)));
    }
    std::fs::write(app.folder().join("fixed"), "").unwrap();
    retry(&operator, &path).await.expect(200);
    let job = ended(&operator, &path).await;
    assert_eq!(
        (job.str("status"), &job.json["error"], &job.json["reason"]),
        ("completed", &json!(null), &json!(null))
    );
    assert_eq!(outcomes(&attempts(&operator, &path).await), ["failed", "failed", "failed", "completed"]);

    let (path, text) = ("go", format!("echo up; {}; true", wait_for("go")));
    let job = queue(&operator, script(&text)).await;
    printed(&operator, &job, "up").await;
    assert_eq!(retry(&operator, &job).await.expect(409).str("code"), "job_not_retryable");
    operator.post(&format!("{job}/cancel"), json!({})).await.expect(200);
    assert_eq!(ended(&operator, &job).await.str("status"), "cancelled");
    open_gate(&app, path);
    let asked = retry(&operator, &job).await.expect(200);
    assert_eq!((asked.str("status"), &asked.json["cancel_requested"]), ("pending", &json!(false)));
    assert_eq!(ended(&operator, &job).await.str("status"), "completed");
    assert_eq!(outcomes(&attempts(&operator, &job).await), ["cancelled", "completed"]);
    assert_eq!(retry(&operator, &job).await.expect(409).str("code"), "job_not_retryable");

    // Not everybody's, and not everything's.
    retry(&app.viewer(), &job).await.expect(403);
    let theirs = retry(&app.other_team(), &job).await.expect(404);
    let nobodys = retry(&operator, "/api/jobs/01890000-0000-7000-8000-000000000000").await.expect(404);
    assert_eq!(theirs.str("code"), nobodys.str("code"), "nothing tells that it exists");
    operator.post("/api/jobs/nonsense/retry", json!({})).await.expect(404);
}

#[tokio::test]
async fn a_job_that_waits_for_its_time_becomes_due_at_once() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let node = worker(&app, KINDS, 2).await;
    let path = queue(&operator, json!({"kind": "later"})).await;
    let waits = |job: &Reply| job.str("status") == "pending" && job.json["attempt"] == 1;
    let job = when("the second try's time", &operator, &path, waits).await;
    assert_eq!(job.json["next_attempt_at"].as_str().map(|at| at > job.str("started_at")), Some(true));
    retry(&operator, &path).await.expect(200);
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
    let path = queue(&operator, with(script("true"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    retry(&operator, &path).await.expect(200);
    assert_eq!(ended(&operator, &path).await.str("status"), "completed");
    node.stop().await;

    // What is due already is as it was asked for: nothing is stored.
    let path = queue(&operator, script("true")).await;
    let head = app.ledger.head().await.unwrap();
    assert_eq!(retry(&operator, &path).await.expect(200).str("status"), "pending");
    assert_eq!(app.ledger.head().await.unwrap(), head);
}

#[tokio::test]
async fn each_attempt_tells_who_ran_it_how_long_and_why_it_ended() {
    let app = TestApp::with(Setup::default().kinds(KINDS).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let operator = app.operator();
    let text = "echo one; echo two; [ $DAYBOOK_ATTEMPT = 1 ] && exit 5; [ $DAYBOOK_ATTEMPT = 2 ] && kill -9 $$; true";
    let (path, job) = run(&operator, with(script(text), json!({"max_attempts": 3}))).await;
    assert_eq!(job.str("status"), "completed");
    let made = attempts(&app.viewer(), &path).await;
    assert_eq!(outcomes(&made), ["failed", "failed", "completed"]);
    let ends = [
        (json!(5), json!("it ended with exit code 5")),
        (Value::Null, json!("it was ended by signal 9")),
        (json!(0), Value::Null),
    ];
    for (number, (attempt, (code, error))) in made.iter().zip(ends).enumerate() {
        assert_eq!(attempt["attempt"], number + 1);
        assert_eq!(attempt["worker"].as_str(), Some(job.str("worker")));
        assert_eq!((&attempt["exit_code"], &attempt["error"]), (&code, &error));
        assert_eq!((&attempt["lines"], &attempt["dropped_lines"]), (&json!(2), &json!(0)));
        assert!(attempt["milliseconds"].is_u64(), "{attempt}");
        assert!(attempt["started_at"].as_str() <= attempt["ended_at"].as_str(), "{attempt}");
    }
    assert_eq!(job.json["ran_milliseconds"], made[2]["milliseconds"]);
    let waiting = queue(&operator, with(script("true"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    assert_eq!(attempts(&operator, &waiting).await, [] as [Value; 0]);
    app.other_team().get(&format!("{path}/attempts")).await.expect(404);
}

#[tokio::test]
async fn the_third_lost_worker_in_a_row_sets_the_job_aside() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    // It looks after lost workers' jobs, but does not run this kind.
    let setup = Setup::default().kinds(KINDS).with("WORKER_KINDS", "later");
    let node = app.another_node(setup).await;
    let path = queue(&operator, script("true")).await;
    let job = JobId(id(&path).parse().unwrap());
    let context = Context::system(Some(app.people.team));
    for name in ["first", "second", "third"] {
        let insert = format!(
            "insert into workers (name, host, pid, version, kinds, concurrency, lost) \
             values ('{name}', 'elsewhere', 1, '0', '{{shell}}', 1, true)"
        );
        assert_eq!(sql(&app, &insert).await, 1);
        let start = JobCommand::Start { worker: name.to_owned(), at: Utc::now() };
        app.commands.execute::<Job>(&context, job, None, start).await.unwrap();
        let over = |job: &Reply| job.str("status") != "running" && job.str("worker") == name;
        when("the loss", &operator, &path, over).await;
    }
    let job = operator.get(&path).await.expect(200);
    assert_eq!(
        (job.str("status"), job.str("reason"), &job.json["attempt"]),
        ("failed", "crash_limit", &json!(3))
    );
    assert_eq!(job.str("error"), "its worker was lost 3 times in a row");
    let made = attempts(&operator, &path).await;
    assert_eq!(outcomes(&made), ["lost"; 3]);
    let workers: Vec<_> = made.iter().map(|attempt| attempt["worker"].as_str().unwrap()).collect();
    assert_eq!(workers, ["first", "second", "third"]);
    assert_eq!((&made[1]["reason"], &made[2]["reason"]), (&Value::Null, &json!("crash_limit")));
    assert!(made.iter().all(|attempt| attempt["milliseconds"].is_u64()), "{made:?}");
    let lost = history(&app, &path).await.into_iter().filter(|event| event.event_type == "JobLost");
    let lost: Vec<Value> =
        lost.map(|event| event.payload.value()["JobLost"]["ran"]["worker"].clone()).collect();
    assert_eq!(lost, ["first", "second", "third"]);
    // Somebody has looked into it, and wants it to be tried once more.
    retry(&operator, &path).await.expect(200);
    let other = worker(&app, KINDS, 2).await;
    assert_eq!(ended(&operator, &path).await.str("status"), "completed");
    other.stop().await;
    node.stop().await;
}
