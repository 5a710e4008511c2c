//! The database itself refuses to change the past, whoever asks.

use sqlx::PgConnection;
use tests::Database;

use super::support::{append, places, whole_log};

async fn refusal(connection: &mut PgConnection, sql: &str) -> String {
    sqlx::raw_sql(sql).execute(connection).await.expect_err(sql).to_string()
}

#[tokio::test]
async fn update_delete_and_truncate_are_refused_even_to_the_owner() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("a", 1), ("a", 2)])).await.unwrap();
    let before = whole_log(&ledger).await;
    let mut owner = database.connect().await;
    let owns: bool = sqlx::query_scalar(
        "select tableowner = current_user from pg_tables where schemaname = 'public' and tablename = 'events'",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert!(owns);
    let changes = [
        ("UPDATE", "update events set payload = '{}'"),
        ("UPDATE", "update events set payload = '{}' where false"),
        (
            "UPDATE",
            "insert into events select * from events where position = 1 \
                    on conflict (position) do update set payload = '{}'",
        ),
        ("DELETE", "delete from events where position = 2"),
        ("TRUNCATE", "truncate events"),
        ("TRUNCATE", "truncate events, data_keys restart identity cascade"),
    ];
    for (operation, sql) in changes {
        let refusal = refusal(&mut owner, sql).await;
        let clear = format!("the event log is append-only: {operation} is refused");
        assert!(refusal.contains(&clear), "{sql}: {refusal}");
    }
    assert_eq!(whole_log(&ledger).await, before);
    // And it still takes events.
    ledger.append(append(&[("a", 3)])).await.unwrap();
    assert_eq!(places(&whole_log(&ledger).await).len(), 3);
}

#[tokio::test]
async fn a_position_and_a_place_in_a_stream_exist_once() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("a", 1)])).await.unwrap();
    let mut owner = database.connect().await;
    let copy = |position: &str, sequence: &str| {
        format!(
            "insert into events select {position}, recorded_at, aggregate_type, aggregate_id, {sequence}, event_type, \
             event_version, payload, metadata from events"
        )
    };
    for (sql, constraint) in [
        (copy("position", "sequence + 1"), "events_position"),
        (copy("position + 1", "sequence"), "events_pkey"),
        (copy("0", "sequence + 1"), "events_position_check"),
        (copy("position + 1", "0"), "events_sequence_check"),
    ] {
        let refusal = refusal(&mut owner, &sql).await;
        assert!(refusal.contains(constraint), "{sql}: {refusal}");
    }
}
