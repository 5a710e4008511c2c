//! What every writer asked for and what it was told.

use std::sync::{Arc, Mutex};

use ::ledger::{Append, AppendError, Appended, NewEvent};
use serde::{Deserialize, Serialize};
use tests::within;
use tokio::sync::watch;

/// What is known about an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Acknowledged at these positions, at this time (milliseconds).
    Stored { first: i64, last: i64, at: i64 },
    /// Refused: nothing may be in the log.
    NotStored,
    /// Given up, or the database was lost meanwhile: wholly in the log, or not at all.
    Unknown,
}

/// An append that somebody tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Stands in the payload of its events.
    pub(crate) name: String,
    /// Stream and sequence of each event.
    pub(crate) events: Vec<(String, i64)>,
    pub(crate) outcome: Outcome,
}

#[derive(Default)]
struct Inner {
    attempts: Vec<Attempt>,
    /// The words of every error that says that the outcome is unknown.
    lost: Vec<String>,
}

/// All attempts of all writers. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    inner: Arc<Mutex<Inner>>,
    stored: watch::Sender<usize>,
}

impl Journal {
    /// Notes an attempt before it is made. Until it is settled its outcome is unknown, so one that is dropped needs nothing.
    pub(crate) fn begin(&self, name: &str, append: &Append) -> usize {
        let place = |event: &NewEvent| (event.stream.to_string(), event.sequence);
        let events = append.events.iter().map(place).collect();
        let attempts = &mut self.inner.lock().unwrap().attempts;
        attempts.push(Attempt { name: name.to_owned(), events, outcome: Outcome::Unknown });
        attempts.len() - 1
    }

    pub(crate) fn settle(&self, attempt: usize, outcome: &Result<Appended, AppendError>) {
        let mut inner = self.inner.lock().unwrap();
        inner.attempts[attempt].outcome = match outcome {
            Ok(at) => Outcome::Stored { first: at.first, last: at.position, at: at.at.timestamp_millis() },
            Err(AppendError::Conflict | AppendError::Overloaded | AppendError::NotDone(_)) => {
                Outcome::NotStored
            }
            Err(error @ (AppendError::Unavailable(_) | AppendError::Unanswered)) => {
                inner.lost.push(error.to_string());
                Outcome::Unknown
            }
            Err(AppendError::Diverged(why)) => panic!("the log is the one that was known: {why}"),
            Err(AppendError::Refused(why)) => panic!("nothing in these stories can be refused: {why}"),
        };
        if outcome.is_ok() {
            self.stored.send_modify(|stored| *stored += 1);
        }
    }

    /// Waits until so many attempts are acknowledged.
    pub(crate) async fn reached(&self, stored: usize) {
        let mut seen = self.stored.subscribe();
        within("appends", seen.wait_for(|now| *now >= stored)).await.unwrap();
    }

    pub(crate) fn stored(&self) -> usize {
        *self.stored.borrow()
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.inner.lock().unwrap().attempts.clone()
    }

    /// What those were told whose outcome an error left unknown.
    pub(crate) fn lost(&self) -> Vec<String> {
        self.inner.lock().unwrap().lost.clone()
    }
}
