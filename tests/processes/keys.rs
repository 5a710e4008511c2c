//! `keys rotate` and `check` beside running nodes, and who may start with which keys.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ledger::{Append, Metadata, NewEvent, StreamId};
use rustix::process::Signal;
use serde_json::json;
use sqlx::Executor as _;
use tests::{Client, Database, eventually, within};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::home::{Home, Serving};

const NEW: [u8; 32] = [0xCD; 32];

/// A folder whose commands use this database with these keys.
fn home(database: &Database, key: &[u8; 32], previous: Option<&[u8; 32]>) -> Home {
    let home = Home::new().with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", BASE64.encode(key));
    let home = home.with("JWT_SECRET", "one for all nodes, of more than 32 characters");
    match previous {
        Some(previous) => home.with("ENCRYPTION_KEY_PREVIOUS", BASE64.encode(previous)),
        None => home,
    }
}

/// Stores this many data keys beside those of the service.
async fn store(database: &Database, count: usize) {
    let ledger = database.ledger();
    for chunk in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let names = chunk.iter().map(|n| format!("bulk/{n:06}"));
        let event = NewEvent {
            stream: StreamId::new("story", chunk[0]),
            sequence: 1,
            event_type: "Happened".to_owned(),
            event_version: "1".to_owned(),
            payload: json!({}).into(),
        };
        let data_keys = names.map(|name| ledger.new_data_key(&name).unwrap().1).collect();
        let metadata = Metadata { actor: "test".to_owned(), ..Metadata::default() };
        ledger.append(Append { events: vec![event], metadata, data_keys }).await.unwrap();
    }
}

async fn key_ids(database: &Database) -> BTreeSet<String> {
    let sql = "select distinct encode(key_id, 'hex') from data_keys";
    sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.unwrap().into_iter().collect()
}

/// All that must not change when a start is refused.
async fn everything(database: &Database) -> String {
    let sql = "select md5(string_agg(d::text, ',' order by id)) || (select count(*) from events) \
               || (select string_agg(w::text, ',') from wrapping_key w) || (select count(*) from nodes) \
               || (select count(*) from pg_class) from data_keys d";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

/// Writes secrets and reads them back, again and again. Says how many it was.
async fn work_on(client: Client, node: usize, stop: CancellationToken) -> usize {
    let mut made = vec![];
    while !stop.is_cancelled() {
        let body = json!({"name": format!("work-{node}-{}", made.len()), "value": "kept"});
        made.push(client.post("/api/secrets", body).await.expect(201).str("id").to_owned());
        let path = format!("/api/secrets/{}/value", made[made.len() / 2]);
        assert_eq!(client.get(&path).await.expect(200).str("value"), "kept");
    }
    made.len()
}

/// Begins a rotation and kills it in the middle.
async fn kill_a_rotation(home: &Home, database: &Database) {
    let mut rotation = home.start(&["keys", "rotate", "--json"]);
    rotation.line("the first batch", |line| line.contains("wrapped")).await;
    assert_eq!(rotation.stop(Signal::KILL).await.code, None);
    let mut behind = database.connect().await;
    eventually("its connection is gone", async || {
        let sql = "select count(*) from pg_stat_activity \
                   where datname = current_database() and application_name = 'daybook rotation'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut behind).await.unwrap();
        (count == 0).then_some(())
    })
    .await;
    assert_eq!(key_ids(database).await.len(), 2, "some are done and some are not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_through_a_rolling_restart_and_a_kill_while_nothing_fails() {
    let database = Database::new().await;
    let old_key = *database.encryption_key();
    let (old, both, new) =
        (home(&database, &old_key, None), home(&database, &NEW, Some(&old_key)), home(&database, &NEW, None));
    let first = old.serve().await;
    let admin = first.admin.clone().unwrap();
    let kept = first.sign_in(&admin).await.post("/api/secrets", json!({"name": "kept", "value": "v"})).await;
    let kept = format!("/api/secrets/{}/value", kept.expect(201).str("id"));
    store(&database, 20_000).await;

    // One node after the other gets the new key; what either makes the other opens.
    let second = both.serve().await;
    let refused = both.run(&["keys", "rotate"]).await.expect(1);
    assert!(refused.stderr.contains(&format!("process {} on", first.process.pid())), "{}", refused.stderr);
    let made = second.sign_in(&admin).await.post("/api/secrets", json!({"name": "made", "value": "w"})).await;
    let made = format!("/api/secrets/{}/value", made.expect(201).str("id"));
    assert_eq!(first.sign_in(&admin).await.get(&made).await.expect(200).str("value"), "w");
    first.stop(Signal::TERM).await.expect(0);
    let first = both.serve().await;
    assert_eq!(key_ids(&database).await.len(), 1);

    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    for (number, node) in [&first, &second].into_iter().enumerate() {
        tasks.spawn(work_on(node.sign_in(&admin).await, number, stop.clone()));
    }
    kill_a_rotation(&both, &database).await;
    refuses_too_early(&new, &database).await;
    let done = both.run(&["keys", "rotate", "--json"]).await.expect(0).json_lines();
    let last = done.last().unwrap();
    assert_eq!((&last["done"], &last["unopened"]["count"]), (&json!(true), &json!(0)));
    assert!((1..20_000).contains(&last["wrapped"].as_u64().unwrap()), "it went on: {last}");
    assert_eq!(key_ids(&database).await, BTreeSet::from([last["key_id"].as_str().unwrap().to_owned()]));
    stop.cancel();
    while let Some(count) = within("the work", tasks.join_next()).await {
        assert!(count.unwrap() > 0);
    }
    assert_eq!(last["unopened"]["named"], json!([]));
    let again = both.run(&["keys", "rotate"]).await.expect(0).stdout;
    assert!(again.starts_with("nothing to do: every data key is wrapped with ENCRYPTION_KEY"), "{again}");

    // The old key goes.
    first.stop(Signal::TERM).await.expect(0);
    let first = new.serve().await;
    second.stop(Signal::TERM).await.expect(0);
    let client = first.sign_in(&admin).await;
    for (path, value) in [(&kept, "v"), (&made, "w")] {
        assert_eq!(client.get(path).await.expect(200).str("value"), value);
    }
    assert_eq!(new.run(&["check"]).await.expect(0).stdout, "the configuration is good\n");
    refuses_the_old(&old, &database).await;
    first.stop(Signal::TERM).await.expect(0);
}

async fn refuses_the_old(old: &Home, database: &Database) {
    let before = everything(database).await;
    let ended = old.run(&["serve"]).await.expect(1);
    assert!(ended.stderr.contains("does not open what this database holds"), "{}", ended.stderr);
    assert_eq!(everything(database).await, before);
}

/// The old key is taken away before the rotation is complete.
async fn refuses_too_early(new: &Home, database: &Database) {
    let sql = "select string_agg(d::text, ',' order by id) from data_keys d where id like 'bulk/%'";
    let bulk =
        async || sqlx::query_scalar::<_, String>(sql).fetch_one(&mut database.connect().await).await.unwrap();
    let before = bulk().await;
    for command in [&["serve"][..], &["events"], &["keys", "rotate"]] {
        let ended = new.run(command).await.expect(1);
        for part in
            ["data keys are wrapped with key id", "not configured", "when daybook keys rotate has come"]
        {
            assert!(ended.stderr.contains(part), "{command:?} {part}: {}", ended.stderr);
        }
    }
    assert_eq!(bulk().await, before);
}

async fn stopped(serving: Serving) {
    serving.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn who_lacks_a_key_is_refused_in_words_and_nothing_is_overwritten() {
    let database = Database::new().await;
    let old_key = *database.encryption_key();
    stopped(home(&database, &old_key, None).serve().await).await;
    let id = key_ids(&database).await.pop_first().unwrap();
    let before = everything(&database).await;
    let without = home(&database, &NEW, None);
    for command in [
        &["serve"][..],
        &["migrate"],
        &["events"],
        &["admin", "create", "--email", "x@example.org"],
        &["keys", "rotate"],
    ] {
        let ended = without.run(command).await.expect(1);
        for part in
            [&*format!("key id {id}"), "not configured", "ENCRYPTION_KEY_PREVIOUS", "configured is key id"]
        {
            assert!(ended.stderr.contains(part), "{command:?} {part}: {}", ended.stderr);
        }
        assert_eq!(everything(&database).await, before, "{command:?}");
    }
}

/// Makes a secret and gives back the path of it.
async fn secret(client: &Client, name: &str) -> String {
    let made = client.post("/api/secrets", json!({"name": name, "value": name})).await.expect(201);
    format!("/api/secrets/{}", made.str("id"))
}

#[tokio::test]
async fn damage_to_one_secrets_data_key_is_that_secrets_only() {
    let database = Database::new().await;
    let home = home(&database, database.encryption_key(), None);
    let first = home.serve().await;
    let admin = first.admin.clone().unwrap();
    let client = first.sign_in(&admin).await;
    let [whole, bent, misnamed] =
        [secret(&client, "whole").await, secret(&client, "bent").await, secret(&client, "misnamed").await];
    stopped(first).await;
    let key = |path: &str| format!("secret/{}/1", path.rsplit('/').next().unwrap());
    let mut behind = database.connect().await;
    for (name, wrapped) in
        [(key(&bent), r"overlay(wrapped placing '\x0102030405060708' from 2)"), (key(&misnamed), "wrapped")]
    {
        let sql =
            format!(r"update data_keys set key_id = '\x0102030405060708', wrapped = {wrapped} where id = $1");
        let rows = sqlx::query(&sql).bind(name).execute(&mut behind).await.unwrap().rows_affected();
        assert_eq!(rows, 1);
    }

    let serving = home.serve().await;
    let told = serving.process.stdout() + &serving.process.stderr();
    assert!(told.contains("0102030405060708 (2)") && told.contains("daybook check names them"), "{told}");
    let client = serving.sign_in(&admin).await;
    for (path, value) in [(&whole, "whole"), (&misnamed, "misnamed")] {
        assert_eq!(client.get(&format!("{path}/value")).await.expect(200).str("value"), value);
    }
    assert_eq!(client.get(&format!("{bent}/value")).await.expect(503).str("code"), "key_not_configured");
    let ended = home.run(&["check"]).await.expect(1);
    assert!(ended.stderr.contains("2 problems"), "{}", ended.stderr);
    for told in [
        format!(
            "ENCRYPTION_KEY: data key {} (key id 0102030405060708): sealed with a key that is not configured",
            key(&bent)
        ),
        format!(
            "ENCRYPTION_KEY: data key {} (key id 0102030405060708): it is wrapped with key id",
            key(&misnamed)
        ),
    ] {
        assert!(ended.stdout.contains(&told), "{}", ended.stdout);
    }
    // As a rotation advises.
    client.post(&format!("{bent}/destroy"), json!({"versions": [1]})).await.expect(200);
    let ended = home.run(&["check"]).await.expect(1);
    assert!(ended.stderr.contains("1 problem") && !ended.stdout.contains(&key(&bent)), "{}", ended.stdout);
    stopped(serving).await;
}

#[tokio::test]
async fn check_names_the_data_keys_that_do_not_open_and_a_rotation_leaves_them() {
    let database = Database::new().await;
    let old_key = *database.encryption_key();
    let old = home(&database, &old_key, None);
    stopped(old.serve().await).await;
    store(&database, 60).await;
    assert_eq!(old.run(&["check"]).await.expect(0).stdout, "the configuration is good\n");
    let mut behind = database.connect().await;
    let bend = r"update data_keys set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)";
    behind.execute(&*format!("{bend} where id = 'bulk/000005'")).await.unwrap();
    behind
        .execute("update data_keys set wrapped = substr(wrapped, 1, 9) where id = 'bulk/000006'")
        .await
        .unwrap();
    let ended = old.run(&["check"]).await.expect(1);
    assert!(ended.stderr.contains("2 problems"), "{}", ended.stderr);
    for name in ["bulk/000005", "bulk/000006"] {
        let told = format!("ENCRYPTION_KEY: data key {name} (key id ");
        assert!(ended.stdout.contains(&told), "{}", ended.stdout);
        assert_eq!(ended.stdout.matches(name).count(), 1, "said once: {}", ended.stdout);
    }
    let both = home(&database, &NEW, Some(&old_key));
    let ended = both.run(&["keys", "rotate"]).await.expect(1);
    assert!(ended.stdout.contains("data key bulk/000006 (key id "), "{}", ended.stdout);
    assert!(ended.stderr.contains("2 data keys do not open; they are as they were"), "{}", ended.stderr);
    assert_eq!(key_ids(&database).await.len(), 2);
    for part in
        ["stay as they are", "/api/secrets/{id}/destroy", "ENCRYPTION_KEY_PREVIOUS may be removed now"]
    {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    // What the rotation has left needs the old key no more.
    let new = home(&database, &NEW, None);
    stopped(new.serve().await).await;
    assert!(new.run(&["check"]).await.expect(1).stderr.contains("2 problems"));
    behind.execute(&*format!("{bend} where id >= 'bulk/000020' and id < 'bulk/000050'")).await.unwrap();
    let ended = both.run(&["check"]).await.expect(1);
    assert!(ended.stdout.contains("12 more data keys do not open"), "{}", ended.stdout);
    assert!(ended.stderr.contains("32 problems"), "{}", ended.stderr);
    // With the wrong key it is all of them.
    let ended = home(&database, &[9; 32], None).run(&["check"]).await.expect(1);
    assert!(ended.stdout.contains("does not open what this database holds"), "{}", ended.stdout);
    assert!(ended.stdout.contains("data key bulk/000000 (key id "), "{}", ended.stdout);
}

#[tokio::test]
async fn a_second_rotation_and_one_to_the_same_key_are_refused() {
    let database = Database::new().await;
    let old_key = *database.encryption_key();
    stopped(home(&database, &old_key, None).serve().await).await;
    let mut behind = database.connect().await;
    behind.execute("select pg_advisory_lock(1684171634, 0)").await.unwrap();
    let both = home(&database, &NEW, Some(&old_key));
    let ended = both.run(&["keys", "rotate"]).await.expect(1);
    assert!(ended.stderr.contains("a rotation is running already"), "{}", ended.stderr);
    behind.execute("select pg_advisory_unlock_all()").await.unwrap();
    let ended = home(&database, &old_key, Some(&old_key)).run(&["keys", "rotate"]).await.expect(1);
    assert!(ended.stderr.contains("are the same key"), "{}", ended.stderr);
    let ended =
        home(&database, &old_key, None).run(&["keys", "rotate", "--json"]).await.expect(0).json_lines();
    assert_eq!((&ended[0]["done"], &ended[0]["wrapped"]), (&json!(true), &json!(0)));
    let ended = both.run(&["keys", "rotate"]).await.expect(0);
    assert!(ended.stdout.contains("data keys are wrapped with ENCRYPTION_KEY"), "{}", ended.stdout);
    assert!(ended.stdout.contains("backups from before this rotation still need it"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("destroy"), "{}", ended.stdout);
}
