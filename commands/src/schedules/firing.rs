//! Dealing with what is due of one schedule: its own events and those of the jobs they lead to go into one append, which expects the
//! schedule to be as it was looked at. Of many who do so at once one succeeds; the others look again and find nothing due.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Actor, Caller, Firing, Job, JobCommand, JobId, Permissions, Plan, Schedule, ScheduleCommand, ScheduleId,
    TeamId,
};
use ledger::NewEvent;
use uuid::Uuid;

use super::asked::{JobDefaults, job};
use super::round::Round;
use super::times::Times;
use crate::door::{Prepare, Prepared, first_events};
use crate::jobs::Kinds;
use crate::{CommandError, Commands, Context};

/// For so long a moment is left to others by who does not know its kind of job.
const LEFT_TO_OTHERS: TimeDelta = TimeDelta::seconds(30);

/// What was done about a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// The moments that led to jobs.
    pub queued: Vec<DateTime<Utc>>,
    /// How many led to none, for what is asked for cannot run any more.
    pub failed: usize,
    /// How many were passed over, as far as they were counted.
    pub skipped: u32,
}

/// Deals with what is due at `now`.
struct Due<'a> {
    id: ScheduleId,
    team_id: TeamId,
    context: &'a Context,
    kinds: &'a Kinds,
    defaults: JobDefaults,
    now: DateTime<Utc>,
    /// What the last try was about.
    fired: Mutex<Fired>,
}

impl Due<'_> {
    fn round(&self, schedule: &Schedule) -> Option<(Plan, Round)> {
        let (plan, waited_for) = schedule.plan().zip(schedule.next())?;
        let knows_kind = self.kinds.get(plan.kind.as_str()).is_some();
        if !knows_kind && self.now - waited_for < LEFT_TO_OTHERS {
            return None;
        }
        let times = Times::of(&plan.timing).ok()?;
        Some((plan.clone(), Round::at(plan, &times, waited_for, self.now)?))
    }

    /// What a moment leads to, and the events of the job if that is one.
    async fn firing(&self, plan: &Plan, due: DateTime<Utc>) -> Result<(Firing, Vec<NewEvent>), CommandError> {
        match job(plan, (self.team_id, self.id), due, self.kinds, self.defaults) {
            Err(error) => Ok((Firing::Failed { due, error }, vec![])),
            Ok(queue) => {
                let job_id = JobId(Uuid::now_v7());
                let events = first_events::<Job>(self.context, job_id, JobCommand::Queue(queue)).await?;
                Ok((Firing::Queued { due, job_id }, events))
            }
        }
    }

    fn note(&self, fired: Fired) {
        *self.fired.lock().unwrap_or_else(PoisonError::into_inner) = fired;
    }
}

impl Prepare<Schedule> for Due<'_> {
    async fn prepare(
        &self,
        _: &Commands,
        schedule: &Schedule,
    ) -> Result<Prepared<ScheduleCommand>, CommandError> {
        self.note(Fired::default());
        let Some((plan, Round { skipped, dues, next })) = self.round(schedule) else {
            let nothing = ScheduleCommand::Fire { skipped: None, firings: vec![], next: None };
            return Ok(Prepared::alone(nothing));
        };
        let (mut firings, mut alongside, mut fired) = (vec![], vec![], Fired::default());
        for due in dues {
            let (firing, events) = self.firing(&plan, due).await?;
            match firing {
                Firing::Queued { .. } => fired.queued.push(due),
                Firing::Failed { .. } => fired.failed += 1,
            }
            firings.push(firing);
            alongside.extend(events);
        }
        fired.skipped = skipped.map_or(0, |skipped| skipped.missed);
        self.note(fired);
        let command = ScheduleCommand::Fire { skipped, firings, next };
        Ok(Prepared { command, alongside, data_keys: vec![] })
    }
}

impl Commands {
    /// Deals with what is due of a schedule at `now`; with nothing, if others have done so, or it rests, or is no more.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was done unless it says that this is unknown.
    pub async fn fire_schedule(
        &self,
        id: ScheduleId,
        team_id: TeamId,
        kinds: &Kinds,
        defaults: JobDefaults,
        now: DateTime<Utc>,
    ) -> Result<Fired, CommandError> {
        let permissions = Permissions::schedule();
        let mut context = Context::of(Caller { actor: Actor::System, team: Some(team_id), permissions });
        context.causation = Some(format!("schedule:{id}"));
        let due = Due { id, team_id, context: &context, kinds, defaults, now, fired: Mutex::default() };
        match self.execute_with::<Schedule>(&context, &id.to_string(), None, &due).await {
            Ok(done) if done.stored > 0 => Ok(due.fired.into_inner().unwrap_or_default()),
            // Also where it was paused or deleted since it was seen to be due.
            Ok(_) | Err(CommandError::Refused(_) | CommandError::Denied(_)) => Ok(Fired::default()),
            Err(error) => Err(error),
        }
    }
}
