//! What happened in a team, day by day, for its auditors.

use axum::extract::{OriginalUri, State};
use chrono::{DateTime, NaiveDate, Utc};
use projections::{ActivityDay, ActivityFilter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::days::Days;
use crate::app::App;
use crate::authenticate::CanAudit;
use crate::extract::{Json, Query};
use crate::problem::{Problem, ProblemBody};
use crate::routes::audit::{record, trail};

/// Days of an answer at most.
const MOST_DAYS: u64 = 31;

/// What is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ActivityQuery {
    /// The first day: a date, or a time, which stands for its day in UTC. 29 days before the last one if not given.
    from: Option<String>,
    /// The last day, likewise; today if not given. At most 31 days in all.
    to: Option<String>,
}

/// What happened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"from": "2026-03-01", "to": "2026-03-30", "complete": true, "items": []}))]
pub struct ActivityBody {
    /// The first day.
    pub from: String,
    /// The last day, itself included.
    pub to: String,
    /// Whether all events of these days were counted. Otherwise only the latest 500,000: ask for fewer days.
    pub complete: bool,
    /// The days on which something happened, oldest first.
    pub items: Vec<DayBody>,
}

/// What happened on a day.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"day": "2026-03-01", "events": 7, "by_actor": [], "by_type": []}))]
pub struct DayBody {
    /// Which.
    pub day: String,
    /// Events in all.
    pub events: u64,
    /// The hundred who did most, the busiest first.
    pub by_actor: Vec<ActorBody>,
    /// What happened, the most frequent first.
    pub by_type: Vec<TypeBody>,
}

/// How much somebody did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"actor": "user:0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11", "events": 7}))]
pub struct ActorBody {
    /// Who, as the audit trail names them.
    pub actor: String,
    /// Events.
    pub events: u64,
}

/// How often something happened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"aggregate_type": "job", "type": "JobQueued", "events": 7}))]
pub struct TypeBody {
    /// To what kind of thing.
    pub aggregate_type: String,
    /// What.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Events.
    pub events: u64,
}

impl From<ActivityDay> for DayBody {
    fn from(day: ActivityDay) -> Self {
        let actors = day.by_actor.into_iter().map(|(actor, events)| ActorBody { actor, events });
        let types = day.by_type.into_iter();
        let types = types.map(|((aggregate_type, event_type), events)| TypeBody {
            aggregate_type,
            event_type,
            events,
        });
        Self { day: day.day, events: day.events, by_actor: actors.collect(), by_type: types.collect() }
    }
}

/// How much happened on each day, by whom and what: counts of the audit trail. A team's auditor sees the team's, an instance admin all. That
/// it was asked for is recorded.
#[utoipa::path(
    get, path = "/reports/activity", tag = "reports", params(ActivityQuery),
    responses(
        (status = 200, description = "The counts", body = ActivityBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn activity(
    State(app): State<App>,
    caller: CanAudit,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ActivityQuery>,
) -> Result<Json<ActivityBody>, Problem> {
    let days = Days::parse(query.from.as_deref(), query.to.as_deref(), MOST_DAYS, app.now().date_naive())?;
    let trail = trail(&app, &caller)?;
    // Everything before the reading itself is counted, so the trail is waited for up to there.
    let reading = record(&app, &caller, &uri).await?;
    projections::demand(reading, false);
    let after = days.to.succ_opt().unwrap_or(days.to);
    let filter = ActivityFilter { from: midnight(days.from), to: midnight(after), before: reading };
    let counted = trail.activity(&filter).await?;
    Ok(Json(ActivityBody {
        from: days.from.to_string(),
        to: days.to.to_string(),
        complete: counted.complete,
        items: counted.days.into_iter().map(DayBody::from).collect(),
    }))
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}
