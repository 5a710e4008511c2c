//! A time names one place in the log.

use chrono::{DateTime, TimeDelta, Utc};
use tests::Database;

use super::support::{append, whole_log};

#[tokio::test]
async fn a_moment_names_the_last_position_recorded_by_then() {
    let database = Database::new().await;
    let ledger = database.ledger();
    assert_eq!(ledger.position_at(Utc::now()).await.unwrap(), 0, "an empty log");
    let mut times: Vec<DateTime<Utc>> = vec![];
    // Until there are ten different times: appends may share a millisecond.
    for n in 1.. {
        ledger.append(append(&[("a", n), ("b", n)])).await.unwrap();
        times = whole_log(&ledger).await.iter().map(|event| event.at).collect();
        let mut different = times.clone();
        different.dedup();
        if different.len() == 10 {
            break;
        }
    }
    let by = |moment: DateTime<Utc>| times.iter().filter(|at| **at <= moment).count() as i64;
    assert_eq!(ledger.position_at(times[0] - TimeDelta::milliseconds(1)).await.unwrap(), 0);
    assert_eq!(ledger.position_at(DateTime::UNIX_EPOCH).await.unwrap(), 0);
    assert_eq!(ledger.position_at(times[0] + TimeDelta::days(1)).await.unwrap(), times.len() as i64);
    for at in &times {
        for moment in [-1_000, -1, 0, 1, 999, 1_000].map(|shift| *at + TimeDelta::microseconds(shift)) {
            assert_eq!(ledger.position_at(moment).await.unwrap(), by(moment), "{moment} in {times:?}");
        }
    }
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
}

/// A clock that was set back does not set the log back.
#[tokio::test]
async fn times_never_run_backwards_even_when_the_clock_does() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let future = Utc::now() + TimeDelta::hours(1);
    sqlx::query(
        "insert into events (position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version, \
         payload, metadata) values (1, date_trunc('milliseconds', $1), 'story', 'a', 1, 'Happened', '1', '{}', '{}')",
    )
    .bind(future)
    .execute(&mut database.connect().await)
    .await
    .unwrap();
    let appended = ledger.append(append(&[("a", 2)])).await.unwrap();
    assert_eq!((appended.position, appended.at.timestamp_millis()), (2, future.timestamp_millis()));
    assert_eq!(ledger.position_at(future - TimeDelta::milliseconds(1)).await.unwrap(), 0);
    assert_eq!(ledger.position_at(future).await.unwrap(), 2);
}
