//! Schedules: jobs that run at certain times.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::SubsecRound as _;
use commands::Executed;
use commands::schedules::{JobRules, Times, problems};
use domain::{Plan, TeamId, Timing};
use projections::{ScheduleFilter, ScheduleRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Answer, if_match, no_content};
use crate::app::App;
use crate::authenticate::needs::{JobsRead, JobsRun};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path, Query};
use crate::input::{Creation, Fields};
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::schedules::shown;
use projections::time::text as time;

mod bodies;

pub use bodies::{ScheduleAmendBody, ScheduleBody, ScheduleCreateBody};

/// Schedules that a team has at most.
const MOST_SCHEDULES: i64 = 1_000;
/// Moments that a preview shows.
const PREVIEWED: usize = 10;

/// Makes a schedule.
#[utoipa::path(
    post, path = "/schedules", tag = "schedules", request_body = ScheduleCreateBody,
    responses(
        (status = 201, description = "The schedule", body = ScheduleBody),
        (status = 409, description = "The name is taken, or the team has 1,000 already", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    caller: Can<JobsRun>,
    creation: Creation<ScheduleCreateBody>,
) -> Result<Answer<ScheduleBody>, Problem> {
    let team = caller.team()?;
    let (body, context) = creation.within(&caller.context);
    let now = app.now().trunc_subsecs(3);
    let plan = body.checked()?;
    refuse_problems(&app, team, &plan, true)?;
    if app.projections.schedules().of(team).count().await? >= MOST_SCHEDULES {
        let detail = format!("A team has at most {MOST_SCHEDULES} schedules: delete one first.");
        return Err(Problem::conflict(detail).with_code("too_many_schedules"));
    }
    let done = app.commands.create_schedule(&context, &plan, now).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.schedules().of(team), &done, |row| row.sequence).await?;
    Ok(Answer::created(ScheduleBody::of(&row)).tagged(row.sequence).at(done.position))
}

/// 422 with everything that is wrong with a plan.
fn refuse_problems(app: &App, team: TeamId, plan: &Plan, new_times: bool) -> Result<(), Problem> {
    let mut fields = Fields::default();
    let kinds = app.kinds.now();
    let rules = JobRules { kinds: &kinds, defaults: app.job_defaults() };
    for problem in problems(plan, team, rules, app.now(), new_times) {
        fields.refuse(&problem.field, problem.message);
    }
    fields.done()
}

/// Which schedules.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Picks fields: `fields=id,next_run_at`.
    fields: Option<String>,
    /// Only those of this kind of job.
    kind: Option<String>,
    /// Only those that are paused, or are not.
    paused: Option<bool>,
}

/// The team's schedules, by name.
#[utoipa::path(
    get, path = "/schedules", tag = "schedules", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<ScheduleBody>)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("schedules", team, &query.kind, query.paused));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let after = after.as_deref().and_then(|key| key.split_once('\n'));
    let filter = ScheduleFilter { kind: query.kind, paused: query.paused };
    let rows = app.projections.schedules().of(team).list(&filter, after, limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| format!("{}\n{}", row.plan.name, row.id)).await?;
    let items = page.items.iter().map(ScheduleBody::of).collect();
    Ok(Json(pick(Page { items, next: page.next }, query.fields.as_deref())?))
}

/// One schedule.
#[utoipa::path(
    get, path = "/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The schedule", body = ScheduleBody),
        (status = 404, description = "No such schedule in this team", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Answer<ScheduleBody>, Problem> {
    let row = find(&app, &caller, id).await?;
    Ok(Answer::ok(ScheduleBody::of(&row)).tagged(row.sequence))
}

/// Changes a schedule, pauses it (`paused: true`) or goes on with it. While it is paused nothing runs, and nothing of that time is caught
/// up with. What is left out stays.
#[utoipa::path(
    patch, path = "/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path)), request_body = ScheduleAmendBody,
    responses(
        (status = 200, description = "The schedule", body = ScheduleBody),
        (status = 404, description = "No such schedule in this team", body = ProblemBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn amend(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(body): Json<ScheduleAmendBody>,
) -> Result<Answer<ScheduleBody>, Problem> {
    let expected = if_match(&headers)?;
    let amendment = body.checked()?;
    let row = find(&app, &caller, id).await?;
    if amendment.time_zone.is_some() && amendment.cron.is_none() && is_once(&row.plan) {
        return Err(Problem::invalid("time_zone", "goes with cron; run_at is a moment everywhere"));
    }
    let plan = amendment.applied_to(&row.plan);
    if plan != row.plan {
        refuse_problems(&app, row.team_id, &plan, plan.timing != row.plan.timing)?;
    }
    let now = app.now().trunc_subsecs(3);
    let known = shown(&row).map_err(Problem::internal)?;
    let done = app.commands.amend_schedule(&caller.context, known, expected, &amendment, now).await?;
    as_changed(&app, &caller, &done).await
}

fn is_once(plan: &Plan) -> bool {
    matches!(plan.timing, Timing::Once { .. })
}

/// Deletes a schedule. The jobs it has made stay; its name is free again.
#[utoipa::path(
    delete, path = "/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "No such schedule in this team", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let expected = if_match(&headers)?;
    let row = find(&app, &caller, id).await?;
    let known = shown(&row).map_err(Problem::internal)?;
    let done = app.commands.delete_schedule(&caller.context, known, expected).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// A moment at which a schedule runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"run_at": "2026-03-29T01:00:00.000Z", "local": "2026-03-29T03:00:00+02:00"}))]
pub struct RunBody {
    /// The moment.
    run_at: String,
    /// The same as the clocks of the schedule's time zone show it, with their distance from UTC.
    local: String,
}

/// The next ten runs; of a paused schedule those there would be if it went on now.
#[utoipa::path(
    get, path = "/schedules/{id}/preview", tag = "schedules", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The next ten runs", body = Page<RunBody>),
        (status = 404, description = "No such schedule in this team", body = ProblemBody),
    ),
)]
pub async fn preview(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Json<Page<RunBody>>, Problem> {
    let row = find(&app, &caller, id).await?;
    let times = Times::of(&row.plan.timing).map_err(|(_, invalid)| Problem::internal(invalid))?;
    let now = app.now();
    let next = match row.next_run_at {
        Some(next) => Some(next),
        None if row.paused => times.after(row.handled().map_or(now, |handled| handled.max(now))),
        None => None,
    };
    let moments = std::iter::successors(next, |last| times.after(*last)).take(PREVIEWED);
    let items = moments.map(|moment| RunBody { run_at: time(moment), local: times.local(moment) }).collect();
    Ok(Json(Page { items, next: None }))
}

/// The answer to a write: the schedule as that left it.
async fn as_changed(app: &App, caller: &Identity, done: &Executed) -> Result<Answer<ScheduleBody>, Problem> {
    app.settle(done.position).await;
    let schedules = app.projections.schedules().of(caller.team()?);
    let row = app.as_written(schedules, done, |row| row.sequence).await?;
    Ok(Answer::ok(ScheduleBody::of(&row)).tagged(row.sequence).at(done.position))
}

/// A schedule of the caller's team; any other does not exist for them.
async fn find(app: &App, caller: &Identity, id: Uuid) -> Result<Arc<ScheduleRow>, Problem> {
    let row = app.projections.schedules().of(caller.team()?).get(id).await?;
    row.filter(|row| !row.deleted).ok_or_else(|| Problem::not_found().with_code("schedule_not_found"))
}
