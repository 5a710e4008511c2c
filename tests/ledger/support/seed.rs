//! Randomness that can be repeated.

use std::sync::atomic::{AtomicU64, Ordering};

/// Repeats a run: the number that a failed test printed.
const VARIABLE: &str = "DAYBOOK_TEST_SEED";

/// Where a test's randomness comes from. It says its number when the test fails.
pub(crate) struct Seed {
    number: u64,
    given: AtomicU64,
}

impl Seed {
    pub(crate) fn new() -> Self {
        let given = std::env::var(VARIABLE).ok();
        let number = match given {
            Some(text) => text.parse().unwrap(),
            None => uuid::Uuid::now_v7().as_u64_pair().1,
        };
        Self { number, given: AtomicU64::new(0) }
    }

    /// Another generator at each call; the same ones for the same seed.
    pub(crate) fn rng(&self) -> Rng {
        Rng(self.number ^ self.given.fetch_add(1, Ordering::Relaxed).wrapping_mul(0xd1b5_4a32_d192_ed03))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the same random choices again: {VARIABLE}={}", self.number);
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and good enough for stories.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}
