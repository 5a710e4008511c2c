//! Connections under everything that can happen to them: owners' settings, limits, dead networks, callers who leave.

use std::time::Duration;

use ::ledger::connect::{Cause, Connector, DatabaseAddress, Purpose};
use ::ledger::{AppendError, Keyring, Ledger, Options};
use futures::future::join_all;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, Proxy, Server, eventually, within};

use super::support::{append, whole_log};

/// Defaults that an owner may have set, each of which breaks something that relies on the usual one.
const HOSTILE: &[&str] = &[
    "default_transaction_isolation = 'serializable'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_deferrable = on",
    "row_security = off",
    "idle_session_timeout = '40ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "statement_timeout = '4ms'",
    "lock_timeout = '1ms'",
    "client_min_messages = 'debug5'",
    "bytea_output = 'escape'",
    "standard_conforming_strings = off",
    "intervalstyle = 'sql_standard'",
    "datestyle = 'German, DMY'",
    "timezone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "plan_cache_mode = 'force_custom_plan'",
    "jit_above_cost = 0",
    "synchronous_commit = off",
    "session_replication_role = 'replica'",
    "transform_null_equals = on",
];

const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                         where datname = current_database() and pid <> pg_backend_pid()";

fn ledger_at(database: &Database, connect: impl Into<Connector>, connections: u32) -> Ledger {
    let options = Options { connections, patience: Duration::from_secs(5), ..Options::default() };
    Ledger::new(connect, Keyring::new(database.encryption_key(), None), &options)
}

async fn set(behind: &mut PgConnection, setting: &str) {
    let sql = format!(
        "do $$ begin execute format('alter database %I set {}', current_database()); end $$",
        setting.replace('\'', "''")
    );
    behind.execute(sqlx::raw_sql(&sql)).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
}

async fn reset(behind: &mut PgConnection) {
    let sql = "do $$ begin execute format('alter database %I reset all', current_database()); end $$";
    behind.execute(sqlx::raw_sql(sql)).await.unwrap();
}

#[tokio::test]
async fn whatever_the_owner_has_set_the_log_works_and_stays_append_only() {
    let database = Database::new().await;
    let mut behind = database.connect().await;
    for (setting, n) in HOSTILE.iter().zip(1..) {
        set(&mut behind, setting).await;
        let ledger = database.ledger();
        let appended = ledger.append(append(&[("stream", n)])).await;
        assert_eq!(appended.map(|appended| appended.position).map_err(|e| e.to_string()), Ok(n), "{setting}");
        for purpose in
            [Purpose::Append, Purpose::Requests, Purpose::Teams, Purpose::Background, Purpose::Maintenance]
        {
            let mut connection = ledger.connector().connect(purpose).await.unwrap();
            let found: Vec<String> = sqlx::query_scalar(
                "select array[current_setting('default_transaction_isolation'), current_setting('row_security'), \
                 current_setting('idle_session_timeout'), current_setting('synchronous_commit'), \
                 current_setting('session_replication_role'), current_setting('timezone')]",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            assert_eq!(found, ["read committed", "on", "0", "on", "origin", "UTC"], "{setting}, {purpose:?}");
            let refused = connection.execute("delete from events").await.unwrap_err();
            assert!(refused.to_string().contains("append-only"), "{setting}: {refused}");
        }
        ledger.close().await;
        reset(&mut behind).await;
    }
    assert_eq!(whole_log(&database.ledger()).await.len(), HOSTILE.len());
}

#[tokio::test]
async fn a_session_that_cannot_be_used_is_refused_with_the_setting() {
    let database = Database::new().await;
    let mut behind = database.connect().await;
    set(&mut behind, "search_path = 'nowhere'").await;
    let error = database.ledger().head().await.unwrap_err();
    assert!(error.to_string().contains("search_path"), "{error}");
}

#[tokio::test]
async fn an_append_after_its_connection_was_closed_is_stored_once() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let mut behind = database.connect().await;
    for n in 1..=40 {
        ledger.append(append(&[("stream", n)])).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        let terminated: i64 = sqlx::query_scalar(TERMINATE).fetch_one(&mut behind).await.unwrap();
        assert!(terminated >= 1);
        if n % 2 == 0 {
            // Long enough for the connection to be seen as closed; without, the statement may meet the closing.
            eventually("no connection", async || {
                let sql = "select count(*) from pg_stat_activity where datname = current_database()";
                let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut behind).await.unwrap();
                (count == 1).then_some(())
            })
            .await;
        }
    }
    assert_eq!(whole_log(&ledger).await.len(), 40);
}

#[tokio::test]
async fn what_is_refused_for_certain_is_told_with_its_cause_and_passes() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let mut behind = database.connect().await;
    ledger.append(append(&[("stream", 1)])).await.unwrap();
    set(&mut behind, "default_transaction_read_only = on").await;
    sqlx::query(TERMINATE).execute(&mut behind).await.unwrap();
    assert_eq!(ledger.append(append(&[("stream", 2)])).await, Err(AppendError::NotDone(Cause::ReadOnly)));
    behind.execute("set default_transaction_read_only = off").await.unwrap();
    reset(&mut behind).await;
    ledger.append(append(&[("stream", 2)])).await.unwrap();

    let nowhere = tempfile::tempdir().unwrap();
    let away = ledger_at(&database, database.connect_options().socket(nowhere.path()), 2);
    assert_eq!(away.append(append(&[("stream", 3)])).await, Err(AppendError::NotDone(Cause::NotFound)));
    let stranger = ledger_at(&database, database.connect_options().username("nobody_knows"), 2);
    let refused = stranger.append(append(&[("stream", 3)])).await;
    assert_eq!(refused, Err(AppendError::NotDone(Cause::Authentication)));
    let missing = ledger_at(&database, database.connect_options().database("there_is_none"), 2);
    assert_eq!(
        missing.append(append(&[("stream", 3)])).await,
        Err(AppendError::NotDone(Cause::NoSuchDatabase))
    );
    assert_eq!(whole_log(&ledger).await.len(), 2);
}

#[tokio::test]
async fn a_limit_of_connections_is_named_and_what_is_there_goes_on() {
    let server = Server::start("limited").await;
    server.connect().await.execute("create role limited login connection limit 3").await.unwrap();
    let database = server.empty_database("limited").await;
    let ledger = ledger_at(&database, database.connect_options(), 8);
    ledger.migrate().await.unwrap();
    ledger.append(append(&[("stream", 1)])).await.unwrap();
    // Two connections are left for the pool. Whoever gets none waits for one that is given back.
    let heads = join_all((0..24).map(|_| ledger.head())).await;
    assert!(heads.iter().all(|head| matches!(head, Ok(1))), "{heads:?}");
    let held = join_all((0..2).map(|_| ledger.pool().acquire())).await;
    assert!(held.iter().all(Result::is_ok));
    let error = ledger.pool().acquire().await.unwrap_err();
    assert_eq!(Cause::of(&error), Cause::RoleConnectionLimit, "{error}");
    let other = ledger_at(&database, database.connect_options(), 1);
    let refused = other.append(append(&[("stream", 2)])).await;
    assert_eq!(refused, Err(AppendError::NotDone(Cause::RoleConnectionLimit)));
    // Appends have theirs.
    ledger.append(append(&[("stream", 2)])).await.unwrap();
    drop((held, other, ledger, database));
    server.stop().await;
}

#[tokio::test]
async fn after_a_network_that_swallowed_everything_the_first_attempt_works() {
    let database = Database::new().await;
    let proxy = Proxy::before(database.connect_options());
    let ledger = ledger_at(&database, proxy.connect_options(), 6);
    ledger.append(append(&[("stream", 1)])).await.unwrap();
    for pool in [ledger.pool().clone(), ledger.background().pool().clone()] {
        drop(join_all((0..4).map(|_| pool.acquire())).await);
    }
    // Four lie idle; two are in the middle of something, which nobody waits for any more.
    let held = join_all((0..2).map(|_| ledger.pool().acquire())).await;
    proxy.swallow();
    let reading = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.head().await }
    });
    eventually("a connection that waits", async || (ledger.pool().in_use() == 3).then_some(())).await;
    drop(held);
    reading.abort();
    proxy.heal();
    let heads = join_all((0..12).map(|_| ledger.head())).await;
    assert!(heads.iter().all(|head| matches!(head, Ok(1))), "{heads:?}");
    assert_eq!(ledger.background().head().await.unwrap(), 1);
    ledger.append(append(&[("stream", 2)])).await.unwrap();
    eventually("all places", async || (ledger.pool().in_use() == 0).then_some(())).await;
    assert_eq!(whole_log(&ledger).await.len(), 2);
}

#[tokio::test]
async fn callers_who_leave_take_their_statements_with_them() {
    let database = Database::new().await;
    let ledger = ledger_at(&database, database.connect_options(), 3);
    let mut behind = database.connect().await;
    let sleeping = "select count(*) from pg_stat_activity where datname = current_database() \
                    and state = 'active' and query like '%pg_sleep(19)%' and pid <> pg_backend_pid()";
    for _ in 0..4 {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let pool = ledger.pool().clone();
                tokio::spawn(async move { sqlx::query("select pg_sleep(19)").execute(&pool).await.map(drop) })
            })
            .collect();
        eventually("three statements", async || {
            let count: i64 = sqlx::query_scalar(sleeping).fetch_one(&mut behind).await.unwrap();
            (count >= 3).then_some(())
        })
        .await;
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        // Their places are free at once, not when the statements would have ended.
        assert_eq!(ledger.head().await.unwrap(), 0);
    }
    eventually("the end of the statements", async || {
        let count: i64 = sqlx::query_scalar(sleeping).fetch_one(&mut behind).await.unwrap();
        (count == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_query_ends_by_itself_and_a_transaction_that_hangs_is_ended() {
    let database = Database::new().await;
    let ledger = ledger_at(&database, database.connect_options(), 2);
    let error = sqlx::query("select pg_sleep(600)").execute(ledger.pool()).await.unwrap_err();
    assert_eq!(Cause::of(&error), Cause::StatementTimeout, "{error}");
    let mut behind = database.connect().await;
    let mut hanging = ledger.connector().connect(Purpose::Views).await.unwrap();
    hanging.execute("begin; lock table events").await.unwrap();
    within("the lock", behind.execute("begin; lock table events; commit")).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_is_used_up_stops_neither_appends_nor_the_background() {
    let database = Database::new().await;
    let ledger = ledger_at(&database, database.connect_options(), 2);
    let held = join_all((0..2).map(|_| ledger.pool().acquire())).await;
    assert!(held.iter().all(Result::is_ok));
    ledger.append(append(&[("stream", 1)])).await.unwrap();
    assert_eq!(ledger.background().head().await.unwrap(), 1);
    let error = ledger.head().await.unwrap_err();
    assert!(error.to_string().contains("pool"), "{error}");
}

#[tokio::test]
async fn of_several_hosts_the_one_that_can_be_written_to_is_used() {
    let (first, second) = (Server::start("first").await, Server::start("second").await);
    let (standing, writing) = (first.database().await, second.database().await);
    set(&mut standing.connect().await, "default_transaction_read_only = on").await;
    let name = writing.connect_options().get_database().unwrap().to_owned();
    let rename =
        format!("alter database {} rename to {name}", standing.connect_options().get_database().unwrap());
    if standing.connect_options().get_database() != Some(&name) {
        first.connect().await.execute(sqlx::raw_sql(&rename)).await.unwrap();
    }
    let folder = |database: &Database| database.connect_options().get_socket().unwrap().display().to_string();
    let user = writing.connect_options().get_username().to_owned();
    let port = writing.connect_options().get_port();
    let text = format!(
        "host=/nowhere,{},{} port={port} user={user} dbname={name}",
        folder(&standing),
        folder(&writing)
    );
    let address = DatabaseAddress::parse(&text).unwrap();
    let ledger = ledger_at(&writing, address, 2);
    ledger.append(append(&[("stream", 1)])).await.unwrap();
    assert_eq!(writing.ledger().head().await.unwrap(), 1);
    let any = DatabaseAddress::parse(&format!("{text} target_session_attrs=any")).unwrap();
    let refused = ledger_at(&writing, any, 2).append(append(&[("stream", 2)])).await;
    assert_eq!(refused, Err(AppendError::NotDone(Cause::ReadOnly)));
    drop((ledger, standing, writing));
    first.stop().await;
    second.stop().await;
}
