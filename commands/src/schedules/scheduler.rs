//! The scheduler: looks for schedules whose moment has come and deals with them. Every working node has one, and none leads.
//!
//! It goes by the database's clock, which all nodes share: a node whose own clock is wrong neither fires early nor late.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ScheduleId;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ShownSchedule;
use super::asked::JobRules;
use super::firing::Fired;
use crate::Commands;
use crate::jobs::{JobDefaults, LiveKinds, QueueError};

/// How often it looks at least.
const POLL: Duration = Duration::from_secs(1);
/// How soon it looks again where something was due: what it did may not have reached the view.
const SOON: Duration = Duration::from_millis(100);
/// Schedules looked at together.
const MOST_DUE: usize = 200;
/// Schedules dealt with at the same time.
const AT_ONCE: usize = 16;
/// How long a schedule is left alone that could not be dealt with.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// What shows the schedules that are due. It may be late; the aggregate decides. A view, which the write side does not know: whoever
/// puts a node together connects the two.
pub trait DueSchedules: Send + Sync + 'static {
    /// At most `limit` schedules whose moment is not after `now`, those that wait longest first.
    fn due(
        &self,
        now: DateTime<Utc>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ShownSchedule>, QueueError>> + Send;

    /// The first moment after `now` for which a schedule waits.
    fn next_due(
        &self,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Option<DateTime<Utc>>, QueueError>> + Send;
}

/// One process' scheduler.
pub struct Scheduler<Q> {
    commands: Commands,
    kinds: LiveKinds,
    defaults: JobDefaults,
    due: Q,
    /// Schedules that could not be dealt with, and when that was.
    troubled: HashMap<ScheduleId, Instant>,
}

impl<Q: DueSchedules> Scheduler<Q> {
    /// A scheduler of these kinds of jobs.
    #[must_use]
    pub fn new(commands: &Commands, kinds: LiveKinds, defaults: JobDefaults, due: Q) -> Self {
        Self { commands: commands.clone(), kinds, defaults, due, troubled: HashMap::new() }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let wait = match self.look().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "looking for schedules that are due failed");
                    POLL
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Deals with what is due; how long to wait before looking again.
    async fn look(&mut self) -> Result<Duration, QueueError> {
        let now = self.clock().await?;
        self.troubled.retain(|_, since| since.elapsed() < LEFT_ALONE);
        // Those left alone stand in front of the others.
        let mut due = self.due.due(now, MOST_DUE + self.troubled.len()).await?;
        due.retain(|schedule| !self.troubled.contains_key(&schedule.id));
        if due.is_empty() {
            let next = self.due.next_due(now).await?;
            let wait = next.and_then(|next| (next - now).to_std().ok());
            return Ok(wait.map_or(POLL, |wait| wait.clamp(SOON / 10, POLL)));
        }
        let this = &*self;
        let outcomes: Vec<_> = stream::iter(due)
            .map(|schedule| this.fire(schedule, now))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        self.troubled.extend(outcomes.into_iter().flatten().map(|id| (id, Instant::now())));
        Ok(SOON)
    }

    /// The one clock of all nodes.
    async fn clock(&self) -> Result<DateTime<Utc>, QueueError> {
        let clock =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(self.commands.ledger.pool()).await;
        clock.map_err(|error| QueueError(error.to_string()))
    }

    /// Deals with one schedule; its id if that could not be done.
    async fn fire(&self, schedule: ShownSchedule, now: DateTime<Utc>) -> Option<ScheduleId> {
        let id = schedule.id;
        let kinds = self.kinds.now();
        let rules = JobRules { kinds: &kinds, defaults: self.defaults };
        match self.commands.fire_schedule(schedule, rules, now).await {
            Ok(fired) => {
                count(&fired, now);
                if fired.failed > 0 {
                    tracing::warn!(schedule = %id, "a schedule's job cannot run any more; see its last_error");
                }
                None
            }
            Err(error) => {
                tracing::warn!(schedule = %id, %error, "a schedule that is due could not be dealt with");
                Some(id)
            }
        }
    }
}

fn count(fired: &Fired, now: DateTime<Utc>) {
    for due in &fired.queued {
        let late = (now - *due).to_std().unwrap_or_default();
        metrics::histogram!("schedule_firing_late_seconds").record(late.as_secs_f64());
    }
    let counted = |name: &'static str, number: u64| {
        if number > 0 {
            metrics::counter!(name).increment(number);
        }
    };
    counted("schedules_fired_total", fired.queued.len() as u64);
    counted("schedules_failed_total", fired.failed as u64);
    counted("schedules_skipped_total", u64::from(fired.skipped));
}
