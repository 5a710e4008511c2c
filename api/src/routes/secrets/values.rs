//! Values: read, with a record of it, and written.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use commands::{ExpectedSecret, OpenGrant, SealedSecret};
use domain::{Permission, Reason, SecretId};
use ledger::uptime;
use projections::{FRESH_FOR, SecretRow};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::bodies::{GivenValue, SecretBody, ShownValue};
use super::{as_changed, find, no_such_secret};
use crate::answer::{Answer, entity_tag, if_match};
use crate::app::App;
use crate::authenticate::needs::{SecretsRead, SecretsWrite};
use crate::authenticate::{Can, Identity};
use crate::confidential::Confidential;
use crate::extract::{Json, Path, Query};
use crate::input::Fields;
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::notices::SecretWatch;
use crate::places::Place;
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// How long a client may wait for a change, in seconds.
const LONGEST_WAIT: u64 = 30;

/// Which version, and why.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RevealQuery {
    /// Which version; the present one if not given.
    version: Option<u32>,
    /// Why it is read; recorded. The team may ask for it.
    reason: Option<String>,
    /// With `If-None-Match`: how many seconds (30 at most) the answer may wait for another version.
    wait: Option<u64>,
    /// `base64`: as `value_base64` also if it is text.
    #[param(inline)]
    encoding: Option<Encoding>,
}

/// How a value is shown.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    Base64,
}

/// A secret's value: in `value` if it is text, else in `value_base64`.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e13", "version": 3, "value": "postgres://…"}))]
pub struct ValueBody {
    id: Uuid,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    value: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    value_base64: Option<Zeroizing<String>>,
}

/// Reads a value. The reading is recorded before the value leaves; without a record there is no value. `ETag` is the value's
/// version (`"v3"`); with it in `If-None-Match` the value comes only if it is another by now.
#[utoipa::path(
    get, path = "/secrets/{id}/value", tag = "secrets", params(("id" = Uuid, Path), RevealQuery),
    responses(
        (status = 200, description = "The value", body = ValueBody),
        (status = 304, description = "Still the version that If-None-Match names"),
        (status = 404, description = "No such secret or version in this team", body = ProblemBody),
        (status = 409, description = "What is stored is damaged", body = ProblemBody),
        (status = 410, description = "This version was destroyed", body = ProblemBody),
        (status = 422, description = "The team asks for a reason", body = ProblemBody),
        (status = 503, description = "The reading could not be recorded, or the key is not configured", body = ProblemBody),
    ),
)]
pub async fn reveal(
    State(app): State<App>,
    mut caller: Identity,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Query(query): Query<RevealQuery>,
) -> Result<Response, Problem> {
    let began = uptime();
    let waiting = waiting(&app, &caller, SecretId(id), &query)?;
    let row = revealable(&app, &caller, SecretId(id)).await?;
    let mut found = sealed(&app, &row, query.version).await?;
    // What was destroyed is not "unchanged": whoever still has it is told.
    let known = |found: &SealedSecret| {
        found.sealed.is_some() && entity_tag::is_none_of(&headers, &tag(found.version))
    };
    if let Some(mut waiting) = waiting {
        while known(&found) && waiting.watch.changed(waiting.end).await {
            caller.look_again().await?;
            let row = revealable(&app, &caller, SecretId(id)).await?;
            found = sealed(&app, &row, query.version).await?;
        }
    }
    let version = found.version;
    if known(&found) {
        let mut unchanged = StatusCode::NOT_MODIFIED.into_response();
        tagged(unchanged.headers_mut(), version);
        return Ok(unchanged);
    }
    let reason = reason(&app, &row, query.reason.as_deref()).await?;
    let value = app.commands.reveal_secret(&caller.context, &found, reason.as_ref()).await?;
    if uptime().saturating_sub(began) >= FRESH_FOR {
        // This process may have been stopped meanwhile, and the right withdrawn.
        caller.look_again().await?;
        revealable(&app, &caller, SecretId(id)).await?;
    }
    let shown = ShownValue::of(&value, query.encoding.is_some());
    let body = ValueBody { id, version, value: shown.value, value_base64: shown.value_base64 };
    let mut answer = Confidential::ok(body).into_response();
    tagged(answer.headers_mut(), version);
    Ok(answer)
}

/// Waiting for a change, if the client asks for it.
struct Waiting {
    watch: SecretWatch,
    end: Instant,
    _place: Place,
}

/// Begun before the secret is looked at, so that no change is slept over.
fn waiting(
    app: &App,
    caller: &Identity,
    id: SecretId,
    query: &RevealQuery,
) -> Result<Option<Waiting>, Problem> {
    let Some(seconds) = query.wait else { return Ok(None) };
    if seconds > LONGEST_WAIT {
        return Err(Problem::invalid("wait", format!("must be at most {LONGEST_WAIT} seconds")));
    }
    let watch = app.notices.watch(caller.team()?, id)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    Ok(Some(Waiting { watch, end, _place: app.notices.place(caller.client())? }))
}

/// The entity tag of a value, without its quotation marks.
fn tag(version: u32) -> String {
    format!("v{version}")
}

fn tagged(headers: &mut HeaderMap, version: u32) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", tag(version))) {
        headers.insert(header::ETAG, value);
    }
}

/// A secret that the caller may see the values of: by their role, or by leave for a while.
async fn revealable(app: &App, caller: &Identity, id: SecretId) -> Result<Arc<SecretRow>, Problem> {
    let found = match caller.context.caller.team {
        Some(team) => app.projections.secrets().of(team).get(id).await?,
        None => None,
    };
    let granted =
        || found.as_deref().is_some_and(|row| app.commands.may_reveal(&caller.context, &asked(row)).is_ok());
    // A team that asks for a second factor asks it of those who have leave, too.
    if !caller.has(Permission::SecretsReveal) && (caller.lacks_second_factor() || !granted()) {
        caller.require(Permission::SecretsReveal).await?;
    }
    match found {
        Some(row) if row.destroyed => {
            Err(Problem::gone("The secret was destroyed.").with_code("secret_destroyed"))
        }
        Some(row) if !row.deleted => Ok(row),
        Some(_) | None => Err(no_such_secret()),
    }
}

/// The present value and who may see it, without the value.
fn asked(row: &SecretRow) -> SealedSecret {
    let grants = row.grants.iter();
    SealedSecret {
        id: row.id.parse().unwrap_or(SecretId(Uuid::nil())),
        name: row.name.clone(),
        team_id: row.team_id,
        version: row.version,
        sealed: None,
        grants: grants
            .map(|grant| OpenGrant { id: grant.id, user_id: grant.user_id, until: grant.until })
            .collect(),
    }
}

async fn sealed(app: &App, row: &SecretRow, version: Option<u32>) -> Result<SealedSecret, Problem> {
    let asked = asked(row);
    let version = version.unwrap_or(row.version);
    if version == row.version {
        return Ok(SealedSecret { sealed: row.sealed.clone(), ..asked });
    }
    let found = app.projections.secret_versions().of(row.team_id).version(asked.id, version).await?;
    let found = found.ok_or_else(no_such_version)?;
    Ok(SealedSecret { version, sealed: found.sealed.clone(), ..asked })
}

fn no_such_version() -> Problem {
    Problem::not_found().with_code("version_not_found").with_detail("There is no such version.")
}

async fn reason(app: &App, row: &SecretRow, given: Option<&str>) -> Result<Option<Reason>, Problem> {
    let mut fields = Fields::default();
    let reason = fields.check_optional("reason", given, Reason::parse);
    fields.done()?;
    if reason.is_none() {
        let team = app.projections.teams().get(row.team_id).await?;
        if team.is_none_or(|team| team.reveal_reason_required) {
            return Err(Problem::invalid("reason", "must be given: the team asks for it")
                .with_code("reason_required"));
        }
    }
    Ok(reason)
}

/// A value to come: with `value`, or with `value_base64` for bytes that are no text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"value": "postgres://…", "expected_version": 2}))]
pub struct ValueChangeBody {
    /// 1 to 65,536 bytes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    value: Option<Zeroizing<String>>,
    /// The same for any bytes, in base64.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    value_base64: Option<Zeroizing<String>>,
    /// Only if this is the version of the present value.
    #[serde(default)]
    expected_version: Option<u32>,
}

/// Gives a secret its next value. `If-Match` takes the secret's entity tag, or the value's (`"v3"`).
#[utoipa::path(
    put, path = "/secrets/{id}/value", tag = "secrets", params(("id" = Uuid, Path)), request_body = ValueChangeBody,
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
        (status = 409, description = "The present value is not of expected_version", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn change_value(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(body): Json<ValueChangeBody>,
) -> Result<Answer<SecretBody>, Problem> {
    let mut fields = Fields::default();
    let value = GivenValue { value: body.value, value_base64: body.value_base64 }.checked(&mut fields);
    if body.expected_version == Some(0) {
        fields.refuse("expected_version", "must be at least 1");
    }
    fields.done()?;
    let value = value.ok_or_else(|| Problem::internal("a checked field is missing"))?;
    let tagged = entity_tag::version(&headers);
    let expected = ExpectedSecret {
        sequence: if tagged.is_some() { None } else { if_match(&headers)? },
        version: tagged.or(body.expected_version),
    };
    if body.expected_version.is_some_and(|version| expected.version != Some(version)) {
        return Err(Problem::invalid("expected_version", "is not the version that If-Match names"));
    }
    let done = app.commands.change_secret_value(&caller.context, SecretId(id), expected, &value).await;
    let done = done.map_err(|error| match error.refusal_code() {
        Some("stale_version") if tagged.is_some() => Problem::precondition_failed(
            "The present value has another version: read it again before you change it.",
        ),
        _ => error.into(),
    })?;
    as_changed(&app, &caller, &done).await
}

/// One version of a value, without the value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "version": 2, "created_by": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "created_at": "2026-07-01T09:30:00.000Z",
    "destroyed": false, "destroyed_by": null, "destroyed_at": null
}))]
pub struct VersionBody {
    /// Which, from 1.
    pub version: u32,
    /// Who gave the value.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// Whether the value is gone for ever.
    pub destroyed: bool,
    /// Who destroyed it.
    pub destroyed_by: Option<String>,
    /// When.
    pub destroyed_at: Option<String>,
}

/// Which versions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct VersionsQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Picks fields: `fields=version,created_at`.
    fields: Option<String>,
}

/// A secret's versions, newest first, of a deleted one too.
#[utoipa::path(
    get, path = "/secrets/{id}/versions", tag = "secrets", params(("id" = Uuid, Path), VersionsQuery),
    responses(
        (status = 200, description = "A page", body = Page<VersionBody>),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
    ),
)]
pub async fn versions(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    Path(id): Path<Uuid>,
    Query(query): Query<VersionsQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let row = find(&app, &caller, SecretId(id)).await?;
    let cursors = Cursors::new(&app, ("secret_versions", row.team_id, id));
    let before = cursors.open(query.cursor.as_deref()).await?.and_then(|key| key.parse().ok());
    let versions = app.projections.secret_versions().of(row.team_id);
    let rows = versions.list(SecretId(id), before, limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| row.version.to_string()).await?;
    let items = page.items.into_iter().map(|row| VersionBody {
        version: row.version,
        created_by: row.created_by,
        created_at: time(row.created_at),
        destroyed: row.sealed.is_none(),
        destroyed_by: row.destroyed_by,
        destroyed_at: row.destroyed_at.map(time),
    });
    Ok(Json(pick(Page { items: items.collect(), next: page.next }, query.fields.as_deref())?))
}
