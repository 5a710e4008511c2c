//! Waiting with an end.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long anything that comes to pass by itself may take before a test gives up. Far more than it takes.
pub const LIMIT: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// The outcome of `work`, which must come within [`LIMIT`].
///
/// # Panics
/// When it does not, with the name of what was waited for.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("not within {} s: {what}", LIMIT.as_secs()))
}

/// Looks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`LIMIT`], with the name of what was waited for.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
    }
}
