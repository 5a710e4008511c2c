//! When jobs run: retries, priorities, times and turns.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tests::{Setup, TestApp, eventually};

use super::*;

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The ids of jobs in the order of their starts.
async fn starts(app: &TestApp) -> Vec<String> {
    let events = app.ledger.read(0, 10_000).await.unwrap();
    let starts = events.into_iter().filter(|event| event.event_type == "JobStarted");
    starts.map(|event| event.stream.aggregate_id).collect()
}

#[tokio::test]
async fn a_failing_job_is_tried_again_later_and_then_failed() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("JOB_RETRY_DELAY_SECONDS", 1)).await;
    let operator = app.operator();
    let (path, job) = run(&operator, with(script("exit 3"), json!({"max_attempts": 3}))).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("failed", &json!(3)));
    assert_eq!((&job.json["exit_code"], job.str("error")), (&json!(3), "it ended with exit code 3"));
    let history = history(&app, &path).await;
    let names: Vec<&str> = history.iter().map(|event| event.event_type.as_str()).collect();
    let twice = ["JobStarted", "JobAttemptFailed", "JobStarted", "JobAttemptFailed"];
    assert_eq!(names, [&["JobQueued"], &twice[..], &["JobStarted", "JobFailed"]].concat());
    for (failed, next, delay) in [(2, 3, 1), (4, 5, 2)] {
        let retry_at =
            moment(history[failed].payload.value()["JobAttemptFailed"]["retry_at"].as_str().unwrap());
        assert!(
            retry_at > history[failed - 1].at + TimeDelta::milliseconds(900 * delay),
            "the pause doubles"
        );
        assert!(history[next].at + TimeDelta::milliseconds(1) > retry_at, "not before its time");
    }
}

#[tokio::test]
async fn a_job_that_succeeds_at_last_is_completed() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let operator = app.operator();
    let text = "[ $DAYBOOK_ATTEMPT = 3 ]";
    let (_, job) = run(&operator, with(script(text), json!({"max_attempts": 5}))).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(3)));
    assert_eq!((&job.json["exit_code"], &job.json["error"]), (&json!(0), &json!(null)));
}

#[tokio::test]
async fn the_urgent_ones_come_first() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("WORKER_CONCURRENCY", 1)).await;
    let operator = app.operator();
    let first = queue(&operator, script(&format!("echo up; {}", wait_for("go")))).await;
    printed(&operator, &first, "up").await;
    let mut queued = vec![];
    for priority in [0, 9, 5, 7, 5] {
        queued.push(queue(&operator, with(script("true"), json!({"priority": priority}))).await);
    }
    // Urgent, but its time has not come.
    let later = json!({"priority": 9, "run_at": Utc::now() + TimeDelta::days(1)});
    let later = queue(&operator, with(script("true"), later)).await;
    open_gate(&app, "go");
    for path in &queued {
        assert_eq!(ended(&operator, path).await.str("status"), "completed");
    }
    let order = [&first, &queued[1], &queued[3], &queued[2], &queued[4], &queued[0]].map(|path| id(path));
    assert_eq!(starts(&app).await, order);
    assert_eq!(operator.get(&later).await.expect(200).str("status"), "pending");
}

#[tokio::test]
async fn a_job_does_not_start_before_its_time() {
    let app = shell_app().await;
    let operator = app.operator();
    let run_at = Utc::now() + TimeDelta::milliseconds(1_500);
    let path = queue(&operator, with(script("true"), json!({"run_at": run_at}))).await;
    let waiting = operator.get(&path).await.expect(200);
    assert_eq!(waiting.str("status"), "pending");
    assert_eq!(waiting.str("next_attempt_at").get(..19), waiting.str("run_at").get(..19));
    let job = ended(&operator, &path).await;
    let started = moment(job.str("started_at"));
    // Times are shown to the millisecond.
    assert!(started + TimeDelta::milliseconds(1) > run_at, "{started} {run_at}");
}

#[tokio::test]
async fn jobs_with_the_same_key_take_turns_and_others_do_not_wait_for_them() {
    let app = shell_app().await;
    let operator = app.operator();
    let keyed = |text: &str| with(script(text), json!({"concurrency_key": "the printer"}));
    let holder = queue(&operator, keyed(&format!("echo up; {}", wait_for("go")))).await;
    printed(&operator, &holder, "up").await;
    let mut queued = vec![];
    for _ in 0..4 {
        queued.push(queue(&operator, keyed("echo in >> turns; sleep 0.05; echo out >> turns")).await);
    }
    // Neither a job without the key nor another team's with the same key waits.
    assert_eq!(run(&operator, script("true")).await.1.str("status"), "completed");
    assert_eq!(run(&app.other_team(), keyed("true")).await.1.str("status"), "completed");
    for path in &queued {
        assert_eq!(operator.get(path).await.expect(200).str("status"), "pending");
    }
    open_gate(&app, "go");
    for path in &queued {
        assert_eq!(ended(&operator, path).await.str("status"), "completed");
    }
    let turns = std::fs::read_to_string(app.folder().join("turns")).unwrap();
    assert_eq!(turns.lines().collect::<Vec<_>>(), ["in", "out"].repeat(4));
}

#[tokio::test]
async fn jobs_without_a_key_run_side_by_side_up_to_the_limit() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("WORKER_CONCURRENCY", 2)).await;
    let operator = app.operator();
    // Each ends only when the other runs.
    let one = queue(&operator, script(&format!("touch one; {}", wait_for("two")))).await;
    let two = queue(&operator, script(&format!("touch two; {}", wait_for("one")))).await;
    for path in [&one, &two] {
        assert_eq!(ended(&operator, path).await.str("status"), "completed");
    }
    // With two that hold, a third waits for room, and gets it as soon as one ends.
    let mut paths = vec![];
    for gate in ["a", "b", "c"] {
        paths.push(queue(&operator, script(&format!("echo up; {}", wait_for(gate)))).await);
    }
    eventually("two run", async || {
        let running = operator.get("/api/jobs?status=running").await.expect(200);
        (running.json["items"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    assert_eq!(operator.get(&paths[2]).await.expect(200).str("status"), "pending");
    open_gate(&app, "a");
    until(&operator, &paths[2], "running").await;
    open_gate(&app, "b");
    open_gate(&app, "c");
    for path in &paths {
        assert_eq!(ended(&operator, path).await.str("status"), "completed");
    }
}
