//! Data keys and the keyed hash: stored with the events that need them, and gone when their row is.

use ::ledger::{AppendError, Keyring, Options};
use futures::future::join_all;
use tests::Database;

use super::support::{append, whole_log};

#[tokio::test]
async fn a_data_key_is_stored_with_its_append_and_opens_what_it_sealed() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let (key, new) = ledger.new_data_key("secret/1/1").unwrap();
    assert!(ledger.data_key("secret/1/1").await.unwrap().is_none(), "nothing is stored yet");
    let sealed = key.seal("secret/1 version 1", b"hunter2").unwrap();
    let mut stored = append(&[("a", 1)]);
    stored.data_keys.push(new);
    ledger.append(stored).await.unwrap();
    let key = database.ledger().data_key("secret/1/1").await.unwrap().unwrap();
    assert_eq!(key.open("secret/1 version 1", &sealed).unwrap().as_slice(), b"hunter2");
    let wrapped: Vec<u8> = sqlx::query_scalar("select wrapped from data_keys where id = 'secret/1/1'")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    // Format, id and nonce before, tag behind: the key itself is encrypted.
    assert_eq!(wrapped.len(), 21 + 32 + 16);
}

#[tokio::test]
async fn a_second_key_of_one_name_is_a_conflict_and_a_conflict_stores_no_key() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let with_key = |events: &[(&str, i64)], name: &str| {
        let mut append = append(events);
        append.data_keys.push(ledger.new_data_key(name).unwrap().1);
        append
    };
    ledger.append(with_key(&[("a", 1)], "k")).await.unwrap();
    assert_eq!(ledger.append(with_key(&[("a", 2)], "k")).await, Err(AppendError::Conflict));
    assert_eq!(ledger.append(with_key(&[("a", 1)], "other")).await, Err(AppendError::Conflict));
    assert!(database.ledger().data_key("other").await.unwrap().is_none());
    assert_eq!(whole_log(&ledger).await.len(), 1);
    // Both in one batch: the first of them gets it.
    let both =
        join_all([("b", "new"), ("c", "new")].map(|(id, name)| ledger.append(with_key(&[(id, 1)], name))))
            .await;
    assert!(both[0].is_ok());
    assert_eq!(both[1], Err(AppendError::Conflict));
}

#[tokio::test]
async fn a_destroyed_data_key_is_gone() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let mut stored = append(&[("a", 1)]);
    stored.data_keys.push(ledger.new_data_key("k").unwrap().1);
    ledger.append(stored).await.unwrap();
    sqlx::query("delete from data_keys where id = 'k'").execute(&mut database.connect().await).await.unwrap();
    assert!(ledger.data_key("k").await.unwrap().is_none());
}

#[tokio::test]
async fn the_keyed_hash_is_one_for_all_nodes_and_for_ever() {
    let database = Database::new().await;
    let nodes: Vec<_> = (0..16).map(|_| database.ledger()).collect();
    // All at once, so that they race for the key's making.
    let hashes = join_all(nodes.iter().map(|node| node.keyed_hash(&["email", "ada@example.org"]))).await;
    let hashes: Vec<String> = hashes.into_iter().map(Result::unwrap).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert_eq!(hashes[0].len(), 64);
    let rotated = Keyring::new(&[7; 32], Some(database.encryption_key()));
    let rotated = database.ledger_with(rotated, &Options::default());
    assert_eq!(rotated.keyed_hash(&["email", "ada@example.org"]).await.unwrap(), hashes[0]);
    for other in [["email", "bob@example.org"], ["emaila", "da@example.org"], ["slug", "ada@example.org"]] {
        assert_ne!(nodes[0].keyed_hash(&other).await.unwrap(), hashes[0]);
    }
    let elsewhere = Database::new().await.ledger().keyed_hash(&["email", "ada@example.org"]).await;
    assert_ne!(elsewhere.ok().as_ref(), Some(&hashes[0]), "another instance has another key");
}

/// D3: a claim is the first event of a stream whose id is the keyed hash of what is claimed.
#[tokio::test]
async fn of_many_who_claim_one_value_at_once_one_gets_it() {
    let database = Database::new().await;
    let nodes = [database.ledger(), database.ledger()];
    let claims = (0..32).zip(nodes.iter().cycle()).map(|(n, node)| async move {
        let claim = node.keyed_hash(&["email", "ada@example.org"]).await.unwrap();
        node.append(append(&[(&format!("user {n}"), 1), (&claim, 1)])).await
    });
    let outcomes = join_all(claims).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| *e == AppendError::Conflict));
    assert_eq!(whole_log(&nodes[0]).await.len(), 2, "the claim and its user's event, and nobody else's");
}
