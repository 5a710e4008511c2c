//! A clock for deadlines.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// It goes on while the machine sleeps and while the process is stopped, and nobody sets it.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// How long the machine has been up, its sleep included. What is trusted until a deadline is compared with this at the moment of use.
#[must_use]
pub fn uptime() -> Duration {
    let now = clock_gettime(CLOCK);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
