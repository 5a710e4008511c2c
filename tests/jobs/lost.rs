//! Leases that are lost, and the fence around attempts.

use commands::Context;
use domain::{Ending, Job, JobCommand, JobId, LogDigest};
use serde_json::json;
use tests::TestApp;

use super::*;

/// The first attempt never ends by itself, the second waits for the test.
fn stubborn() -> Value {
    let second = wait_for("go");
    script(&format!(
        "echo $$; echo up $DAYBOOK_ATTEMPT; [ $DAYBOOK_ATTEMPT = 2 ] || exec sleep 600; {second}"
    ))
}

async fn sql(app: &TestApp, text: &str) {
    let done = sqlx::raw_sql(text).execute(app.ledger.pool()).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{text}");
}

fn runs(pid: &str) -> bool {
    !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

async fn finish(app: &TestApp, path: &str, attempt: u32) -> Result<(), Option<&'static str>> {
    let job = JobId(id(path).parse().unwrap());
    let command = JobCommand::Finish {
        attempt,
        ending: Ending::Succeeded { result: Some(json!("late").into()), artifacts: vec![] },
        log: LogDigest::default(),
        at: chrono::Utc::now(),
        dice: 0.5,
    };
    let context = Context::system(Some(app.people.team));
    let outcome = app.commands.execute::<Job>(&context, job, None, command).await;
    outcome.map(|_| ()).map_err(|error| error.refusal_code())
}

#[tokio::test]
async fn a_worker_that_was_given_up_kills_its_processes_and_the_job_runs_again() {
    let app = shell_app().await;
    let operator = app.operator();
    let path = queue(&operator, stubborn()).await;
    printed(&operator, &path, "up 1").await;
    let pid = texts(&operator, &path, "stdout").await[0].clone();
    assert!(runs(&pid));
    sql(&app, "update workers set lost = true").await;
    printed(&operator, &path, "up 2").await;
    assert!(!runs(&pid), "one attempt at a time");
    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
    let attempts = operator.get(&format!("{path}/attempts")).await.expect(200).json["items"].clone();
    assert_eq!((&attempts[0]["outcome"], &attempts[1]["outcome"]), (&json!("lost"), &json!("completed")));
    assert_ne!(attempts[0]["worker"], attempts[1]["worker"], "it goes on under another name");
    let late = app.auditor().get("/api/audit/events?type=JobResultRefused").await.expect(200);
    assert_eq!(late.json["items"].as_array().unwrap().len(), 1, "{late:?}");
}

#[tokio::test]
async fn a_silent_worker_loses_the_job_and_its_late_result_is_refused() {
    let app = TestApp::with(
        Setup::default().kinds(SHELL).roles(api::server::Roles { worker: false, ..api::server::Roles::ALL }),
    )
    .await;
    let operator = app.operator();
    let path = queue(&operator, script("echo up $DAYBOOK_ATTEMPT")).await;
    // Another worker, which will not be heard of again, has it.
    sql(
        &app,
        "insert into workers (name, host, pid, version, kinds, concurrency, lost) \
         values ('another', 'elsewhere', 1, '0', '{shell}', 1, true)",
    )
    .await;
    let job = JobId(id(&path).parse().unwrap());
    let start = JobCommand::Start { worker: "another".to_owned(), at: chrono::Utc::now() };
    app.commands.execute::<Job>(&Context::system(Some(app.people.team)), job, None, start).await.unwrap();
    let _second = app.another_node(Setup::default().kinds(SHELL)).await;
    let done = ended(&operator, &path).await;
    assert_eq!((done.str("status"), &done.json["attempt"]), ("completed", &json!(2)));
    assert_eq!(finish(&app, &path, 1).await, Err(Some("wrong_attempt")));
    assert_eq!(finish(&app, &path, 2).await, Err(Some("wrong_attempt")));
    assert!(done.json["result"].is_null(), "the late result left no trace");
    let names = events(&app, &path).await;
    assert_eq!(names, ["JobQueued", "JobStarted", "JobLost", "JobStarted", "JobCompleted"]);
}
