//! How the pause between two attempts grows.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// The longest pause that an attempt may ask for by itself.
const LONGEST_ASKED: u32 = 86_400;

/// How the pause between two attempts grows with each failure, and how it is spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// What the pause is multiplied with after each further failure, from 1.
    pub factor: f64,
    /// Seconds that it does not grow beyond; a first pause that is longer stays as it is.
    pub cap_seconds: u32,
    /// By which share of itself it is longer or shorter at most, 0 to 1: so that what failed together is not tried together.
    pub jitter: f64,
}

/// As it was before kinds could say: doubling up to an hour, not spread.
impl Default for Backoff {
    fn default() -> Self {
        Self { factor: 2.0, cap_seconds: 3_600, jitter: 0.0 }
    }
}

impl Backoff {
    /// The pause after a failure that `failures` others came before: `delay` seconds at first. `dice` is a random number from 0
    /// to 1. What the attempt itself asks for (`asked`, in seconds, a day at most) is the least.
    #[must_use]
    pub fn pause(self, delay: u32, failures: u32, dice: f64, asked: Option<u32>) -> TimeDelta {
        let grown = f64::from(delay) * self.factor.max(1.0).powf(f64::from(failures));
        let capped = grown.min(f64::from(self.cap_seconds.max(delay)));
        let spread = capped * (1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * dice.clamp(0.0, 1.0) - 1.0));
        let least = f64::from(asked.unwrap_or_default().min(LONGEST_ASKED));
        // At most some weeks, so no precision is lost.
        #[expect(clippy::cast_possible_truncation, reason = "bounded above, and rounded")]
        TimeDelta::milliseconds((spread.max(least) * 1_000.0).round() as i64)
    }
}
