//! What became of jobs, and what happened in a team.

pub mod activity;
mod days;

use axum::extract::State;
use domain::{JobId, JsonText};
use projections::{JobReportFilter, ReportGrouping, Tally};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::days::Days;
use super::artifacts::{ArtifactBody, artifacts_of};
use super::jobs::find;
use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::JobsRead;
use crate::extract::{Json, Path, Query};
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// What a report is about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct JobsQuery {
    /// The first day: a date, or a time, which stands for its day in UTC. 29 days before the last one if not given.
    from: Option<String>,
    /// The last day, likewise; today if not given. At most 366 days in all.
    to: Option<String>,
    /// What its groups are; kinds if not given.
    #[param(inline)]
    group_by: Option<GroupBy>,
    /// Only jobs of this kind.
    kind: Option<String>,
}

/// What groups are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Kinds.
    #[default]
    Kind,
    /// Days.
    Day,
    /// How jobs stood after what happened.
    Status,
}

impl From<GroupBy> for ReportGrouping {
    fn from(by: GroupBy) -> Self {
        match by {
            GroupBy::Kind => Self::Kind,
            GroupBy::Day => Self::Day,
            GroupBy::Status => Self::Status,
        }
    }
}

/// What happened to jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "group": "http-check", "queued": 120, "completed": 110, "failed": 4, "cancelled": 1, "attempts": 121, "retried": 5,
    "lost": 1, "handed_back": 0, "success_rate": 0.965, "p50_milliseconds": 840, "p95_milliseconds": 2_310
}))]
pub struct CountsBody {
    /// The kind, the day or the status; null for all of it.
    pub group: Option<String>,
    /// Jobs that were queued.
    pub queued: u64,
    /// Jobs that did their work.
    pub completed: u64,
    /// Jobs that failed for good.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Attempts that ended.
    pub attempts: u64,
    /// Attempts that failed and were to be followed by another.
    pub retried: u64,
    /// Attempts whose worker was lost.
    pub lost: u64,
    /// Attempts that their worker gave back.
    pub handed_back: u64,
    /// Completed jobs, as a part of those completed and failed; null when there are none.
    pub success_rate: Option<f64>,
    /// The time that half of the attempts did not exceed, within 2.5% or a millisecond: of those that completed; in groups by status, of
    /// those that led to it. Null when there are none.
    pub p50_milliseconds: Option<u64>,
    /// The same of 95%.
    pub p95_milliseconds: Option<u64>,
}

impl CountsBody {
    fn new(group: Option<String>, total: &Tally, timed: &Tally) -> Self {
        let ended = total.completed + total.failed;
        Self {
            group,
            queued: total.queued,
            completed: total.completed,
            failed: total.failed,
            cancelled: total.cancelled,
            attempts: total.attempts,
            retried: total.retried,
            lost: total.lost,
            handed_back: total.handed_back,
            success_rate: (ended > 0).then(|| total.completed as f64 / ended as f64),
            p50_milliseconds: timed.durations.quantile(0.5),
            p95_milliseconds: timed.durations.quantile(0.95),
        }
    }
}

/// What became of a team's jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "from": "2026-03-01", "to": "2026-03-31", "group_by": "kind", "items": [], "total": {}
}))]
pub struct JobsBody {
    /// The first day.
    pub from: String,
    /// The last day, itself included.
    pub to: String,
    /// What its groups are.
    pub group_by: GroupBy,
    /// The groups in which something happened, the first thousand in the order of their names; statuses in that of a job's life.
    pub items: Vec<CountsBody>,
    /// All of it.
    pub total: CountsBody,
}

/// What became of the team's jobs: counts, success and durations. A day has what was recorded on it (UTC): a job that is queued on one day
/// and ends on another counts on both.
#[utoipa::path(
    get, path = "/reports/jobs", tag = "reports", operation_id = "report_jobs", params(JobsQuery),
    responses(
        (status = 200, description = "The report", body = JobsBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 503, description = "What is reported on lags behind; see Retry-After", body = ProblemBody),
    ),
)]
pub async fn jobs(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Query(query): Query<JobsQuery>,
) -> Result<Json<JobsBody>, Problem> {
    let team = caller.team()?;
    let days = Days::parse(query.from.as_deref(), query.to.as_deref(), days::MOST, app.now().date_naive())?;
    let group_by = query.group_by.unwrap_or_default();
    // The view trails behind the others: it is waited for up to now.
    let head = app.ledger.head().await?;
    projections::demand(head, false);
    let filter = JobReportFilter { from: days.from, to: days.to, kind: query.kind, by: group_by.into() };
    let report = app.projections.job_reports().of(team).report(&filter).await?;
    let groups = report.groups.into_iter();
    Ok(Json(JobsBody {
        from: days.from.to_string(),
        to: days.to.to_string(),
        group_by,
        items: groups.map(|group| CountsBody::new(Some(group.name), &group.total, &group.timed)).collect(),
        total: CountsBody::new(None, &report.total, &report.completed),
    }))
}

/// What a job has left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "job_id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11", "kind": "http-check", "status": "completed", "attempt": 1,
    "finished_at": "2026-03-01T12:00:00.000Z", "result": {"milliseconds": 12}, "artifacts": []
}))]
pub struct ResultBody {
    /// The job's id.
    #[schema(format = "uuid")]
    pub job_id: String,
    /// What ran.
    pub kind: String,
    /// pending, running, completed, failed or cancelled.
    pub status: String,
    /// How often it was started.
    pub attempt: u32,
    /// When it ended for good.
    pub finished_at: Option<String>,
    /// The document of the last attempt that came to its own end; null if it left none.
    #[schema(value_type = Option<Object>)]
    pub result: Option<JsonText>,
    /// The files it left.
    pub artifacts: Vec<ArtifactBody>,
}

/// A job's own result document, and the files it has left.
#[utoipa::path(
    get, path = "/reports/jobs/{id}", tag = "reports", operation_id = "job_result", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "What it has left so far", body = ResultBody),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn result(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Answer<ResultBody>, Problem> {
    let row = find(&app, &caller, JobId(id)).await?;
    let body = ResultBody {
        artifacts: artifacts_of(&app, &row).await?,
        job_id: row.id.clone(),
        kind: row.kind.clone(),
        status: row.status.as_str().to_owned(),
        attempt: row.attempt,
        finished_at: row.finished_at.map(time),
        result: row.result.clone(),
    };
    Ok(Answer::ok(body).tagged(row.sequence))
}
