//! Changes of secrets, as they happen: a stream of server-sent events (WHATWG HTML, section 9.2).

mod teller;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use domain::Permission;
use serde::Deserialize;
use utoipa::IntoParams;

use self::teller::{Beginning, Teller};
use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::SecretsRead;
use crate::extract::Query;
use crate::input::Fields;
use crate::notices::{Listener, SecretNotice};
use crate::problem::{Problem, ProblemBody};

/// The header with which a client that was cut off says what it heard last.
const LAST_EVENT_ID: &str = "last-event-id";
/// Bytes of a prefix; more than any name has.
const LONGEST_PREFIX: usize = 512;

/// From where on, and of which secrets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    /// Tells what happened after this position first. The header `Last-Event-ID` does the same, and goes before.
    after: Option<i64>,
    /// Only secrets whose names begin with this.
    prefix: Option<String>,
}

/// Tells of what happens to the team's secrets, as it happens: `text/event-stream`. Never a value.
///
/// `event: secret` is a change; `id` is its position, and what is read after it shows it. `event: reset` says that what happened since
/// `Last-Event-ID` is not told again: read the list of secrets anew. `event: ready` says that from here on everything is told as it
/// happens; its `id` is where. The stream ends when the session or key does that it was opened with, when its token expires, when the
/// reader falls behind, and when the node stops: open it again with `Last-Event-ID`, and nothing is missed and nothing repeated.
#[utoipa::path(
    get, path = "/secrets/changes", tag = "secrets",
    params(ChangesQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The id of the last event that was heard")),
    responses(
        (status = 200, description = "The changes, one event each: data is a notice", body = SecretNotice, content_type = "text/event-stream"),
        (status = 422, description = "A parameter is wrong", body = ProblemBody),
        (status = 429, description = "Too many requests, or too many streams of one person; see Retry-After", body = ProblemBody),
        (status = 503, description = "Not available for the moment, or too many streams on this node; see Retry-After", body = ProblemBody),
    ),
)]
pub async fn changes(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    headers: HeaderMap,
    Query(query): Query<ChangesQuery>,
) -> Result<Response, Problem> {
    let after = checked(&headers, &query)?;
    let team = caller.team()?;
    let standing = caller.standing(Permission::SecretsRead)?;
    let place = app.notices.place(caller.client())?;
    // Listening comes before reading, so that nothing is missed in between.
    let listener = app.notices.listen(team)?;
    let beginning = match after {
        Some(after) => resumed(&app, &listener, team, after).await?,
        None => Beginning::Now,
    };
    let teller = Teller { notices: app.notices.clone(), listener, standing, prefix: query.prefix, place };
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no");
    Ok(([unbuffered], Sse::new(teller.start(beginning))).into_response())
}

/// The position to go on from.
fn checked(headers: &HeaderMap, query: &ChangesQuery) -> Result<Option<i64>, Problem> {
    let mut fields = Fields::default();
    let must = "must be a position of the log";
    if query.after.is_some_and(|after| after < 0) {
        fields.refuse("after", must);
    }
    let mut heard = None;
    // A browser that begins without an id, or was told to forget it, sends none or an empty one.
    if let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) {
        let position = value.to_str().ok().and_then(|text| text.parse::<i64>().ok());
        heard = position.filter(|position| *position >= 0);
        if heard.is_none() {
            fields.refuse("Last-Event-ID", must);
        }
    }
    if query.prefix.as_ref().is_some_and(|prefix| prefix.len() > LONGEST_PREFIX) {
        fields.refuse("prefix", format!("must be at most {LONGEST_PREFIX} bytes"));
    }
    fields.done()?;
    Ok(heard.or(query.after))
}

async fn resumed(
    app: &App,
    listener: &Listener,
    team: domain::TeamId,
    after: i64,
) -> Result<Beginning, Problem> {
    if after <= listener.from() {
        let missed = app.notices.since(team, after, listener.from()).await?;
        return Ok(missed.map_or(Beginning::Anew, Beginning::With));
    }
    // Another node may be ahead of this one, the log is ahead of all.
    let known = after <= app.ledger.head().await?;
    Ok(if known { Beginning::Ahead(after) } else { Beginning::Anew })
}
