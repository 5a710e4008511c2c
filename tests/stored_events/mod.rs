//! A stored event is for ever: one example of every version ever shipped stands beside this file, and must still decode. A
//! changed shape is a new version with a line of its own; lines are never changed or removed.

use std::collections::BTreeSet;

use domain::{Event, KNOWN_EVENTS};
use serde_json::Value;

const EXAMPLES: &str = include_str!("1.jsonl");

fn examples() -> impl Iterator<Item = (String, String, String, Value)> {
    EXAMPLES.lines().map(|line| {
        let example: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| example[field].as_str().unwrap().to_owned();
        let names = (text("aggregate_type"), text("event_type"), text("event_version"));
        (names.0, names.1, names.2, example["payload"].clone())
    })
}

#[test]
fn every_version_ever_shipped_still_decodes() {
    for (aggregate_type, event_type, version, payload) in examples() {
        let event = Event::decode(&aggregate_type, &event_type, &version, payload);
        assert_eq!(event.unwrap().event_type(), event_type);
    }
}

#[test]
fn every_event_has_an_example_of_its_present_version() {
    let shown: BTreeSet<_> = examples().map(|(of, name, version, _)| (of, name, version)).collect();
    let known = KNOWN_EVENTS.iter().flat_map(|(of, names)| {
        names.iter().map(|(name, version)| ((*of).to_owned(), (*name).to_owned(), (*version).to_owned()))
    });
    let missing: Vec<_> = known.filter(|event| !shown.contains(event)).collect();
    assert!(missing.is_empty(), "no example in tests/stored_events/1.jsonl: {missing:?}");
}

#[test]
fn what_a_newer_daybook_wrote_is_refused_by_name() {
    let newer = Event::decode("secret", "SecretStored", "2", Value::Null);
    assert!(newer.unwrap_err().to_string().contains("SecretStored version 2"));
}
