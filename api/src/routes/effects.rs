//! Effects that are held on a copy of another database, for those who operate Daybook.

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::WorkersManage;
use crate::problem::{Problem, ProblemBody};

/// Lets schedules, mail and jobs go on that are held, as on a copy of another database. Every node follows within seconds. Recorded.
#[utoipa::path(
    post, path = "/effects/release", tag = "operation", operation_id = "release_effects",
    responses(
        (status = 204, description = "They go on"),
        (status = 409, description = "not_held: nothing was held", body = ProblemBody),
    ),
)]
pub async fn release(State(app): State<App>, caller: Can<WorkersManage>) -> Result<StatusCode, Problem> {
    match app.effects.release(&app.commands, &caller.context, None).await? {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::conflict("Schedules, mail and jobs are not held.").with_code("not_held")),
    }
}
