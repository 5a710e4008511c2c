//! What goes in and what comes out.

use chrono::{DateTime, SubsecRound as _, Utc};
use commands::schedules::ScheduleAmendment;
use domain::{
    CatchUp, ConcurrencyKey, CronExpression, Invalid, KindName, Plan, ScheduleName, TimeZoneName, Timing,
};
use projections::ScheduleRow;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::input::Fields;
use crate::problem::Problem;
use projections::time::text as time;

/// The catch-up window of who does not say, in seconds.
const USUAL_WINDOW: u32 = 86_400;
/// The time zone of who does not say.
const USUAL_ZONE: &str = "UTC";

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e20", "name": "Nightly report", "kind": "report", "args": {"day": "2026-11-20"},
    "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "run_at": null, "catch_up": "last", "catch_up_window_seconds": 86400,
    "priority": null, "max_attempts": null, "timeout_seconds": null, "concurrency_key": null, "paused": false,
    "next_run_at": "2026-11-22T01:30:00.000Z", "last_run_at": "2026-11-21T01:30:00.000Z", "last_fired_at": "2026-11-21T01:30:00.041Z",
    "last_job_id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e14", "last_error": null, "last_skipped_at": null, "fired": 12,
    "created_by": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "created_at": "2026-11-09T09:30:00.000Z",
    "updated_at": "2026-11-21T01:30:00.041Z"
}))]
pub struct ScheduleBody {
    /// The schedule's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Unique in the team.
    pub name: String,
    /// What runs.
    pub kind: String,
    /// Its arguments.
    #[schema(value_type = Object)]
    pub args: Map<String, Value>,
    /// When, in cron's notation; null where it runs once.
    pub cron: Option<String>,
    /// By which clocks; null where it runs once.
    pub time_zone: Option<String>,
    /// When, if once.
    pub run_at: Option<String>,
    /// What becomes of moments that were missed: none, last or all.
    pub catch_up: String,
    /// How long ago a moment may be that is still caught up with.
    pub catch_up_window_seconds: u32,
    /// 0 to 9; null: as for any job.
    pub priority: Option<u8>,
    /// How many failures end a job; null: as for any job of the kind.
    pub max_attempts: Option<u32>,
    /// How long an attempt may take; null: as for any job of the kind.
    pub timeout_seconds: Option<u32>,
    /// Jobs with the same key take turns.
    pub concurrency_key: Option<String>,
    /// Whether it rests.
    pub paused: bool,
    /// When it runs next; null while it is paused, and once all is over.
    pub next_run_at: Option<String>,
    /// The last moment that led to a job, or should have.
    pub last_run_at: Option<String>,
    /// When that was done: how late, that is.
    pub last_fired_at: Option<String>,
    /// The last job it led to.
    pub last_job_id: Option<String>,
    /// Why the last moment led to no job, if it did not.
    pub last_error: Option<String>,
    /// The last moment that was passed over.
    pub last_skipped_at: Option<String>,
    /// How many jobs it has led to.
    pub fired: u64,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// When it changed last, firings included.
    pub updated_at: String,
}

impl ScheduleBody {
    pub(super) fn of(row: &ScheduleRow) -> Self {
        let plan = &row.plan;
        let (cron, time_zone, run_at) = match &plan.timing {
            Timing::Cron { cron, time_zone } => (Some(cron.to_string()), Some(time_zone.to_string()), None),
            Timing::Once { run_at } => (None, None, Some(time(*run_at))),
        };
        Self {
            id: row.id.clone(),
            name: plan.name.to_string(),
            kind: plan.kind.to_string(),
            args: plan.args.clone(),
            cron,
            time_zone,
            run_at,
            catch_up: plan.catch_up.as_str().to_owned(),
            catch_up_window_seconds: plan.catch_up_window_seconds,
            priority: plan.priority,
            max_attempts: plan.max_attempts,
            timeout_seconds: plan.timeout_seconds,
            concurrency_key: plan.concurrency_key.as_ref().map(ToString::to_string),
            paused: row.paused,
            next_run_at: row.next_run_at.map(time),
            last_run_at: row.last_run_at.map(time),
            last_fired_at: row.last_fired_at.map(time),
            last_job_id: row.last_job_id.clone(),
            last_error: row.last_error.clone(),
            last_skipped_at: row.last_skipped_at.map(time),
            fired: row.fired,
            created_by: row.created_by.clone(),
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
        }
    }
}

fn catch_up(text: &str) -> Result<CatchUp, Invalid> {
    match text {
        "none" => Ok(CatchUp::None),
        "last" => Ok(CatchUp::Last),
        "all" => Ok(CatchUp::All),
        _ => Err(Invalid("must be none, last or all".to_owned())),
    }
}

/// A schedule to be made: with `cron`, or with `run_at` for one that runs once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "Nightly check", "kind": "http-check", "args": {"url": "http://127.0.0.1:8080/livez"}, "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin", "catch_up": "last"
}))]
pub struct ScheduleCreateBody {
    name: String,
    kind: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    args: Map<String, Value>,
    /// 5 fields, or 6 with seconds first; names of months and days, lists, ranges and steps; or @hourly, @daily, @weekly, @monthly,
    /// @yearly.
    #[serde(default)]
    cron: Option<String>,
    /// A zone of the IANA database; UTC if left out.
    #[serde(default)]
    time_zone: Option<String>,
    /// A moment in the future, instead of `cron`.
    #[serde(default, deserialize_with = "crate::input::moment")]
    run_at: Option<DateTime<Utc>>,
    /// What becomes of moments that were missed: none, last or all; last if left out.
    #[serde(default)]
    catch_up: Option<String>,
    /// How long ago a moment may be that is still caught up with: 60 to 604,800; a day if left out.
    #[serde(default)]
    catch_up_window_seconds: Option<u32>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default)]
    max_attempts: Option<u32>,
    #[serde(default)]
    timeout_seconds: Option<u32>,
    #[serde(default)]
    concurrency_key: Option<String>,
}

impl ScheduleCreateBody {
    /// What is asked for, as far as that can be said of each field by itself.
    pub(super) fn checked(self) -> Result<Plan, Problem> {
        let mut fields = Fields::default();
        let name = fields.check("name", ScheduleName::parse(&self.name));
        let kind = fields.check("kind", KindName::parse(&self.kind));
        let timing = self.timing(&mut fields);
        let caught = fields.check_optional("catch_up", self.catch_up.as_deref(), catch_up);
        let key = self.concurrency_key.as_deref();
        let concurrency_key = fields.check_optional("concurrency_key", key, ConcurrencyKey::parse);
        fields.done()?;
        let (Some(name), Some(kind), Some(timing)) = (name, kind, timing) else {
            return Err(Problem::internal("checked fields are missing"));
        };
        Ok(Plan {
            name,
            kind,
            args: self.args,
            timing,
            catch_up: caught.unwrap_or_default(),
            catch_up_window_seconds: self.catch_up_window_seconds.unwrap_or(USUAL_WINDOW),
            priority: self.priority,
            max_attempts: self.max_attempts,
            timeout_seconds: self.timeout_seconds,
            concurrency_key,
        })
    }

    fn timing(&self, fields: &mut Fields) -> Option<Timing> {
        match (&self.cron, self.run_at) {
            (Some(cron), None) => {
                let cron = fields.check("cron", CronExpression::parse(cron));
                let zone = self.time_zone.as_deref().unwrap_or(USUAL_ZONE);
                let time_zone = fields.check("time_zone", TimeZoneName::parse(zone));
                cron.zip(time_zone).map(|(cron, time_zone)| Timing::Cron { cron, time_zone })
            }
            (None, Some(run_at)) => {
                if self.time_zone.is_some() {
                    fields.refuse("time_zone", "goes with cron; run_at is a moment everywhere");
                }
                Some(Timing::Once { run_at: run_at.trunc_subsecs(3) })
            }
            (None, None) => {
                fields.refuse("cron", "must be given, or run_at for a schedule that runs once");
                None
            }
            (Some(_), Some(_)) => {
                fields.refuse("run_at", "must not be given together with cron");
                None
            }
        }
    }
}

/// What is changed of a schedule; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"cron": "0 3 * * *", "paused": false}))]
pub struct ScheduleAmendBody {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    /// All its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    args: Option<Map<String, Value>>,
    /// When it runs; one that ran once runs again and again from then on.
    #[serde(default)]
    cron: Option<String>,
    #[serde(default)]
    time_zone: Option<String>,
    /// When it runs once; one that ran again and again does not any more.
    #[serde(default, deserialize_with = "crate::input::moment")]
    run_at: Option<DateTime<Utc>>,
    #[serde(default)]
    catch_up: Option<String>,
    #[serde(default)]
    catch_up_window_seconds: Option<u32>,
    /// null: as for any job.
    #[serde(default, deserialize_with = "crate::input::given")]
    #[schema(value_type = Option<u8>)]
    priority: Option<Option<u8>>,
    /// null: as for any job of the kind.
    #[serde(default, deserialize_with = "crate::input::given")]
    #[schema(value_type = Option<u32>)]
    max_attempts: Option<Option<u32>>,
    /// null: as for any job of the kind.
    #[serde(default, deserialize_with = "crate::input::given")]
    #[schema(value_type = Option<u32>)]
    timeout_seconds: Option<Option<u32>>,
    /// null: they do not take turns.
    #[serde(default, deserialize_with = "crate::input::given")]
    #[schema(value_type = Option<String>)]
    concurrency_key: Option<Option<String>>,
    /// true: nothing runs, and nothing of that time is caught up with.
    #[serde(default)]
    paused: Option<bool>,
}

impl ScheduleAmendBody {
    /// What is asked for, as far as that can be said of each field by itself.
    pub(super) fn checked(self) -> Result<ScheduleAmendment, Problem> {
        let mut fields = Fields::default();
        if self.run_at.is_some() && self.cron.is_some() {
            fields.refuse("run_at", "must not be given together with cron");
        }
        if self.run_at.is_some() && self.time_zone.is_some() {
            fields.refuse("time_zone", "goes with cron; run_at is a moment everywhere");
        }
        let cron = fields.check_optional("cron", self.cron.as_deref(), CronExpression::parse);
        let key =
            |fields: &mut Fields, key: &str| fields.check("concurrency_key", ConcurrencyKey::parse(key));
        let amendment = ScheduleAmendment {
            name: fields.check_optional("name", self.name.as_deref(), ScheduleName::parse),
            kind: fields.check_optional("kind", self.kind.as_deref(), KindName::parse),
            args: self.args,
            cron,
            time_zone: fields.check_optional("time_zone", self.time_zone.as_deref(), TimeZoneName::parse),
            run_at: self.run_at.map(|run_at| run_at.trunc_subsecs(3)),
            catch_up: fields.check_optional("catch_up", self.catch_up.as_deref(), catch_up),
            catch_up_window_seconds: self.catch_up_window_seconds,
            priority: self.priority,
            max_attempts: self.max_attempts,
            timeout_seconds: self.timeout_seconds,
            concurrency_key: self.concurrency_key.map(|given| given.and_then(|text| key(&mut fields, &text))),
            paused: self.paused,
        };
        fields.done()?;
        Ok(amendment)
    }
}
