//! Keys for programs.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use commands::KeyRequest;
use domain::{ApiKeyId, ApiKeyName, Invalid, Permission, User, UserCommand};
use projections::ApiKeyRow;
use projections::time::text as time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::answer::{Answer, no_content};
use crate::app::App;
use crate::authenticate::Person;
use crate::confidential::Confidential;
use crate::extract::{Json, Path, Query};
use crate::input::{Creation, Fields};
use crate::key_uses::KeyUse;
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::routes::account::PageQuery;

/// A key; never the key itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a1-2e44-7c35-936f-91c25d4ebf70", "name": "deploy", "prefix": "dbk_0198c5a12e44", "team_id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d",
    "scopes": ["secrets:read", "secrets:reveal"], "created_at": "2026-07-01T09:30:00.000Z",
    "expires_at": "2027-01-01T00:00:00.000Z", "last_used_at": "2026-07-02T08:15:30.000Z", "last_used_ip": "192.0.2.7"
}))]
pub struct ApiKeyBody {
    /// The key's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// The team it speaks for.
    #[schema(format = "uuid")]
    pub team_id: String,
    /// What it may do, as far as its maker may.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// Until when it is good.
    pub expires_at: Option<String>,
    /// When it was last used, to half a minute.
    pub last_used_at: Option<String>,
    /// From where.
    pub last_used_ip: Option<String>,
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "deploy", "scopes": ["secrets:read", "secrets:reveal"], "expires_at": "2027-01-01T00:00:00.000Z"}))]
pub struct MakeKeyBody {
    name: String,
    /// Some of secrets:read, secrets:write, secrets:reveal, jobs:read, jobs:run, audit:read, team:read, team:write.
    scopes: Vec<String>,
    #[serde(default, deserialize_with = "crate::input::moment")]
    expires_at: Option<DateTime<Utc>>,
}

/// A key that was made.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "key": "dbk_0198c5a12e44…", "id": "0198c5a1-2e44-7c35-936f-91c25d4ebf70", "name": "deploy", "prefix": "dbk_0198c5a12e44", "team_id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d",
    "scopes": ["secrets:read", "secrets:reveal"], "created_at": "2026-07-01T09:30:00.000Z",
    "expires_at": "2027-01-01T00:00:00.000Z", "last_used_at": null, "last_used_ip": null
}))]
pub struct MadeKeyBody {
    /// The key itself, for `Authorization: Bearer`. Shown this once.
    #[schema(value_type = String)]
    key: Zeroizing<String>,
    #[serde(flatten)]
    about: ApiKeyBody,
}

/// Makes a key that acts for one in the team one speaks for.
#[utoipa::path(
    post, path = "/auth/api-keys", tag = "auth", request_body = MakeKeyBody,
    responses(
        (status = 201, description = "The key", body = MadeKeyBody),
        (status = 403, description = "Not a person's session, or in no team", body = ProblemBody),
        (status = 409, description = "Too many keys", body = ProblemBody),
        (status = 422, description = "A field is wrong, or a scope is more than one may oneself", body = ProblemBody),
    ),
)]
pub async fn make(
    State(app): State<App>,
    person: Person,
    creation: Creation<MakeKeyBody>,
) -> Result<Confidential<MadeKeyBody>, Problem> {
    let team_id = person.team()?;
    let (body, context) = creation.within(&person.context);
    let mut fields = Fields::default();
    let name = fields.check("name", ApiKeyName::parse(&body.name));
    let scopes = fields.check("scopes", scopes(&body.scopes, &person));
    let past = body.expires_at.is_some_and(|end| end <= app.now());
    fields.check("expires_at", if past { Err(Invalid("must be in the future".to_owned())) } else { Ok(()) });
    fields.done()?;
    let (Some(name), Some(scopes)) = (name, scopes) else {
        return Err(Problem::internal("checked fields are missing"));
    };
    let request = KeyRequest { name, team_id, scopes, expires_at: body.expires_at };
    let made = app.commands.make_api_key(&context, person.user_id, request).await?;
    let shown = app.settle(made.done.position).await;
    let row = app.projections.credentials().get_uncached(person.user_id).await?;
    let row = row.iter().flat_map(|row| &row.api_keys).find(|row| row.id == made.id).cloned();
    let gone = || match shown {
        true => Problem::conflict("The key was revoked already.").with_code("api_key_revoked"),
        // Told as done all the same.
        false => Problem::quietly_unavailable("It cannot be shown yet.", Duration::from_secs(1)),
    };
    let body = MadeKeyBody { key: made.key, about: about(&row.ok_or_else(gone)?, None) };
    Ok(Confidential(Answer::created(body).at(made.done.position)))
}

fn scopes(names: &[String], person: &Person) -> Result<BTreeSet<Permission>, Invalid> {
    let known = |name: &&Permission| name.is_scope();
    let mut scopes = BTreeSet::new();
    for name in names {
        let permission = Permission::ALL.iter().filter(known).find(|known| known.as_str() == name);
        let Some(permission) = permission else {
            let all: Vec<_> = Permission::ALL.iter().filter(known).map(|known| known.as_str()).collect();
            return Err(Invalid(format!("must be some of {}", all.join(", "))));
        };
        if !person.has(*permission) {
            return Err(Invalid(format!("{permission} is more than you may do in this team")));
        }
        scopes.insert(*permission);
    }
    if scopes.is_empty() { Err(Invalid("must not be empty".to_owned())) } else { Ok(scopes) }
}

/// One's keys, in the order in which they were made.
#[utoipa::path(
    get, path = "/auth/api-keys", tag = "auth", params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<ApiKeyBody>),
        (status = 403, description = "Not a person's session", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    person: Person,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("api-keys", person.user_id));
    let after = cursors.open(query.cursor.as_deref()).await?.unwrap_or_default();
    let row = app.projections.credentials().get(person.user_id).await?;
    let uses = app.key_uses.of(person.user_id).await.map_err(crate::refusal::database)?;
    let mut keys: Vec<&ApiKeyRow> = row.iter().flat_map(|row| &row.api_keys).collect();
    keys.retain(|key| key.id.to_string() > after);
    keys.sort_by_key(|key| key.id);
    let last = |key: &ApiKeyRow| uses.iter().find(|(id, _)| *id == key.id).map(|(_, last)| last);
    let items: Vec<_> = keys.into_iter().take(limit + 1).map(|key| about(key, last(key))).collect();
    let page = cursors.page(items, limit, |key: &ApiKeyBody| key.id.clone()).await?;
    Ok(Json(pick(page, query.fields.as_deref())?))
}

fn about(key: &ApiKeyRow, last: Option<&KeyUse>) -> ApiKeyBody {
    ApiKeyBody {
        id: key.id.to_string(),
        name: key.name.clone(),
        prefix: key.prefix.clone(),
        team_id: key.team_id.to_string(),
        scopes: key.scopes.iter().map(ToString::to_string).collect(),
        created_at: time(key.created_at),
        expires_at: key.expires_at.map(time),
        last_used_at: last.map(|last| time(last.at)),
        last_used_ip: last.and_then(|last| last.ip.clone()),
    }
}

/// Makes a key worthless, on every node within a second.
#[utoipa::path(
    delete, path = "/auth/api-keys/{id}", tag = "auth", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Revoked"),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 404, description = "No such key of the caller's", body = ProblemBody),
    ),
)]
pub async fn revoke(
    State(app): State<App>,
    person: Person,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let key_id = ApiKeyId(id);
    let command = UserCommand::RevokeApiKey { key_id };
    let done = app.commands.execute::<User>(&person.context, person.user_id, None, command).await?;
    app.settle(done.position).await;
    // The key is revoked whatever becomes of this.
    if let Err(error) = app.key_uses.forget_key(key_id).await {
        tracing::warn!(%key_id, %error, "the last use of a revoked API key could not be forgotten");
    }
    Ok(no_content(done.position))
}
