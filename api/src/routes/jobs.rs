//! Jobs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Datelike as _, SubsecRound as _, Utc};
use commands::jobs::{JobLine, Kind, KindInfo};
use domain::{ConcurrencyKey, Job, JobCommand, JobId, JobStatus, KindName, Queue};
use projections::{JobFilter, JobRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::needs::{JobsRead, JobsRun};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path, Query};
use crate::input::{Creation, Fields};
use crate::list::{Cursors, Page, limit, pick};
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// The priority of a job that does not say.
const USUAL_PRIORITY: u8 = 5;
/// Longest timeout, in seconds: a day.
const LONGEST_TIMEOUT: u32 = 86_400;
/// Most attempts.
const MOST_ATTEMPTS: u32 = 100;
/// Years that RFC 3339 can write, also after rounding up. Others would break the order of times as texts, by which the queue goes.
const YEARS: RangeInclusive<i32> = 0..=9_998;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobBody {
    /// The job's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// What runs.
    pub kind: String,
    /// Its arguments.
    #[schema(value_type = Object)]
    pub args: Map<String, Value>,
    /// pending, running, completed, failed or cancelled.
    pub status: String,
    /// How often it was started.
    pub attempt: u32,
    /// How many failures end it.
    pub max_attempts: u32,
    /// 0 to 9; 9 runs first.
    pub priority: u8,
    /// Not before this moment.
    pub run_at: String,
    /// When it is tried next, while it waits.
    pub next_attempt_at: Option<String>,
    /// How far the running attempt says it is, 0 to 1.
    pub progress: Option<f64>,
    /// What the last attempt's process ended with.
    pub exit_code: Option<i32>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// The document it left.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// Who runs it, or ran it last.
    pub worker: Option<String>,
    /// Jobs with the same key take turns.
    pub concurrency_key: Option<String>,
    /// How long an attempt may take.
    pub timeout_seconds: u32,
    /// Whether somebody asked for its end and its worker has not yet said that it did.
    pub cancel_requested: bool,
    /// Who asked for it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// When the last attempt began.
    pub started_at: Option<String>,
    /// When it ended for good.
    pub finished_at: Option<String>,
}

/// A kind of job.
#[derive(Debug, Serialize, ToSchema)]
pub struct KindBody {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// What it takes: name, type, whether it is required, and its bounds.
    #[schema(value_type = Vec<Object>)]
    pub params: Value,
    /// Environment variable and the team's secret it is filled with.
    pub secrets: BTreeMap<String, String>,
    /// How long an attempt may take, unless the job says otherwise.
    pub timeout_seconds: u32,
    /// How many failures end a job, unless it says otherwise.
    pub max_attempts: Option<u32>,
}

impl From<KindInfo> for KindBody {
    fn from(info: KindInfo) -> Self {
        Self {
            params: serde_json::to_value(info.params).unwrap_or_default(),
            name: info.name,
            description: info.description,
            secrets: info.secrets,
            timeout_seconds: info.timeout_seconds,
            max_attempts: info.max_attempts,
        }
    }
}

/// What can run, with its parameters.
#[utoipa::path(
    get, path = "/jobs/kinds", tag = "jobs",
    responses((status = 200, description = "All kinds", body = Page<KindBody>)),
)]
pub async fn kinds(State(app): State<App>, _caller: Can<JobsRead>) -> Json<Page<KindBody>> {
    Json(Page { items: app.kinds.iter().map(|kind| kind.info().into()).collect(), next: None })
}

/// A job to be queued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "http-check", "args": {"url": "http://127.0.0.1:8080/livez"}}))]
pub struct QueueBody {
    kind: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    args: Map<String, Value>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default, deserialize_with = "crate::input::moment")]
    run_at: Option<DateTime<Utc>>,
    #[serde(default)]
    max_attempts: Option<u32>,
    #[serde(default)]
    timeout_seconds: Option<u32>,
    #[serde(default)]
    concurrency_key: Option<String>,
}

/// Queues a job.
#[utoipa::path(
    post, path = "/jobs", tag = "jobs", request_body = QueueBody,
    responses(
        (status = 201, description = "The job", body = JobBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    caller: Can<JobsRun>,
    creation: Creation<QueueBody>,
) -> Result<Answer<JobBody>, Problem> {
    let team_id = caller.team()?;
    let (body, context) = creation.within(&caller.context);
    let queue = checked(&app, team_id, body)?;
    let id = JobId(Uuid::now_v7());
    let done = app.commands.execute::<Job>(&context, id, Some(0), JobCommand::Queue(queue)).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.jobs().of(team_id), &done, |row| row.sequence).await?;
    Ok(Answer::created(body_of(&row, None)).tagged(row.sequence).at(done.position))
}

fn checked(app: &App, team_id: domain::TeamId, body: QueueBody) -> Result<Queue, Problem> {
    let mut fields = Fields::default();
    let kind = app.kinds.get(&body.kind);
    let name = fields.check("kind", KindName::parse(&body.kind));
    match kind {
        None if name.is_some() => fields.refuse("kind", "is not one that can run; see /api/jobs/kinds"),
        None => {}
        Some(kind) => {
            for problem in kind.validate(&body.args).err().unwrap_or_default() {
                fields.refuse(&problem.field, problem.message);
            }
        }
    }
    let number = |fields: &mut Fields, field: &str, value: u32, most: u32| {
        if !(1..=most).contains(&value) {
            fields.refuse(field, format!("must be 1 to {most}"));
        }
        value
    };
    let usual_timeout = kind.map_or(1, Kind::timeout_seconds);
    let timeout = number(
        &mut fields,
        "timeout_seconds",
        body.timeout_seconds.unwrap_or(usual_timeout),
        LONGEST_TIMEOUT,
    );
    let usual_attempts = kind.and_then(Kind::max_attempts).unwrap_or(app.settings.max_job_retries.max(1));
    let attempts =
        number(&mut fields, "max_attempts", body.max_attempts.unwrap_or(usual_attempts), MOST_ATTEMPTS);
    let priority = body.priority.unwrap_or(USUAL_PRIORITY);
    if priority > 9 {
        fields.refuse("priority", "must be 0 to 9");
    }
    if body.run_at.is_some_and(|run_at| !YEARS.contains(&run_at.year())) {
        fields.refuse("run_at", "must be of the years 0000 to 9998");
    }
    let key =
        fields.check_optional("concurrency_key", body.concurrency_key.as_deref(), ConcurrencyKey::parse);
    fields.done()?;
    Ok(Queue {
        team_id,
        kind: name.ok_or_else(|| Problem::internal("checked fields are missing"))?,
        args: body.args,
        priority,
        // To the millisecond, as times are shown.
        run_at: body.run_at.unwrap_or_else(Utc::now).trunc_subsecs(3),
        max_attempts: attempts,
        timeout_seconds: timeout,
        retry_delay_seconds: app.settings.job_retry_delay_seconds,
        backoff: domain::Backoff::default(),
        concurrency_key: key,
        concurrency_limit: 1,
        unique: None,
        schedule_id: None,
    })
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
) -> Result<Json<Page<Value>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("jobs", team, query.status, &query.kind));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let filter = JobFilter { status: query.status, kind: query.kind, ..JobFilter::default() };
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
    Ok(Answer::ok(full_body(&app, &row).await?).tagged(row.sequence))
}

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
    let team = caller.team()?;
    let done = app.commands.execute::<Job>(&caller.context, id, None, JobCommand::Cancel).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.jobs().of(team), &done, |row| row.sequence).await?;
    Ok(Answer::ok(full_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Only lines after this sequence number: what came since one looked last.
    after: Option<u64>,
    /// Only lines that contain this, in any letter case.
    q: Option<String>,
    /// Only lines of stdout, stderr or system.
    #[param(inline)]
    stream: Option<LogStream>,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The process' standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Daybook.
    System,
}

impl LogStream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// A line of a job's log.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineBody {
    /// From 1, dense within the job.
    seq: u64,
    /// Which attempt printed it.
    attempt: u32,
    /// When.
    at: String,
    /// stdout, stderr or system.
    stream: String,
    /// The line, the values of the job's secrets masked.
    text: String,
}

impl From<JobLine> for LineBody {
    fn from(line: JobLine) -> Self {
        Self { seq: line.seq, attempt: line.attempt, at: time(line.at), stream: line.stream, text: line.text }
    }
}

/// What a job printed, through all attempts, in order.
#[utoipa::path(
    get, path = "/jobs/{id}/logs", tag = "jobs", params(("id" = Uuid, Path), LogQuery),
    responses(
        (status = 200, description = "A page", body = Page<LineBody>),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn logs(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Page<LineBody>>, Problem> {
    let row = find(&app, &caller, JobId(id)).await?;
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("logs", &row.id, &query.q, query.stream));
    let cursor = cursors.open(query.cursor.as_deref()).await?;
    let cursor = cursor.map(|key| key.parse::<u64>().map_err(Problem::internal)).transpose()?;
    let after = cursor.or(query.after).unwrap_or(0);
    let stream = query.stream.map(LogStream::as_str);
    let lines = app.commands.job_lines(JobId(id), after, query.q.as_deref(), stream, limit + 1).await?;
    let page = cursors.page(lines, limit, |line| line.seq.to_string()).await?;
    Ok(Json(Page { items: page.items.into_iter().map(LineBody::from).collect(), next: page.next }))
}

/// A job of the caller's team; any other does not exist for them.
async fn find(app: &App, caller: &Identity, id: JobId) -> Result<Arc<JobRow>, Problem> {
    let row = app.projections.jobs().of(caller.team()?).get(id).await?;
    row.ok_or_else(|| Problem::not_found().with_code("job_not_found"))
}

async fn full_body(app: &App, row: &JobRow) -> Result<JobBody, Problem> {
    let running = (row.status == JobStatus::Running).then_some(row.id.as_str());
    let progress = app.commands.job_progress(running).await?;
    Ok(body_of(row, progress.get(&row.id).copied()))
}

fn body_of(row: &JobRow, progress: Option<f64>) -> JobBody {
    JobBody {
        id: row.id.clone(),
        kind: row.kind.clone(),
        args: row.args.clone(),
        status: row.status.as_str().to_owned(),
        attempt: row.attempt,
        max_attempts: row.max_attempts,
        priority: row.priority,
        run_at: time(row.run_at),
        next_attempt_at: row.next_attempt_at.map(time),
        // What is done is wholly done, whether or not it said so on the way.
        progress: if row.status == JobStatus::Completed { Some(1.0) } else { progress },
        exit_code: row.exit_code,
        error: row.error.clone(),
        result: row.result.clone(),
        worker: row.worker.clone(),
        concurrency_key: row.concurrency_key.clone(),
        timeout_seconds: row.timeout_seconds,
        cancel_requested: row.cancel_requested,
        created_by: row.created_by.clone(),
        created_at: time(row.created_at),
        started_at: row.started_at.map(time),
        finished_at: row.finished_at.map(time),
    }
}
