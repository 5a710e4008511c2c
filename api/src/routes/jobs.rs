//! Jobs.

pub mod bodies;
pub mod changes;
pub mod many;
mod waiting;

use std::sync::Arc;

use axum::extract::State;
use commands::Executed;
use commands::jobs::{ArgProblem, CheckedJob};
use domain::{JobId, JobStatus, ScheduleId, TeamId};
use projections::{JobFilter, JobRow};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use self::bodies::{JobBody, QueueBody, body_of};
use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::needs::{JobsRead, JobsRun};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path, Query};
use crate::input::Creation;
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{FieldError, Problem, ProblemBody};

/// Queues a job. One that is unique, and waits already, is answered as it is.
#[utoipa::path(
    post, path = "/jobs", tag = "jobs", request_body = QueueBody,
    responses(
        (status = 201, description = "The job", body = JobBody),
        (status = 200, description = "The job like it that waits already", body = JobBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    caller: Can<JobsRun>,
    creation: Creation<QueueBody>,
) -> Result<Answer<JobBody>, Problem> {
    let team = caller.team()?;
    let (body, context) = creation.within(&caller.context);
    let job = checked(&app, team, body).map_err(|problems| refused(problems, ""))?;
    let queued = app.commands.queue_jobs(&context, vec![job]).await?;
    app.settle(queued.position).await;
    let first = queued.jobs.first().ok_or_else(|| Problem::internal("no job was queued"))?;
    let id = first.id.to_string();
    let jobs = app.projections.jobs().of(team);
    // One that waited was found in the log: the view may not have it yet.
    let done = Executed { id, position: queued.position, sequence: 1, stored: 1, replayed: queued.replayed };
    let row = app.as_written(jobs, &done, |row| row.sequence).await?;
    if first.existing {
        return Ok(Answer::ok(full_body(&app, &row).await?).tagged(row.sequence).at(queued.position));
    }
    Ok(Answer::created(body_of(&row, None)).tagged(row.sequence).at(queued.position))
}

/// A job that may be queued; or what is wrong with it.
pub(super) fn checked(app: &App, team: TeamId, body: QueueBody) -> Result<CheckedJob, Vec<ArgProblem>> {
    body.request().checked(&app.kinds.now(), app.job_defaults(), team, app.now())
}

/// The refusal of fields that stand below `place` in the body.
pub(super) fn refused(problems: Vec<ArgProblem>, place: &str) -> Problem {
    let fields = problems
        .into_iter()
        .map(|problem| FieldError::new(format!("{place}{}", problem.field), problem.message));
    Problem::unprocessable(fields.collect())
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Picks fields: `fields=id,status`.
    fields: Option<String>,
    /// Only those with this status.
    #[param(value_type = Option<String>)]
    status: Option<JobStatus>,
    /// Only those of this kind.
    kind: Option<String>,
    /// Only those that this schedule queued.
    schedule_id: Option<Uuid>,
}

/// The team's jobs, newest first.
#[utoipa::path(
    get, path = "/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<JobBody>)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("jobs", team, query.status, &query.kind, query.schedule_id));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let filter = JobFilter {
        statuses: query.status.into_iter().collect(),
        kind: query.kind,
        schedule_id: query.schedule_id.map(ScheduleId),
        ..JobFilter::default()
    };
    let jobs = app.projections.jobs().of(team);
    let rows = jobs.list(&filter, after.as_deref(), limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| row.id.clone()).await?;
    let running = page.items.iter().filter(|row| row.status == JobStatus::Running);
    let progress = app.commands.job_progress(running.map(|row| row.id.as_str())).await?;
    let items = page.items.iter().map(|row| body_of(row, progress.get(&row.id).copied())).collect();
    Ok(Json(pick(Page { items, next: page.next }, query.fields.as_deref())?))
}

/// One job.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "jobs", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The job", body = JobBody),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Answer<JobBody>, Problem> {
    let row = find(&app, &caller, JobId(id)).await?;
    let mut body = full_body(&app, &row).await?;
    body.waiting = waiting::waiting(&app, &caller, &row).await?;
    Ok(Answer::ok(body).tagged(row.sequence))
}

/// A job of the caller's team; any other does not exist for them.
pub(super) async fn find(app: &App, caller: &Identity, id: JobId) -> Result<Arc<JobRow>, Problem> {
    let row = app.projections.jobs().of(caller.team()?).get(id).await?;
    row.ok_or_else(|| Problem::not_found().with_code("job_not_found"))
}

pub(super) async fn full_body(app: &App, row: &JobRow) -> Result<JobBody, Problem> {
    let running = (row.status == JobStatus::Running).then_some(row.id.as_str());
    let progress = app.commands.job_progress(running).await?;
    Ok(body_of(row, progress.get(&row.id).copied()))
}
