//! The check of the whole log.

use std::collections::HashMap;

use ::ledger::Recorded;

use super::{Attempt, Outcome};

/// Fails unless the log is as it must be, whatever happened while it was written.
pub(crate) fn assert_whole_log(log: &[Recorded], attempts: &[Attempt]) {
    let faults = faults(log, attempts);
    assert!(
        faults.is_empty(),
        "{} faults, first of them: {:#?}",
        faults.len(),
        &faults[..faults.len().min(20)]
    );
}

/// Everything that is wrong with the log: positions must be 1..n, the sequences of every stream dense, times never run backwards,
/// and every attempt is there as its writer was told, its events adjacent and in order.
pub(crate) fn faults(log: &[Recorded], attempts: &[Attempt]) -> Vec<String> {
    let mut faults = vec![];
    in_order(log, &mut faults);
    let mut found: HashMap<String, Vec<&Recorded>> = HashMap::new();
    for event in log {
        let attempt = event.payload.value()["attempt"].as_str().unwrap_or_default().to_owned();
        found.entry(attempt).or_default().push(event);
    }
    for attempt in attempts {
        let there = found.remove(attempt.name.as_str()).unwrap_or_default();
        if let Some(fault) = misreported(attempt, &there) {
            faults.push(format!("{attempt:?}: {fault}, found at {:?}", positions(&there)));
        }
    }
    faults.extend(found.keys().map(|name| format!("nobody tried {name:?}")));
    faults
}

fn in_order(log: &[Recorded], faults: &mut Vec<String>) {
    let mut lengths: HashMap<_, i64> = HashMap::new();
    let mut before = None;
    for (event, expected) in log.iter().zip(1..) {
        if event.position != expected {
            faults.push(format!("position {} where {expected} should be", event.position));
        }
        let length = lengths.entry(&event.stream).or_default();
        *length += 1;
        if event.sequence != *length {
            faults.push(format!("{} has {} where {length} should be", event.stream, event.sequence));
        }
        if before.replace(event.at).is_some_and(|before| before > event.at) {
            faults.push(format!("time runs backwards at {}", event.position));
        }
    }
}

fn positions(events: &[&Recorded]) -> Vec<i64> {
    events.iter().map(|event| event.position).collect()
}

fn misreported(attempt: &Attempt, there: &[&Recorded]) -> Option<&'static str> {
    match &attempt.outcome {
        Outcome::NotStored => (!there.is_empty()).then_some("was refused and is there"),
        Outcome::Unknown if there.is_empty() => None,
        Outcome::Unknown => incomplete(attempt, there),
        Outcome::Stored { first, last, at } => {
            if !positions(there).into_iter().eq(*first..=*last) {
                return Some("is not where it was acknowledged");
            }
            if there.iter().any(|event| event.at.timestamp_millis() != *at) {
                return Some("has another time than was acknowledged");
            }
            incomplete(attempt, there)
        }
    }
}

fn incomplete(attempt: &Attempt, there: &[&Recorded]) -> Option<&'static str> {
    let places = there.iter().map(|event| (event.stream.to_string(), event.sequence));
    if !places.eq(attempt.events.iter().cloned()) {
        return Some("is not what was asked for");
    }
    let adjacent = there.windows(2).all(|pair| pair[0].position + 1 == pair[1].position);
    (!adjacent).then_some("is torn apart")
}

mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;
    use crate::ledger::support::stream;

    fn recorded(position: i64, sequence: i64, attempt: &str) -> Recorded {
        Recorded {
            position,
            at: DateTime::from_timestamp_millis(1_000 + position).unwrap(),
            stream: stream("a"),
            sequence,
            event_type: String::new(),
            event_version: String::new(),
            payload: json!({ "attempt": attempt }).into(),
            metadata: ::ledger::Metadata::default(),
            damage: None,
        }
    }

    fn attempt(name: &str, sequences: &[i64], outcome: Outcome) -> Attempt {
        let events = sequences.iter().map(|s| ("story/a".to_owned(), *s)).collect();
        Attempt { name: name.to_owned(), events, outcome }
    }

    fn right() -> (Vec<Recorded>, Vec<Attempt>) {
        let mut log = vec![recorded(1, 1, "x"), recorded(2, 2, "x"), recorded(3, 3, "y")];
        log[1].at = log[0].at;
        let stored = Outcome::Stored { first: 1, last: 2, at: log[0].at.timestamp_millis() };
        let attempts = vec![
            attempt("x", &[1, 2], stored),
            attempt("y", &[3], Outcome::Unknown),
            attempt("z", &[3], Outcome::NotStored),
            attempt("u", &[4], Outcome::Unknown),
        ];
        (log, attempts)
    }

    #[test]
    fn the_check_accepts_what_is_right() {
        let (log, attempts) = right();
        assert_eq!(faults(&log, &attempts), Vec::<String>::new());
    }

    #[test]
    fn the_check_notices_everything_that_is_wrong_with_the_log() {
        type Spoil = fn(&mut Vec<Recorded>);
        let spoils: [(&str, Spoil); 8] = [
            ("a lost first half", |log| drop(log.remove(0))),
            ("a lost end", |log| drop(log.remove(1))),
            ("a gap", |log| log[2].position = 4),
            ("a repetition", |log| log.push(recorded(4, 4, "x"))),
            ("a hole in the stream", |log| log[2].sequence = 4),
            ("a refused one", |log| log.push(recorded(4, 4, "z"))),
            ("a stranger", |log| log.push(recorded(4, 4, "nobody"))),
            ("a time that runs backwards", |log| log[2].at = log[0].at - chrono::TimeDelta::milliseconds(1)),
        ];
        for (what, spoil) in spoils {
            let (mut log, attempts) = right();
            spoil(&mut log);
            assert_ne!(faults(&log, &attempts), Vec::<String>::new(), "{what} went unnoticed");
        }
    }

    #[test]
    fn the_check_notices_every_wrong_report() {
        let (log, mut attempts) = right();
        attempts[0].outcome = Outcome::Stored { first: 2, last: 3, at: log[0].at.timestamp_millis() };
        attempts[1].events.push(("story/a".to_owned(), 4));
        attempts[2].outcome = Outcome::Stored { first: 3, last: 3, at: 1_003 };
        attempts[3].outcome = Outcome::NotStored;
        assert_eq!(faults(&log, &attempts).len(), 3);
    }
}
