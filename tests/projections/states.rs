//! What was true when: the state as of a position is a fold of the events up to it, and a history says what made it so.

use std::collections::BTreeMap;

use ::ledger::StreamId;
use ::projections::{
    AccessRecords, AsOf, Fact, HistoryEntry, JobRow, Jobs, Projections, Schedules, Secrets, StreamView,
    Teams, Users,
};
use domain::{AGGREGATE_TYPES, JsonText};
use serde_json::{Map, Value};
use tests::Database;

use super::support::{History, Node, facts};
use crate::ledger::support::{Rng, Seed};

const HISTORIES: usize = 2;
const STEPS: usize = 180;
/// Positions at which each aggregate is looked at.
const MOMENTS: usize = 3;
/// Fields of states that histories do not repeat.
const BESIDE: [&str; 7] = [
    "sequence",
    "updated_at",
    "sealed_sequence",
    "canonical_email",
    "canonical_name",
    "password_position",
    "was_due",
];

/// The fold of all events up to a position that touch the row `id`, whatever stream they are of.
fn folded<V: StreamView>(log: &[Fact], id: &str, up_to: i64) -> Option<AsOf<JsonText>> {
    let (mut row, mut sequence, mut position) = (None, 0, 0);
    for fact in log.iter().filter(|fact| fact.position <= up_to) {
        if V::keys(fact).iter().any(|key| key == id) {
            row = V::fold(id, row, fact);
            (sequence, position) = (fact.sequence, fact.position);
        }
    }
    row.map(|row| AsOf { row: V::public(&row).into(), sequence, position })
}

fn state(log: &[Fact], stream: &StreamId, up_to: i64) -> Option<AsOf<JsonText>> {
    let id = &stream.aggregate_id;
    match stream.aggregate_type.as_str() {
        "user" => folded::<Users>(log, id, up_to),
        "team" => folded::<Teams>(log, id, up_to),
        "secret" => folded::<Secrets>(log, id, up_to),
        "job" => folded::<Jobs>(log, id, up_to),
        "schedule" => folded::<Schedules>(log, id, up_to),
        "access" => folded::<AccessRecords>(log, id, up_to),
        other => panic!("{other} has no state"),
    }
}

/// Every aggregate's stream, with the position of its first event.
fn streams(log: &[Fact]) -> BTreeMap<StreamId, i64> {
    let mut streams = BTreeMap::new();
    for fact in log.iter().filter(|fact| AGGREGATE_TYPES.contains(&fact.aggregate_type.as_str())) {
        let stream = StreamId::new(&fact.aggregate_type, &fact.aggregate_id);
        streams.entry(stream).or_insert(fact.position);
    }
    streams
}

async fn a_history(node: &Node, seed: &Seed) -> Vec<Fact> {
    History::begin(node, seed.rng()).await.steps(STEPS).await;
    node.caught_up().await;
    let log = facts(&node.ledger).await;
    let types: std::collections::BTreeSet<_> = log.iter().map(|fact| fact.aggregate_type.as_str()).collect();
    assert!(AGGREGATE_TYPES.iter().all(|of| types.contains(of)), "a poor history: {types:?}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_as_of_any_position_is_a_fold_of_the_events_up_to_it() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    for _ in 0..HISTORIES {
        let database = Database::new().await;
        let node = Node::following(&database).await;
        let log = a_history(&node, &seed).await;
        for (stream, first) in streams(&log) {
            assert_states(&node.views, &log, &stream, first, &mut rng).await;
        }
    }
}

async fn assert_states(views: &Projections, log: &[Fact], stream: &StreamId, first: i64, rng: &mut Rng) {
    let (of, id) = (stream.aggregate_type.as_str(), stream.aggregate_id.as_str());
    assert_eq!(views.state(of, id, Some(first - 1)).await.unwrap(), None, "{stream} before it was made");
    let head = log.len() as i64;
    let mut moments = vec![first, head + 1];
    moments.extend((0..MOMENTS).map(|_| 1 + rng.below(log.len() as u64) as i64));
    for moment in moments {
        let expected = state(log, stream, moment);
        assert_eq!(views.state(of, id, Some(moment)).await.unwrap(), expected, "{stream} at {moment}");
    }
    assert_eq!(views.state(of, id, None).await.unwrap(), state(log, stream, head), "{stream} at the end");
}

/// What the fold of a stream says now is what reading by id says: on a node that follows, and on one that does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_at_the_end_of_the_log_is_the_row_that_readers_get() {
    let seed = Seed::new();
    let database = Database::new().await;
    let (node, other) = (Node::following(&database).await, Node::listening(&database).await);
    let log = a_history(&node, &seed).await;
    other.passed(log.len() as i64).await;
    for stream in streams(&log).into_keys() {
        for views in [&node.views, &other.views] {
            assert_row(views, &stream).await;
        }
    }
}

async fn assert_row(views: &Projections, stream: &StreamId) {
    let id = stream.aggregate_id.as_str();
    match stream.aggregate_type.as_str() {
        "user" => {
            let state = views.state_as_of::<Users>(id, None).await.unwrap().unwrap();
            assert_eq!(*views.users().get(id).await.unwrap().unwrap(), state.row);
        }
        "team" => {
            let state = views.state_as_of::<Teams>(id, None).await.unwrap().unwrap();
            assert_eq!(*views.teams().get(id).await.unwrap().unwrap(), state.row);
        }
        "secret" => {
            let state = views.state_as_of::<Secrets>(id, None).await.unwrap().unwrap();
            assert_eq!(*views.secrets().across_teams().get(id).await.unwrap().unwrap(), state.row);
        }
        "job" => {
            let state = views.state_as_of::<Jobs>(id, None).await.unwrap().unwrap();
            let row = views.jobs().across_teams().get(id).await.unwrap().unwrap();
            assert_eq!(as_stored((*row).clone()), as_stored(state.row));
        }
        "schedule" => {
            let state = views.state_as_of::<Schedules>(id, None).await.unwrap().unwrap();
            assert_eq!(*views.schedules().across_teams().get(id).await.unwrap().unwrap(), state.row);
        }
        // Records of access are rows of the audit trail only.
        _ => {}
    }
}

/// `jsonb` holds no U+0000, and writes numbers its own way.
fn as_stored(row: JobRow) -> JobRow {
    let plain = |value: Value| match value {
        Value::Number(number) => Value::from(number.as_f64().unwrap() + 0.0),
        other => other,
    };
    let args = row.args.into_iter().map(|(name, value)| (name, plain(value))).collect();
    JobRow { error: row.error.map(|error| error.replace('\0', "\u{fffd}")), args, ..row }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_tells_every_change_from_nothing_to_the_present_state() {
    let seed = Seed::new();
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let log = a_history(&node, &seed).await;
    for stream in streams(&log).into_keys() {
        let history = node.views.history(&stream, 0, usize::MAX).await.unwrap();
        assert_adds_up(&log, &stream, &history);
        let middle = history.len() / 2;
        let rest = node.views.history(&stream, middle as i64, 2).await.unwrap();
        assert_eq!(rest, history[middle..(middle + 2).min(history.len())], "{stream} after {middle}");
    }
}

/// Made good one after the other, the changes lead from each state to the next, as the fold has it.
fn assert_adds_up(log: &[Fact], stream: &StreamId, history: &[HistoryEntry]) {
    let of_stream = |fact: &&Fact| StreamId::new(&fact.aggregate_type, &fact.aggregate_id) == *stream;
    let events: Vec<_> = log.iter().filter(of_stream).collect();
    assert_eq!(history.iter().flat_map(|entry| &entry.fact).collect::<Vec<_>>(), events, "{stream}");
    let mut known = Map::new();
    for entry in history {
        for change in &entry.changes {
            let before = known.insert(change.field.clone(), change.after.value()).unwrap_or_default();
            assert_eq!(change.before, before, "{stream}: {} in {entry:?}", change.field);
        }
        let state = state(log, stream, entry.place().1).unwrap();
        for (field, value) in state.row.value().as_object().unwrap() {
            if !BESIDE.contains(&field.as_str()) {
                let told = known.get(field).cloned().unwrap_or_default();
                assert_eq!(told, *value, "{stream}: {field} at {}", entry.place().1);
            }
        }
    }
}
