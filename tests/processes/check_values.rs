//! `daybook check` opens every value that was not destroyed, and names those that do not open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::json;
use sqlx::Executor as _;
use tests::{Client, Database};

use super::home::Home;

const CANARY: &str = "c4n4ry-value";

async fn keep(owner: &Client, name: &str, values: usize) -> String {
    let body = json!({"name": name, "value": format!("{CANARY}-1")});
    let id = owner.post("/api/secrets", body).await.expect(201).str("id").to_owned();
    for number in 2..=values {
        let body = json!({"value": format!("{CANARY}-{number}")});
        owner.put(&format!("/api/secrets/{id}/value"), body).await.expect(200);
    }
    id
}

#[tokio::test]
async fn values_that_do_not_open_are_named_and_destroyed_ones_are_not() {
    let database = Database::new().await;
    let home = Home::new()
        .with("DATABASE_URL", database.url())
        .with("ENCRYPTION_KEY", BASE64.encode(*database.encryption_key()))
        .with("JWT_SECRET", "one for all nodes, of more than 32 characters");
    let serving = home.serve().await;
    let owner = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let (lost, moved, gone) =
        (keep(&owner, "lost", 2).await, keep(&owner, "moved", 2).await, keep(&owner, "gone", 2).await);
    owner.patch(&format!("/api/secrets/{moved}"), json!({"name": "payments/moved"})).await.expect(200);
    owner.post(&format!("/api/secrets/{gone}/destroy"), json!({"versions": [1]})).await.expect(200);
    serving.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, "the configuration is good\n");

    let mut behind = database.connect().await;
    behind.execute(&*format!("delete from data_keys where id = 'secret/{lost}/1'")).await.unwrap();
    // One value in the other's place, as only the table's owner could do it.
    let swap = format!(
        "alter table events disable trigger events_are_for_ever; \
         update events e set payload = o.payload from events o \
         where e.aggregate_id = '{moved}' and e.event_type = 'SecretValueChanged' \
             and o.aggregate_id = '{lost}' and o.event_type = 'SecretValueChanged'; \
         alter table events enable trigger events_are_for_ever"
    );
    behind.execute(sqlx::raw_sql(&swap)).await.unwrap();
    let told = home.run(&["check"]).await.expect(1);
    let line = |text: &str| told.stdout.lines().find(|line| line.contains(text)).unwrap_or_default();
    assert!(line("version 1 of the secret \"lost\"").contains("the data key is lost"), "{}", told.stdout);
    let moved = line("version 2 of the secret \"payments/moved\"");
    assert!(moved.contains("altered or belongs elsewhere"), "{}", told.stdout);
    assert_eq!(
        told.stdout.lines().filter(|line| line.starts_with("secrets: ")).count(),
        2,
        "{}",
        told.stdout
    );
    assert!(!told.stdout.contains(CANARY) && !told.stderr.contains(CANARY), "{told:?}");
}
