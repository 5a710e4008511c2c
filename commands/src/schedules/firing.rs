//! Dealing with what is due of one schedule: its own events and those of the jobs they lead to go into one append, which expects the
//! schedule to be as it was looked at. Of many who do so at once one succeeds; the others look again and find nothing due.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Actor, Caller, Firing, Job, JobCommand, JobId, KnownSchedule, Permissions, Plan, ScheduleCommand,
    ScheduleId, TeamId,
};
use ledger::{Append, AppendError, NewEvent};
use uuid::Uuid;

use super::ShownSchedule;
use super::asked::{JobDefaults, job};
use super::round::Round;
use super::times::Times;
use crate::door::{decided, first_events};
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

/// What there is to be done about a schedule, and what is stored with it.
#[derive(Default)]
struct Doing {
    firings: Vec<Firing>,
    jobs: Vec<NewEvent>,
    fired: Fired,
}

/// Makes jobs of moments.
struct Making<'a> {
    context: &'a Context,
    of: (TeamId, ScheduleId),
    kinds: &'a Kinds,
    defaults: JobDefaults,
}

impl Making<'_> {
    async fn make(&self, plan: &Plan, dues: Vec<DateTime<Utc>>) -> Result<Doing, CommandError> {
        let mut doing = Doing::default();
        for due in dues {
            let firing = match job(plan, self.of, due, self.kinds, self.defaults) {
                Err(error) => {
                    doing.fired.failed += 1;
                    Firing::Failed { due, error }
                }
                Ok(queue) => {
                    let job_id = JobId(Uuid::now_v7());
                    let queue = JobCommand::Queue(queue);
                    doing.jobs.extend(first_events::<Job>(self.context, job_id, queue).await?);
                    doing.fired.queued.push(due);
                    Firing::Queued { due, job_id }
                }
            };
            doing.firings.push(firing);
        }
        Ok(doing)
    }
}

/// What is to be done at `now` about what a schedule waits for, if anything.
fn round(known: &KnownSchedule, kinds: &Kinds, now: DateTime<Utc>) -> Option<Round> {
    let waited_for = known.next?;
    let knows_kind = kinds.get(known.plan.kind.as_str()).is_some();
    if !knows_kind && now - waited_for < LEFT_TO_OTHERS {
        return None;
    }
    Round::at(&known.plan, &Times::of(&known.plan.timing).ok()?, waited_for, now)
}

impl Commands {
    /// Deals with what is due at `now` of a schedule as it is shown; with nothing, if it is not like that any more: others have done so, or
    /// somebody has changed it.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was done unless it says that this is unknown.
    pub async fn fire_schedule(
        &self,
        shown: ShownSchedule,
        kinds: &Kinds,
        defaults: JobDefaults,
        now: DateTime<Utc>,
    ) -> Result<Fired, CommandError> {
        let Some(Round { skipped, dues, next }) = round(&shown.known, kinds, now) else {
            return Ok(Fired::default());
        };
        let (id, team_id) = (shown.id, shown.known.team_id);
        let permissions = Permissions::schedule();
        let mut context = Context::of(Caller { actor: Actor::System, team: Some(team_id), permissions });
        context.causation = Some(format!("schedule:{id}"));
        let making = Making { context: &context, of: (team_id, id), kinds, defaults };
        let Doing { firings, jobs, mut fired } = making.make(&shown.known.plan, dues).await?;
        fired.skipped = skipped.map_or(0, |skipped| skipped.missed);
        let command = ScheduleCommand::Fire { skipped, firings, next };
        let mut events = decided(&context, &mut shown.loaded(), command).await?;
        events.extend(jobs);
        let append = Append { events, metadata: context.metadata(), data_keys: vec![] };
        match self.ledger.append(append).await {
            Ok(_) => Ok(fired),
            Err(AppendError::Conflict) => Ok(Fired::default()),
            Err(error) => Err(error.into()),
        }
    }
}
