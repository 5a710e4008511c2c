//! The time by the database's clock, which all nodes share.
//!
//! Nodes have clocks of their own, and these differ. So no node compares its own clock with anything that another node has written: "now"
//! is the database's. Asking the database each time would cost a round trip. Instead a node measures how far the database's clock is from a
//! clock of its own that is never set (the time since the machine started), and adds the two. Each measurement gives bounds, not a number:
//! the database read its clock between question and answer. Measurements that agree narrow the bounds, and one that does not agree means that the
//! database's clock was set: then only the newest counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::Ledger;
use crate::error::LedgerError;

/// Seconds that the node's clock is ahead of the database's (negative: behind), as of the last measurement.
pub const SKEW_GAUGE: &str = "clock_skew_seconds";
/// How often the database's clock was found to have been set.
pub const STEP_COUNTER: &str = "database_clock_steps_total";

/// From this difference on between the node's clock and the database's a warning is logged.
const SKEW_WARNING: TimeDelta = TimeDelta::seconds(2);
/// Steps of the database's clock that are logged. Smaller ones are how time servers correct a clock.
const STEP_WARNING: TimeDelta = TimeDelta::seconds(1);
/// How far two good clocks may drift apart: 200 millionths.
const DRIFT_DIVISOR: i64 = 5_000;
/// Between two measurements that are made besides those with each heartbeat.
const RECHECK_INTERVAL: TimeDelta = TimeDelta::milliseconds(100);

/// A moment of the clock that is never set, in microseconds.
type Uptime = i64;

/// When the database was asked for its time.
#[derive(Clone, Copy, Debug)]
pub struct Asked(Uptime);

/// By how much the database's clock is ahead of the uptime, in microseconds: at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i64,
    high: i64,
    measured: Uptime,
}

impl Bounds {
    /// The database's clock showed `at` between `asked` and `heard`.
    fn new(at: DateTime<Utc>, asked: Uptime, heard: Uptime) -> Self {
        let at = at.timestamp_micros();
        Self { low: at.saturating_sub(heard), high: at.saturating_sub(asked), measured: heard }
    }

    /// What these say at a later moment: less, since clocks drift.
    fn at(self, moment: Uptime) -> Self {
        let drift = moment.saturating_sub(self.measured).max(0) / DRIFT_DIVISOR;
        Self { low: self.low - drift, high: self.high + drift, measured: moment }
    }

    /// What both say; the newer alone, and how far the clock was set, where they contradict each other.
    fn refined(self, newer: Self) -> (Self, TimeDelta) {
        let older = self.at(newer.measured);
        let both = Self {
            low: older.low.max(newer.low),
            high: older.high.min(newer.high),
            measured: newer.measured,
        };
        if both.low <= both.high {
            return (both, TimeDelta::zero());
        }
        let step = if newer.low > older.high { newer.low - older.high } else { newer.high - older.low };
        (newer, TimeDelta::microseconds(step))
    }

    fn middle(self) -> i64 {
        self.low + (self.high - self.low) / 2
    }
}

/// Tells the time by the database's clock. Before the first measurement it has only the node's own.
#[derive(Debug)]
pub struct Clock {
    bounds: Mutex<Option<Bounds>>,
    skewed: AtomicBool,
    ids: Mutex<ContextV7>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { bounds: Mutex::default(), skewed: AtomicBool::new(false), ids: Mutex::new(ContextV7::new()) }
    }

    /// Now, by the database's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match *self.bounds() {
            Some(bounds) => {
                let at = uptime().saturating_add(bounds.middle());
                DateTime::from_timestamp_micros(at).unwrap_or_else(Utc::now)
            }
            None => Utc::now(),
        }
    }

    /// Now, to the millisecond: as events state times.
    #[must_use]
    pub fn now_millis(&self) -> DateTime<Utc> {
        self.now().trunc_subsecs(3)
    }

    /// How far the database's clock is ahead of the node's own: for times that were read from that one.
    #[must_use]
    pub fn ahead(&self) -> TimeDelta {
        self.now() - Utc::now()
    }

    /// A new id (UUIDv7): larger than all that this process has made before, and in order with those of other nodes up to the
    /// precision of a measurement.
    #[must_use]
    pub fn id(&self) -> Uuid {
        let now = self.now();
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(Timestamp::from_unix(&*ids, seconds, now.timestamp_subsec_nanos()))
    }

    /// To be called before the database is asked for its time, for [`Clock::heard`].
    #[must_use]
    pub fn asking(&self) -> Asked {
        Asked(uptime())
    }

    /// The database has answered a question of `asked` with its time, read after it was asked.
    pub fn heard(&self, asked: Asked, at: DateTime<Utc>) {
        let newer = Bounds::new(at, asked.0, uptime());
        let step = {
            let mut bounds = self.bounds();
            let (refined, step) = bounds.map_or((newer, TimeDelta::zero()), |older| older.refined(newer));
            *bounds = Some(refined);
            step
        };
        if step.abs() >= STEP_WARNING {
            metrics::counter!(STEP_COUNTER).increment(1);
            let seconds = step.as_seconds_f64();
            tracing::warn!(seconds, "the database's clock was set: Daybook goes by the new time");
        }
        self.compare(Utc::now() - self.now());
    }

    /// The node's own clock differs by this much. It decides nothing; but timestamps of log lines and processes are by it.
    fn compare(&self, skew: TimeDelta) {
        metrics::gauge!(SKEW_GAUGE).set(skew.as_seconds_f64());
        let skewed = skew.abs() >= SKEW_WARNING;
        if self.skewed.swap(skewed, Ordering::SeqCst) == skewed {
            return;
        }
        let seconds = skew.as_seconds_f64();
        if skewed {
            tracing::warn!(
                seconds,
                "this machine's clock and the database's differ: Daybook goes by the database's; check that both follow a time server"
            );
        } else {
            tracing::info!(seconds, "this machine's clock and the database's agree again");
        }
    }

    fn is_due(&self) -> bool {
        self.bounds().is_none_or(|bounds| {
            TimeDelta::microseconds(uptime().saturating_sub(bounds.measured)) >= RECHECK_INTERVAL
        })
    }

    fn bounds(&self) -> MutexGuard<'_, Option<Bounds>> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// The time by the database's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Measures the database's clock.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn measure_clock(&self) -> Result<(), LedgerError> {
        // First a connection, so that waiting for one does not blur the measurement.
        let mut connection = self.pool().acquire().await?;
        Ok(self.measure_clock_on(&mut connection).await?)
    }

    /// Measures the database's clock where it matters that it may just have been set, unless that was done within the last 0.1 s. Best
    /// effort.
    pub async fn recheck_clock(&self) {
        if self.clock.is_due()
            && let Err(error) = self.measure_clock().await
        {
            tracing::debug!(%error, "the database's clock could not be measured");
        }
    }

    /// The same on this connection.
    pub(crate) async fn measure_clock_on(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let asked = self.clock.asking();
        let at = sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?;
        self.clock.heard(asked, at);
        Ok(())
    }
}

/// Microseconds since the machine started, also while it slept. Nobody can set this clock.
fn uptime() -> Uptime {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(CLOCK);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn measurements_that_agree_narrow_the_bounds() {
        let slow = Bounds::new(at(1_000), 100 * SECOND, 102 * SECOND);
        assert_eq!((slow.low, slow.high), (898 * SECOND, 900 * SECOND));
        let fast = Bounds::new(at(1_002), 102 * SECOND + 500_000, 102 * SECOND + 600_000);
        let (both, step) = slow.refined(fast);
        assert_eq!((both.low, both.high, step), (fast.low, fast.high, TimeDelta::zero()));
        // A slow one afterwards blurs nothing.
        let slow = Bounds::new(at(1_004), 102 * SECOND, 106 * SECOND);
        let (both, step) = both.refined(slow);
        assert!(both.high - both.low < SECOND / 2 && step.is_zero(), "{both:?} {step}");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_either_way() {
        let before = Bounds::new(at(10_000), 100 * SECOND, 100 * SECOND);
        for set in [-7_200, -600, 600, 7_200, 31_536_000] {
            let after = Bounds::new(at(10_010 + set), 110 * SECOND, 110 * SECOND);
            let (both, step) = before.refined(after);
            assert_eq!(both, after);
            assert!((step - TimeDelta::seconds(set)).abs() < TimeDelta::seconds(1), "{set}: {step}");
        }
    }

    #[test]
    fn clocks_may_drift_as_clocks_do() {
        let before = Bounds::new(at(10_000), 0, 0);
        // A day later, 5 seconds off: 58 millionths.
        let after = Bounds::new(at(10_000 + 86_405), 86_400 * SECOND, 86_400 * SECOND);
        assert!(before.refined(after).1.is_zero());
    }

    #[test]
    fn it_shows_what_the_database_shows() {
        let clock = Clock::new();
        for ahead in [0, 30, -30, 86_400 * 400, -86_400 * 400] {
            clock.heard(clock.asking(), Utc::now() + TimeDelta::seconds(ahead));
            let shown = clock.now() - Utc::now();
            assert!((shown - TimeDelta::seconds(ahead)).abs() < TimeDelta::seconds(1), "{ahead}: {shown}");
        }
    }

    #[test]
    fn ids_grow_also_when_the_clock_is_set_back() {
        let clock = Clock::new();
        let mut last = clock.id();
        for ahead in [3_600, 0, -7_200, -7_200, 60] {
            clock.heard(clock.asking(), Utc::now() + TimeDelta::seconds(ahead));
            for _ in 0..100 {
                let id = clock.id();
                assert!(id > last, "{ahead}: {id} after {last}");
                last = id;
            }
        }
    }

    #[test]
    fn ids_carry_the_databases_time() {
        let clock = Clock::new();
        clock.heard(clock.asking(), Utc::now() + TimeDelta::hours(3));
        let (seconds, _) = clock.id().get_timestamp().unwrap().to_unix();
        let shown = i64::try_from(seconds).unwrap() - Utc::now().timestamp();
        assert!((3 * 3_600 - 2..=3 * 3_600 + 2).contains(&shown), "{shown}");
    }
}
