//! Many writers on few streams.

use std::collections::HashMap;
use std::time::Duration;

use ::ledger::{Append, Ledger, Metadata};
use serde_json::json;
use tests::within;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Journal, Rng, Seed, event, stream};

/// Who writes what.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    /// Whose writers these are, when there are several nodes.
    pub(crate) node: &'static str,
    pub(crate) writers: usize,
    /// All writers write to the same streams.
    pub(crate) streams: u64,
    /// Acknowledged appends after which a writer goes home.
    pub(crate) each: usize,
    /// How many of a hundred appends are dropped at a random moment.
    pub(crate) dropped: u64,
}

/// The writers at work.
pub(crate) struct Writers {
    journal: Journal,
    tasks: JoinSet<()>,
    /// Appends that will be acknowledged in the end.
    all: usize,
}

impl Crowd {
    /// Sets them to work on `ledger`.
    pub(crate) fn start(self, ledger: &Ledger, seed: &Seed) -> Writers {
        let journal = Journal::default();
        let mut tasks = JoinSet::new();
        for number in 0..self.writers {
            let writer = Writer {
                crowd: self,
                number,
                ledger: ledger.clone(),
                journal: journal.clone(),
                rng: seed.rng(),
                lengths: HashMap::new(),
            };
            tasks.spawn(writer.work());
        }
        Writers { journal, tasks, all: self.writers * self.each }
    }
}

impl Writers {
    /// Waits for a random moment in the given part of the work, of so many equal parts and a last one that is left in peace.
    pub(crate) async fn amid(&self, part: usize, of: usize, rng: &mut Rng) {
        let moment = part * self.all + rng.below(self.all as u64) as usize;
        self.journal.reached(moment / (of + 1)).await;
    }

    /// Waits until all have gone home.
    pub(crate) async fn finish(mut self) -> Journal {
        while let Some(outcome) = within("the writers", self.tasks.join_next()).await {
            outcome.unwrap();
        }
        self.journal
    }
}

struct Writer {
    crowd: Crowd,
    number: usize,
    ledger: Ledger,
    journal: Journal,
    rng: Rng,
    /// The streams' lengths as this writer knows them.
    lengths: HashMap<u64, i64>,
}

impl Writer {
    async fn work(mut self) {
        let mut stored = 0;
        for attempt in 0.. {
            if stored == self.crowd.each {
                return;
            }
            let chosen = self.choose();
            let name = format!("{}/{}/{attempt}", self.crowd.node, self.number);
            let append = self.compose(&chosen, &name);
            if self.attempt(&name, append).await {
                stored += 1;
                chosen.iter().for_each(|(id, events)| *self.lengths.entry(*id).or_default() += events);
            } else {
                self.look(&chosen).await;
            }
        }
    }

    /// One to three streams, with one to three events for each.
    fn choose(&mut self) -> Vec<(u64, i64)> {
        let mut chosen: Vec<(u64, i64)> = vec![];
        for _ in 0..=self.rng.below(3) {
            let id = self.rng.below(self.crowd.streams);
            if chosen.iter().all(|(other, _)| *other != id) {
                chosen.push((id, 1 + self.rng.below(3) as i64));
            }
        }
        chosen
    }

    fn compose(&self, chosen: &[(u64, i64)], name: &str) -> Append {
        let of_stream = |&(id, events): &(u64, i64)| {
            let length = self.lengths.get(&id).copied().unwrap_or_default();
            (1..=events).map(move |n| event(id, length + n, json!({ "attempt": name })))
        };
        let events = chosen.iter().flat_map(of_stream).collect();
        let metadata = Metadata { actor: format!("writer {}", self.number), ..Metadata::default() };
        Append { events, metadata, data_keys: vec![] }
    }

    /// Whether it was acknowledged.
    async fn attempt(&mut self, name: &str, append: Append) -> bool {
        let attempt = self.journal.begin(name, &append);
        let appending = self.ledger.append(append);
        let outcome = if self.rng.percent(self.crowd.dropped) {
            // Zero polls it once; the longest is about what an append takes when many wait.
            match timeout(Duration::from_micros(self.rng.below(4) * self.rng.below(3_000)), appending).await {
                Ok(outcome) => outcome,
                Err(_) => return false,
            }
        } else {
            appending.await
        };
        self.journal.settle(attempt, &outcome);
        outcome.is_ok()
    }

    /// Learns how long the streams are by now, as soon as the database says.
    async fn look(&mut self, chosen: &[(u64, i64)]) {
        for (id, _) in chosen {
            let id = *id;
            self.lengths.insert(id, within("a stream's length", self.length(id)).await);
        }
    }

    async fn length(&self, id: u64) -> i64 {
        let mut tries = interval(Duration::from_millis(10));
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tries.tick().await;
            if let Ok(length) = self.ledger.stream_length(&stream(id)).await {
                return length;
            }
        }
    }
}
