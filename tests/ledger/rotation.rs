//! Keys are rotated while everything goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::ledger::connect::Cause;
use ::ledger::{Append, AppendError, Keyring, Ledger, Options, RotationError, RotationProgress};
use sqlx::Executor as _;
use tests::{Database, eventually, within};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::support::{NEW, Node, append, keyring, store_keys, whole_log, wrapped_by};

/// As configured for rotating back.
fn back(database: &Database) -> Keyring {
    Keyring::new(database.encryption_key(), Some(&NEW))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("secret/{n:06}/1")).collect()
}

async fn with_keys(count: usize) -> (Database, Ledger) {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.claim_wrapping_key().await.unwrap();
    for chunk in names(count).chunks(1_000) {
        store_keys(&ledger, chunk).await;
    }
    (database, ledger)
}

#[tokio::test]
async fn every_data_key_is_wrapped_anew_and_what_they_sealed_opens_with_the_new_key_alone() {
    let (database, old) = with_keys(2_500).await;
    let sealed = old.data_key("secret/000007/1").await.unwrap().unwrap().seal("here", b"value").unwrap();
    let before = wrapped_by(&database).await;
    let both = database.ledger_with(keyring(&database), &Options::default());
    let mut seen = vec![];
    let rotated = both.rotate_keys(|progress| seen.push(progress)).await.unwrap();
    assert_eq!((rotated.keys, rotated.unopened.count), (2_500, 0));
    assert_eq!(
        wrapped_by(&database).await.into_iter().collect::<Vec<_>>(),
        [(rotated.key_id.clone(), 2_500)]
    );
    assert!(!before.contains_key(&rotated.key_id));
    let wrapping = seen.iter().filter_map(|progress| match progress {
        RotationProgress::Wrapping { done, total } => Some((*done, *total)),
        RotationProgress::Waiting { .. } => None,
    });
    assert_eq!(wrapping.collect::<Vec<_>>(), [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]);
    let new = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    new.check_keys().await.unwrap();
    let proved = new.prove_keys(|_| ()).await.unwrap();
    assert_eq!((proved.keys, proved.unopened.count), (2_500, 0));
    let key = new.data_key("secret/000007/1").await.unwrap().unwrap();
    assert_eq!(key.open("here", &sealed).unwrap().as_slice(), b"value");
    assert!(old.check_keys().await.is_err() && old.data_key("secret/000007/1").await.is_err());
    assert!(new.scrubbing().await.unwrap().pending, "the old key wraps them in the table's file still");
    // Again: there is nothing to do, with the old key configured or without.
    for ledger in [&both, &new] {
        assert_eq!(ledger.rotate_keys(|_| ()).await.unwrap().keys, 0);
    }
}

/// Appends with data keys again and again, and opens what was appended before, as a service does.
async fn work_on(node: Ledger, stop: CancellationToken, done: Arc<AtomicUsize>) {
    let mut made = vec![];
    while !stop.is_cancelled() {
        let (name, subject) = (format!("secret/{}/1", Uuid::now_v7()), Uuid::now_v7().to_string());
        let (key, new) = node.new_data_key(&name).unwrap();
        let sealed = key.seal(&name, b"value").unwrap();
        let append = Append { data_keys: vec![new], ..append(&[(&subject, 1)]) };
        node.append(append).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        made.push((name, sealed));
        let (name, sealed) = &made[made.len() / 2];
        let key = node.data_key(name).await.unwrap().unwrap();
        assert_eq!(key.open(name, sealed).unwrap().as_slice(), b"value");
        done.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_appends_on_two_nodes_go_on_while_keys_are_rotated_to_and_fro() {
    let (database, _) = with_keys(3_000).await;
    let nodes =
        [Node::start(&database, keyring(&database)).await, Node::start(&database, keyring(&database)).await];
    let (stop, done, mut tasks) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for node in nodes.iter().flat_map(|node| std::iter::repeat_n(node, 4)) {
        tasks.spawn(work_on(node.ledger.clone(), stop.clone(), Arc::clone(&done)));
    }
    for round in 0..4 {
        let ring = if round % 2 == 0 { keyring(&database) } else { back(&database) };
        let operator = database.ledger_with(ring, &Options::default());
        let before = done.load(Ordering::SeqCst);
        // The server may still be closing the session of the round before, which holds the lock.
        let rotated = eventually("the rotation", async || match operator.rotate_keys(|_| ()).await {
            Err(RotationError::AlreadyRunning) => None,
            outcome => Some(outcome.unwrap()),
        })
        .await;
        assert!(rotated.keys >= 3_000 && rotated.unopened.count == 0, "{rotated:?}");
        let left = wrapped_by(&database).await;
        assert_eq!(
            left.keys().collect::<Vec<_>>(),
            [&rotated.key_id],
            "nothing of the old key comes in any more"
        );
        eventually("work goes on", async || (done.load(Ordering::SeqCst) > before + 40).then_some(())).await;
    }
    stop.cancel();
    while let Some(outcome) = within("the workers", tasks.join_next()).await {
        outcome.unwrap();
    }
    let proved = nodes[0].ledger.prove_keys(|_| ()).await.unwrap();
    assert_eq!((proved.keys as usize, proved.unopened.count), (3_000 + done.load(Ordering::SeqCst), 0));
}

#[tokio::test]
async fn a_rotation_is_refused_while_a_node_lacks_the_new_key() {
    let (database, _) = with_keys(10).await;
    let before = wrapped_by(&database).await;
    let late = Node::start(&database, Keyring::new(database.encryption_key(), None)).await;
    let operator = database.ledger_with(keyring(&database), &Options::default());
    let refused = operator.rotate_keys(|_| ()).await.unwrap_err();
    assert!(matches!(&refused, RotationError::NodesLack(_, nodes) if nodes.len() == 1), "{refused:?}");
    let told = refused.to_string();
    for part in [&format!("process {}", std::process::id()), "ENCRYPTION_KEY_PREVIOUS", "Restart"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(wrapped_by(&database).await, before);
    store_keys(&late.ledger, &["late/1".to_owned()]).await;
    late.stop().await;
    assert_eq!(operator.rotate_keys(|_| ()).await.unwrap().keys, 11);
    // From now on a node with the old key alone does not start.
    let stale = database.ledger_with(Keyring::new(database.encryption_key(), None), &Options::default());
    assert!(stale.register_node(vec![]).await.is_err());
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_refused() {
    let (database, _) = with_keys(10).await;
    let operator = database.ledger_with(keyring(&database), &Options::default());
    let mut other = database.connect().await;
    other.execute("select pg_advisory_lock(1684171634, 0)").await.unwrap();
    assert!(matches!(operator.rotate_keys(|_| ()).await, Err(RotationError::AlreadyRunning)));
    other.execute("select pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(operator.rotate_keys(|_| ()).await.unwrap().keys, 10);
}

#[tokio::test]
async fn one_key_twice_is_nothing_to_rotate_to_and_without_the_present_key_nothing_begins() {
    let (database, _) = with_keys(3).await;
    let key = database.encryption_key();
    let twice = database.ledger_with(Keyring::new(key, Some(key)), &Options::default());
    assert!(matches!(twice.rotate_keys(|_| ()).await, Err(RotationError::SameKey(_))));
    let before = wrapped_by(&database).await;
    for ring in [Keyring::new(&NEW, None), Keyring::new(&NEW, Some(&[7; 32]))] {
        let refused = database.ledger_with(ring, &Options::default()).rotate_keys(|_| ()).await.unwrap_err();
        assert!(matches!(refused, RotationError::Missing(_)), "{refused}");
        assert!(refused.to_string().contains("ENCRYPTION_KEY_PREVIOUS"), "{refused}");
    }
    assert_eq!(wrapped_by(&database).await, before);
}

#[tokio::test]
async fn what_does_not_open_is_named_and_stays_as_it_was() {
    let (database, old) = with_keys(1_040).await;
    let mut behind = database.connect().await;
    let damage = [
        r"update data_keys set wrapped = set_byte(wrapped, 40, get_byte(wrapped, 40) # 1) where id = 'secret/000001/1'",
        r"update data_keys set wrapped = substr(wrapped, 1, 20) where id = 'secret/000002/1'",
        r"update data_keys set wrapped = '' where id = 'secret/000003/1'",
        r"update data_keys set key_id = '\x0102030405060708', wrapped = overlay(wrapped placing '\x0102030405060708' from 2) where id = 'secret/000004/1'",
        r"update data_keys d set wrapped = o.wrapped from data_keys o where d.id = 'secret/000005/1' and o.id = 'secret/000006/1'",
        r"update data_keys set wrapped = '\x00' || substr(wrapped, 2) where id >= 'secret/001000/1'",
    ];
    for sql in damage {
        behind.execute(sql).await.unwrap();
    }
    let proved = old.prove_keys(|_| ()).await.unwrap();
    assert_eq!((proved.keys, proved.unopened.count, proved.unopened.named.len()), (1_040, 45, 20));
    let bad = "select id, key_id, wrapped from data_keys where id >= 'secret/001000/1' \
               or id between 'secret/000001/1' and 'secret/000005/1' order by id";
    let bad = async || {
        sqlx::query_as::<_, (String, Vec<u8>, Vec<u8>)>(bad)
            .fetch_all(&mut database.connect().await)
            .await
            .unwrap()
    };
    let before = bad().await;
    let both = database.ledger_with(keyring(&database), &Options::default());
    let rotated = within("the rotation", both.rotate_keys(|_| ())).await.unwrap();
    assert_eq!((rotated.keys, rotated.unopened.count, rotated.unopened.named.len()), (995, 45, 20));
    assert_eq!(bad().await, before);
    for (name, cause) in [
        ("secret/000001/1", "altered or belongs elsewhere"),
        ("secret/000002/1", "damaged or of an unknown format"),
        ("secret/000003/1", "damaged or of an unknown format"),
        ("secret/000004/1", "a key that is not configured (key id 0102030405060708)"),
        ("secret/000005/1", "altered or belongs elsewhere"),
    ] {
        let told = rotated.unopened.named.iter().find(|key| key.name == name).unwrap();
        assert!(told.cause.contains(cause), "{told}");
        assert!(old.data_key(name).await.is_err(), "an error, no panic");
    }
}

#[tokio::test]
async fn what_a_rotation_had_to_leave_needs_the_old_key_no_more() {
    let (database, _) = with_keys(5).await;
    let mut behind = database.connect().await;
    let bend =
        "update data_keys set wrapped = set_byte(wrapped, 40, get_byte(wrapped, 40) # 1) where id = $1";
    sqlx::query(bend).bind("secret/000003/1").execute(&mut behind).await.unwrap();
    let both = database.ledger_with(keyring(&database), &Options::default());
    assert_eq!(both.rotate_keys(|_| ()).await.unwrap().unopened.count, 1);
    let node = Node::start(&database, Keyring::new(&NEW, None)).await;
    assert!(node.ledger.data_key("secret/000002/1").await.unwrap().is_some());
    assert!(node.ledger.data_key("secret/000003/1").await.is_err());
    // What is left is told again by each rotation, and again it is in nobody's way.
    for _ in 0..2 {
        let again = both.rotate_keys(|_| ()).await.unwrap();
        assert_eq!((again.keys, again.unopened.count), (0, 1));
        assert!(settled(&database).await);
    }
    node.ledger.destroy_keys(&["secret/000003/1".to_owned()]).await.unwrap();
    assert_eq!(both.rotate_keys(|_| ()).await.unwrap().unopened.count, 0);
    assert_eq!(node.ledger.stray_keys().await.unwrap(), []);
    node.stop().await;
}

/// Ids that nobody knows, more than are listed, and on both sides of those that are in use.
#[tokio::test]
async fn however_many_key_ids_are_damaged_the_others_data_keys_are_wrapped_anew() {
    let (database, _) = with_keys(1_200).await;
    let damage = "insert into data_keys (id, key_id, wrapped) \
                  select 'bad/' || n, decode(lpad(to_hex(n), 2, '0'), 'hex') || '\\x00010203040506'::bytea, '\\x01' \
                  from generate_series(0, 255) n";
    database.connect().await.execute(damage).await.unwrap();
    let both = database.ledger_with(keyring(&database), &Options::default());
    let rotated = within("the rotation", both.rotate_keys(|_| ())).await.unwrap();
    assert_eq!((rotated.keys, rotated.unopened.count), (1_200, 256));
    assert_eq!(wrapped_by(&database).await[&rotated.key_id], 1_200);
    assert!(settled(&database).await);
    Node::start(&database, Keyring::new(&NEW, None)).await.stop().await;
}

async fn settled(database: &Database) -> bool {
    let sql = "select settled from wrapping_key";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

/// As many are left as did not open, but they are others.
#[tokio::test]
async fn a_rotation_does_not_take_a_key_that_came_in_for_one_that_did_not_open() {
    let (database, old) = with_keys(5).await;
    let mut behind = database.connect().await;
    // A node that has not heard yet keeps the rotation from its end.
    let deaf = "create table kept as select * from data_keys where id = 'secret/000004/1';
        delete from data_keys where id = 'secret/000004/1';
        update data_keys set wrapped = '' where id = 'secret/000003/1'";
    behind.execute(deaf).await.unwrap();
    let both = database.ledger_with(keyring(&database), &Options::default());
    both.claim_wrapping_key().await.unwrap();
    both.register_node(vec![]).await.unwrap();
    let (waits, waited) = tokio::sync::oneshot::channel();
    let mut waits = Some(waits);
    let rotation = tokio::spawn(async move {
        let heard = both.clone();
        let outcome = heard.rotate_keys(|progress| match progress {
            RotationProgress::Waiting { .. } => drop(waits.take().map(|waits| waits.send(()))),
            RotationProgress::Wrapping { .. } => {}
        });
        outcome.await
    });
    within("the rotation waits", waited).await.unwrap();
    let swapped =
        "delete from data_keys where id = 'secret/000003/1'; insert into data_keys select * from kept";
    behind.execute(swapped).await.unwrap();
    let new = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    assert!(new.check_keys().await.is_err(), "the old key is needed still");
    behind.execute("delete from nodes").await.unwrap();
    let rotated = within("the rotation", rotation).await.unwrap().unwrap();
    assert_eq!((rotated.keys, rotated.unopened.count), (4, 0));
    assert_eq!(wrapped_by(&database).await.into_iter().collect::<Vec<_>>(), [(rotated.key_id, 4)]);
    new.check_keys().await.unwrap();
    assert!(old.check_keys().await.is_err());
}

#[tokio::test]
async fn a_key_that_wrapped_before_is_needed_until_its_rotation_is_complete() {
    let (database, _) = with_keys(5).await;
    let (id, _) = wrapped_by(&database).await.pop_first().unwrap();
    // As a rotation leaves it that is killed after its first step, or in the middle.
    let mut behind = database.connect().await;
    let both = database.ledger_with(keyring(&database), &Options::default());
    behind.execute("create table kept as select * from data_keys where id > 'secret/000002'").await.unwrap();
    both.rotate_keys(|_| ()).await.unwrap();
    let restored = "update data_keys d set key_id = k.key_id, wrapped = k.wrapped from kept k where k.id = d.id;
        update wrapping_key set settled = false; insert into former_wrapping_keys select distinct key_id from kept";
    behind.execute(restored).await.unwrap();
    let before = wrapped_by(&database).await;
    let new = database.ledger_with(Keyring::new(&NEW, None), &Options::default());
    let third = database.ledger_with(Keyring::new(&[7; 32], Some(&NEW)), &Options::default());
    for ledger in [&new, &third] {
        let refused = [
            ledger.check_keys().await.unwrap_err().to_string(),
            ledger.claim_wrapping_key().await.unwrap_err().to_string(),
            ledger.rotate_keys(|_| ()).await.unwrap_err().to_string(),
        ];
        for told in refused {
            assert!(told.contains(&format!("3 data keys are wrapped with key id {id}")), "{told}");
        }
    }
    assert_eq!(wrapped_by(&database).await, before);
    assert_eq!(both.rotate_keys(|_| ()).await.unwrap().keys, 3);
    new.check_keys().await.unwrap();
    assert!(settled(&database).await);
}

/// They were made with the old key when it was still the one; what was rotated meanwhile does not fail them, nor leave them behind.
#[tokio::test]
async fn a_data_key_made_before_a_rotation_and_stored_after_it_is_wrapped_with_the_new_key() {
    let (database, old) = with_keys(5).await;
    let [both, operator] = [(); 2].map(|()| database.ledger_with(keyring(&database), &Options::default()));
    both.claim_wrapping_key().await.unwrap();
    let keyed = |ledger: &Ledger, name: &str| {
        let (key, new) = ledger.new_data_key(name).unwrap();
        (key.seal("here", b"value").unwrap(), Append { data_keys: vec![new], ..append(&[(name, 1)]) })
    };
    let (sealed, late) = keyed(&both, "late/1");
    let (_, lost) = keyed(&old, "lost/1");
    let rotated = operator.rotate_keys(|_| ()).await.unwrap();
    both.append(late).await.unwrap();
    let refused = old.append(lost).await.unwrap_err();
    assert!(matches!(refused, AppendError::NotDone(Cause::KeyNotConfigured)), "{refused:?}");
    let refused = old.new_data_key("more/1").unwrap_err();
    assert_eq!(refused, AppendError::NotDone(Cause::KeyNotConfigured));
    assert_eq!(wrapped_by(&database).await.into_iter().collect::<Vec<_>>(), [(rotated.key_id, 6)]);
    let key = both.data_key("late/1").await.unwrap().unwrap();
    assert_eq!(key.open("here", &sealed).unwrap().as_slice(), b"value");
    assert!(
        whole_log(&both).await.iter().all(|event| event.stream.aggregate_id != "lost/1"),
        "no event without its key"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_destroyed_during_a_rotation_stays_destroyed() {
    let (database, _) = with_keys(4_000).await;
    let node = Node::start(&database, keyring(&database)).await;
    let operator = database.ledger_with(keyring(&database), &Options::default());
    let destroyer = node.ledger.clone();
    let destroying = tokio::spawn(async move {
        for chunk in names(4_000).rchunks(50).filter(|chunk| !chunk[0].ends_with("00/1")) {
            destroyer.destroy_keys(chunk).await.unwrap();
        }
    });
    let rotated = within("the rotation", operator.rotate_keys(|_| ())).await.unwrap();
    within("the destroying", destroying).await.unwrap();
    assert_eq!(rotated.unopened.count, 0);
    assert_eq!(wrapped_by(&database).await.into_iter().collect::<Vec<_>>(), [(rotated.key_id, 2_000)]);
    node.stop().await;
}
