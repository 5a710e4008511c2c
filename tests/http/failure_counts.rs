//! Failures that can be repeated without end: the first are recorded one by one, the others as sums, and none is without a trace.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Client, TestApp};

use super::support::{audited, problem, said};

/// How many of a person are recorded one by one, and how many from a network.
const SINGLY: usize = 20;
const FROM_A_NETWORK: usize = 5;

async fn refused(client: &Client, path: &str, times: usize) {
    for _ in 0..times {
        problem(&client.get(path).await, 403, "forbidden");
    }
}

async fn sums(app: &TestApp) -> Vec<(String, u64)> {
    let events = audited(app, &app.admin(), "type=FailuresCounted").await;
    let sum = |event: &Value| {
        (said(event, "event").as_str().unwrap().to_owned(), said(event, "count").as_u64().unwrap())
    };
    events.iter().map(sum).collect()
}

async fn singly(app: &TestApp, event: &str) -> usize {
    audited(app, &app.admin(), &format!("type={event}")).await.len()
}

#[tokio::test]
async fn refusals_beyond_the_first_become_a_sum() {
    let app = TestApp::start().await;
    refused(&app.viewer(), "/api/users", SINGLY + 4).await;
    assert_eq!(singly(&app, "AccessRefused").await, SINGLY);
    assert_eq!(
        app.commands.record_failure_sums(Duration::from_secs(60)).await.unwrap(),
        0,
        "it is not time yet"
    );
    assert_eq!(app.commands.record_failure_sums(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(app.commands.record_failure_sums(Duration::ZERO).await.unwrap(), 0, "once");
    let [sum] = &audited(&app, &app.admin(), "type=FailuresCounted").await[..] else { panic!("one sum") };
    assert_eq!((said(sum, "event"), said(sum, "count")), (&json!("AccessRefused"), &json!(4)));
    assert_eq!(sum["actor"], format!("user:{}", app.people.viewer), "whose they are");
    assert!(said(sum, "from").as_str().unwrap() <= said(sum, "to").as_str().unwrap());

    // What others do, and they elsewhere, is recorded as if nothing had happened.
    refused(&app.operator(), "/api/users", 1).await;
    refused(&app.viewer(), "/api/projections", 1).await;
    assert_eq!(singly(&app, "AccessRefused").await, SINGLY + 2);
    refused(&app.viewer(), "/api/users", 2).await;
    app.commands.record_failure_sums(Duration::ZERO).await.unwrap();
    assert_eq!(sums(&app).await, [("AccessRefused".to_owned(), 2), ("AccessRefused".to_owned(), 4)]);
}

#[tokio::test]
async fn failed_sign_ins_from_one_network_become_a_sum() {
    let app = TestApp::start().await;
    for number in 0..FROM_A_NETWORK + 3 {
        let body = json!({"email": format!("nobody-{number}@example.org"), "password": "not the right one"});
        assert_eq!(app.anon().post("/api/auth/login", body).await.status, 401);
    }
    assert_eq!(singly(&app, "SignInFailed").await, FROM_A_NETWORK);
    app.commands.record_failure_sums(Duration::ZERO).await.unwrap();
    assert_eq!(sums(&app).await, [("SignInFailed".to_owned(), 3)]);
}

#[tokio::test]
async fn wrong_proofs_of_a_person_become_a_sum() {
    let app = TestApp::start().await;
    let context = commands::Context::of(domain::Caller::system(None));
    let user_id = app.people.viewer;
    for _ in 0..SINGLY + 6 {
        let failed = domain::AccessEvent::ProofFailed { user_id, proof: "password".to_owned() };
        app.commands.record_failure(&context, &failed, &[&user_id.to_string()]).await.unwrap();
    }
    app.commands.record_failure_sums(Duration::ZERO).await.unwrap();
    assert_eq!(
        (singly(&app, "ProofFailed").await, sums(&app).await),
        (SINGLY, vec![("ProofFailed".to_owned(), 6)])
    );
}

#[tokio::test]
async fn many_sources_together_are_bounded_and_counted_to_the_last() {
    let app = TestApp::start().await;
    let context = commands::Context::of(domain::Caller::system(None));
    for number in 0..140 {
        let failed =
            domain::AccessEvent::SignInFailed { account: number.to_string(), reason: "x".to_owned() };
        app.commands.record_failure(&context, &failed, &[&number.to_string()]).await.unwrap();
    }
    // Whoever looks, and how many at once: each sum is recorded once.
    let (one, other) = tokio::join!(
        app.commands.record_failure_sums(Duration::ZERO),
        app.commands.record_failure_sums(Duration::ZERO)
    );
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    let recorded = singly(&app, "SignInFailed").await;
    assert_eq!((recorded, sums(&app).await), (100, vec![("SignInFailed".to_owned(), 40)]));
}

#[tokio::test]
async fn a_sum_that_was_recorded_by_somebody_who_died_is_not_recorded_again() {
    let app = TestApp::start().await;
    refused(&app.viewer(), "/api/users", SINGLY + 4).await;
    app.commands.record_failure_sums(Duration::ZERO).await.unwrap();
    let [sum] = &audited(&app, &app.admin(), "type=FailuresCounted").await[..] else { panic!("one sum") };
    // As it was after the append, before the row was told of it.
    let sql = "update failure_counts set sum_id = $1, sum_count = 4, sum_from = clock_timestamp(), \
               sum_to = clock_timestamp() where source <> ''";
    let id: uuid::Uuid = sum["aggregate_id"].as_str().unwrap().parse().unwrap();
    sqlx::query(sql).bind(id).execute(&mut app.database.connect().await).await.unwrap();
    app.commands.record_failure_sums(Duration::ZERO).await.unwrap();
    assert_eq!(sums(&app).await, [("AccessRefused".to_owned(), 4)]);
    let waiting = "select count(*) from failure_counts where sum_id is not null or counted > 0";
    let left: i64 = sqlx::query_scalar(waiting).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(left, 0);
}
