//! The workers there are, and draining them.

use axum::extract::State;
use axum::http::StatusCode;
use commands::jobs::ListedWorker;
use projections::time::text as time;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::authenticate::needs::{JobsRead, WorkersManage};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path};
use crate::list::Page;
use crate::problem::{Problem, ProblemBody};

/// Bytes of a worker's name: its host's, 64 at most, and some digits.
const LONGEST_NAME: usize = 300;

/// A worker, as it says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerBody {
    /// Its name, made anew each time it starts.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// Daybook's version there.
    pub version: String,
    /// working, draining (it takes no more jobs), or lost (it fell silent, and its jobs were given to others).
    pub state: &'static str,
    /// The kinds it runs.
    pub kinds: Vec<String>,
    /// Jobs it runs at a time at most.
    pub concurrency: i32,
    /// Jobs it runs, as of its last beat.
    pub running: i32,
    /// When it started.
    pub started_at: String,
    /// When it last said that it runs.
    pub last_beat_at: String,
}

impl From<ListedWorker> for WorkerBody {
    fn from(worker: ListedWorker) -> Self {
        let state = match (worker.lost, worker.draining) {
            (true, _) => "lost",
            (false, true) => "draining",
            (false, false) => "working",
        };
        Self {
            name: worker.name,
            host: worker.host,
            pid: worker.pid,
            version: worker.version,
            state,
            kinds: worker.kinds,
            concurrency: worker.concurrency,
            running: worker.running,
            started_at: time(worker.started_at),
            last_beat_at: time(worker.beat_at),
        }
    }
}

/// The workers of all nodes. One that fell silent is on the list for ten minutes more.
#[utoipa::path(
    get, path = "/workers", tag = "jobs", operation_id = "list_workers",
    responses((status = 200, description = "All workers", body = Page<WorkerBody>)),
)]
pub async fn list(State(app): State<App>, _caller: Can<JobsRead>) -> Result<Json<Page<WorkerBody>>, Problem> {
    let items = app.commands.workers().await?.into_iter().map(WorkerBody::from).collect();
    Ok(Json(Page { items, next: None }))
}

/// Has a worker take no more jobs; what it runs goes on. It hears of it within some seconds. Recorded.
#[utoipa::path(
    post, path = "/workers/{name}/drain", tag = "jobs", operation_id = "drain_worker", params(("name" = String, Path)),
    responses(
        (status = 204, description = "It was told"),
        (status = 404, description = "No such worker", body = ProblemBody),
    ),
)]
pub async fn drain(
    State(app): State<App>,
    caller: Can<WorkersManage>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    tell(&app, &caller, &name, true).await
}

/// Has a worker that was drained take jobs again. Recorded.
#[utoipa::path(
    post, path = "/workers/{name}/resume", tag = "jobs", operation_id = "resume_worker", params(("name" = String, Path)),
    responses(
        (status = 204, description = "It was told"),
        (status = 404, description = "No such worker", body = ProblemBody),
    ),
)]
pub async fn resume(
    State(app): State<App>,
    caller: Can<WorkersManage>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    tell(&app, &caller, &name, false).await
}

async fn tell(app: &App, caller: &Identity, name: &str, draining: bool) -> Result<StatusCode, Problem> {
    if may_be_a_name(name) && app.commands.drain_worker(&caller.context, name, draining).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found().with_code("worker_not_found"))
    }
}

/// What no worker is called is not looked for.
fn may_be_a_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && !name.chars().any(char::is_control)
}
