//! Secrets.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use commands::{NewSecret, SealedSecret};
use domain::{Description, Reason, SecretId, SecretName, Tag};
use projections::{SecretFilter, SecretRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::answer::{Answer, if_match, no_content};
use crate::app::App;
use crate::authenticate::needs::{SecretsRead, SecretsReveal, SecretsWrite};
use crate::authenticate::{Can, Identity};
use crate::confidential::Confidential;
use crate::extract::{Json, Path, Query};
use crate::input::{Creation, Fields};
use crate::list::{Cursors, Page, limit, pick};
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// Bytes of a value.
const LARGEST_VALUE: usize = 64 * 1024;
/// Tags of a secret.
const MOST_TAGS: usize = 20;

/// What is known about a secret; never its value.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretBody {
    /// The secret's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Unique in the team.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Version of the present value, from 1.
    pub version: u32,
    /// When it should be replaced.
    pub expires_at: Option<String>,
    /// Whether it was put away.
    pub deleted: bool,
    /// Who stored it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// When it changed last.
    pub updated_at: String,
    /// When its value was read last, by a person or a job.
    pub last_read_at: Option<String>,
}

/// A new secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "report-db", "value": "postgres://…", "description": "The report's database", "tags": ["prod"]}))]
pub struct StoreBody {
    name: String,
    #[schema(value_type = String)]
    value: Zeroizing<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "crate::input::moment")]
    expires_at: Option<DateTime<Utc>>,
}

/// Keeps a secret, at version 1. The value is never echoed.
#[utoipa::path(
    post, path = "/secrets", tag = "secrets", request_body = StoreBody,
    responses(
        (status = 201, description = "Its metadata", body = SecretBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn create(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    creation: Creation<StoreBody>,
) -> Result<Answer<SecretBody>, Problem> {
    let team = caller.team()?;
    let (body, context) = creation.within(&caller.context);
    let (new, value) = checked(body)?;
    let done = app.commands.store_secret(&context, &new, &value).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.secrets().of(team), &done, |row| row.sequence).await?;
    Ok(Answer::created(body_of(&row, None)).tagged(row.sequence).at(done.position))
}

fn checked(body: StoreBody) -> Result<(NewSecret, Zeroizing<String>), Problem> {
    let mut fields = Fields::default();
    let name = fields.check("name", SecretName::parse(&body.name));
    let description =
        fields.check("description", Description::parse(body.description.as_deref().unwrap_or_default()));
    check_value(&mut fields, &body.value);
    if body.tags.len() > MOST_TAGS {
        fields.refuse("tags", format!("must be at most {MOST_TAGS}"));
    }
    let mut tags = vec![];
    for (index, tag) in body.tags.iter().take(MOST_TAGS).enumerate() {
        tags.extend(fields.check(&format!("tags[{index}]"), Tag::parse(tag)));
    }
    fields.done()?;
    match (name, description) {
        (Some(name), Some(description)) => {
            Ok((NewSecret { name, description, tags, expires_at: body.expires_at }, body.value))
        }
        _ => Err(Problem::internal("checked fields are missing")),
    }
}

fn check_value(fields: &mut Fields, value: &str) {
    if value.is_empty() {
        fields.refuse("value", "must not be empty");
    } else if value.len() > LARGEST_VALUE {
        fields.refuse("value", format!("must be at most {LARGEST_VALUE} bytes, has {}", value.len()));
    } else if value.contains('\0') {
        fields.refuse("value", "must not contain NUL: it could not be given to a job's environment");
    }
}

/// Which secrets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Picks fields: `fields=id,name`.
    fields: Option<String>,
    /// Only names and descriptions that contain this.
    q: Option<String>,
    /// Only those with this tag.
    tag: Option<String>,
    /// Only names that begin with this.
    prefix: Option<String>,
}

/// The team's secrets, by name: metadata only.
#[utoipa::path(
    get, path = "/secrets", tag = "secrets", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<SecretBody>)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<serde_json::Value>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("secrets", team, &query.q, &query.tag, &query.prefix));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let filter = SecretFilter { q: query.q, tag: query.tag, prefix: query.prefix };
    let secrets = app.projections.secrets().of(team);
    let rows = secrets.list(&filter, after.as_deref(), limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| row.name.clone()).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in &page.items {
        items.push(full_body(&app, row).await?);
    }
    Ok(Json(pick(Page { items, next: page.next }, query.fields.as_deref())?))
}

/// One secret's metadata.
#[utoipa::path(
    get, path = "/secrets/{id}", tag = "secrets", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    Path(id): Path<Uuid>,
) -> Result<Answer<SecretBody>, Problem> {
    let row = find(&app, &caller, SecretId(id)).await?;
    Ok(Answer::ok(full_body(&app, &row).await?).tagged(row.sequence))
}

/// Which version, and why.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RevealQuery {
    /// Which version; the present one if not given.
    version: Option<u32>,
    /// Why it is read; recorded.
    reason: Option<String>,
}

/// A secret's value.
#[derive(Serialize, ToSchema)]
pub struct ValueBody {
    id: Uuid,
    version: u32,
    #[schema(value_type = String)]
    value: Zeroizing<String>,
}

/// Reads a value. The reading is recorded before the value leaves; without a record there is no value.
#[utoipa::path(
    get, path = "/secrets/{id}/value", tag = "secrets", params(("id" = Uuid, Path), RevealQuery),
    responses(
        (status = 200, description = "The value", body = ValueBody),
        (status = 404, description = "No such secret or version in this team", body = ProblemBody),
        (status = 503, description = "The reading could not be recorded", body = ProblemBody),
    ),
)]
pub async fn reveal(
    State(app): State<App>,
    caller: Can<SecretsReveal>,
    Path(id): Path<Uuid>,
    Query(query): Query<RevealQuery>,
) -> Result<Confidential<ValueBody>, Problem> {
    let mut fields = Fields::default();
    let reason = fields.check_optional("reason", query.reason.as_deref(), Reason::parse);
    fields.done()?;
    let row = find(&app, &caller, SecretId(id)).await?;
    let secrets = app.projections.secrets().of(caller.team()?);
    let sealed = match query.version.unwrap_or(row.version) {
        version if version == row.version => Some(row.sealed.clone()),
        version => secrets.sealed_value(&row.id, version).await?.map(|value| value.sealed),
    };
    let sealed = sealed.ok_or_else(|| Problem::not_found().with_detail("There is no such version."))?;
    let version = query.version.unwrap_or(row.version);
    let sealed = SealedSecret { id: SecretId(id), team_id: row.team_id, version, sealed };
    let value = app.commands.reveal_secret(&caller.context, &sealed, reason.as_ref()).await?;
    let body = ValueBody { id, version: sealed.version, value };
    Ok(Confidential::ok(body))
}

/// A value to come.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"value": "postgres://…"}))]
pub struct ValueChangeBody {
    #[schema(value_type = String)]
    value: Zeroizing<String>,
}

/// Gives a secret its next value.
#[utoipa::path(
    put, path = "/secrets/{id}/value", tag = "secrets", params(("id" = Uuid, Path)), request_body = ValueChangeBody,
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
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
    check_value(&mut fields, &body.value);
    fields.done()?;
    let (id, team) = (SecretId(id), caller.team()?);
    let expected = if_match(&headers)?;
    let done = app.commands.change_secret_value(&caller.context, id, expected, &body.value).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.secrets().of(team), &done, |row| row.sequence).await?;
    Ok(Answer::ok(full_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// Puts a secret away. Its history stays; its name is free again.
#[utoipa::path(
    delete, path = "/secrets/{id}", tag = "secrets", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Put away"),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let done = app.commands.delete_secret(&caller.context, SecretId(id), if_match(&headers)?).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// A secret of the caller's team that was not put away; any other does not exist for them.
async fn find(app: &App, caller: &Identity, id: SecretId) -> Result<std::sync::Arc<SecretRow>, Problem> {
    let row = app.projections.secrets().of(caller.team()?).get(id).await?;
    row.filter(|row| !row.deleted).ok_or_else(|| Problem::not_found().with_code("secret_not_found"))
}

async fn full_body(app: &App, row: &SecretRow) -> Result<SecretBody, Problem> {
    let last = app.projections.last_access().get(format!("secret/{}", row.id)).await?;
    Ok(body_of(row, last.map(|last| last.at)))
}

fn body_of(row: &SecretRow, last_read: Option<DateTime<Utc>>) -> SecretBody {
    SecretBody {
        id: row.id.clone(),
        name: row.name.clone(),
        description: row.description.clone(),
        tags: row.tags.clone(),
        version: row.version,
        expires_at: row.expires_at.map(time),
        deleted: row.deleted,
        created_by: row.created_by.clone(),
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
        last_read_at: last_read.map(time),
    }
}
