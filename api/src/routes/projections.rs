//! The views, for those who operate Daybook.

use axum::extract::State;
use axum::http::StatusCode;
use domain::AccessEvent;
use projections::{RebuildError, ViewStatus};
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::ViewsManage;
use crate::extract::{Json, Path};
use crate::list::Page;
use crate::problem::{Problem, ProblemBody};

/// How a view does.
#[derive(Debug, Serialize, ToSchema)]
pub struct ViewBody {
    /// Its name.
    name: String,
    /// The last position it has folded.
    position: i64,
    /// Events it has not folded yet.
    behind_events: i64,
    /// Age of the oldest event it has not folded yet.
    behind_seconds: f64,
    /// `live`, `rebuilding` or `failed`.
    state: String,
    /// Rows it has.
    rows: i64,
    /// Events folded per second, of late.
    events_per_second: f64,
    /// Why it failed, if it did.
    last_error: Option<String>,
}

impl From<ViewStatus> for ViewBody {
    fn from(status: ViewStatus) -> Self {
        Self {
            name: status.name,
            position: status.position,
            behind_events: status.behind_events,
            behind_seconds: status.behind_seconds,
            state: status.state,
            rows: status.rows,
            events_per_second: status.events_per_second,
            last_error: status.last_error,
        }
    }
}

/// Each view: how far it has got and how it does.
#[utoipa::path(
    get, path = "/projections", tag = "operation", operation_id = "list_views",
    responses((status = 200, description = "All views", body = Page<ViewBody>)),
)]
pub async fn list(
    State(app): State<App>,
    _caller: Can<ViewsManage>,
) -> Result<Json<Page<ViewBody>>, Problem> {
    let items = app.projections.status().await?.into_iter().map(ViewBody::from).collect();
    Ok(Json(Page { items, next: None }))
}

/// Makes a view anew from the log while it goes on serving reads. Recorded.
#[utoipa::path(
    post, path = "/projections/{name}/rebuild", tag = "operation", operation_id = "rebuild_view", params(("name" = String, Path)),
    responses(
        (status = 202, description = "It has begun", body = ViewBody),
        (status = 404, description = "No such view", body = ProblemBody),
        (status = 409, description = "It is being rebuilt already", body = ProblemBody),
    ),
)]
pub async fn rebuild(
    State(app): State<App>,
    caller: Can<ViewsManage>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<ViewBody>), Problem> {
    let status = app.projections.status().await?.into_iter().find(|view| view.name == name);
    let mut status = status.ok_or_else(Problem::not_found)?;
    let record = AccessEvent::ViewRebuilt { view: name.clone(), rebuild_id: Uuid::now_v7() };
    app.commands.record(&caller.context, &record).await?;
    begin(&app, name).await?;
    "rebuilding".clone_into(&mut status.state);
    Ok((StatusCode::ACCEPTED, Json(status.into())))
}

/// Answers once the rebuild has begun; it then goes on by itself.
async fn begin(app: &App, name: String) -> Result<(), Problem> {
    let (begun, mut news) = mpsc::channel::<()>(1);
    let projections = app.projections.clone();
    let rebuild = tokio::spawn(async move {
        let outcome = projections.rebuild(&name, |_| _ = begun.try_send(())).await;
        if let Err(error) = &outcome {
            tracing::error!(view = name, %error, "a rebuild failed");
        }
        outcome
    });
    if news.recv().await.is_some() {
        return Ok(());
    }
    match rebuild.await.map_err(Problem::internal)? {
        Ok(()) => Ok(()),
        Err(error @ RebuildError::AlreadyRunning(_)) => {
            Err(Problem::conflict(error.to_string()).with_code("already_rebuilding"))
        }
        Err(RebuildError::Read(error)) => Err(error.into()),
        Err(error) => Err(Problem::internal(error)),
    }
}
