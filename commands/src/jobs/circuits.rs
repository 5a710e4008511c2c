//! Circuit breakers: a host that fails again and again is left alone for a while.
//!
//! After [`TOLERATED`] failures in a row a host's circuit *opens*: for [`OPEN_FOR`] nobody asks it anything. Then one attempt may
//! *try*; if it succeeds the circuit is closed, else it opens again. A process knows only what its own attempts met.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// Failures in a row that open a circuit.
pub const TOLERATED: u32 = 5;
/// How long nobody asks a host whose circuit is open.
pub const OPEN_FOR: Duration = Duration::from_secs(30);
/// The gauge that is 1 for each host whose circuit is not closed.
pub const GAUGE: &str = "http_circuit_open";

/// Hosts remembered; past that the one that failed longest ago is forgotten.
const MOST_HOSTS: usize = 1_000;
/// Hosts that have a gauge of their own: a gauge stays for as long as the process.
const MOST_GAUGES: usize = 100;
/// Hosts shown at a time.
const MOST_SHOWN: usize = 100;

/// The circuits of one process, by host.
#[derive(Debug, Default)]
pub struct Circuits(Mutex<Hosts>);

#[derive(Debug, Default)]
struct Hosts {
    /// Only those that failed lately: a closed circuit without failures is not kept.
    circuits: HashMap<String, Circuit>,
    gauges: BTreeSet<String>,
}

/// How a host that fails is dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitStatus {
    /// Scheme, host and port.
    pub host: String,
    /// `open` or `half_open` (one attempt is trying).
    pub state: &'static str,
    /// How often it failed in a row.
    pub failures: u32,
    /// When it may be tried again, while it is open.
    pub open_until: Option<DateTime<Utc>>,
}

/// The circuit is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its circuit is open after {failures} failures in a row")]
pub struct CircuitOpen {
    /// How often the host failed in a row.
    pub failures: u32,
    /// When it is worth trying again.
    pub retry_after: Duration,
}

impl Circuits {
    /// Leave to ask this host once. What comes of it is to be told; leave that is dropped says nothing of the host.
    ///
    /// # Errors
    /// [`CircuitOpen`]: it is not to be asked for now.
    pub fn admit(self: &Arc<Self>, host: &str) -> Result<Leave, CircuitOpen> {
        let trial = self.with(|hosts| match hosts.circuits.get_mut(host) {
            Some(circuit) => circuit.admit(Instant::now()),
            None => Ok(false),
        })?;
        Ok(Leave { circuits: Arc::clone(self), host: host.to_owned(), trial, told: false })
    }

    /// The circuits that are not closed, by host; at most 100.
    #[must_use]
    pub fn not_closed(&self) -> Vec<CircuitStatus> {
        let mut shown: Vec<CircuitStatus> = self
            .with(|hosts| hosts.circuits.iter().filter_map(|(host, circuit)| circuit.status(host)).collect());
        shown.sort_unstable_by(|left, right| left.host.cmp(&right.host));
        shown.truncate(MOST_SHOWN);
        shown
    }

    fn with<T>(&self, work: impl FnOnce(&mut Hosts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, host: &str, trial: bool, outcome: Outcome) {
        self.with(|hosts| hosts.tell(host, trial, outcome, Instant::now()));
    }
}

/// Leave to ask a host once. See [`Circuits::admit`].
#[derive(Debug)]
pub struct Leave {
    circuits: Arc<Circuits>,
    host: String,
    trial: bool,
    told: bool,
}

impl Leave {
    /// The host answered, whatever it said, and not that it failed.
    pub fn succeeded(mut self) {
        self.tell(Outcome::Succeeded);
    }

    /// The host could not be reached, took too long, or said that it failed.
    pub fn failed(mut self) {
        self.tell(Outcome::Failed);
    }

    fn tell(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.told, true) {
            self.circuits.tell(&self.host, self.trial, outcome);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.tell(Outcome::Unknown);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Succeeded,
    Failed,
    Unknown,
}

impl Hosts {
    fn tell(&mut self, host: &str, trial: bool, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Failed => {
                self.make_room(host);
                let circuit = self.circuits.entry(host.to_owned()).or_insert_with(|| Circuit::new(now));
                circuit.failed(trial, now);
            }
            Outcome::Succeeded => {
                if self.circuits.get(host).is_some_and(|circuit| circuit.is_closed_by_success(trial)) {
                    self.circuits.remove(host);
                }
            }
            Outcome::Unknown if trial => {
                if let Some(circuit) = self.circuits.get_mut(host) {
                    circuit.give_up_trial(now);
                }
            }
            Outcome::Unknown => {}
        }
        self.show(host);
    }

    /// Of too many hosts the one that failed longest ago is forgotten.
    fn make_room(&mut self, host: &str) {
        if self.circuits.len() < MOST_HOSTS || self.circuits.contains_key(host) {
            return;
        }
        let oldest = self.circuits.iter().min_by_key(|(_, circuit)| circuit.failed_at);
        if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
            self.circuits.remove(&oldest);
            self.show(&oldest);
        }
    }

    fn show(&mut self, host: &str) {
        let open = self.circuits.get(host).is_some_and(|circuit| circuit.state != State::Closed);
        if open && self.gauges.len() < MOST_GAUGES {
            self.gauges.insert(host.to_owned());
        }
        if self.gauges.contains(host) {
            metrics::gauge!(GAUGE, "host" => host.to_owned()).set(if open { 1.0 } else { 0.0 });
        }
    }
}

#[derive(Debug)]
struct Circuit {
    failures: u32,
    failed_at: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant, shown: DateTime<Utc> },
    Trying,
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self { failures: 0, failed_at: now, state: State::Closed }
    }

    /// Whether this is the one that tries.
    fn admit(&mut self, now: Instant) -> Result<bool, CircuitOpen> {
        match self.state {
            State::Closed => Ok(false),
            State::Open { until, .. } if now >= until => {
                self.state = State::Trying;
                Ok(true)
            }
            State::Open { until, .. } => Err(self.open(until - now)),
            State::Trying => Err(self.open(OPEN_FOR)),
        }
    }

    fn open(&self, retry_after: Duration) -> CircuitOpen {
        CircuitOpen { failures: self.failures, retry_after }
    }

    /// What was under way when the circuit opened changes nothing any more; only the one that tries does.
    fn failed(&mut self, trial: bool, now: Instant) {
        if !trial && self.state != State::Closed {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
        if trial || self.failures >= TOLERATED {
            self.state = State::Open { until: now + OPEN_FOR, shown: Utc::now() + OPEN_FOR };
        }
    }

    fn is_closed_by_success(&self, trial: bool) -> bool {
        trial || self.state == State::Closed
    }

    /// Nothing was learnt: the next one may try at once.
    fn give_up_trial(&mut self, now: Instant) {
        self.state = State::Open { until: now, shown: Utc::now() };
    }

    fn status(&self, host: &str) -> Option<CircuitStatus> {
        let (state, open_until) = match self.state {
            State::Closed => return None,
            State::Open { shown, .. } => ("open", Some(shown)),
            State::Trying => ("half_open", None),
        };
        Some(CircuitStatus { host: host.to_owned(), state, failures: self.failures, open_until })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn failed(circuits: &Arc<Circuits>, host: &str, times: u32) {
        (0..times).for_each(|_| circuits.admit(host).unwrap().failed());
    }

    fn states(circuits: &Circuits) -> Vec<(String, &'static str, u32)> {
        circuits.not_closed().into_iter().map(|shown| (shown.host, shown.state, shown.failures)).collect()
    }

    /// As if the time had passed for which the host is left alone.
    fn wait(circuits: &Circuits, host: &str) {
        circuits.with(|hosts| hosts.circuits.get_mut(host).unwrap().give_up_trial(Instant::now()));
    }

    #[test]
    fn a_host_that_fails_five_times_in_a_row_is_left_alone() {
        let circuits = Arc::new(Circuits::default());
        failed(&circuits, "http://a:80", TOLERATED - 1);
        circuits.admit("http://a:80").unwrap().succeeded();
        failed(&circuits, "http://a:80", TOLERATED - 1);
        assert_eq!(states(&circuits), []);
        failed(&circuits, "http://a:80", 1);
        assert_eq!(states(&circuits), [("http://a:80".to_owned(), "open", TOLERATED)]);
        let open = circuits.admit("http://a:80").unwrap_err();
        assert!(open.retry_after <= OPEN_FOR && open.retry_after > Duration::ZERO);
        assert!(circuits.not_closed()[0].open_until.unwrap() > Utc::now());
        circuits.admit("http://b:80").unwrap().succeeded();
    }

    #[test]
    fn afterwards_one_may_try_and_decides() {
        let circuits = Arc::new(Circuits::default());
        failed(&circuits, "a", TOLERATED);
        wait(&circuits, "a");
        let trial = circuits.admit("a").unwrap();
        assert_eq!(circuits.admit("a").unwrap_err().retry_after, OPEN_FOR);
        assert_eq!(states(&circuits)[0].1, "half_open");
        trial.failed();
        assert_eq!(states(&circuits), [("a".to_owned(), "open", TOLERATED + 1)]);
        wait(&circuits, "a");
        circuits.admit("a").unwrap().succeeded();
        assert_eq!(states(&circuits), []);
        failed(&circuits, "a", TOLERATED - 1);
        assert_eq!(states(&circuits), []);
    }

    #[test]
    fn who_gives_up_trying_lets_the_next_one_try() {
        let circuits = Arc::new(Circuits::default());
        failed(&circuits, "a", TOLERATED);
        wait(&circuits, "a");
        drop(circuits.admit("a").unwrap());
        circuits.admit("a").unwrap().succeeded();
        assert_eq!(states(&circuits), []);
    }

    #[test]
    fn what_was_under_way_before_neither_prolongs_nor_closes() {
        let circuits = Arc::new(Circuits::default());
        let (one, two) = (circuits.admit("a").unwrap(), circuits.admit("a").unwrap());
        failed(&circuits, "a", TOLERATED);
        one.failed();
        two.succeeded();
        assert_eq!(states(&circuits), [("a".to_owned(), "open", TOLERATED)]);
    }

    #[test]
    fn hosts_remembered_and_shown_are_bounded() {
        let circuits = Arc::new(Circuits::default());
        for host in 0..MOST_HOSTS + 10 {
            failed(&circuits, &host.to_string(), TOLERATED);
        }
        assert_eq!(
            circuits.with(|hosts| (hosts.circuits.len(), hosts.gauges.len())),
            (MOST_HOSTS, MOST_GAUGES)
        );
        assert_eq!(circuits.not_closed().len(), MOST_SHOWN);
    }
}
