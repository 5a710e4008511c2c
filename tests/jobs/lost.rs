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
        ending: Ending::Succeeded { result: Some(json!("late")), artifacts: vec![] },
        log: LogDigest::default(),
        at: chrono::Utc::now(),
        dice: 0.5,
    };
    let context = Context::system(Some(app.people.team));
    let outcome = app.commands.execute::<Job>(&context, job, None, command).await;
    outcome.map(|_| ()).map_err(|error| error.refusal_code())
}

#[tokio::test]
async fn a_worker_whose_lease_is_gone_stops_and_the_job_runs_again() {
    let app = shell_app().await;
    let operator = app.operator();
    let path = queue(&operator, stubborn()).await;
    printed(&operator, &path, "up 1").await;
    let pid = texts(&operator, &path, "stdout").await[0].clone();
    assert!(runs(&pid));
    sql(&app, &format!("delete from job_leases where job_id = '{}'", id(&path))).await;
    printed(&operator, &path, "up 2").await;
    assert!(!runs(&pid), "one attempt at a time");
    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
}

#[tokio::test]
async fn a_silent_worker_loses_the_job_and_its_late_result_is_refused() {
    let app = shell_app().await;
    let operator = app.operator();
    let path = queue(&operator, stubborn()).await;
    printed(&operator, &path, "up 1").await;
    let pid = texts(&operator, &path, "stdout").await[0].clone();
    // As if its worker had been another one, silent for a whole lease.
    let expire = "update job_leases set worker = 'another', expires_at = now() - interval '1 second'";
    sql(&app, &format!("{expire} where job_id = '{}'", id(&path))).await;
    printed(&operator, &path, "up 2").await;
    assert_eq!(finish(&app, &path, 1).await, Err(Some("wrong_attempt")));
    assert_eq!(finish(&app, &path, 3).await, Err(Some("wrong_attempt")));
    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("completed", &json!(2)));
    assert!(job.json["result"].is_null(), "the late result left no trace");
    assert_eq!(finish(&app, &path, 2).await, Err(Some("wrong_attempt")));
    let names = events(&app, &path).await;
    assert_eq!(names, ["JobQueued", "JobStarted", "JobLost", "JobStarted", "JobCompleted"]);
    tests::eventually("the first attempt's process is gone", async || (!runs(&pid)).then_some(())).await;
}
