//! Dealing with what is due of one schedule: its own events and those of the jobs they lead to go into one append, which expects the
//! schedule to be as it was looked at. Of many who do so at once one succeeds; the others look again and find nothing due.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Actor, Caller, Firing, KnownSchedule, Permissions, ScheduleCommand, Skipped};
use ledger::{Append, AppendError, NewEvent};

use super::ShownSchedule;
use super::asked::{JobRules, request};
use super::round::Round;
use super::times::Times;
use crate::door::decided;
use crate::jobs::{ArgProblem, JobRequest, Kinds, QueuedJob};
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

impl Fired {
    fn of(firings: &[Firing], skipped: Option<Skipped>) -> Self {
        let mut fired = Self { skipped: skipped.map_or(0, |skipped| skipped.missed), ..Self::default() };
        for firing in firings {
            match firing {
                Firing::Queued { due, .. } => fired.queued.push(*due),
                Firing::Failed { .. } => fired.failed += 1,
            }
        }
        fired
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
        rules: JobRules<'_>,
        now: DateTime<Utc>,
    ) -> Result<Fired, CommandError> {
        let Some(Round { skipped, dues, next }) = round(&shown.known, rules.kinds, now) else {
            return Ok(Fired::default());
        };
        let (id, team_id) = (shown.id, shown.known.team_id);
        let permissions = Permissions::schedule();
        let mut context = Context::of(Caller { actor: Actor::System, team: Some(team_id), permissions });
        context.causation = Some(format!("schedule:{id}"));
        let (firings, jobs) = self.firings(&context, &shown, rules, dues).await?;
        let fired = Fired::of(&firings, skipped);
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

    /// What each of these moments leads to, and the events of the jobs. Where a job of the kind waits already that is to be the only one,
    /// it is the one.
    async fn firings(
        &self,
        context: &Context,
        shown: &ShownSchedule,
        rules: JobRules<'_>,
        dues: Vec<DateTime<Utc>>,
    ) -> Result<(Vec<Firing>, Vec<NewEvent>), CommandError> {
        let team_id = shown.known.team_id;
        let mut jobs = vec![];
        for due in &dues {
            let request = JobRequest { run_at: Some(*due), ..request(&shown.known.plan, Some(shown.id)) };
            match request.checked(rules.kinds, rules.defaults, team_id, *due) {
                Ok(job) => jobs.push(job),
                // It is the same for all of them.
                Err(problems) => {
                    let error = told(&problems);
                    let failed = |due| Firing::Failed { due, error: error.clone() };
                    return Ok((dues.into_iter().map(failed).collect(), vec![]));
                }
            }
        }
        let (events, queued) = self.queueing_events(context, &jobs, None).await?;
        let fired = |(due, job): (DateTime<Utc>, QueuedJob)| Firing::Queued { due, job_id: job.id };
        Ok((dues.into_iter().zip(queued).map(fired).collect(), events))
    }
}

/// Why a job cannot run, in a sentence.
fn told(problems: &[ArgProblem]) -> String {
    let one = |problem: &ArgProblem| format!("{} {}", problem.field, problem.message);
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}
