//! Dumps that PostgreSQL's own programs make, restored wholly and in parts.

use std::process::{Command, Stdio};

use tests::Database;

use super::sealing::{about, personal};
use super::support::{append, whole_log};

/// Tables that restored data must be equal in.
const CONTENTS: &str = "select jsonb_build_object( \
    'events', (select jsonb_agg(to_jsonb(e) order by position) from events e), \
    'keys', (select jsonb_agg(to_jsonb(k) order by id) from data_keys k), \
    'retired', (select jsonb_agg(to_jsonb(r) order by id) from retired_keys r), \
    'scrubbing', (select jsonb_agg(to_jsonb(s)) from scrubbing s), \
    'identity', (select jsonb_agg(to_jsonb(i)) from log_identity i), \
    'migrations', (select jsonb_agg(version order by version) from _sqlx_migrations))::text";

async fn contents(database: &Database) -> String {
    sqlx::query_scalar(CONTENTS).fetch_one(&mut database.connect().await).await.unwrap()
}

/// Gives what `pg_dump` says of one database to `psql` on the other, which stops at the first error.
fn restore(from: &Database, to: &Database, what: &[&str]) {
    let mut dump = Command::new("pg_dump").arg(from.url()).args(what).stdout(Stdio::piped()).spawn().unwrap();
    let restored = Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--single-transaction", "--set", "ON_ERROR_STOP=1"])
        .arg(to.url())
        .stdin(dump.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(restored.status.success(), "{what:?}: {}", String::from_utf8_lossy(&restored.stderr));
}

/// A log with personal data, a destroyed key and a retired one.
async fn original() -> Database {
    let database = Database::new().await;
    let ledger = database.ledger();
    for name in ["ada", "bob", "eve"] {
        ledger.append(about(name, name, personal(name, name))).await.unwrap();
    }
    ledger.keyed_hash(&["any"]).await.unwrap();
    ledger.destroy_subjects(&["bob".to_owned()]).await.unwrap();
    ledger.retire_subject("eve").await.unwrap();
    ledger.append(append(&[("after", 1)])).await.unwrap();
    database
}

#[tokio::test]
async fn a_dump_is_restored_wholly_or_its_data_alone() {
    let original = original().await;
    let expected = contents(&original).await;
    let whole = Database::empty().await;
    restore(&original, &whole, &[]);
    let parts = Database::empty().await;
    restore(&original, &parts, &["--schema-only"]);
    restore(&original, &parts, &["--data-only"]);
    let migrated = Database::new().await;
    restore(&original, &migrated, &["--data-only"]);
    for restored in [&whole, &parts, &migrated] {
        assert_eq!(contents(restored).await, expected);
        // It goes on from there, whoever calls the functions from wherever.
        let mut elsewhere = restored.connect().await;
        sqlx::raw_sql("set search_path = ''").execute(&mut elsewhere).await.unwrap();
        let sql = "select public.position_at(clock_timestamp())";
        let head: i64 = sqlx::query_scalar(sql).fetch_one(&mut elsewhere).await.unwrap();
        let ledger = restored.ledger();
        ledger.migrate().await.unwrap();
        assert_eq!(ledger.append(append(&[("new", 1)])).await.unwrap().position, head + 1);
        assert_eq!(whole_log(&ledger).await.len() as i64, head + 1);
    }
}
