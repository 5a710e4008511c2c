//! Reading: pages of the log, single places, streams, following.

use ::ledger::{Append, Recorded};
use tests::{Database, within};

use super::support::{append, stream, whole_log};

fn positions(events: &[Recorded]) -> Vec<i64> {
    events.iter().map(|event| event.position).collect()
}

/// Three streams in turn: `a` has positions 1, 4, 7, ...
fn in_turn(each: i64) -> Append {
    let places = (1..=each).flat_map(|n| ["a", "b", "c"].map(|id| (id, n)));
    append(&places.collect::<Vec<_>>())
}

#[tokio::test]
async fn the_log_is_read_from_a_position_in_pages() {
    let database = Database::new().await;
    let ledger = database.ledger();
    assert_eq!(ledger.read(0, 10).await.unwrap(), []);
    ledger.append(in_turn(4)).await.unwrap();
    assert_eq!(positions(&ledger.read(0, 5).await.unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(positions(&ledger.read(5, 100).await.unwrap()), [6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(ledger.read(12, 5).await.unwrap(), []);
    assert_eq!(positions(&ledger.read_at(&[12, 3, 99, 7, 3]).await.unwrap()), [3, 7, 12]);
    assert_eq!(ledger.read_at(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_stream_is_read_from_a_sequence_and_up_to_a_position() {
    let database = Database::new().await;
    let ledger = database.ledger();
    ledger.append(in_turn(4)).await.unwrap();
    let b = stream("b");
    assert_eq!(positions(&ledger.read_stream(&b, 0, None, 100).await.unwrap()), [2, 5, 8, 11]);
    assert_eq!(positions(&ledger.read_stream(&b, 1, None, 2).await.unwrap()), [5, 8]);
    assert_eq!(positions(&ledger.read_stream(&b, 0, Some(8), 100).await.unwrap()), [2, 5, 8]);
    assert_eq!(positions(&ledger.read_stream(&b, 0, Some(7), 100).await.unwrap()), [2, 5]);
    assert_eq!(ledger.stream_length(&b).await.unwrap(), 4);
    assert_eq!(ledger.stream_length(&stream("none")).await.unwrap(), 0);
    assert_eq!(ledger.read_stream(&stream("none"), 0, None, 100).await.unwrap(), []);
}

#[tokio::test]
async fn no_page_holds_more_than_ten_thousand_events() {
    let database = Database::new().await;
    let ledger = database.ledger();
    for from in [0, 4_000, 8_000] {
        let events = (from + 1..=from + 4_000).map(|n| ("a", n)).collect::<Vec<_>>();
        ledger.append(append(&events)).await.unwrap();
    }
    assert_eq!(ledger.read(0, i64::MAX).await.unwrap().len(), 10_000);
    assert_eq!(ledger.read_stream(&stream("a"), 0, None, i64::MAX).await.unwrap().len(), 10_000);
}

#[tokio::test]
async fn a_follower_sees_what_was_there_and_waits_for_what_comes() {
    let database = Database::new().await;
    let (ledger, other_node) = (database.ledger(), database.ledger());
    ledger.append(in_turn(1)).await.unwrap();
    let mut follower = ledger.follow(1);
    assert_eq!(positions(&follower.next(10).await.unwrap()), [2, 3]);
    for (node, position) in [(&ledger, 4), (&other_node, 5)] {
        let mut next = Box::pin(follower.next(10));
        assert!(futures::poll!(&mut next).is_pending());
        node.append(append(&[("a", position - 2)])).await.unwrap();
        let page = within("the next event", next).await.unwrap();
        assert_eq!(positions(&page), [position]);
    }
    assert_eq!(follower.position(), 5);
    assert_eq!(positions(&whole_log(&ledger).await), [1, 2, 3, 4, 5]);
}
