//! Schedules: jobs that run at certain times. What is wanted is checked here, and its moments are computed; that each moment is dealt
//! with once is the aggregate's business.

mod asked;
mod firing;
mod round;
mod scheduler;
mod times;

use chrono::{DateTime, Utc};
use domain::{
    CatchUp, ClaimKind, ConcurrencyKey, CronExpression, KindName, KnownSchedule, Plan, Schedule,
    ScheduleCommand, ScheduleId, ScheduleName, TeamId, TimeZoneName, Timing,
};
use ledger::{Loaded, NewEvent, StreamId};
use serde_json::{Map, Value};

use crate::door::{Executed, Prepare, Prepared};
use crate::{CommandError, Commands, Context};

pub use asked::{JobRules, LARGEST_ARGS, LONGEST_WINDOW, SHORTEST_WINDOW, problems};
pub use firing::Fired;
pub use round::ON_TIME;
pub use scheduler::{DueSchedules, Scheduler};
pub use times::Times;

/// A schedule as the views show it, after the first `sequence` events of its stream.
#[derive(Clone, Debug)]
pub struct ShownSchedule {
    /// Which.
    pub id: ScheduleId,
    /// How long its stream is.
    pub sequence: i64,
    /// What it is after these events.
    pub known: KnownSchedule,
}

impl ShownSchedule {
    fn loaded(self) -> Loaded<Schedule> {
        let Self { id, sequence, known } = self;
        Loaded { id: id.to_string(), aggregate: Schedule::known(known), sequence }
    }
}

/// What is changed of a schedule; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ScheduleAmendment {
    /// Its name.
    pub name: Option<ScheduleName>,
    /// What runs.
    pub kind: Option<KindName>,
    /// All its arguments.
    pub args: Option<Map<String, Value>>,
    /// When it runs; one that ran once runs again and again from then on.
    pub cron: Option<CronExpression>,
    /// By which clocks.
    pub time_zone: Option<TimeZoneName>,
    /// When it runs once; one that ran again and again does not any more.
    pub run_at: Option<DateTime<Utc>>,
    /// What becomes of moments that were missed.
    pub catch_up: Option<CatchUp>,
    /// How long ago, in seconds, a moment may be that is still caught up with.
    pub catch_up_window_seconds: Option<u32>,
    /// 0 to 9; `Some(None)`: as for any job.
    pub priority: Option<Option<u8>>,
    /// How many failures end a job; `Some(None)`: as for any job of the kind.
    pub max_attempts: Option<Option<u32>>,
    /// How long one attempt may take; `Some(None)`: as for any job of the kind.
    pub timeout_seconds: Option<Option<u32>>,
    /// Jobs with the same key take turns; `Some(None)`: they do not.
    pub concurrency_key: Option<Option<ConcurrencyKey>>,
    /// Whether it rests.
    pub paused: Option<bool>,
}

impl ScheduleAmendment {
    /// `plan` with what is changed of it.
    #[must_use]
    pub fn applied_to(&self, plan: &Plan) -> Plan {
        let change = self.clone();
        Plan {
            name: change.name.unwrap_or_else(|| plan.name.clone()),
            kind: change.kind.unwrap_or_else(|| plan.kind.clone()),
            args: change.args.unwrap_or_else(|| plan.args.clone()),
            timing: self.timing(&plan.timing),
            catch_up: change.catch_up.unwrap_or(plan.catch_up),
            catch_up_window_seconds: change.catch_up_window_seconds.unwrap_or(plan.catch_up_window_seconds),
            priority: change.priority.unwrap_or(plan.priority),
            max_attempts: change.max_attempts.unwrap_or(plan.max_attempts),
            timeout_seconds: change.timeout_seconds.unwrap_or(plan.timeout_seconds),
            concurrency_key: change.concurrency_key.unwrap_or_else(|| plan.concurrency_key.clone()),
        }
    }

    fn timing(&self, present: &Timing) -> Timing {
        if let Some(run_at) = self.run_at {
            return Timing::Once { run_at };
        }
        let (cron, time_zone) = match present {
            Timing::Cron { cron, time_zone } => (Some(cron), Some(time_zone)),
            Timing::Once { .. } => (None, None),
        };
        let Some(cron) = self.cron.as_ref().or(cron) else { return present.clone() };
        // Who goes over to cron and names no zone gets what they would have got from the beginning.
        let time_zone = self.time_zone.as_ref().or(time_zone).cloned().unwrap_or_else(TimeZoneName::utc);
        Timing::Cron { cron: cron.clone(), time_zone }
    }
}

/// Begins a schedule and claims its name.
struct Creating<'a> {
    id: ScheduleId,
    team_id: TeamId,
    plan: &'a Plan,
    now: DateTime<Utc>,
}

impl Prepare<Schedule> for Creating<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        _: &Schedule,
    ) -> Result<Prepared<ScheduleCommand>, CommandError> {
        let Self { id, team_id, plan, now } = *self;
        // Whoever asked was told what is wrong with it, before.
        let next = next_after(plan, now)
            .ok_or_else(|| CommandError::Event("a schedule without a moment was to be made".to_owned()))?;
        let claim = commands.claim_schedule_name(team_id, &plan.name, id).await?;
        let command = ScheduleCommand::Create { team_id, plan: plan.clone(), next };
        Ok(Prepared { command, alongside: vec![claim], data_keys: vec![] })
    }
}

/// Changes a schedule as it is at this try.
struct Amending<'a> {
    id: ScheduleId,
    /// Only of a schedule of this team is asked whether a name is taken.
    caller_team: Option<TeamId>,
    amendment: &'a ScheduleAmendment,
    now: DateTime<Utc>,
}

impl Prepare<Schedule> for Amending<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        schedule: &Schedule,
    ) -> Result<Prepared<ScheduleCommand>, CommandError> {
        let paused = self.amendment.paused;
        let owned = schedule.plan().zip(schedule.team()).filter(|(_, team)| Some(*team) == self.caller_team);
        let Some((present, team)) = owned else {
            return Ok(Prepared::alone(ScheduleCommand::Amend { plan: None, paused, next: None }));
        };
        let plan = self.amendment.applied_to(present);
        let resumes = schedule.is_paused() && paused == Some(false);
        let next = if resumes || plan.timing != present.timing {
            // Nothing that is over comes back, also when the clock was put back.
            let handled = schedule.handled().unwrap_or(self.now);
            next_after(&plan, self.now.max(handled))
        } else {
            schedule.next()
        };
        let mut alongside = vec![];
        if plan.name != present.name {
            alongside.push(commands.release_schedule_name(team, &present.name).await?);
            alongside.push(commands.claim_schedule_name(team, &plan.name, self.id).await?);
        }
        let command = ScheduleCommand::Amend { plan: Some(plan), paused, next };
        Ok(Prepared { command, alongside, data_keys: vec![] })
    }
}

/// Ends a schedule, which lets go of its name.
struct Deleting {
    caller_team: Option<TeamId>,
}

impl Prepare<Schedule> for Deleting {
    async fn prepare(
        &self,
        commands: &Commands,
        schedule: &Schedule,
    ) -> Result<Prepared<ScheduleCommand>, CommandError> {
        let mut prepared = Prepared::alone(ScheduleCommand::Delete);
        let owned = schedule.plan().zip(schedule.team()).filter(|(_, team)| Some(*team) == self.caller_team);
        if let Some((plan, team)) = owned {
            prepared.alongside.push(commands.release_schedule_name(team, &plan.name).await?);
        }
        Ok(prepared)
    }
}

/// The first moment of `plan` after this one, if it means something and there is one.
fn next_after(plan: &Plan, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
    Times::of(&plan.timing).ok()?.after(moment)
}

impl Commands {
    /// Begins a schedule of the caller's team. The plan was found to have no [`problems`] at `now`.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the team has a schedule of this name.
    pub async fn create_schedule(
        &self,
        context: &Context,
        plan: &Plan,
        now: DateTime<Utc>,
    ) -> Result<Executed, CommandError> {
        let id = ScheduleId(self.new_id());
        let team_id = context.caller.team.ok_or(domain::Denied::NotFound)?;
        let creating = Creating { id, team_id, plan, now };
        self.execute_with::<Schedule>(context, &id.to_string(), Some(0), &creating).await
    }

    /// Changes a schedule, pauses it or goes on with it.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the team has another schedule of this name.
    pub async fn amend_schedule(
        &self,
        context: &Context,
        shown: ShownSchedule,
        expected: Option<i64>,
        amendment: &ScheduleAmendment,
        now: DateTime<Utc>,
    ) -> Result<Executed, CommandError> {
        let id = shown.id;
        let amending = Amending { id, caller_team: context.caller.team, amendment, now };
        let known = Some(shown.loaded());
        self.execute_knowing(context, &id.to_string(), known, expected, &amending).await
    }

    /// Ends a schedule and frees its name. The jobs it has made stay.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn delete_schedule(
        &self,
        context: &Context,
        shown: ShownSchedule,
        expected: Option<i64>,
    ) -> Result<Executed, CommandError> {
        let deleting = Deleting { caller_team: context.caller.team };
        let id = shown.id.to_string();
        self.execute_knowing(context, &id, Some(shown.loaded()), expected, &deleting).await
    }

    async fn claim_schedule_name(
        &self,
        team: TeamId,
        name: &ScheduleName,
        id: ScheduleId,
    ) -> Result<NewEvent, CommandError> {
        let owner = StreamId::new("schedule", id);
        self.claim(ClaimKind::ScheduleName, &[&team.to_string(), name.as_str()], &owner).await
    }

    async fn release_schedule_name(
        &self,
        team: TeamId,
        name: &ScheduleName,
    ) -> Result<NewEvent, CommandError> {
        self.release(ClaimKind::ScheduleName, &[&team.to_string(), name.as_str()]).await
    }
}
