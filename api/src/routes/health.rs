//! What machines ask: is it alive, is it ready, how does it do.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::app::App;
use crate::extract::Json;
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// How long a probe waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);
/// A view further behind than this many events makes the node not ready.
const READY_WITHIN: i64 = 10_000;

/// The process runs.
#[utoipa::path(
    get, path = "/livez", tag = "operation", security(()),
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain")),
)]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// The process can do its work: the database answers and the views keep up.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", security(()),
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503, description = "Not ready", body = ProblemBody),
    ),
)]
pub async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    let health = look(&app).await;
    if health.status == "ok" {
        return Ok("ok\n");
    }
    let detail = format!("database: {}, views: {}", health.database, health.views);
    let problem = Problem::quietly_unavailable(detail, Duration::from_secs(1));
    Err(problem.with_code("not_ready"))
}

/// How the parts do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"status": "ok", "version": "0.1.0", "database": "ok", "views": "ok", "position": 42, "effects": "ok", "circuits": []}))]
pub struct HealthBody {
    /// `ok` or `failing`.
    status: &'static str,
    /// Of Daybook.
    version: &'static str,
    /// `ok` or `unavailable`.
    database: &'static str,
    /// `ok`, `behind`, `failed` or `unknown`.
    views: &'static str,
    /// The last position of the log, if the database answers.
    position: Option<i64>,
    /// `held` while schedules, mail and jobs wait for an operator, as on a copy of another database; else `ok`.
    effects: &'static str,
    /// Hosts that this process' `http` jobs leave alone for now, since they failed again and again; at most 100.
    circuits: Vec<CircuitBody>,
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
    let status = match timeout(PATIENCE, app.projections.status()).await {
        Ok(Ok(status)) => Some(status),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the views' status could not be read");
            None
        }
        Err(_) => None,
    };
    let views = match &status {
        None => "unknown",
        Some(views) if views.iter().any(|view| view.state == "failed") => "failed",
        Some(views) if views.iter().any(|view| view.behind_events > READY_WITHIN) => "behind",
        Some(_) => "ok",
    };
    let database = if position.is_some() { "ok" } else { "unavailable" };
    let well = database == "ok" && views == "ok";
    HealthBody {
        status: if well { "ok" } else { "failing" },
        version: env!("CARGO_PKG_VERSION"),
        database,
        views,
        position,
        effects: if app.effects.held().is_some() { "held" } else { "ok" },
        circuits: circuits(app),
    }
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
