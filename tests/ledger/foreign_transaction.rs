//! Somebody else's transactions on the same server delay nothing.

use std::collections::HashSet;

use sqlx::{Executor as _, PgConnection};
use tests::{Database, within};

use super::support::{append, whole_log};

/// Transactions that have written elsewhere, hold a snapshot, or hold a lock on the events.
const FOREIGN: [&str; 4] = [
    "begin; insert into elsewhere values (1); select txid_current()",
    "begin isolation level serializable; insert into elsewhere values (2); select count(*) from events",
    "begin; select * from events",
    "begin; lock table events in access share mode; select * from events for share",
];

async fn open(database: &Database, sql: &str) -> PgConnection {
    let mut connection = database.connect().await;
    connection.execute(sqlx::raw_sql(sql)).await.unwrap();
    connection
}

#[tokio::test]
async fn open_transactions_of_others_delay_neither_appends_nor_followers() {
    let database = Database::new().await;
    let neighbour = Database::new().await;
    let ledger = database.ledger();
    open(&database, "create table elsewhere (n int)").await;
    ledger.append(append(&[("before", 1)])).await.unwrap();
    let mut held =
        vec![open(&neighbour, "begin; create table elsewhere (n int); select * from events").await];
    for sql in FOREIGN {
        held.push(open(&database, sql).await);
    }
    let mut follower = ledger.follow(0);
    for n in 1..=50 {
        within("an append beside open transactions", ledger.append(append(&[("a", n)]))).await.unwrap();
    }
    let mut seen = vec![];
    while follower.position() < 51 {
        seen.extend(within("the follower", follower.next(7)).await.unwrap());
    }
    assert_eq!(seen, whole_log(&ledger).await);
    // They were open all the while.
    for connection in &mut held {
        let open: String =
            sqlx::query_scalar("select (now() < clock_timestamp() and txid_current() > 0)::text")
                .fetch_one(connection)
                .await
                .unwrap();
        assert_eq!(open, "true");
    }
    let began: HashSet<i32> = held_pids(&database).await;
    assert_eq!(began.len(), FOREIGN.len());
    for mut connection in held {
        connection.execute("rollback").await.unwrap();
    }
    assert_eq!(ledger.head().await.unwrap(), 51);
}

async fn held_pids(database: &Database) -> HashSet<i32> {
    let sql = "select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction'";
    sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.unwrap().into_iter().collect()
}
