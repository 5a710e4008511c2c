//! Who asks, where a browser can send no header: what proves it stands in the address. Cookies do not count there, since a browser sends
//! them along whoever's page asks.

use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use commands::TicketHolder;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{DAYBOOK_TEAM, Identity};
use crate::app::App;
use crate::credential::Brought;
use crate::middleware::client_ip::ClientIp;
use crate::problem::Problem;

/// What an address may say of who asks.
#[derive(Default, Deserialize)]
pub struct InAddress {
    /// A ticket, good once.
    pub ticket: Option<Zeroizing<String>>,
    /// An access token or an API key.
    pub token: Option<Zeroizing<String>>,
    /// The team, by slug or id, as the header `Daybook-Team` names it. A ticket has its own.
    pub team: Option<String>,
}

impl Identity {
    /// The ticket for a socket of this caller, who may then do what they may do now, and no longer.
    ///
    /// # Errors
    /// 403 for somebody who is in no team; 503 when the database is out of reach.
    pub async fn make_ticket(&self) -> Result<Zeroizing<String>, Problem> {
        let holder = TicketHolder { user_id: self.user_id, team: self.team()?, proof: self.brought.proof() };
        Ok(self.app.commands.make_ticket(&holder).await?)
    }

    /// Who asks, by what stands in the address, or else in the header `Authorization`.
    ///
    /// # Errors
    /// As any request's: 401 without anything good, 404 for a team that they are not in, 429, 503.
    pub async fn in_address(mut parts: Parts, app: &App, proof: InAddress) -> Result<Self, Problem> {
        if let Some(team) = &proof.team {
            let team = HeaderValue::from_str(team).map_err(|_| super::in_no_such_team())?;
            parts.headers.insert(DAYBOOK_TEAM, team);
        }
        match brought(&parts, app, &proof).await {
            Ok((brought, team)) => Self::who_brought(brought, &parts, app, team).await,
            Err(problem) => {
                app.limits.check_anonymous(ClientIp::of(&parts.extensions))?;
                Err(problem)
            }
        }
    }
}

async fn brought(
    parts: &Parts,
    app: &App,
    proof: &InAddress,
) -> Result<(Brought, Option<domain::TeamId>), Problem> {
    let in_header = parts.headers.get(AUTHORIZATION).is_some();
    match (&proof.ticket, &proof.token) {
        (Some(ticket), None) if !in_header => {
            let holder = app.commands.use_ticket(ticket).await?;
            let TicketHolder { user_id, team, proof } = holder.ok_or_else(no_such_ticket)?;
            Ok((Brought::of_ticket(user_id, proof), Some(team)))
        }
        (None, Some(token)) if !in_header => Ok((Brought::in_address(token, app).await?, None)),
        (None, None) if in_header => Ok((Brought::without_cookies(parts, app).await?, None)),
        (None, None) => Err(Problem::unauthorized("A ticket is needed: POST /api/auth/ws-ticket.")),
        _ => Err(Problem::unauthorized("There is more than one credential.")),
    }
}

fn no_such_ticket() -> Problem {
    Problem::unauthorized("The ticket is not good, or not any more.").with_code("ticket_invalid")
}
