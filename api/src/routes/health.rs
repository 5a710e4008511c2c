//! What machines ask: is it alive, is it ready, how does it do.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use commands::supervisor::{TaskState, TaskStatus};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::app::App;
use crate::extract::Json;
use crate::problem::{Problem, ProblemBody};
use projections::Pulse;
use projections::time::text as time;

/// How long a probe waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process runs.
#[utoipa::path(
    get, path = "/livez", tag = "operation", security(()),
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain")),
)]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// The process can do its work: the database answers, the log is the one that was known, and every view is up to date.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", security(()),
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503, description = "Not ready", body = ProblemBody),
    ),
)]
pub async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.stopping.is_cancelled() {
        let problem = Problem::quietly_unavailable("the node is stopping", Duration::from_secs(1));
        return Err(problem.with_code("not_ready"));
    }
    let health = look(&app).await;
    if health.status == "ok" {
        return Ok("ok\n");
    }
    let named = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let detail = format!(
        "database: {}, log: {}, views: {}, not up to date: {}, failing tasks: {}",
        health.database,
        health.log,
        health.views,
        named(health.not_live.iter().map(|view| view.name).collect()),
        named(health.tasks.iter().map(|task| task.name).collect()),
    );
    let problem = Problem::quietly_unavailable(detail, Duration::from_secs(1));
    Err(problem.with_code("not_ready"))
}

/// How the parts do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "status": "ok", "version": "0.1.0", "database": "ok", "log": "ok", "views": "ok", "not_live": [], "position": 42, "tasks": [],
    "effects": "ok", "circuits": []
}))]
pub struct HealthBody {
    /// `ok` or `failing`.
    status: &'static str,
    /// Of Daybook.
    version: &'static str,
    /// `ok` or `unavailable`.
    database: &'static str,
    /// `ok`, or `diverged`: it is not the log that was known, and nothing is written until an operator has accepted that.
    log: &'static str,
    /// How the log diverged.
    log_detail: Option<String>,
    /// `ok`; `behind`: some do not follow the log at the moment; `failed`: some cannot. What they would show is not answered.
    views: &'static str,
    /// Those that are not up to date.
    not_live: Vec<NotLiveBody>,
    /// Why views could not follow the log the last time that they could not, if some are not up to date.
    last_error: Option<String>,
    /// The last position of the log, if the database answers.
    position: Option<i64>,
    /// Background tasks that have failed within the last minute, or do not run.
    tasks: Vec<TaskBody>,
    /// `held` while schedules, mail and jobs wait for an operator, as on a copy of another database; else `ok`.
    effects: &'static str,
    /// Hosts that this process' `http` jobs leave alone for now, since they failed again and again; at most 100.
    circuits: Vec<CircuitBody>,
}

/// A view that is not up to date on this node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NotLiveBody {
    /// Its name.
    name: &'static str,
    /// The position up to which it was folded.
    position: i64,
    /// `failed`, `rebuilding`, `outdated`, `missing`, `behind`, or `unknown` without the database.
    state: String,
    /// How long ago it had everything that was in the log; `null` when it does not follow.
    seconds: Option<f64>,
    /// Why it failed, if it did.
    last_error: Option<String>,
}

/// A background task that fails.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskBody {
    /// Which.
    name: &'static str,
    /// `running` again, or `restarting`.
    state: &'static str,
    /// How often it was started again.
    restarts: u64,
    /// How it failed last.
    last_error: Option<&'static str>,
}

/// A host that is left alone for now.
#[derive(Debug, Serialize, ToSchema)]
pub struct CircuitBody {
    /// Scheme, host and port.
    host: String,
    /// `open`, or `half_open` while one attempt tries whether it is back.
    state: &'static str,
    /// How often it failed in a row.
    failures: u32,
    /// When it may be tried again, while it is open.
    open_until: Option<String>,
}

/// How the parts do, in words. 503 when one of them fails.
#[utoipa::path(
    get, path = "/health", tag = "operation", security(()),
    responses(
        (status = 200, description = "All well", body = HealthBody),
        (status = 503, description = "Something fails", body = HealthBody),
    ),
)]
pub async fn health(State(app): State<App>) -> Response {
    let health = look(&app).await;
    let status = if health.status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn look(app: &App) -> HealthBody {
    let position = timeout(PATIENCE, app.ledger.head()).await.ok().and_then(Result::ok);
    let not_live = not_live(app).await;
    let divergence = app.ledger.divergence();
    let views = match not_live.iter().any(|view| view.state == "failed") {
        true => "failed",
        false if not_live.is_empty() => "ok",
        false => "behind",
    };
    let tasks = failing_tasks(app);
    let database = if position.is_some() { "ok" } else { "unavailable" };
    let log = if divergence.is_some() { "diverged" } else { "ok" };
    let running = tasks.iter().all(|task| task.state == TaskState::Running.as_str());
    let well = running && [database, log, views].iter().all(|part| *part == "ok");
    HealthBody {
        status: if well { "ok" } else { "failing" },
        version: env!("CARGO_PKG_VERSION"),
        database,
        log,
        log_detail: divergence.map(|divergence| divergence.to_string()),
        views,
        last_error: app.projections.last_error().filter(|_| !not_live.is_empty()),
        not_live,
        position,
        tasks,
        effects: if app.effects.held().is_some() { "held" } else { "ok" },
        circuits: circuits(app),
    }
}

/// The views that this node does not answer from, with what the database says of them.
async fn not_live(app: &App) -> Vec<NotLiveBody> {
    let pulses: Vec<_> = app.projections.pulse().into_iter().filter(|pulse| !pulse.is_live()).collect();
    if pulses.is_empty() {
        return vec![];
    }
    let status = match timeout(PATIENCE, app.projections.status()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the views' status could not be read");
            vec![]
        }
        Err(_) => vec![],
    };
    let of = |pulse: Pulse| {
        let found = status.iter().find(|view| view.name == pulse.name);
        NotLiveBody {
            name: pulse.name,
            position: pulse.position,
            state: match found.map(|view| view.state.as_str()) {
                Some("live") => "behind".to_owned(),
                Some(state) => state.to_owned(),
                None => "unknown".to_owned(),
            },
            seconds: pulse.age.map(|age| age.as_secs_f64()),
            last_error: found.and_then(|view| view.last_error.clone()),
        }
    };
    pulses.into_iter().map(of).collect()
}

fn failing_tasks(app: &App) -> Vec<TaskBody> {
    let failing = app.tasks.snapshot().into_iter().filter(TaskStatus::is_failing);
    failing
        .map(|task| TaskBody {
            name: task.name,
            state: task.state.as_str(),
            restarts: task.restarts,
            last_error: task.last_error,
        })
        .collect()
}

/// They make no node unhealthy: it is others that fail.
fn circuits(app: &App) -> Vec<CircuitBody> {
    let circuits = app.kinds.circuits().not_closed().into_iter();
    circuits
        .map(|circuit| CircuitBody {
            host: circuit.host,
            state: circuit.state,
            failures: circuit.failures,
            open_until: circuit.open_until.map(time),
        })
        .collect()
}

/// Everything measured, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", security(()),
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain")),
)]
pub async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], crate::metrics::render())
}
