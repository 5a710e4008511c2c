//! How long many things took, in little space: a histogram whose buckets grow by a constant ratio, as in DDSketch (Masson et al., 2019,
//! section 2). Histograms of any parts add up to that of the whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The upper end of a bucket over its lower end. Sizes the buckets of stored rows: another ratio is another version of the view.
const RATIO: f64 = 1.05;

/// How far a quantile may be from the true one, as a part of that: half a bucket. Below some 20 ms, where buckets are finer than
/// milliseconds, it may be a millisecond instead.
pub const RELATIVE_ERROR: f64 = (RATIO - 1.0) / (RATIO + 1.0);

/// A histogram of durations in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Durations(BTreeMap<u16, u64>);

impl Durations {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more.
    pub fn add(&mut self, milliseconds: u64) {
        *self.0.entry(bucket(milliseconds)).or_default() += 1;
    }

    /// Those of both.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// The duration in milliseconds that the part `q` (0 to 1) of all does not exceed, the nearest rank; `None` if there are none. It is
    /// off by [`RELATIVE_ERROR`] at most.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        let rank = ((q * all as f64).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

/// Bucket 0 is for less than a millisecond; bucket n > 0 for more than `RATIO^(n-2)` up to `RATIO^(n-1)` milliseconds.
fn bucket(milliseconds: u64) -> u16 {
    if milliseconds == 0 {
        return 0;
    }
    // 2^64 milliseconds are in bucket 911.
    1 + ((milliseconds as f64).ln() / RATIO.ln()).ceil() as u16
}

/// What is equally far, in relative terms, from both ends of the bucket.
fn middle(bucket: u16) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let upper = RATIO.powi(i32::from(bucket) - 1);
    (2.0 * upper / (1.0 + RATIO)).round() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[u64]) -> Durations {
        let mut all = Durations::default();
        durations.iter().for_each(|duration| all.add(*duration));
        all
    }

    #[test]
    fn without_durations_there_is_no_quantile() {
        assert_eq!(Durations::default().quantile(0.5), None);
    }

    #[test]
    fn a_thousand_durations_have_the_quantiles_they_should() {
        let all = of(&(1..=1_000).map(|n| n * 10).collect::<Vec<_>>());
        for (q, true_one) in [(0.5, 5_000.0), (0.95, 9_500.0), (0.0, 10.0), (1.0, 10_000.0)] {
            let found = all.quantile(q).unwrap() as f64;
            assert!((found - true_one).abs() <= true_one * RELATIVE_ERROR + 1.0, "{q}: {found}");
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_as_near_as_is_said(mut durations in proptest::collection::vec(0u64..100_000_000, 1..200), q in 0.0..=1.0f64) {
            let found = of(&durations).quantile(q).unwrap() as f64;
            durations.sort_unstable();
            let rank = ((q * durations.len() as f64).ceil() as usize).max(1);
            let true_one = durations[rank - 1] as f64;
            prop_assert!((found - true_one).abs() <= true_one * RELATIVE_ERROR + 1.0, "{} not {}", found, true_one);
        }

        #[test]
        fn the_parts_make_the_whole(a in proptest::collection::vec(any::<u64>(), 0..50), b in proptest::collection::vec(any::<u64>(), 0..50)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(&merged, &of(&[a, b].concat()));
            let json = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<Durations>(&json).unwrap(), merged);
        }
    }
}
