//! Where jobs may not ask over HTTP, and what they do not take along.

use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::host::Host;
use super::http_kind::{ask, asking};
use super::*;

#[tokio::test]
async fn private_addresses_are_not_asked_by_whatever_name() {
    let host = Host::start().await;
    let port = host.address.port();
    for target in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("2130706433:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::1]:{port}"),
        "169.254.169.254".to_owned(),
    ] {
        let kinds = format!(
            "[jobs.ask]\ntype = 'http'\nurl = 'http://{target}/'\nallow_private = ['10.0.0.0/8']\nmax_attempts = 3"
        );
        let app = TestApp::with(Setup::default().kinds(&kinds)).await;
        let (_, job) = run(&app.operator(), ask()).await;
        assert!(job.str("error").contains("is not a public address"), "{target}: {}", job.text);
        assert_eq!((job.str("status"), &job.json["attempt"]), ("failed", &json!(1)), "{target}: final");
        // It says nothing of the host that it may not be asked.
        let health = app.anon().get("/api/health").await.expect(200);
        assert_eq!(health.json["circuits"], json!([]));
    }
    assert_eq!(host.asked(), [] as [Value; 0]);
}

#[tokio::test]
async fn a_name_that_leads_to_an_allowed_address_is_asked() {
    let host = Host::start().await;
    let lines = format!("url = 'http://localhost:{}/echo'", host.address.port());
    let (_, job) = run(&asking(&lines).await.operator(), ask()).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
}

/// A kind that is sent on, with a secret in a header.
fn sent_on(host: &Host, route: &str, to: &str, more: &str) -> String {
    format!(
        "method = 'POST'\nurl = '{}/{route}/{to}'\nfollow_redirects = 2\n\
         headers = {{ X-Key = '{{secret:KEY}}', X-Plain = 'plain' }}\nsecrets = {{ KEY = 'key' }}\n{more}",
        host.url()
    )
}

async fn run_with_key(lines: &str) -> Reply {
    let app = asking(lines).await;
    let operator = app.operator();
    operator.post("/api/secrets", json!({"name": "key", "value": "open sesame"})).await.expect(201);
    let (path, job) = run(&operator, ask()).await;
    assert!(!format!("{:?}{}", log(&operator, &path).await, job.text).contains("sesame"));
    job
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let host = Host::start().await;
    for to in
        ["http://127.0.0.2/", "http://10.0.0.1/x", "//169.254.169.254/latest/meta-data", "http://[::1]/"]
    {
        let job = run_with_key(&sent_on(&host, "to", to, "")).await;
        assert_eq!(job.str("status"), "failed");
        assert!(job.str("error").contains("is not a public address"), "{to}: {}", job.text);
    }
    let job = run_with_key(&sent_on(&host, "to", "file:///etc/passwd", "")).await;
    assert_eq!(job.str("error"), "it was redirected to a URL that cannot be asked");
}

#[tokio::test]
async fn secrets_stay_with_the_host_they_are_for() {
    let (host, other) = (Host::start().await, Host::start().await);
    let elsewhere = format!("{}/echo", other.url());

    let job = run_with_key(&sent_on(&host, "to", &elsewhere, "body = 'plain'")).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let (first, second) = (host.asked(), other.asked());
    assert_eq!(first[0]["headers"]["x-key"], "open sesame");
    assert_eq!((&second[0]["method"], &second[0]["body"]), (&json!("POST"), &json!("plain")));
    assert_eq!(second[0]["headers"]["x-plain"], "plain");
    assert_eq!(second[0]["headers"]["x-key"], Value::Null);

    // On the same host they go along.
    let job = run_with_key(&sent_on(&host, "to", "/echo", "")).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    assert_eq!(host.asked().last().unwrap()["headers"]["x-key"], "open sesame");

    // A body with a secret goes nowhere else at all, but is not needed to look what became of it.
    let body = "body = 'key={secret:KEY}'";
    let job = run_with_key(&sent_on(&host, "to", &elsewhere, body)).await;
    assert!(job.str("error").contains("must not get the secrets in its body"), "{}", job.text);
    assert_eq!(other.asked().len(), 1);
    let job = run_with_key(&sent_on(&host, "see", &elsewhere, body)).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let last = other.asked().pop().unwrap();
    assert_eq!((&last["method"], &last["body"]), (&json!("GET"), &json!("")));
}

#[tokio::test]
async fn a_redirect_without_end_ends() {
    let host = Host::start().await;
    let lines = format!("url = '{}/to//to//to//to//echo'\nfollow_redirects = 2", host.url());
    let (_, job) = run(&asking(&lines).await.operator(), ask()).await;
    assert_eq!(job.str("error"), "it was redirected more than 2 times", "{}", job.text);
    assert_eq!(host.asked().len(), 3);
}

#[tokio::test]
async fn arguments_that_would_get_out_of_their_place_are_refused_when_queued() {
    let host = Host::start().await;
    let app = asking(&format!(
        "url = '{}/v1/{{item}}'\nheaders = {{ X-Day = '{{day}}' }}\nparams = {{ item.type = 'string', day.type = 'string' }}",
        host.url()
    ))
    .await;
    let body = with(ask(), json!({"args": {"item": "..", "day": "1\r\nX-Admin: 1"}}));
    let refused = app.operator().post("/api/jobs", body).await.expect(422);
    let fields: Vec<&str> =
        refused.json["errors"].as_array().unwrap().iter().map(|one| one["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["args.day", "args.item"]);
    assert!(host.asked().is_empty());
}
