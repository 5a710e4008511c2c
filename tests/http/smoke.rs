//! The main job, end to end: a secret is kept, a job really uses it, an auditor sees who did what.

use serde_json::json;
use tests::{Setup, TestApp, eventually};

const KINDS: &str = r#"
[jobs.connect]
description = "Uses the database password"
command = ["sh", "-c", "test \"$DB_PASSWORD\" = 'open sesame' && echo connected with $DB_PASSWORD"]
secrets = { DB_PASSWORD = "report-db" }
"#;

#[tokio::test]
async fn a_secret_is_kept_used_by_a_job_and_audited() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let secret = json!({"name": "report-db", "value": "open sesame"});
    let secret = operator.post("/api/secrets", secret).await.expect(201);
    let job = operator.post("/api/jobs", json!({"kind": "connect"})).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    let done = eventually("the job's end", async || {
        let job = operator.get(&path).await.expect(200);
        (job.str("status") == "completed").then_some(job)
    })
    .await;
    assert_eq!(done.json["exit_code"], 0);
    let log = operator.get(&format!("{path}/logs")).await.expect(200);
    assert_eq!(log.json["items"][0]["text"], "connected with ***");

    let used = app.auditor().get("/api/audit/events?type=SecretUsed").await.expect(200);
    let event = &used.json["items"][0];
    assert_eq!(event["actor"], format!("job:{}", job.str("id")));
    assert!(event["changes"].to_string().contains(secret.str("id")), "{event}");
}
