//! Destroyed keys are in no file any more.

use std::path::{Path, PathBuf};

use ::ledger::{Keyring, Options};
use sqlx::Executor as _;
use tests::{Database, Server, eventually};

use super::support::{NEW, Node, keyring, store_keys};

fn old(database: &Database) -> Keyring {
    Keyring::new(database.encryption_key(), None)
}

async fn wrapped(database: &Database, name: &str) -> Vec<u8> {
    let sql = "select wrapped from data_keys where id = $1";
    sqlx::query_scalar(sql).bind(name).fetch_one(&mut database.connect().await).await.unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// The files that hold these bytes, as they are or in hexadecimal.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let wanted = regex::bytes::Regex::new(&format!(
        "(?-u){}|(?i-u:{hex})",
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()
    ));
    let wanted = wanted.unwrap();
    // Files come and go while we look.
    let holds = |path: &PathBuf| std::fs::read(path).is_ok_and(|content| wanted.is_match(&content));
    files(folder).into_iter().filter(holds).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_key_is_in_no_file_of_the_private_server() {
    let server = Server::start("scrubbing").await;
    let database = server.database().await;
    let node = Node::start(&database, old(&database)).await;
    let names: Vec<String> = (0..500).map(|n| format!("secret/{n}/1")).collect();
    store_keys(&node.ledger, &names).await;
    let (gone, kept) = (wrapped(&database, "secret/7/1").await, wrapped(&database, "secret/8/1").await);
    database.connect().await.execute("checkpoint").await.unwrap();
    let before = holding(server.cluster(), &gone);
    let within = |part: &str| before.iter().any(|path| path.to_str().unwrap().contains(part));
    assert!(within("/base/") && within("/pg_wal/"), "what is looked for is found where it is: {before:?}");
    node.ledger.destroy_keys(&["secret/7/1".to_owned()]).await.unwrap();
    node.scrubbed().await;
    assert_eq!(holding(server.cluster(), &gone), Vec::<PathBuf>::new());
    assert!(!holding(server.cluster(), &kept).is_empty());
    assert!(node.ledger.data_key("secret/8/1").await.unwrap().is_some());
    let scrubbing = node.ledger.scrubbing().await.unwrap();
    assert!(scrubbing.done_at >= scrubbing.requested_at && scrubbing.done_at.is_some());
    node.stop().await;
    drop(database);
    server.stop().await;
}

/// As with more keys than can be written anew while appends wait.
fn copied() -> Options {
    Options { scrubbed_in_place: 0, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_is_replaced_by_a_copy_without_the_destroyed_key() {
    let server = Server::start("scrubbing-copied").await;
    let database = server.database().await;
    let node = Node::start_with(&database, old(&database), &copied()).await;
    let names: Vec<String> = (0..500).map(|n| format!("secret/{n}/1")).collect();
    store_keys(&node.ledger, &names).await;
    let mut behind = database.connect().await;
    let shape = "select string_agg(d, E'\\n' order by d) from ( \
        select pg_get_indexdef(indexrelid) d from pg_index where indrelid = 'data_keys'::regclass \
        union all select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'data_keys'::regclass \
        union all select conname || pg_get_constraintdef(oid) from pg_constraint where conrelid = 'data_keys'::regclass \
        union all select attname || attnotnull || attstattarget::text || coalesce(pg_get_expr(adbin, adrelid), '') \
            from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum \
            where attrelid = 'data_keys'::regclass and attnum > 0) described";
    let before: String = sqlx::query_scalar(shape).fetch_one(&mut behind).await.unwrap();
    let gone = wrapped(&database, "secret/7/1").await;
    behind.execute("checkpoint").await.unwrap();
    assert!(!holding(server.cluster(), &gone).is_empty());
    node.ledger.destroy_keys(&["secret/7/1".to_owned()]).await.unwrap();
    node.scrubbed().await;
    assert_eq!(holding(server.cluster(), &gone), Vec::<PathBuf>::new());
    let after: String = sqlx::query_scalar(shape).fetch_one(&mut behind).await.unwrap();
    assert_eq!(after, before);
    let sql = "select count(*) from data_keys where id like 'secret/%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut behind).await.unwrap(), 499);
    let sql = "select to_regclass('data_keys_copy') is null";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut behind).await.unwrap());
    store_keys(&node.ledger, &["later".to_owned()]).await;
    node.stop().await;
    drop((database, behind));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_come_and_go_while_the_table_is_copied_are_there_and_gone_afterwards() {
    let database = Database::new().await;
    let node = Node::start_with(&database, old(&database), &copied()).await;
    let name = |n: usize| format!("secret/{n}/1");
    store_keys(&node.ledger, &(0..4_000).map(name).collect::<Vec<_>>()).await;
    // Each destruction begins another copy; the next keys come and go while it is made.
    for round in 0..40 {
        let new: Vec<_> = (0..5).map(|n| format!("new/{round}/{n}")).collect();
        store_keys(&node.ledger, &new).await;
        let gone: Vec<_> = (0..50).map(|n| name(round * 100 + n)).collect();
        assert_eq!(node.ledger.destroy_keys(&gone).await.unwrap(), 50);
        node.ledger.destroy_keys(&new[..1]).await.unwrap();
    }
    node.scrubbed().await;
    let mut expected: Vec<String> = (0..4_000).filter(|n| n % 100 >= 50).map(name).collect();
    expected.extend((0..40).flat_map(|round| (1..5).map(move |n| format!("new/{round}/{n}"))));
    expected.sort();
    let sql =
        "select id from data_keys where id like 'secret/%' or id like 'new/%' order by id collate \"C\"";
    let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.unwrap();
    assert_eq!(found, expected);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_key_has_wrapped_is_in_no_file_after_a_rotation() {
    let server = Server::start("scrubbing-rotated").await;
    let database = server.database().await;
    database.ledger().claim_wrapping_key().await.unwrap();
    let node = Node::start(&database, keyring(&database)).await;
    store_keys(&node.ledger, &["secret/1/1".to_owned()]).await;
    let before = wrapped(&database, "secret/1/1").await;
    assert!(!holding(server.cluster(), &before).is_empty());
    assert_eq!(node.ledger.rotate_keys(|_| ()).await.unwrap().keys, 1);
    node.scrubbed().await;
    assert_eq!(holding(server.cluster(), &before), Vec::<PathBuf>::new());
    assert_ne!(wrapped(&database, "secret/1/1").await, before);
    node.stop().await;
    drop(database);
    server.stop().await;
}

/// The server would copy what it may still have to show to somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_counts_as_scrubbed_while_somebody_sees_what_was_there_before() {
    let database = Database::new().await;
    let node = Node::start(&database, old(&database)).await;
    store_keys(&node.ledger, &["a".to_owned(), "b".to_owned()]).await;
    let mut reader = database.connect().await;
    reader
        .execute("begin isolation level repeatable read read only; select count(*) from nodes")
        .await
        .unwrap();
    node.ledger.destroy_keys(&["a".to_owned()]).await.unwrap();
    let mut behind = database.connect().await;
    let tried = "select count(*) from pg_stat_activity where datname = current_database() \
                 and application_name = 'daybook scrubbing'";
    for _ in 0..2 {
        for present in [1, 0] {
            eventually("it is tried again and again", async || {
                let count: i64 = sqlx::query_scalar(tried).fetch_one(&mut behind).await.unwrap();
                (count == present).then_some(())
            })
            .await;
        }
        assert!(node.ledger.scrubbing().await.unwrap().pending);
    }
    reader.execute("commit").await.unwrap();
    node.scrubbed().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_use_is_scrubbed_later_and_nobody_waits_long_for_that() {
    let database = Database::new().await;
    let node = Node::start(&database, old(&database)).await;
    store_keys(&node.ledger, &["a".to_owned(), "b".to_owned()]).await;
    node.ledger.destroy_keys(&["a".to_owned()]).await.unwrap();
    node.scrubbed().await;
    let mut reader = database.connect().await;
    reader.execute("begin; select count(*) from data_keys").await.unwrap();
    node.ledger.destroy_keys(&["b".to_owned()]).await.unwrap();
    for n in 0..20 {
        store_keys(&node.ledger, &[format!("more/{n}")]).await;
    }
    assert!(node.ledger.scrubbing().await.unwrap().pending);
    reader.execute("commit").await.unwrap();
    node.scrubbed().await;
    node.stop().await;
}

/// On a server of somebody else's the table is scrubbed; its write-ahead log is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_make_checkpoints_scrubs_the_table_all_the_same() {
    let server = Server::start("scrubbing-plain").await;
    server.connect().await.execute("create role plain login").await.unwrap();
    let database = server.empty_database("plain").await;
    database.ledger().migrate().await.unwrap();
    let node = Node::start(&database, Keyring::new(&NEW, None)).await;
    store_keys(&node.ledger, &["a".to_owned(), "b".to_owned()]).await;
    let gone = wrapped(&database, "a").await;
    node.ledger.destroy_keys(&["a".to_owned()]).await.unwrap();
    node.scrubbed().await;
    server.connect().await.execute("checkpoint").await.unwrap();
    let left = holding(server.cluster(), &gone);
    assert!(left.iter().all(|path| path.to_str().unwrap().contains("/pg_wal/")), "{left:?}");
    node.stop().await;
    drop(database);
    server.stop().await;
}
