//! Asking for a job's end or for another try, what became of its attempts, and pausing.

use std::sync::Arc;

use axum::extract::State;
use commands::jobs::{AttemptMade, JobChange};
use domain::{JobId, KindName, Team, TeamCommand};
use projections::time::text as time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bodies::JobBody;
use super::{find, full_body};
use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::needs::{JobsRead, JobsRun};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path};
use crate::input::Fields;
use crate::list::Page;
use crate::problem::{Problem, ProblemBody};

/// Asks for a job's end. A waiting job ends at once; a running one when its worker has stopped it.
#[utoipa::path(
    post, path = "/jobs/{id}/cancel", tag = "jobs", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The job", body = JobBody),
        (status = 404, description = "No such job in this team", body = ProblemBody),
        (status = 409, description = "It has ended already", body = ProblemBody),
    ),
)]
pub async fn cancel(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Path(id): Path<Uuid>,
) -> Result<Answer<JobBody>, Problem> {
    change(&app, &caller, JobId(id), JobChange::Cancel).await
}

/// Has a job tried again: one that failed or was cancelled from the beginning, with all its attempts; one that waits for its next try
/// at once.
#[utoipa::path(
    post, path = "/jobs/{id}/retry", tag = "jobs", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The job", body = JobBody),
        (status = 404, description = "No such job in this team", body = ProblemBody),
        (status = 409, description = "It is running, or did its work", body = ProblemBody),
    ),
)]
pub async fn retry(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Path(id): Path<Uuid>,
) -> Result<Answer<JobBody>, Problem> {
    change(&app, &caller, JobId(id), JobChange::Retry).await
}

async fn change(
    app: &App,
    caller: &Identity,
    id: JobId,
    change: JobChange,
) -> Result<Answer<JobBody>, Problem> {
    let team = caller.team()?;
    let done = app.commands.change_job(&caller.context, id, None, change).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.jobs().of(team), &done, |row| row.sequence).await?;
    Ok(Answer::ok(full_body(app, &row).await?).tagged(row.sequence).at(done.position))
}

/// An attempt of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptBody {
    /// From 1.
    pub attempt: u32,
    /// Who ran it.
    pub worker: String,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// How long it ran.
    pub milliseconds: Option<u64>,
    /// running, completed, failed, lost, handed_back or cancelled.
    pub outcome: &'static str,
    /// What its process ended with.
    pub exit_code: Option<i32>,
    /// Why it did not end well.
    pub error: Option<String>,
    /// Why it was the last one, if the job failed with it.
    pub reason: Option<&'static str>,
    /// Lines stored of it.
    pub lines: Option<u64>,
    /// Lines that were not stored, since there were too many.
    pub dropped_lines: Option<u64>,
}

impl From<AttemptMade> for AttemptBody {
    fn from(made: AttemptMade) -> Self {
        Self {
            attempt: made.attempt,
            worker: made.worker,
            started_at: time(made.started_at),
            ended_at: made.ended_at.map(time),
            milliseconds: made.milliseconds,
            outcome: made.outcome,
            exit_code: made.exit_code,
            error: made.error,
            reason: made.reason.map(domain::FailureReason::as_str),
            lines: made.log.as_ref().map(|log| log.lines),
            dropped_lines: made.log.as_ref().map(|log| log.dropped),
        }
    }
}

/// Who ran each attempt of a job, how long, and how it ended; the first one first.
#[utoipa::path(
    get, path = "/jobs/{id}/attempts", tag = "jobs", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "All attempts", body = Page<AttemptBody>),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn attempts(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Json<Page<AttemptBody>>, Problem> {
    find(&app, &caller, JobId(id)).await?;
    let made = app.commands.job_attempts(JobId(id)).await?;
    Ok(Json(Page { items: made.into_iter().map(AttemptBody::from).collect(), next: None }))
}

/// What is to be paused or resumed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "http-check"}))]
pub struct PauseBody {
    /// Jobs of this kind; without it, all jobs of the team.
    #[serde(default)]
    kind: Option<String>,
}

/// What of the team's jobs is paused.
#[derive(Debug, Serialize, ToSchema)]
pub struct PausesBody {
    /// Whether none of its jobs are started.
    pub all: bool,
    /// The kinds of which none are started.
    pub kinds: Vec<String>,
}

/// Has no jobs of the team (of one kind, or any) started any more. What runs goes on.
#[utoipa::path(
    post, path = "/jobs/pause", tag = "jobs", operation_id = "pause_jobs", request_body = PauseBody,
    responses(
        (status = 200, description = "What is paused", body = PausesBody),
        (status = 409, description = "Too many kinds are paused", body = ProblemBody),
    ),
)]
pub async fn pause(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Json(body): Json<PauseBody>,
) -> Result<Answer<PausesBody>, Problem> {
    let kind = known_kind(&app, body)?;
    amend(&app, &caller, TeamCommand::PauseJobs { kind }).await
}

/// Has them started again.
#[utoipa::path(
    post, path = "/jobs/resume", tag = "jobs", operation_id = "resume_jobs", request_body = PauseBody,
    responses((status = 200, description = "What is paused", body = PausesBody)),
)]
pub async fn resume(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Json(body): Json<PauseBody>,
) -> Result<Answer<PausesBody>, Problem> {
    let mut fields = Fields::default();
    // Also of a kind that there is not any more.
    let kind = fields.check_optional("kind", body.kind.as_deref(), KindName::parse);
    fields.done()?;
    amend(&app, &caller, TeamCommand::ResumeJobs { kind }).await
}

/// What of the team's jobs is paused.
#[utoipa::path(
    get, path = "/jobs/pauses", tag = "jobs", operation_id = "list_pauses",
    responses((status = 200, description = "What is paused", body = PausesBody)),
)]
pub async fn pauses(State(app): State<App>, caller: Can<JobsRead>) -> Result<Json<PausesBody>, Problem> {
    let row = app.projections.teams().get(caller.team()?).await?;
    Ok(Json(row.map_or(PausesBody { all: false, kinds: vec![] }, |row| pauses_of(&row))))
}

fn known_kind(app: &App, body: PauseBody) -> Result<Option<KindName>, Problem> {
    let mut fields = Fields::default();
    let kind = fields.check_optional("kind", body.kind.as_deref(), KindName::parse);
    if kind.as_ref().is_some_and(|kind| app.kinds.now().get(kind.as_str()).is_none()) {
        fields.refuse("kind", "is not one that can run; see /api/jobs/kinds");
    }
    fields.done()?;
    Ok(kind)
}

async fn amend(app: &App, caller: &Identity, command: TeamCommand) -> Result<Answer<PausesBody>, Problem> {
    let team = caller.team()?;
    let done = app.commands.execute::<Team>(&caller.context, team, None, command).await?;
    app.settle(done.position).await;
    let row: Arc<_> = app.as_written(app.projections.teams(), &done, |row| row.sequence).await?;
    Ok(Answer::ok(pauses_of(&row)).at(done.position))
}

fn pauses_of(row: &projections::TeamRow) -> PausesBody {
    PausesBody { all: row.jobs_paused, kinds: row.paused_kinds.iter().cloned().collect() }
}
