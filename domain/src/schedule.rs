//! A schedule: a job that a team wants run at certain times. When those are is computed outside, for what a time zone does is no rule of
//! ours; a command brings the moments, and the schedule sees to it that none is dealt with twice.
//!
//! Each moment is dealt with by an event of the schedule's own stream, stored together with the job it leads to. Of many nodes that find
//! the same moment due, all but one therefore meet a conflict, and then a schedule whose next moment is a later one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{aggregate, stored_names};
use crate::{
    Caller, ConcurrencyKey, CronExpression, Denied, Guarded, JobId, KindName, Permission, Refusal,
    RefusalKind, ScheduleName, TeamId, TimeZoneName,
};

/// Moments for which one command makes jobs at most.
pub const MOST_FIRINGS: usize = 100;

/// When a schedule's job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Timing {
    /// Again and again.
    Cron {
        /// When, as the clocks of the zone show it.
        cron: CronExpression,
        /// Which zone's clocks.
        time_zone: TimeZoneName,
    },
    /// Once.
    Once {
        /// At this moment.
        run_at: DateTime<Utc>,
    },
}

/// What becomes of moments that nobody was there to deal with in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing: they are passed over.
    None,
    /// The last of them leads to a job.
    #[default]
    Last,
    /// Each of them does, within bounds.
    All,
}

impl CatchUp {
    /// The name used in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

/// What a team wants run, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Unique in the team (a claim stream sees to that).
    pub name: ScheduleName,
    /// What runs.
    pub kind: KindName,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// When.
    #[serde(flatten)]
    pub timing: Timing,
    /// What becomes of moments that were missed.
    pub catch_up: CatchUp,
    /// How long ago, in seconds, a moment may be that is still caught up with.
    pub catch_up_window_seconds: u32,
    /// 0 to 9; as for any job of the kind if not given.
    pub priority: Option<u8>,
    /// How many failures end a job; as for any job of the kind if not given.
    pub max_attempts: Option<u32>,
    /// How long one attempt may take; as for any job of the kind if not given.
    pub timeout_seconds: Option<u32>,
    /// Jobs with the same key take turns.
    pub concurrency_key: Option<ConcurrencyKey>,
}

/// Moments that are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The first of them.
    pub from: DateTime<Utc>,
    /// The last of them.
    pub to: DateTime<Utc>,
    /// How many there are; many are not counted to the end.
    pub missed: u32,
}

/// What a moment leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firing {
    /// A job, stored in the same append.
    Queued {
        /// The moment.
        due: DateTime<Utc>,
        /// The job.
        job_id: JobId,
    },
    /// None, for what is asked for cannot run any more.
    Failed {
        /// The moment.
        due: DateTime<Utc>,
        /// Why, in a sentence for people.
        error: String,
    },
}

impl Firing {
    /// The moment it deals with.
    #[must_use]
    pub fn due(&self) -> DateTime<Utc> {
        match self {
            Self::Queued { due, .. } | Self::Failed { due, .. } => *due,
        }
    }
}

/// What can be asked of a schedule.
#[derive(Clone, Debug)]
pub enum ScheduleCommand {
    /// Begin with it.
    Create {
        /// Whose it is.
        team_id: TeamId,
        /// What is wanted.
        plan: Plan,
        /// The first moment.
        next: DateTime<Utc>,
    },
    /// Change what is wanted, pause it or go on with it; what is `None` stays.
    Amend {
        /// All that is wanted from now on.
        plan: Option<Plan>,
        /// Whether it rests.
        paused: Option<bool>,
        /// The next moment after all this; not looked at while it rests.
        next: Option<DateTime<Utc>>,
    },
    /// Deal with what is due: first pass over some moments, then make jobs for others.
    Fire {
        /// Those that are passed over, all before the others.
        skipped: Option<Skipped>,
        /// What the others lead to, in order; at most [`MOST_FIRINGS`].
        firings: Vec<Firing>,
        /// The moment after these.
        next: Option<DateTime<Utc>>,
    },
    /// End it.
    Delete,
}

/// What can happen to a schedule. `next` is the moment it waits for from then on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum ScheduleEvent {
    /// It begins.
    ScheduleCreated {
        team_id: TeamId,
        #[serde(flatten)]
        plan: Plan,
        next: DateTime<Utc>,
    },
    /// Something else is wanted; these are all its properties.
    ScheduleAmended {
        #[serde(flatten)]
        plan: Plan,
        next: Option<DateTime<Utc>>,
    },
    /// It rests.
    SchedulePaused {},
    /// It goes on; what would have been due meanwhile is not caught up with.
    ScheduleResumed { next: Option<DateTime<Utc>> },
    /// A moment led to a job.
    ScheduleFired { due: DateTime<Utc>, job_id: JobId, next: Option<DateTime<Utc>> },
    /// A moment led to none, for what is asked for cannot run any more.
    ScheduleFailed { due: DateTime<Utc>, error: String, next: Option<DateTime<Utc>> },
    /// The moments from `from` to `to` were passed over: so many, if they are not very many.
    ScheduleSkipped { from: DateTime<Utc>, to: DateTime<Utc>, missed: u32, next: Option<DateTime<Utc>> },
    /// It is no more.
    ScheduleDeleted {},
}

stored_names!(ScheduleEvent {
    ScheduleCreated: "1",
    ScheduleAmended: "1",
    SchedulePaused: "1",
    ScheduleResumed: "1",
    ScheduleFired: "1",
    ScheduleFailed: "1",
    ScheduleSkipped: "1",
    ScheduleDeleted: "1",
});

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There is no such schedule, or it was deleted.
    #[error("there is no such schedule")]
    NotFound,
    /// The id is taken.
    #[error("this schedule exists already")]
    AlreadyExists,
    /// Nothing fires while it rests.
    #[error("the schedule is paused")]
    Paused,
    /// The moment was dealt with before, or is not the schedule's next one.
    #[error("{0} was dealt with already, or is not what the schedule waits for")]
    NotDue(DateTime<Utc>),
    /// More than one command may bring.
    #[error("at most {MOST_FIRINGS} moments are dealt with at once")]
    TooMany,
}

impl Refusal for ScheduleError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::AlreadyExists | Self::Paused | Self::NotDue(_) | Self::TooMany => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "schedule_not_found",
            Self::AlreadyExists => "schedule_exists",
            Self::Paused => "schedule_paused",
            Self::NotDue(_) => "schedule_not_due",
            Self::TooMany => "too_many_firings",
        }
    }
}

/// What is known of a schedule that was not deleted. One that fires every minute has half a million events after a year: these are not
/// read each time.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownSchedule {
    /// Whose it is.
    pub team_id: TeamId,
    /// What is wanted.
    pub plan: Plan,
    /// Whether it rests.
    pub paused: bool,
    /// The moment it waits for.
    pub next: Option<DateTime<Utc>>,
    /// The last moment that was dealt with.
    pub handled: Option<DateTime<Utc>>,
}

/// What the rules need to know of a schedule that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Life {
    team_id: TeamId,
    plan: Plan,
    paused: bool,
    /// The moment it waits for; none while it rests, and once a single one is over.
    next: Option<DateTime<Utc>>,
    /// The last moment that was dealt with.
    handled: Option<DateTime<Utc>>,
    deleted: bool,
}

/// A schedule; nothing before it was created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule(Option<Life>);

aggregate!(Schedule, "schedule", ScheduleCommand, ScheduleEvent, ScheduleError);

type Decision = Result<Vec<ScheduleEvent>, ScheduleError>;

impl Schedule {
    /// A schedule as a view knows it: what it is after its events, without reading them. Whoever decides by it appends after those events
    /// and no others.
    #[must_use]
    pub fn known(known: KnownSchedule) -> Self {
        let KnownSchedule { team_id, plan, paused, next, handled } = known;
        Self(Some(Life { team_id, plan, paused, next, handled, deleted: false }))
    }

    fn living(&self) -> Option<&Life> {
        self.0.as_ref().filter(|life| !life.deleted)
    }

    /// Whose it is, while it exists.
    #[must_use]
    pub fn team(&self) -> Option<TeamId> {
        self.living().map(|life| life.team_id)
    }

    /// What is wanted, while it exists.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.living().map(|life| &life.plan)
    }

    /// The moment it waits for, if it does.
    #[must_use]
    pub fn next(&self) -> Option<DateTime<Utc>> {
        self.living().and_then(|life| life.next)
    }

    /// The last moment that was dealt with: whatever comes is later.
    #[must_use]
    pub fn handled(&self) -> Option<DateTime<Utc>> {
        self.living().and_then(|life| life.handled)
    }

    /// Whether it rests.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.living().is_some_and(|life| life.paused)
    }

    pub(crate) fn decide(&self, command: ScheduleCommand) -> Decision {
        let life = match (&self.0, command) {
            (None, ScheduleCommand::Create { team_id, plan, next }) => {
                return Ok(vec![ScheduleEvent::ScheduleCreated { team_id, plan, next }]);
            }
            (Some(life), command) if !life.deleted => (life, command),
            (Some(_), ScheduleCommand::Create { .. }) => return Err(ScheduleError::AlreadyExists),
            (None | Some(_), _) => return Err(ScheduleError::NotFound),
        };
        match life {
            (_, ScheduleCommand::Create { .. }) => Err(ScheduleError::AlreadyExists),
            (life, ScheduleCommand::Amend { plan, paused, next }) => life.amend(plan, paused, next),
            (life, ScheduleCommand::Fire { skipped, firings, next }) => life.fire(skipped, firings, next),
            (_, ScheduleCommand::Delete) => Ok(vec![ScheduleEvent::ScheduleDeleted {}]),
        }
    }

    pub(crate) fn evolve(&mut self, event: ScheduleEvent) {
        if let ScheduleEvent::ScheduleCreated { team_id, plan, next } = event {
            let (next, handled) = (Some(next), None);
            self.0 = Some(Life { team_id, plan, paused: false, next, handled, deleted: false });
        } else if let Some(life) = &mut self.0 {
            life.evolve(event);
        }
    }
}

impl Life {
    fn amend(&self, plan: Option<Plan>, paused: Option<bool>, next: Option<DateTime<Utc>>) -> Decision {
        self.must_be_later(next)?;
        let rests = paused.unwrap_or(self.paused);
        let mut events = vec![];
        if let Some(plan) = plan.filter(|plan| *plan != self.plan) {
            let next = next.filter(|_| !rests && !self.paused);
            events.push(ScheduleEvent::ScheduleAmended { plan, next });
        }
        match (self.paused, rests) {
            (false, true) => events.push(ScheduleEvent::SchedulePaused {}),
            (true, false) => events.push(ScheduleEvent::ScheduleResumed { next }),
            (true, true) | (false, false) => {}
        }
        Ok(events)
    }

    fn must_be_later(&self, next: Option<DateTime<Utc>>) -> Result<(), ScheduleError> {
        match (next, self.handled) {
            (Some(next), Some(handled)) if next <= handled => Err(ScheduleError::NotDue(next)),
            _ => Ok(()),
        }
    }

    fn fire(&self, skipped: Option<Skipped>, firings: Vec<Firing>, next: Option<DateTime<Utc>>) -> Decision {
        if self.paused {
            return Err(ScheduleError::Paused);
        }
        if firings.len() > MOST_FIRINGS {
            return Err(ScheduleError::TooMany);
        }
        self.check_order(skipped, &firings, next)?;
        // What is next after each is the moment that is dealt with after it, and after the last one `next`.
        let others = firings.iter().map(Firing::due).skip(usize::from(skipped.is_none()));
        let mut nexts = others.map(Some).collect::<Vec<_>>().into_iter();
        let mut after = || nexts.next().unwrap_or(next);
        let skipped = skipped.map(|Skipped { from, to, missed }| ScheduleEvent::ScheduleSkipped {
            from,
            to,
            missed,
            next: after(),
        });
        let mut events: Vec<ScheduleEvent> = skipped.into_iter().collect();
        events.extend(firings.into_iter().map(|firing| match firing {
            Firing::Queued { due, job_id } => ScheduleEvent::ScheduleFired { due, job_id, next: after() },
            Firing::Failed { due, error } => ScheduleEvent::ScheduleFailed { due, error, next: after() },
        }));
        Ok(events)
    }

    /// Beginning with the one the schedule waits for, each moment comes after the one before.
    fn check_order(
        &self,
        skipped: Option<Skipped>,
        firings: &[Firing],
        next: Option<DateTime<Utc>>,
    ) -> Result<(), ScheduleError> {
        let mut before = self.handled;
        if let Some(Skipped { from, to, .. }) = skipped {
            if to < from {
                return Err(ScheduleError::NotDue(to));
            }
            self.must_wait_for(from)?;
            before = Some(to);
        }
        for due in firings.iter().map(Firing::due) {
            self.must_wait_for(due)?;
            if before.is_some_and(|before| due <= before) {
                return Err(ScheduleError::NotDue(due));
            }
            before = Some(due);
        }
        match (next, before) {
            (Some(next), Some(before)) if next <= before => Err(ScheduleError::NotDue(next)),
            _ => Ok(()),
        }
    }

    /// Nothing before the moment that was announced is the schedule's.
    fn must_wait_for(&self, due: DateTime<Utc>) -> Result<(), ScheduleError> {
        match self.next {
            Some(next) if next <= due => Ok(()),
            Some(_) | None => Err(ScheduleError::NotDue(due)),
        }
    }

    fn evolve(&mut self, event: ScheduleEvent) {
        match event {
            ScheduleEvent::ScheduleCreated { .. } => {}
            ScheduleEvent::ScheduleAmended { plan, next } => (self.plan, self.next) = (plan, next),
            ScheduleEvent::SchedulePaused {} => (self.paused, self.next) = (true, None),
            ScheduleEvent::ScheduleResumed { next } => (self.paused, self.next) = (false, next),
            ScheduleEvent::ScheduleFired { due, next, .. }
            | ScheduleEvent::ScheduleFailed { due, next, .. }
            | ScheduleEvent::ScheduleSkipped { to: due, next, .. } => {
                (self.handled, self.next) = (Some(due), next);
            }
            ScheduleEvent::ScheduleDeleted {} => self.deleted = true,
        }
    }
}

impl Guarded for Schedule {
    fn admit(&self, command: &ScheduleCommand, caller: &Caller) -> Result<(), Denied> {
        let owner = self.0.as_ref().map(|life| life.team_id);
        match command {
            ScheduleCommand::Create { team_id, .. } => caller.require_in(Some(*team_id), Permission::JobsRun),
            ScheduleCommand::Amend { .. } | ScheduleCommand::Delete => {
                caller.require_in(owner, Permission::JobsRun)
            }
            ScheduleCommand::Fire { .. } => caller.require_in(owner, Permission::JobsWork),
        }
    }
}

#[cfg(test)]
mod tests;
