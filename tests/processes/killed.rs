//! `kill -9` of Daybook, and of its PostgreSQL.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::eventually;

use super::home::Home;

#[tokio::test]
async fn a_killed_daybook_starts_again_with_everything_it_had() {
    let home = Home::new();
    let mut admin = None;
    let mut secrets: Vec<String> = vec![];
    for round in 0..3 {
        let serving = home.serve().await;
        let admin = admin.get_or_insert_with(|| serving.admin.clone().unwrap());
        let client = serving.sign_in(admin).await;
        for secret in &secrets {
            let value = client.get(&format!("/api/secrets/{secret}/value")).await.expect(200);
            assert_eq!(value.str("value"), "kept");
        }
        let body = json!({"name": format!("secret-{round}"), "value": "kept"});
        secrets.push(client.post("/api/secrets", body).await.expect(201).str("id").to_owned());
        // The next one starts at once, while the watchdog may still be stopping the private server.
        assert_eq!(serving.stop(Signal::KILL).await.code, None);
    }
    home.is_quiet().await;
    home.run(&["projections", "verify"]).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_killed_postgresql_is_a_503_and_then_all_is_well_without_a_restart() {
    let home = Home::new();
    let serving = home.serve().await;
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let before = client.post("/api/secrets", json!({"name": "before", "value": "v"})).await.expect(201);
    let postgres = home.postgres().unwrap();
    kill_process(Pid::from_raw(postgres.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let mut tries = 0;
    let after = eventually("a write gets through to the new server", async || {
        tries += 1;
        let body = json!({"name": format!("after-{tries}"), "value": "v"});
        let answer = client.post("/api/secrets", body).await;
        if answer.status != 201 {
            assert_eq!(answer.status, 503, "{}", answer.text);
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert!(!answer.header("retry-after").is_empty() && !answer.str("request_id").is_empty());
            assert!(!answer.text.contains("sqlx") && !answer.text.contains("/tmp"), "{}", answer.text);
        }
        // Backends outlive their server by a moment, so the first write may still get through to one.
        (answer.status == 201 && home.postgres().is_some_and(|present| present != postgres)).then_some(answer)
    })
    .await;
    assert!(serving.process.stderr().contains("WARN"), "the log has the cause");
    for made in [before, after] {
        client.get(&format!("/api/secrets/{}", made.str("id"))).await.expect(200);
    }
    eventually("it is ready again", async || (client.get("/readyz").await.status == 200).then_some(())).await;
    let events = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    let positions: Vec<_> = events.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>());
    serving.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}
