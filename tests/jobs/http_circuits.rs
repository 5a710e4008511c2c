//! Hosts that fail again and again are left alone by jobs for a while.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::host::Host;
use super::http_kind::{ask, asking};
use super::*;

/// Failures in a row that it takes.
const TOLERATED: usize = commands::jobs::circuits::TOLERATED as usize;

#[tokio::test]
async fn a_host_that_fails_again_and_again_is_left_alone_and_shown() {
    let host = Host::start().await;
    let app = asking(&format!("url = '{}/status/503'", host.url())).await;
    let operator = app.operator();
    let health = async || app.anon().get("/api/health").await.expect(200).json;
    for _ in 0..TOLERATED {
        assert_eq!(health().await["circuits"], json!([]));
        run(&operator, ask()).await;
    }
    let shown = health().await;
    assert_eq!(shown["status"], "ok");
    let circuit = &shown["circuits"][0];
    assert_eq!((&circuit["host"], &circuit["state"]), (&json!(host.url()), &json!("open")));
    assert_eq!(circuit["failures"], TOLERATED);
    assert!(circuit["open_until"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap() > Utc::now());
    let metrics = app.anon().get("/metrics").await.expect(200).text;
    assert!(metrics.contains(&format!("http_circuit_open{{host=\"{}\"}} 1", host.url())), "{metrics}");

    // The next attempt asks nothing, says why, and comes again once there is something to be had.
    let path = queue(&operator, with(ask(), json!({"max_attempts": 2}))).await;
    let job = when("a failure", &operator, &path, |job| !job.json["error"].is_null()).await;
    let expected = format!("{} was not asked: its circuit is open after 5 failures in a row", host.url());
    assert_eq!((job.str("status"), job.str("error")), ("pending", &expected[..]));
    let next: DateTime<Utc> = job.str("next_attempt_at").parse().unwrap();
    let until: DateTime<Utc> = circuit["open_until"].as_str().unwrap().parse().unwrap();
    assert!(next >= until, "{next} {until}");
    assert_eq!(host.asked().len(), TOLERATED);
}

#[tokio::test]
async fn a_host_that_is_not_there_or_never_answers_has_failed_and_one_that_refuses_has_not() {
    let gone =
        format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let host = Host::start().await;
    let kinds: String = [
        ("gone", format!("{gone}/")),
        ("slow", format!("{}/slow", host.url())),
        ("refusing", format!("http://localhost:{}/status/429", host.address.port())),
    ]
    .iter()
    .map(|(name, url)| {
        format!("[jobs.{name}]\ntype = 'http'\nallow_private = ['127.0.0.1']\nmax_attempts = 1\ntimeout_seconds = 1\nurl = '{url}'\n")
    })
    .collect();
    let app = tests::TestApp::with(tests::Setup::default().kinds(&kinds)).await;
    let operator = app.operator();
    for kind in ["gone", "slow", "refusing"] {
        let mut paths = vec![];
        for _ in 0..TOLERATED {
            paths.push(queue(&operator, json!({"kind": kind})).await);
        }
        for path in paths {
            ended(&operator, &path).await;
        }
    }
    let shown = app.anon().get("/api/health").await.expect(200);
    let mut hosts: Vec<String> =
        shown.json["circuits"].as_array().unwrap().iter().map(|one| one["host"].to_string()).collect();
    let mut expected = vec![json!(gone).to_string(), json!(host.url()).to_string()];
    hosts.sort();
    expected.sort();
    assert_eq!(hosts, expected);
    let (_, job) = run(&operator, json!({"kind": "gone"})).await;
    assert!(job.str("error").contains("its circuit is open"), "{}", job.text);
}
