//! Personal data is sealed in the log and opens again for readers.

use ::ledger::{Append, AppendError, Keyring, Ledger, LedgerError, Metadata, Options, Recorded, SealError};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::Database;

use super::support::{append, event, whole_log};

pub(crate) fn personal(subject: &str, text: &str) -> Value {
    json!({ "personal": text, "subject": subject })
}

/// Everything that the database holds of the events, as text.
async fn raw(database: &Database) -> String {
    let sql = "select coalesce(string_agg(e::text, ' '), '') from events e";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

pub(crate) async fn opened(ledger: &Ledger) -> Vec<Recorded> {
    let mut log = whole_log(ledger).await;
    ledger.open_personal(&mut log).await.unwrap();
    log
}

/// An append of one event about `subject`, who also made the request.
pub(crate) fn about(subject: &str, id: &str, payload: Value) -> Append {
    let metadata = Metadata {
        actor: "test".to_owned(),
        request_id: Some(format!("request of {id}")),
        subject: Some(subject.to_owned()),
        ip: Some("192.0.2.77".to_owned()),
        user_agent: Some("Netscape/4.8".to_owned()),
        ..Metadata::default()
    };
    Append { events: vec![event(id, 1, payload)], metadata, data_keys: vec![] }
}

#[tokio::test]
async fn personal_data_is_not_in_the_clear_and_opens_again() {
    let database = Database::new().await;
    let payload = json!({
        "email": personal("ada", "ada@example.org"),
        "others": [{ "name": personal("ada", "Ada L.") }, { "name": personal("bob", "Bob Böbsen") }],
        "plain": "visible",
    });
    let ledger = database.ledger();
    ledger.append(about("ada", "1", payload.clone())).await.unwrap();
    let raw = raw(&database).await;
    assert!(raw.contains("visible"));
    for secret in ["ada@example.org", "Ada L.", "Bob B", "192.0.2.77", "Netscape"] {
        assert!(!raw.contains(secret), "{secret} is in {raw}");
    }
    // A node that remembers nothing opens it like the one that sealed it.
    for node in [ledger, database.ledger()] {
        let [event] = opened(&node).await.try_into().unwrap();
        assert_eq!(event.payload, payload);
        assert_eq!(event.metadata.ip.as_deref(), Some("192.0.2.77"));
        assert_eq!(event.metadata.user_agent.as_deref(), Some("Netscape/4.8"));
        // Opening what is open already changes nothing in the payload.
        let mut again = [Recorded { metadata: Metadata::default(), ..event.clone() }];
        node.open_personal(&mut again).await.unwrap();
        assert_eq!(again[0].payload, payload);
    }
}

#[tokio::test]
async fn what_only_resembles_personal_data_is_left_alone() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let payload = json!([
        { "personal": "text" },
        { "personal": "text", "subject": "s", "more": 1 },
        { "personal": 1, "subject": "s" },
        { "personal": "text", "subject": null },
    ]);
    let mut plain = append(&[]);
    plain.events.push(event("a", 1, payload.clone()));
    ledger.append(plain).await.unwrap();
    assert_eq!(opened(&ledger).await[0].payload, payload);
}

#[tokio::test]
async fn where_a_request_came_from_is_not_stored_without_a_subject() {
    let database = Database::new().await;
    let ledger = database.ledger();
    for payload in [json!({}), json!({ "name": personal("ada", "Ada") })] {
        let mut append = about("nobody", &payload.to_string(), payload);
        append.metadata.subject = None;
        ledger.append(append).await.unwrap();
    }
    let log = opened(&ledger).await;
    assert!(log.iter().all(|event| event.metadata.ip.is_none() && event.metadata.user_agent.is_none()));
    assert_eq!(log[1].payload, json!({ "name": personal("ada", "Ada") }));
    assert!(!raw(&database).await.contains("192.0.2.77"));
}

#[tokio::test]
async fn sealed_text_opens_in_its_place_only() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger
        .append(about("ada", "1", json!({ "a": personal("ada", "A"), "b": personal("ada", "B") })))
        .await
        .unwrap();
    let log = whole_log(&ledger).await;
    let moves: [fn(&mut Recorded); 5] = [
        |event| {
            event.payload = json!({ "a": event.payload.value()["b"], "b": event.payload.value()["a"] }).into()
        },
        |event| event.sequence = 2,
        |event| event.stream.aggregate_id = "2".to_owned(),
        |event| event.metadata.request_id = Some("another".to_owned()),
        |event| std::mem::swap(&mut event.metadata.ip, &mut event.metadata.user_agent),
    ];
    for (n, moved) in moves.into_iter().enumerate() {
        let mut log = log.clone();
        moved(&mut log[0]);
        let outcome = ledger.open_personal(&mut log).await;
        assert!(matches!(outcome, Err(LedgerError::Seal(SealError::Forged { .. }))), "{n}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_first_appends_for_one_subject_at_once_all_open() {
    let database = Database::new().await;
    let nodes = [database.ledger(), database.ledger()];
    let names: Vec<String> = (0..64).map(|n| format!("name {n}")).collect();
    let appends = names.iter().zip(nodes.iter().cycle()).map(|(name, node)| {
        // Each second one is about two people, whose keys are both fought over.
        let other = if name.ends_with(['0', '2', '4', '6', '8']) { "bob" } else { "ada" };
        node.append(about("ada", name, json!([personal("ada", name), personal(other, name)])))
    });
    for outcome in join_all(appends).await {
        outcome.unwrap();
    }
    let log = opened(&database.ledger()).await;
    assert_eq!(log.len(), 64);
    for event in &log {
        assert_eq!(event.payload.value()[0], personal("ada", &event.stream.aggregate_id));
        assert_eq!(event.payload.value()[1]["personal"], event.payload.value()[0]["personal"]);
        assert_eq!(event.metadata.ip.as_deref(), Some("192.0.2.77"));
    }
    let keys: i64 =
        sqlx::query_scalar("select count(*) from data_keys where id in ('subject/ada', 'subject/bob')")
            .fetch_one(&mut database.connect().await)
            .await
            .unwrap();
    assert_eq!(keys, 2);
}

#[tokio::test]
async fn a_refused_append_leaves_no_key_behind() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("1", 1)])).await.unwrap();
    let conflict = ledger.append(about("ada", "1", json!({ "name": personal("ada", "Ada") }))).await;
    assert_eq!(conflict, Err(AppendError::Conflict));
    assert!(ledger.data_key("subject/ada").await.unwrap().is_none());
    assert!(database.ledger().data_key("subject/ada").await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_encryption_key_is_named() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(about("ada", "1", json!({ "name": personal("ada", "Ada") }))).await.unwrap();
    ledger.keyed_hash(&["x"]).await.unwrap();
    let strange = database.ledger_with(Keyring::new(&[9; 32], None), &Options::default());
    let mut log = whole_log(&strange).await;
    let errors = [
        strange.open_personal(&mut log).await.unwrap_err().to_string(),
        strange.keyed_hash(&["x"]).await.unwrap_err().to_string(),
        strange.append(about("ada", "2", json!({}))).await.unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.contains("sealed with a key that is not configured (key id "), "{error}");
    }
    assert_eq!(whole_log(&ledger).await.len(), 1);
}

#[tokio::test]
async fn personal_data_opens_after_the_encryption_key_was_rotated() {
    let database = Database::new().await;
    let before = database.ledger();
    let payload = |name: &str| json!({ "name": personal(name, name) });
    before.append(about("ada", "1", payload("ada"))).await.unwrap();
    let rotated = Keyring::new(&[7; 32], Some(database.encryption_key()));
    let rotated = database.ledger_with(rotated, &Options::default());
    rotated.append(about("bob", "2", payload("bob"))).await.unwrap();
    rotated.append(about("ada", "3", payload("ada"))).await.unwrap();
    let payloads: Vec<_> = opened(&rotated).await.into_iter().map(|event| event.payload).collect();
    assert_eq!(payloads, ["ada", "bob", "ada"].map(payload));
}
