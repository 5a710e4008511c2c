//! What is to be done about a schedule's moments when somebody looks: which lead to jobs, which are passed over.
//!
//! A moment that is found within [`ON_TIME`] of its time leads to a job whatever the schedule says of catching up: Daybook was there. An
//! older one was missed. However many there are, the work is bounded: a clock that is put far ahead brings no thousands of jobs.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{CatchUp, MOST_FIRINGS, Plan, Skipped};

use super::times::Times;

/// How late a moment may be found and still not count as missed.
pub const ON_TIME: TimeDelta = TimeDelta::seconds(60);
/// Moments that are counted at most where they are passed over.
const MOST_COUNTED: usize = 1_000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Passed over, all before the others.
    pub(super) skipped: Option<Skipped>,
    /// To be jobs, in order.
    pub(super) dues: Vec<DateTime<Utc>>,
    /// The moment after these.
    pub(super) next: Option<DateTime<Utc>>,
}

impl Round {
    /// What is to be done at `now` about the moments from `waited_for` on. `None`: nothing yet.
    pub(super) fn at(
        plan: &Plan,
        times: &Times,
        waited_for: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        if waited_for > now {
            return None;
        }
        let dues = chosen(plan, times, waited_for, now);
        let skipped = passed_over(times, waited_for, dues.first().copied(), now);
        Some(Self { skipped, dues, next: times.after(now) })
    }
}

/// The moments that lead to jobs.
fn chosen(plan: &Plan, times: &Times, waited_for: DateTime<Utc>, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let window = TimeDelta::seconds(i64::from(plan.catch_up_window_seconds)).max(ON_TIME);
    let on_time = now - ON_TIME;
    let since = |reach: DateTime<Utc>| times.latest(waited_for.max(reach), now, MOST_FIRINGS);
    match plan.catch_up {
        CatchUp::None => since(on_time),
        CatchUp::All => since(now - window),
        CatchUp::Last => {
            let prompt = since(on_time);
            if prompt.is_empty() { times.latest(waited_for.max(now - window), now, 1) } else { prompt }
        }
    }
}

/// All moments from `from` up to `until`, or up to `now` if nothing else leads to a job.
fn passed_over(
    times: &Times,
    from: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<Skipped> {
    let last = until.map_or(now, |until| until - TimeDelta::milliseconds(1));
    let to = times.latest(from, last, 1).pop()?;
    let before = from - TimeDelta::milliseconds(1);
    let counted = times.iter_after(before).take_while(|moment| *moment <= to).take(MOST_COUNTED).count();
    Some(Skipped { from, to, missed: u32::try_from(counted).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests;
