//! Random histories, what their writers were told, and the check of the whole log.

mod check;
mod hearing;
mod journal;
mod keyed;
mod seed;
mod watcher;
mod writers;

use ::ledger::{Append, Ledger, Metadata, NewEvent, Recorded, StreamId};
use serde_json::{Value, json};
use tests::{Database, eventually};

pub(crate) use check::assert_whole_log;
pub(crate) use hearing::{Hearing, remembers, remove_row, store_keys};
pub(crate) use journal::{Attempt, Journal, Outcome};
pub(crate) use keyed::{NEW, Node, keyring, wrapped_by};
pub(crate) use seed::{Rng, Seed};
pub(crate) use watcher::Watcher;
pub(crate) use writers::{Crowd, Writers};

/// The kind of stream that tests of the log itself write to.
pub(crate) const KIND: &str = "story";

/// The lock that orders appends, as in `migrations/0001_ledger.sql`.
pub(crate) const LOCK: i64 = 7_310_868_735_422_851_431;

pub(crate) fn stream(id: impl ToString) -> StreamId {
    StreamId::new(KIND, id)
}

pub(crate) fn event(id: impl ToString, sequence: i64, payload: Value) -> NewEvent {
    NewEvent {
        stream: stream(id),
        sequence,
        event_type: "Happened".to_owned(),
        event_version: "1".to_owned(),
        payload: payload.into(),
    }
}

/// An append of events with an empty payload, as `(stream, sequence)`.
pub(crate) fn append(events: &[(&str, i64)]) -> Append {
    let events = events.iter().map(|(id, sequence)| event(id, *sequence, json!({}))).collect();
    Append {
        events,
        metadata: Metadata { actor: "test".to_owned(), ..Metadata::default() },
        data_keys: vec![],
    }
}

/// As [`append`], for the check of the whole log: every event names the attempt.
pub(crate) fn named(name: &str, events: &[(&str, i64)]) -> Append {
    let events = events.iter().map(|(id, sequence)| event(id, *sequence, json!({ "attempt": name })));
    Append { events: events.collect(), ..append(&[]) }
}

/// Waits until the database's lane waits for the lock that `appending` needs, which somebody else holds.
pub(crate) async fn lane_waits(database: &Database, mut appending: impl Future + Unpin) {
    let mut server = database.connect().await;
    let sql = "select count(*) from pg_locks join pg_database d on d.oid = database \
               where locktype = 'advisory' and not granted and datname = current_database()";
    eventually("the lane waits for the lock", async || {
        assert!(futures::poll!(&mut appending).is_pending());
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut server).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
}

/// The whole log, page by page.
pub(crate) async fn whole_log(ledger: &Ledger) -> Vec<Recorded> {
    let mut log: Vec<Recorded> = vec![];
    loop {
        let page = ledger.read(log.len() as i64, 1_000).await.unwrap();
        if page.is_empty() {
            return log;
        }
        log.extend(page);
    }
}

/// `(position, stream, sequence)` of every event, for comparing with what should be there.
pub(crate) fn places(log: &[Recorded]) -> Vec<(i64, String, i64)> {
    log.iter().map(|e| (e.position, e.stream.aggregate_id.clone(), e.sequence)).collect()
}
