//! How fast a worker works jobs off, and so how many it should have at hand.

use std::time::Duration;

use tokio::time::Instant;

/// What ended in such a stretch of time tells what will in the next.
const STRETCH: Duration = Duration::from_millis(50);
/// Jobs at hand at most.
const MOST_AHEAD: usize = 200;

/// See the module.
pub(super) struct Pace {
    since: Instant,
    ended: u64,
    /// How many ended in the last full stretch.
    last: usize,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, ended: 0, last: 0 }
    }

    /// Takes in how many have ended so far.
    pub(super) fn learn(&mut self, ended: u64, now: Instant) {
        let passed = now.duration_since(self.since);
        if passed < STRETCH {
            return;
        }
        let share = STRETCH.as_secs_f64() / passed.as_secs_f64();
        let last = if passed < 2 * STRETCH { (ended - self.ended) as f64 * share } else { 0.0 };
        *self = Self { since: now, ended, last: last as usize };
    }

    /// How many end within a stretch.
    pub(super) fn in_a_stretch(&self) -> usize {
        self.last
    }

    /// How many to have at hand besides those for whom there is room: what half a stretch takes. None where jobs take their time: others
    /// are to have those that wait.
    pub(super) fn ahead(&self) -> usize {
        (self.last / 2).min(MOST_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_at_hand_where_jobs_take_their_time() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        pace.learn(1, begin + STRETCH);
        assert_eq!(pace.ahead(), 0);
    }

    #[test]
    fn what_ended_just_now_tells_how_many_to_have_at_hand() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        pace.learn(100, begin + STRETCH / 2);
        assert_eq!(pace.ahead(), 0, "too early to tell");
        pace.learn(200, begin + STRETCH);
        assert_eq!((pace.in_a_stretch(), pace.ahead()), (200, 100));
        pace.learn(100_000, begin + STRETCH * 2);
        assert_eq!(pace.ahead(), MOST_AHEAD);
        pace.learn(100_010, begin + STRETCH * 3);
        assert_eq!(pace.ahead(), 5);
        pace.learn(100_025, begin + STRETCH * 9 / 2);
        assert_eq!(pace.ahead(), 5, "in one and a half stretches");
        pace.learn(100_035, begin + STRETCH * 9);
        assert_eq!(pace.ahead(), 0, "it was long ago");
    }
}
