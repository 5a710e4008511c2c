//! Schedules in random histories.

use ::commands::jobs::{JobDefaults, Kinds};
use ::commands::schedules::{JobRules, ScheduleAmendment, ShownSchedule};
use ::ledger::Store;
use chrono::{TimeDelta, Utc};
use cqrs_es::EventStore as _;
use domain::{
    CatchUp, CronExpression, KindName, KnownSchedule, Plan, Schedule, ScheduleId, ScheduleName, TeamId,
    TimeZoneName, Timing,
};

use super::{History, NAMES, done};

impl History<'_> {
    fn plan(&mut self) -> Plan {
        let timing = match self.rng.percent(30) {
            true => {
                Timing::Once { run_at: Utc::now() + TimeDelta::milliseconds(self.rng.below(9_999) as i64) }
            }
            false => Timing::Cron {
                cron: CronExpression::parse(self.one_of(&["@hourly", "*/20 2 * * MON-FRI"])).unwrap(),
                time_zone: TimeZoneName::parse(self.one_of(&["UTC", "Europe/Berlin"])).unwrap(),
            },
        };
        Plan {
            name: ScheduleName::parse(&format!("{} {}", self.one_of(&NAMES), self.rng.below(4))).unwrap(),
            kind: KindName::parse(self.one_of(&["report", "gone"])).unwrap(),
            args: serde_json::Map::new(),
            timing,
            catch_up: self.one_of(&[CatchUp::None, CatchUp::Last, CatchUp::All]),
            catch_up_window_seconds: 7_200,
            priority: self.rng.percent(50).then_some(3),
            max_attempts: None,
            timeout_seconds: None,
            concurrency_key: None,
        }
    }

    pub(super) async fn make_schedule(&mut self) {
        let (team, plan) = (self.team(), self.plan());
        let context = self.context(Some(team));
        // Before anything in the plan, however slow the machine.
        let now = Utc::now() - TimeDelta::hours(1);
        if let Some(made) = done(self.commands.create_schedule(&context, &plan, now).await) {
            self.schedules.push((team, made.id.parse().unwrap()));
        }
    }

    pub(super) async fn change_schedule(&mut self) {
        let schedules = self.schedules.clone();
        if schedules.is_empty() {
            return self.make_schedule().await;
        }
        let (team, id) = self.one_of(&schedules);
        let Some(shown) = self.shown(id).await else { return };
        match self.rng.below(8) {
            0 => self.end_schedule(team, shown).await,
            1..=3 => self.fire_schedule(shown).await,
            _ => self.amend_schedule(team, shown).await,
        }
    }

    /// The schedule as it is; none when it was deleted.
    async fn shown(&self, id: ScheduleId) -> Option<ShownSchedule> {
        let loaded = Store::<Schedule>::new(self.ledger).load_aggregate(&id.to_string()).await.unwrap();
        let schedule = &loaded.aggregate;
        let known = KnownSchedule {
            team_id: schedule.team()?,
            plan: schedule.plan()?.clone(),
            paused: schedule.is_paused(),
            next: schedule.next(),
            handled: schedule.handled(),
        };
        Some(ShownSchedule { id, sequence: loaded.sequence, known })
    }

    async fn end_schedule(&mut self, team: TeamId, shown: ShownSchedule) {
        let context = self.context(Some(team));
        done(self.commands.delete_schedule(&context, shown, None).await);
    }

    async fn amend_schedule(&mut self, team: TeamId, shown: ShownSchedule) {
        let (context, plan) = (self.context(Some(team)), self.plan());
        let amendment = ScheduleAmendment {
            name: self.rng.percent(30).then_some(plan.name),
            catch_up: Some(plan.catch_up),
            paused: Some(self.rng.percent(40)),
            ..ScheduleAmendment::default()
        };
        done(self.commands.amend_schedule(&context, shown, None, &amendment, Utc::now()).await);
    }

    async fn fire_schedule(&mut self, shown: ShownSchedule) {
        let kinds = Kinds::parse("[jobs.report]\ncommand = ['true']\n", &commands::jobs::Actions::built_in())
            .unwrap();
        let defaults = JobDefaults { max_attempts: 3, retry_delay_seconds: 1 };
        let rules = JobRules { kinds: &kinds, defaults };
        let waited_for = shown.known.next.unwrap_or_else(Utc::now);
        let now = waited_for + TimeDelta::minutes(self.rng.below(300) as i64);
        self.commands.fire_schedule(shown, rules, now).await.unwrap();
    }
}
