//! One caller at a time: what is stored, what is refused, and what the answers say.

use ::ledger::{Append, AppendError, Ledger};
use chrono::{TimeDelta, Utc};
use serde_json::json;
use tests::Database;

use super::support::{append, event, places, whole_log};

fn place(position: i64, id: &str, sequence: i64) -> (i64, String, i64) {
    (position, id.to_owned(), sequence)
}

async fn refused(ledger: &Ledger, append: Append) -> String {
    match ledger.append(append).await {
        Err(AppendError::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn answers_say_where_and_when_events_were_recorded() {
    let database = Database::new().await;
    let ledger = database.ledger();
    assert_eq!(ledger.head().await.unwrap(), 0);
    let before = Utc::now() - TimeDelta::milliseconds(1);
    let one = ledger.append(append(&[("a", 1)])).await.unwrap();
    assert_eq!((one.first, one.position), (1, 1));
    let three = ledger.append(append(&[("a", 2), ("b", 1), ("a", 3)])).await.unwrap();
    assert_eq!((three.first, three.position), (2, 4));
    let log = whole_log(&ledger).await;
    let expected = [place(1, "a", 1), place(2, "a", 2), place(3, "b", 1), place(4, "a", 3)];
    assert_eq!(places(&log), expected);
    assert_eq!(log.iter().map(|e| e.at).collect::<Vec<_>>(), [one.at, three.at, three.at, three.at]);
    assert!(before <= one.at && one.at <= three.at && three.at <= Utc::now());
    assert_eq!(one.at.timestamp_subsec_nanos() % 1_000_000, 0, "whole milliseconds");
    assert_eq!(ledger.head().await.unwrap(), 4);
}

#[tokio::test]
async fn what_is_too_deep_to_be_read_again_is_not_stored() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let nested = |levels: usize| (0..levels).fold(json!("core"), |inner, _| json!({ "a": inner }));
    let deep = |levels: usize| Append { events: vec![event("a", 1, nested(levels))], ..Append::default() };
    for levels in [101, 127, 500] {
        assert_eq!(refused(&ledger, deep(levels)).await, "a payload has at most 100 levels", "{levels}");
    }
    ledger.append(deep(100)).await.unwrap();
    let [recorded] = whole_log(&ledger).await.try_into().unwrap();
    assert_eq!(recorded.payload, nested(100));
}

#[tokio::test]
async fn what_was_appended_is_what_is_read() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let payload = json!({ "text": "Grüße, 世界 \u{1f980} \u{0}\u{202e}", "numbers": [0, -1, 1.5, i64::MAX], "none": null });
    let metadata = ::ledger::Metadata {
        actor: "user 1".to_owned(),
        team_id: Some("t".to_owned()),
        request_id: Some("r".to_owned()),
        causation: Some("7".to_owned()),
        trace_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        subject: Some("s".to_owned()),
        ip: None,
        user_agent: None,
    };
    let new = event("Ünïcode / stream", 1, payload);
    let events = vec![new.clone()];
    ledger.append(Append { events, metadata: metadata.clone(), data_keys: vec![] }).await.unwrap();
    let [recorded] = whole_log(&ledger).await.try_into().unwrap();
    assert_eq!(recorded.stream, new.stream);
    assert_eq!((recorded.event_type, recorded.event_version), (new.event_type, new.event_version));
    assert_eq!(recorded.payload, new.payload);
    assert_eq!(recorded.metadata, metadata);
}

#[tokio::test]
async fn a_taken_place_and_a_gap_are_conflicts_and_store_nothing() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("a", 1), ("a", 2)])).await.unwrap();
    let conflicts: [&[(&str, i64)]; 7] = [
        &[("a", 1)],
        &[("a", 2)],
        &[("a", 2), ("a", 3)],
        &[("a", 4)],
        &[("new", 2)],
        &[("new", 1), ("a", 2)],
        &[("a", 3), ("new", 2)],
    ];
    for conflict in conflicts {
        assert_eq!(ledger.append(append(conflict)).await, Err(AppendError::Conflict), "{conflict:?}");
    }
    assert_eq!(places(&whole_log(&ledger).await), [place(1, "a", 1), place(2, "a", 2)]);
    let next = ledger.append(append(&[("a", 3), ("new", 1)])).await.unwrap();
    assert_eq!((next.first, next.position), (3, 4), "conflicts leave no hole");
}

#[tokio::test]
async fn streams_of_other_kinds_do_not_meet() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(append(&[("a", 1)])).await.unwrap();
    let mut other = append(&[("a", 1)]);
    other.events[0].stream.aggregate_type = "other".to_owned();
    assert_eq!(ledger.append(other).await.unwrap().position, 2);
}

#[tokio::test]
async fn what_cannot_be_an_append_is_refused_in_words() {
    let database = Database::new().await;
    let ledger = database.ledger();
    assert_eq!(refused(&ledger, append(&[])).await, "an append needs at least one event");
    assert_eq!(refused(&ledger, append(&[("a", 0)])).await, "sequences begin at 1");
    let torn = "the sequences of a stream must be adjacent";
    for events in [[("a", 1), ("a", 3)], [("a", 2), ("a", 1)], [("a", 1), ("a", 1)]] {
        assert_eq!(refused(&ledger, append(&events)).await, torn);
    }
    let many = |n| append(&(1..=n).map(|sequence| ("a", sequence)).collect::<Vec<_>>());
    assert_eq!(refused(&ledger, many(5_001)).await, "an append holds at most 5000 events");
    let large = |bytes: usize| Append {
        events: (1..=4).map(|n| event("b", n, json!({ "text": "x".repeat(bytes / 4) }))).collect(),
        ..append(&[])
    };
    assert_eq!(refused(&ledger, large(16 * 1024 * 1024)).await, "an append holds at most 16 MiB");
    assert_eq!(ledger.head().await.unwrap(), 0);
    // What is just allowed goes in, and whole.
    assert_eq!(ledger.append(many(5_000)).await.unwrap().position, 5_000);
    assert_eq!(ledger.append(large(16 * 1024 * 1024 - 100)).await.unwrap().position, 5_004);
    assert_eq!(ledger.head().await.unwrap(), 5_004);
}

#[tokio::test]
async fn one_bad_event_in_a_batch_does_not_fail_its_neighbours() {
    let database = Database::new().await;
    let ledger = database.ledger();
    // PostgreSQL's text holds no NUL, and its keys are no longer than a third of a page.
    let long =
        (0..20_000u32).map(|n| char::from_u32(0x4e00 + n * 7919 % 20_000).unwrap()).collect::<String>();
    let bad = ["with\0nul".to_owned(), long];
    let id = |n: usize| bad.get(n % 10).cloned().unwrap_or(format!("good {n}"));
    let appends = (0..40).map(|n| (n, append(&[(&id(n), 1)])));
    let appends = appends.map(async |(n, append)| (n, ledger.append(append).await));
    for (n, outcome) in futures::future::join_all(appends).await {
        match n % 10 {
            0 | 1 => assert!(matches!(outcome, Err(AppendError::Refused(_))), "{n}: {outcome:?}"),
            _ => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
    let log = whole_log(&ledger).await;
    assert_eq!(log.iter().map(|e| e.position).collect::<Vec<_>>(), (1..=32).collect::<Vec<_>>());
    assert!(log.iter().all(|e| e.stream.aggregate_id.starts_with("good")));
}
