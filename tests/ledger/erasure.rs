//! Whoever is erased is forgotten: their key is destroyed, and history still reads.

use ::ledger::Ledger;
use serde_json::json;
use tests::Database;

use super::sealing::{about, opened, personal};
use super::support::{Hearing, remove_row, whole_log};

async fn erase(database: &Database, subject: &str) {
    remove_row(database, &format!("subject/{subject}")).await;
}

async fn register(ledger: &Ledger, subject: &str, id: &str) {
    let payload = json!({ "name": personal(subject, "a name"), "team": "crew" });
    ledger.append(about(subject, id, payload)).await.unwrap();
}

#[tokio::test]
async fn an_erased_person_opens_as_erased_and_others_do_not() {
    let database = Database::new().await;
    let ledger = database.ledger();
    register(&ledger, "ada", "1").await;
    register(&ledger, "bob", "2").await;
    let sealed = whole_log(&ledger).await;
    erase(&database, "ada").await;
    let [ada, bob] = opened(&database.ledger()).await.try_into().unwrap();
    assert_eq!(ada.payload, json!({ "name": { "erased": true, "subject": "ada" }, "team": "crew" }));
    assert_eq!(
        (ada.metadata.ip.as_deref(), ada.metadata.user_agent.as_deref()),
        (Some("erased"), Some("erased"))
    );
    assert_eq!(bob.payload.value()["name"], personal("bob", "a name"));
    assert_eq!(bob.metadata.ip.as_deref(), Some("192.0.2.77"));
    assert_eq!(whole_log(&ledger).await, sealed, "the log itself is as it was");
}

/// Somebody may still write about the person, who then gets a key anew. It opens what it sealed, and the past stays erased.
#[tokio::test]
async fn what_is_recorded_after_an_erasure_does_not_disturb_what_was_erased() {
    let database = Database::new().await;
    let ledger = database.ledger();
    register(&ledger, "ada", "1").await;
    erase(&database, "ada").await;
    register(&database.ledger(), "ada", "2").await;
    let [before, after] = opened(&database.ledger()).await.try_into().unwrap();
    assert_eq!(before.payload.value()["name"], json!({ "erased": true, "subject": "ada" }));
    assert_eq!(before.metadata.ip.as_deref(), Some("erased"));
    assert_eq!(after.payload.value()["name"], personal("ada", "a name"));
    assert_eq!(after.metadata.ip.as_deref(), Some("192.0.2.77"));
    // A node that remembers the old key meets the new one and is not thrown off.
    let [_, after] = opened(&ledger).await.try_into().unwrap();
    assert_eq!(after.payload.value()["name"], personal("ada", "a name"));
    assert_eq!(after.metadata.ip.as_deref(), Some("192.0.2.77"));
}

/// A node that still remembers the key seals with it: what it seals is erased from the beginning.
#[tokio::test]
async fn what_a_late_node_seals_with_a_destroyed_key_is_erased() {
    let database = Database::new().await;
    let late = Hearing::start(&database).await;
    register(&late.ledger, "ada", "1").await;
    opened(&late.ledger).await;
    // Behind its back: as in the moment before it hears of it.
    erase(&database, "ada").await;
    register(&late.ledger, "ada", "2").await;
    let mut log = opened(&database.ledger()).await;
    log.retain(|event| event.payload.value().get("name").is_some());
    assert_eq!(log.len(), 2);
    assert!(log.iter().all(|event| event.payload.value()["name"]["erased"] == json!(true)), "{log:?}");
}
