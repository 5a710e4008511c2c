//! Secrets that jobs use: on record with job and attempt, and a job without what it needs fails in words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::{Client, Setup, TestApp, eventually};

use super::secret_support::{destroy, edit, items, path, put, readings};
use super::support::{keep, up_to_now};

const KINDS: &str = r#"
[jobs.bytes]
command = ["sh", "-c", "printf %s \"$KEY\" | od -An -tx1 | tr -d ' \n' | tr 0-9a-f g-v"]
secrets = { KEY = "db" }
max_attempts = 1

[jobs.twice]
command = ["sh", "-c", "test \"$DAYBOOK_ATTEMPT\" = 2"]
secrets = { KEY = "db", OTHER = "other" }
"#;

async fn app() -> TestApp {
    TestApp::with(Setup::default().kinds(KINDS)).await
}

/// A job run to its end.
async fn run(client: &Client, body: Value) -> Value {
    let job = client.post("/api/jobs", body).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    eventually("the job's end", async || {
        let job = client.get(&path).await.expect(200).json;
        ["completed", "failed"].contains(&job["status"].as_str().unwrap()).then_some(job)
    })
    .await
}

/// What the job printed: its secret's bytes in hexadecimal, in letters of their own, so that nothing masks them.
async fn printed(client: &Client, job: &Value) -> String {
    let lines = items(client, &format!("/api/jobs/{}/logs", job["id"].as_str().unwrap())).await;
    let out = lines.iter().filter(|line| line["stream"] == "stdout");
    out.map(|line| line["text"].as_str().unwrap()).collect()
}

fn in_letters(bytes: &[u8]) -> String {
    let letter = |nibble: u8| char::from(b'g' + nibble);
    bytes.iter().flat_map(|byte| [letter(byte >> 4), letter(byte & 15)]).collect()
}

#[tokio::test]
async fn each_use_is_on_record_with_job_attempt_and_version() {
    let app = app().await;
    let (operator, auditor) = (app.operator(), app.auditor());
    let (kept, other) = (keep(&operator, "db").await, keep(&operator, "other").await);
    put(&operator, &path(&kept), "v2").await.expect(200);
    let job = run(&operator, json!({"kind": "twice", "max_attempts": 2})).await;
    assert_eq!(job["status"], "completed", "{job}");
    for (secret, version) in [(&kept, 2), (&other, 1)] {
        let records = items(&auditor, &format!("{}/access", path(secret))).await;
        assert_eq!(records.len(), 2, "{records:?}");
        for (record, attempt) in records.iter().zip([2, 1]) {
            assert_eq!(record["actor"], format!("job:{}", job["id"].as_str().unwrap()));
            assert_eq!((&record["job_id"], &record["attempt"]), (&job["id"], &json!(attempt)));
            assert_eq!((&record["version"], &record["reason"]), (&json!(version), &Value::Null));
            assert_eq!(record["grant_id"], Value::Null);
        }
        let shown = up_to_now(&app, &operator).await.get(&path(secret)).await.expect(200);
        assert_eq!(shown.json["last_read_at"], records[0]["at"], "a use is a reading");
    }
    let of_job = format!("/api/audit/secret-access?job_id={}", job["id"].as_str().unwrap());
    assert_eq!(items(&auditor, &of_job).await.len(), 4);
    assert!(items(&app.other_team(), &of_job).await.is_empty());
}

#[tokio::test]
async fn a_job_gets_bytes_as_they_are_and_says_what_cannot_be_given() {
    let app = app().await;
    let operator = app.operator();
    let bytes = [0xff, 0xc3, 0x28, 0x01, 0x7f, 0x80, b'=', b' ', b'\t', b'x'];
    let body = json!({"name": "db", "value_base64": BASE64.encode(bytes)});
    let secret = path(&operator.post("/api/secrets", body).await.expect(201));
    let job = run(&operator, json!({"kind": "bytes"})).await;
    assert_eq!(
        (&job["status"], printed(&operator, &job).await),
        (&json!("completed"), in_letters(&bytes)),
        "{job}"
    );

    let fails = async || {
        let job = run(&operator, json!({"kind": "bytes"})).await;
        assert_eq!(job["status"], "failed", "{job}");
        assert_eq!(printed(&operator, &job).await, "", "it has not run");
        job["error"].as_str().unwrap().to_owned()
    };
    put(&operator, &secret, "canary\0canary").await.expect(200);
    let error = fails().await;
    assert!(!error.contains("canary") && !error.is_empty(), "{error}");
    // Too much for an environment on some systems; either way it ends.
    put(&operator, &secret, &"x".repeat(65_536)).await.expect(200);
    let job = run(&operator, json!({"kind": "bytes"})).await;
    assert!(["completed", "failed"].contains(&job["status"].as_str().unwrap()));
}

#[tokio::test]
async fn a_job_without_its_secret_fails_and_names_it() {
    let app = app().await;
    let operator = app.operator();
    let secret = path(&keep(&operator, "db").await);
    let fails = async |word: &str| {
        let recorded = readings(&app).await;
        let job = run(&operator, json!({"kind": "bytes"})).await;
        let error = job["error"].as_str().unwrap();
        assert_eq!(job["status"], "failed", "{job}");
        assert!(error.contains("\"db\"") && error.contains(word), "{error}");
        assert!(!error.contains("value of"), "{error}");
        assert_eq!(readings(&app).await, recorded, "what it did not get it has not used");
    };
    destroy(&operator, &secret, &[1]).await.expect(200);
    fails("destroyed").await;
    put(&operator, &secret, "v2").await.expect(200);
    assert_eq!(run(&operator, json!({"kind": "bytes"})).await["status"], "completed");
    operator.delete(&secret).await.expect(204);
    fails("no secret").await;
    operator.post(&format!("{secret}/restore"), json!({"name": "other"})).await.expect(200);
    fails("no secret").await;
    operator.patch(&secret, json!({"name": "db"})).await.expect(200);
    assert_eq!(run(&operator, json!({"kind": "bytes"})).await["status"], "completed");
    operator.post(&format!("{secret}/destroy"), json!({})).await.expect(200);
    fails("no secret").await;
    let kept = keep(&operator, "db").await;
    let id = kept.str("id");
    edit(&app, &format!("update data_keys set wrapped = '\\x00' where id = 'secret/{id}/1'")).await;
    fails("cannot be used").await;
}
