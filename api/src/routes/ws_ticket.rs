//! Tickets for WebSockets, which browsers can send no header with.

use axum::extract::State;
use commands::TICKET_LIFE;
use projections::time::text as time;
use serde::Serialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::Identity;
use crate::confidential::Confidential;
use crate::problem::Problem;

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"ticket": "dbt_Zm9v…", "expires_in": 60, "expires_at": "2026-03-01T04:01:00.000Z"}))]
pub struct TicketBody {
    /// For `?ticket=` of one WebSocket. Shown this once.
    #[schema(value_type = String)]
    ticket: Zeroizing<String>,
    /// Seconds until it is no longer good.
    expires_in: u64,
    /// When that is.
    expires_at: String,
}

/// A ticket for one WebSocket (`/ws/jobs/{id}`): good once and for 60 seconds, for the caller in the team they speak for. The socket
/// then may do what the caller may, and ends with the session, token or key that asked for the ticket.
#[utoipa::path(
    post, path = "/auth/ws-ticket", tag = "auth",
    responses((status = 200, description = "The ticket", body = TicketBody)),
)]
pub async fn make_ticket(
    State(app): State<App>,
    caller: Identity,
) -> Result<Confidential<TicketBody>, Problem> {
    let ticket = caller.make_ticket().await?;
    let expires_at = time(app.now() + TICKET_LIFE);
    Ok(Confidential(Answer::ok(TicketBody { ticket, expires_in: TICKET_LIFE.as_secs(), expires_at })))
}
