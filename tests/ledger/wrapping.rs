//! Which key wraps new data keys, and who may start with which keys.

use ::ledger::{KeyCheckError, Keyring, MissingKeys, Options, holds_data_keys};
use futures::future::join_all;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, eventually};

use super::support::{NEW, Node, keyring, store_keys, wrapped_by};

fn missing(outcome: Result<(), KeyCheckError>) -> MissingKeys {
    match outcome {
        Err(KeyCheckError::Missing(missing)) => missing,
        other => panic!("{other:?}"),
    }
}

fn old(database: &Database) -> Keyring {
    Keyring::new(database.encryption_key(), None)
}

fn names(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{kind}/{n:05}")).collect()
}

#[tokio::test]
async fn the_first_nodes_key_wraps_and_of_two_with_different_keys_one_is_refused() {
    let database = Database::new().await;
    let nodes =
        [[1; 32], [2; 32]].map(|key| database.ledger_with(Keyring::new(&key, None), &Options::default()));
    let outcomes = join_all(nodes.iter().map(::ledger::Ledger::claim_wrapping_key)).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let told = outcomes.into_iter().find_map(Result::err).unwrap().to_string();
    assert!(
        told.contains("ENCRYPTION_KEY_PREVIOUS") && told.contains("new data keys are to be wrapped"),
        "{told}"
    );
}

#[tokio::test]
async fn a_node_restarted_with_a_new_key_wraps_with_the_one_before_until_it_is_rotated() {
    let database = Database::new().await;
    let first = Node::start(&database, old(&database)).await;
    store_keys(&first.ledger, &names("first", 3)).await;
    let before = wrapped_by(&database).await;
    let second = Node::start(&database, keyring(&database)).await;
    store_keys(&second.ledger, &names("second", 4)).await;
    assert_eq!(wrapped_by(&database).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for name in names("second", 4) {
        assert!(first.ledger.data_key(&name).await.unwrap().is_some(), "who was not restarted opens it");
    }
    first.stop().await;
    second.ledger.rotate_keys(|_| ()).await.unwrap();
    store_keys(&second.ledger, &names("third", 5)).await;
    let after = wrapped_by(&database).await;
    assert_eq!(after.values().collect::<Vec<_>>(), [&12]);
    assert!(!before.contains_key(after.keys().next().unwrap()));
    second.stop().await;
}

#[tokio::test]
async fn keys_that_are_missing_are_told_with_what_they_wrap_and_nothing_is_changed() {
    let database = Database::new().await;
    let node = database.ledger();
    node.claim_wrapping_key().await.unwrap();
    store_keys(&node, &names("k", 7)).await;
    let (id, _) = wrapped_by(&database).await.pop_first().unwrap();
    let strange = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    for outcome in [strange.check_keys().await, strange.claim_wrapping_key().await] {
        let missing = missing(outcome);
        assert_eq!((&missing.wrapping, &missing.wrapped), (&Some(id.clone()), &vec![(id.clone(), 7)]));
        assert_eq!(missing.configured.len(), 1);
        let told = missing.to_string();
        assert!(told.contains(&format!("7 data keys are wrapped with key id {id}")), "{told}");
        assert!(told.contains(&missing.configured[0]), "{told}");
    }
    assert_eq!(missing(strange.check_known_keys().await).wrapping, Some(id.clone()));
    assert!(strange.register_node(vec![]).await.is_err());
    assert!(strange.live_nodes().await.unwrap().is_empty());
    assert_eq!(wrapped_by(&database).await.into_iter().collect::<Vec<_>>(), [(id, 7)]);
}

#[tokio::test]
async fn a_key_id_nobody_knows_on_one_row_is_told_and_keeps_nobody_from_starting() {
    let database = Database::new().await;
    let node = database.ledger();
    node.claim_wrapping_key().await.unwrap();
    store_keys(&node, &names("k", 7)).await;
    assert_eq!(node.stray_keys().await.unwrap(), []);
    let mut behind = database.connect().await;
    for damage in [
        r"update data_keys set key_id = '\x0102030405060708' where id = 'k/00003'",
        r"update data_keys set key_id = '' where id = 'k/00004'",
        r"update data_keys set key_id = '\xff', wrapped = overlay(wrapped placing '\xff' from 2) where id = 'k/00005'",
    ] {
        behind.execute(damage).await.unwrap();
    }
    Node::start(&database, old(&database)).await.stop().await;
    let stray = [("", 1), ("0102030405060708", 1), ("ff", 1)].map(|(id, count)| (id.to_owned(), count));
    assert_eq!(node.stray_keys().await.unwrap(), stray);
    assert!(node.data_key("k/00003").await.unwrap().is_some(), "it is its row that is wrong");
    assert!(node.data_key("k/00005").await.is_err());
    let proved = node.prove_keys(|_| ()).await.unwrap();
    let unopened: Vec<_> = proved.unopened.named.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(unopened, ["k/00003", "k/00004", "k/00005"]);
    // Nor is such a row in the way of a rotation, whatever order the ids are in.
    let rotated = database.ledger_with(keyring(&database), &Options::default()).rotate_keys(|_| ()).await;
    let rotated = rotated.unwrap();
    assert_eq!((rotated.keys, rotated.unopened.count), (6, 1));
    let new = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    assert_eq!(new.stray_keys().await.unwrap(), stray[2..]);
}

/// The instance's own data key and what the tables say are enough to know which key is missing, whatever its row says.
#[tokio::test]
async fn the_key_of_the_instances_own_data_key_is_needed_also_when_its_row_names_another() {
    let database = Database::new().await;
    let node = database.ledger();
    node.claim_wrapping_key().await.unwrap();
    node.keyed_hash(&["start"]).await.unwrap();
    let (id, _) = wrapped_by(&database).await.pop_first().unwrap();
    let strange = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    let mut behind = database.connect().await;
    behind.execute(r"update data_keys set key_id = '\x0102030405060708'").await.unwrap();
    behind.execute("delete from wrapping_key").await.unwrap();
    assert_eq!(missing(strange.check_keys().await).wrapped, [(id, 1)]);
    node.check_keys().await.unwrap();
}

/// Under a key that no table tells of.
async fn store_keys_by_hand(connection: &mut PgConnection) {
    let sql = r"insert into data_keys (id, key_id, wrapped) values ('k', '\x0102030405060708', '\x01')";
    connection.execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_database_without_tables_needs_no_key_and_one_of_an_earlier_version_needs_its_own() {
    let database = Database::empty().await;
    let strange = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    strange.check_keys().await.unwrap();
    assert!(!holds_data_keys(&database.connect_options().into()).await.unwrap());
    let node = database.ledger();
    node.migrate().await.unwrap();
    assert!(!holds_data_keys(&database.connect_options().into()).await.unwrap());
    node.keyed_hash(&["start"]).await.unwrap();
    assert!(holds_data_keys(&database.connect_options().into()).await.unwrap());
    let mut behind = database.connect().await;
    behind.execute("drop table wrapping_key; drop table former_wrapping_keys").await.unwrap();
    for outcome in [strange.check_keys().await, strange.check_known_keys().await] {
        assert_eq!(missing(outcome).wrapped.len(), 1);
    }
    node.check_keys().await.unwrap();
    store_keys_by_hand(&mut behind).await;
    assert_eq!(missing(node.check_keys().await).wrapped, [("0102030405060708".to_owned(), 1)]);
    node.check_known_keys().await.unwrap();
}

#[tokio::test]
async fn the_migration_takes_on_every_key_that_wraps_data_keys_but_no_damage() {
    let database = Database::new().await;
    let both = database.ledger_with(keyring(&database), &Options::default());
    // As nodes of earlier versions did, each wrapped with the key it was configured with.
    database.ledger().keyed_hash(&["start"]).await.unwrap();
    store_keys(&both, &names("k", 3)).await;
    let mut behind = database.connect().await;
    let earlier = r"update data_keys set key_id = '\x0102030405060708' where id = 'k/00000';
        drop table wrapping_key, former_wrapping_keys, nodes, scrubbing;
        drop function request_scrubbing; drop index data_keys_by_key_id;
        delete from _sqlx_migrations where version = 9";
    behind.execute(earlier).await.unwrap();
    both.migrate().await.unwrap();
    both.check_keys().await.unwrap();
    let stray = [("0102030405060708".to_owned(), 1)];
    assert_eq!(both.stray_keys().await.unwrap(), stray);
    for ring in [old(&database), Keyring::new(&NEW, None)] {
        let alone = database.ledger_with(ring, &Options::default());
        let missing = missing(alone.check_keys().await);
        assert_eq!(missing.wrapped.len(), 1, "{missing:?}");
        assert_ne!(missing.wrapped[0], stray[0]);
    }
}

#[tokio::test]
async fn nodes_are_listed_while_they_run() {
    let database = Database::new().await;
    let (one, two) =
        (Node::start(&database, old(&database)).await, Node::start(&database, keyring(&database)).await);
    let listed = one.ledger.live_nodes().await.unwrap();
    assert_eq!(listed.iter().map(|node| node.key_ids.len()).collect::<Vec<_>>(), [1, 2]);
    assert!(listed.iter().all(|node| node.pid == std::process::id() as i32 && !node.host.is_empty()));
    assert_eq!(listed[0].wraps_with, listed[1].wraps_with);
    two.stop().await;
    assert_eq!(one.ledger.live_nodes().await.unwrap().len(), 1);
    // It is thought dead, and then it beats again.
    let mut behind = database.connect().await;
    behind.execute("update nodes set seen_at = seen_at - interval '16 seconds'").await.unwrap();
    assert!(one.ledger.live_nodes().await.unwrap().is_empty());
    eventually("it is seen again", async || {
        (one.ledger.live_nodes().await.unwrap().len() == 1).then_some(())
    })
    .await;
    behind.execute("update nodes set seen_at = seen_at - interval '2 hours'").await.unwrap();
    let three = Node::start(&database, old(&database)).await;
    one.stop().await;
    let left: i64 = sqlx::query_scalar("select count(*) from nodes").fetch_one(&mut behind).await.unwrap();
    assert_eq!(left, 1, "nobody else cleans up after the dead");
    three.stop().await;
}
