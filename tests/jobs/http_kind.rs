//! Jobs that ask over HTTP: what is sent, what is made of the answer, and how it ends early.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tests::{Setup, TestApp, within};

use super::host::Host;
use super::*;

/// A node with a kind `ask`, of these lines, that may ask `host`.
pub(super) async fn asking(lines: &str) -> TestApp {
    let kinds =
        format!("[jobs.ask]\ntype = 'http'\nallow_private = ['127.0.0.1']\nmax_attempts = 1\n{lines}");
    TestApp::with(Setup::default().kinds(&kinds)).await
}

pub(super) fn ask() -> Value {
    json!({"kind": "ask"})
}

async fn keep(client: &Client, name: &str, value: &str) {
    client.post("/api/secrets", json!({"name": name, "value": value})).await.expect(201);
}

#[tokio::test]
async fn a_request_is_sent_as_its_templates_say_and_its_answer_kept() {
    let host = Host::start().await;
    let app = asking(&format!(
        r#"
        method = "PUT"
        url = "{}/v1/{{item}}?day={{day}}"
        headers = {{ X-Day = "on {{day}}", X-Note = "{{note}}" }}
        body = '{{"day": "{{day}}", "count": {{count}}}}'
        params = {{ item.type = "string", day.type = "string", count.type = "integer", note = {{ type = "string", required = false }} }}
        "#,
        host.url()
    ))
    .await;
    let operator = app.operator();
    let args = json!({"item": "../x y", "day": "\"1\"&2", "count": 3});
    let (path, job) = run(&operator, with(ask(), json!({"args": args}))).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let asked = host.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (&asked[0]["method"], &asked[0]["path"]),
        (&json!("PUT"), &json!("/v1/..%2Fx%20y?day=%221%22%262"))
    );
    assert_eq!(asked[0]["body"], r#"{"day": "\"1\"&2", "count": 3}"#);
    let headers = &asked[0]["headers"];
    assert_eq!((&headers["x-day"], &headers["x-note"]), (&json!("on \"1\"&2"), &Value::Null));
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers["user-agent"].as_str().unwrap().starts_with("daybook/"));

    let result = &job.json["result"];
    assert_eq!((&result["status"], &result["body"]), (&json!(200), &asked[0]));
    assert_eq!(result["headers"]["content-type"], "application/json");
    let out = texts(&operator, &path, "stdout").await;
    assert_eq!(out[0], "200 OK");
    assert_eq!(serde_json::from_str::<Value>(out.last().unwrap()).unwrap(), asked[0]);
    let said = texts(&operator, &path, "system").await;
    assert_eq!(said, [format!("PUT {}/v1/..%2Fx%20y?day=%221%22%262", host.url())]);
}

#[tokio::test]
async fn secrets_reach_the_host_and_nobody_else() {
    let host = Host::start().await;
    let app = asking(&format!(
        r#"
        method = "POST"
        url = "{}/echo?key={{secret:KEY}}"
        headers = {{ Authorization = "Bearer {{secret:TOKEN}}" }}
        body = '{{"key": "{{secret:KEY}}"}}'
        secrets = {{ KEY = "key", TOKEN = "token" }}
        "#,
        host.url()
    ))
    .await;
    let operator = app.operator();
    keep(&operator, "key", "open-sesame").await;
    keep(&operator, "token", "sunshine-and-rain").await;
    let (path, job) = run(&operator, ask()).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let asked = host.asked();
    assert_eq!(asked[0]["path"], "/echo?key=open-sesame");
    assert_eq!(asked[0]["headers"]["authorization"], "Bearer sunshine-and-rain");
    assert_eq!(asked[0]["body"], r#"{"key": "open-sesame"}"#);

    let body = &job.json["result"]["body"];
    assert_eq!(
        (&body["path"], &body["headers"]["authorization"]),
        (&json!("/echo?key=***"), &json!("Bearer ***"))
    );
    let lines = json!(log(&operator, &path).await).to_string();
    assert!(lines.contains("key=***") && lines.contains("Bearer ***"), "{lines}");
    let stored = app.ledger.read(0, 10_000).await.unwrap();
    let stored: String = stored.iter().map(|event| event.payload.to_string()).collect();
    for value in ["open-sesame", "sunshine"] {
        assert!(!lines.contains(value) && !job.text.contains(value) && !stored.contains(value), "{value}");
    }
    let used = app.auditor().get("/api/audit/events?type=SecretUsed").await.expect(200);
    assert_eq!(used.json["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_secret_that_cannot_stand_in_a_header_fails_the_job_unseen() {
    let host = Host::start().await;
    let app = asking(&format!(
        "url = '{}/echo'\nheaders = {{ X-Key = '{{secret:KEY}}' }}\nsecrets = {{ KEY = 'key' }}",
        host.url()
    ))
    .await;
    let operator = app.operator();
    keep(&operator, "key", "open\r\nX-Admin: sesame").await;
    let (path, job) = run(&operator, ask()).await;
    assert!(job.str("error").starts_with("the header x-key cannot be sent"), "{}", job.text);
    assert!(!format!("{:?}{}", log(&operator, &path).await, job.text).contains("sesame"));
    assert!(host.asked().is_empty());
}

#[tokio::test]
async fn what_the_host_says_decides_whether_the_job_is_tried_again() {
    let host = Host::start().await;
    let kind = |name: &str, more: &str| {
        format!(
            "[jobs.{name}]\ntype = 'http'\nallow_private = ['127.0.0.1']\nurl = '{}/status/{{code}}'\nparams.code.type = 'integer'\n{more}\n",
            host.url()
        )
    };
    let kinds = kind("usual", "") + &kind("other", "success_codes = [404]\nretry_codes = [200]");
    let app = TestApp::with(Setup::default().kinds(&kinds).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let operator = app.operator();
    for (kind, code, status, attempts, error) in [
        ("usual", 204, "completed", 1, Value::Null),
        ("usual", 404, "failed", 1, json!("it was answered 404 Not Found")),
        ("usual", 302, "failed", 1, json!("it was answered 302 Found")),
        ("usual", 429, "failed", 2, json!("it was answered 429 Too Many Requests")),
        ("usual", 500, "failed", 2, json!("it was answered 500 Internal Server Error")),
        ("other", 404, "completed", 1, Value::Null),
        ("other", 200, "failed", 2, json!("it was answered 200 OK")),
        ("other", 500, "failed", 1, json!("it was answered 500 Internal Server Error")),
    ] {
        let job = json!({"kind": kind, "args": {"code": code}, "max_attempts": 2});
        let (path, job) = run(&operator, job).await;
        let found = (job.str("status"), job.json["attempt"].as_i64().unwrap(), &job.json["error"]);
        assert_eq!(found, (status, attempts, &error), "{kind} {code}: {}", job.text);
        let out = texts(&operator, &path, "stdout").await;
        assert!(out[0].starts_with(&code.to_string()), "{out:?}");
    }
}

#[tokio::test]
async fn a_busy_host_says_when_to_come_again() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/busy/3600'", host.url())).await;
    let operator = app.operator();
    let before = Utc::now();
    let path = queue(&operator, with(ask(), json!({"max_attempts": 2}))).await;
    let job = when("the first failure", &operator, &path, |job| !job.json["error"].is_null()).await;
    assert_eq!((job.str("status"), job.str("error")), ("pending", "it was answered 503 Service Unavailable"));
    let next: DateTime<Utc> = job.str("next_attempt_at").parse().unwrap();
    assert!((3_590..3_700).contains(&(next - before).num_seconds()), "{next} after {before}");
}

#[tokio::test]
async fn an_answer_that_is_too_deep_is_kept_as_text() {
    let host = Host::start().await;
    let app =
        asking(&format!("url = '{}/nested/{{levels}}'\nparams.levels.type = 'integer'", host.url())).await;
    let operator = app.operator();
    for levels in [63, 64, 124, 127, 1_000] {
        let (_, job) = run(&operator, with(ask(), json!({"args": {"levels": levels}}))).await;
        assert_eq!(job.str("status"), "completed", "{levels}");
        let body = &job.json["result"]["body"];
        assert_eq!((body.is_array(), body.is_string()), (levels < 64, levels >= 64), "{levels}: {body}");
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_and_says_so() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/large'", host.url())).await;
    let operator = app.operator();
    let (path, job) = run(&operator, ask()).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let result = &job.json["result"];
    assert_eq!((&result["cut"], result["body"].as_str().unwrap().len()), (&json!(true), 64 * 1024));
    let said = texts(&operator, &path, "system").await;
    assert!(said.iter().any(|line| line.contains("longer than 64 KiB")), "{said:?}");
}

#[tokio::test]
async fn a_job_is_cancelled_in_the_middle_of_its_request() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/slow'", host.url())).await;
    let operator = app.operator();
    let path = queue(&operator, ask()).await;
    let mut slow = host.slow.clone();
    within("the request", slow.wait_for(|(came, _)| *came == 1)).await.unwrap();
    operator.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    assert_eq!(ended(&operator, &path).await.str("status"), "cancelled");
    within("the connection's end", slow.wait_for(|(_, given_up)| *given_up == 1)).await.unwrap();
    let said = texts(&operator, &path, "system").await;
    assert_eq!(said[1..], ["cancelled; stopping"]);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/slow'\ntimeout_seconds = 1", host.url())).await;
    let (_, job) = run(&app.operator(), ask()).await;
    assert_eq!((job.str("status"), job.str("error")), ("failed", "it ran longer than 1 seconds"));
    let mut slow = host.slow.clone();
    within("the connection's end", slow.wait_for(|(_, given_up)| *given_up == 1)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_stops_hands_the_request_back() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/slow'", host.url())).await;
    let operator = app.operator();
    let path = queue(&operator, ask()).await;
    let mut slow = host.slow.clone();
    within("the request", slow.wait_for(|(came, _)| *came == 1)).await.unwrap();
    let next = app.another_node(Setup::default()).await;
    app.stop().await;
    assert_eq!(events(&next, &path).await, ["JobQueued", "JobStarted", "JobHandedBack"]);
}
