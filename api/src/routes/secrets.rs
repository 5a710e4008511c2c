//! Secrets: what is known about them, and what becomes of them. Values are read and written in [`values`].

pub mod access;
mod bodies;
pub mod grants;
pub mod values;

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use commands::{Executed, NewSecret, SecretValue};
use domain::{
    Description, Invalid, MOST_TAGS, MOST_VERSIONS, Permission, SecretAmendment, SecretId, SecretName, Tag,
    VersionLimit,
};
use projections::{SecretFilter, SecretRow};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Answer, if_match, no_content};
use crate::app::App;
use crate::authenticate::needs::{SecretsList, SecretsRead, SecretsWrite};
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, OptionalJson, Path, Query};
use crate::input::{Creation, Fields};
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};

use bodies::{GivenValue, SecretBody, StoreBody};

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
    Ok(Answer::created(SecretBody::of(&row, None)).tagged(row.sequence).at(done.position))
}

fn checked(body: StoreBody) -> Result<(NewSecret, SecretValue), Problem> {
    let mut fields = Fields::default();
    let name = fields.check("name", SecretName::parse(&body.name));
    let description =
        fields.check("description", Description::parse(body.description.as_deref().unwrap_or_default()));
    let value = GivenValue { value: body.value, value_base64: body.value_base64 }.checked(&mut fields);
    let tags = checked_tags(&mut fields, &body.tags);
    let max_versions = body.max_versions.and_then(|n| fields.check("max_versions", VersionLimit::parse(n)));
    fields.done()?;
    match (name, description, value) {
        (Some(name), Some(description), Some(value)) => {
            let expires_at = body.expires_at;
            Ok((NewSecret { name, description, tags, expires_at, max_versions }, value))
        }
        _ => Err(Problem::internal("checked fields are missing")),
    }
}

fn checked_tags(fields: &mut Fields, given: &[String]) -> Vec<Tag> {
    if given.len() > MOST_TAGS {
        fields.refuse("tags", format!("must be at most {MOST_TAGS}"));
    }
    let mut tags = vec![];
    for (index, tag) in given.iter().take(MOST_TAGS).enumerate() {
        let tag = fields.check(&format!("tags[{index}]"), Tag::parse(tag));
        tags.extend(tag.filter(|tag| !tags.contains(tag)));
    }
    tags
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
    /// Only names that begin with this: `payments/` for everything below.
    prefix: Option<String>,
    /// Only those that expire within this time, or have expired: seconds, or a number with `m`, `h`, `d` or `w` (`30d`).
    expiring_within: Option<String>,
    /// Only those that have been there for this time without being read: as `expiring_within`.
    unused_for: Option<String>,
    /// Those that were deleted, instead of the others.
    #[serde(default)]
    deleted: bool,
}

/// The team's secrets, by name: metadata only. Whoever may only list them is shown ids and names.
#[utoipa::path(
    get, path = "/secrets", tag = "secrets", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<SecretBody>)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<SecretsList>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    let scope = ("secrets", team, &query.q, &query.tag, &query.prefix, query.deleted);
    let cursors = Cursors::new(&app, (scope, &query.expiring_within, &query.unused_for));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let after = after.as_deref().and_then(|key| key.split_once('\n'));
    let filter = filter(&query, app.now())?;
    let described = caller.has(Permission::SecretsRead);
    if !described && filter != (SecretFilter { prefix: filter.prefix.clone(), ..SecretFilter::default() }) {
        caller.require(Permission::SecretsRead).await?;
    }
    let rows = app.projections.secrets().of(team).list(&filter, after, limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| format!("{}\n{}", row.name, row.id)).await?;
    let ids: Vec<String> = page.items.iter().map(|row| row.id.clone()).collect();
    let reads = app.projections.secret_reads().of(team).last_reads(&ids).await?;
    let items = page.items.iter().map(|row| SecretBody::of(row, reads.get(&row.id).copied())).collect();
    let fields = if described { query.fields.as_deref() } else { Some("id,name") };
    Ok(Json(pick(Page { items, next: page.next }, fields)?))
}

fn filter(query: &ListQuery, now: DateTime<Utc>) -> Result<SecretFilter, Problem> {
    let mut fields = Fields::default();
    let expiring = fields.check_optional("expiring_within", query.expiring_within.as_deref(), span);
    let unused = fields.check_optional("unused_for", query.unused_for.as_deref(), span);
    fields.done()?;
    Ok(SecretFilter {
        q: query.q.clone(),
        tag: query.tag.clone(),
        prefix: query.prefix.clone(),
        expiring_by: expiring.map(|span| now + span),
        unused_since: unused.map(|span| now - span),
        deleted: query.deleted,
    })
}

/// A stretch of time of at most 100 years: `90`, `90s`, `15m`, `12h`, `30d`, `4w`.
fn span(text: &str) -> Result<TimeDelta, Invalid> {
    let invalid =
        || Invalid("must be a number of seconds, or a number with s, m, h, d or w such as 30d".into());
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return Err(invalid()),
    };
    let number: i64 = number.parse().map_err(|_| invalid())?;
    let span = number.checked_mul(seconds).and_then(TimeDelta::try_seconds);
    span.filter(|span| *span <= TimeDelta::days(36_525))
        .ok_or_else(|| Invalid("must be at most 100 years".into()))
}

/// Which state of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Also if it was deleted.
    #[serde(default)]
    deleted: bool,
}

/// One secret's metadata.
#[utoipa::path(
    get, path = "/secrets/{id}", tag = "secrets", params(("id" = Uuid, Path), ShowQuery),
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    Path(id): Path<Uuid>,
    Query(query): Query<ShowQuery>,
) -> Result<Answer<SecretBody>, Problem> {
    let row = find(&app, &caller, SecretId(id)).await?;
    if row.deleted && !query.deleted {
        return Err(no_such_secret());
    }
    described(&app, &row).await
}

async fn described(app: &App, row: &SecretRow) -> Result<Answer<SecretBody>, Problem> {
    let read = app.projections.secret_reads().of(row.team_id).get(&row.id).await?;
    Ok(Answer::ok(SecretBody::of(row, read.map(|read| read.at))).tagged(row.sequence))
}

/// The answer to a write: the secret as that left it.
async fn as_changed(app: &App, caller: &Identity, done: &Executed) -> Result<Answer<SecretBody>, Problem> {
    app.settle(done.position).await;
    let secrets = app.projections.secrets().of(caller.team()?);
    let row = app.as_written(secrets, done, |row| row.sequence).await?;
    Ok(described(app, &row).await?.at(done.position))
}

/// What is changed of what is said of a secret; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"description": "The report's database", "tags": ["prod"], "expires_at": null}))]
pub struct AmendBody {
    /// Another name.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    /// When it should be replaced; null: never.
    #[serde(default, deserialize_with = "crate::input::given_moment")]
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Option<DateTime<Utc>>>,
    /// How many versions are kept, 1 to 1,000; null: all. What is too much is destroyed at once.
    #[serde(default, deserialize_with = "crate::input::given")]
    #[schema(value_type = Option<u32>)]
    max_versions: Option<Option<u32>>,
}

/// Changes what is said of a secret, its name included.
#[utoipa::path(
    patch, path = "/secrets/{id}", tag = "secrets", params(("id" = Uuid, Path)), request_body = AmendBody,
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
        (status = 409, description = "The name is taken", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn amend(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(body): Json<AmendBody>,
) -> Result<Answer<SecretBody>, Problem> {
    let mut fields = Fields::default();
    let limit = |fields: &mut Fields, n| fields.check("max_versions", VersionLimit::parse(n));
    let amendment = SecretAmendment {
        name: fields.check_optional("name", body.name.as_deref(), SecretName::parse),
        description: fields.check_optional("description", body.description.as_deref(), Description::parse),
        tags: body.tags.as_ref().map(|tags| checked_tags(&mut fields, tags)),
        expires_at: body.expires_at,
        max_versions: body.max_versions.map(|limited| limited.and_then(|n| limit(&mut fields, n))),
    };
    fields.done()?;
    let expected = if_match(&headers)?;
    let done = app.commands.amend_secret(&caller.context, SecretId(id), expected, amendment).await?;
    as_changed(&app, &caller, &done).await
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

/// How a secret comes back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "report-db-2025"}))]
pub struct RestoreBody {
    /// Its name from now on, should its own be taken by now.
    #[serde(default)]
    name: Option<String>,
}

/// Takes a deleted secret back.
#[utoipa::path(
    post, path = "/secrets/{id}/restore", tag = "secrets", params(("id" = Uuid, Path)),
    request_body(content = Option<RestoreBody>),
    responses(
        (status = 200, description = "Its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
        (status = 409, description = "It was destroyed, or its name is taken by now", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn restore(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<RestoreBody>,
) -> Result<Answer<SecretBody>, Problem> {
    let mut fields = Fields::default();
    let name = fields.check_optional("name", body.name.as_deref(), SecretName::parse);
    fields.done()?;
    let expected = if_match(&headers)?;
    let done = app.commands.restore_secret(&caller.context, SecretId(id), expected, name).await?;
    as_changed(&app, &caller, &done).await
}

/// What goes for ever.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"versions": [1, 2]}))]
pub struct DestroyBody {
    /// Only the values of these versions; without it all of them, and the secret with them.
    #[serde(default)]
    versions: Option<BTreeSet<u32>>,
}

/// Destroys the values of some versions, or of all and the secret with them. The data keys are deleted: nothing brings them back.
/// History stays, and says so.
#[utoipa::path(
    post, path = "/secrets/{id}/destroy", tag = "secrets", params(("id" = Uuid, Path)),
    request_body(content = Option<DestroyBody>),
    responses(
        (status = 200, description = "What is left: its metadata", body = SecretBody),
        (status = 404, description = "No such secret in this team, or no such version", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn destroy(
    State(app): State<App>,
    caller: Can<SecretsWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<DestroyBody>,
) -> Result<Answer<SecretBody>, Problem> {
    let (id, expected) = (SecretId(id), if_match(&headers)?);
    let done = match body.versions {
        Some(versions) if versions.is_empty() => {
            return Err(Problem::invalid("versions", "must not be empty; leave it out to destroy all"));
        }
        Some(versions) if versions.len() > MOST_VERSIONS as usize => {
            return Err(Problem::invalid("versions", format!("must be at most {MOST_VERSIONS}")));
        }
        Some(versions) => {
            app.commands.destroy_secret_versions(&caller.context, id, expected, versions).await?
        }
        None => app.commands.destroy_secret(&caller.context, id, expected).await?,
    };
    as_changed(&app, &caller, &done).await
}

/// A secret of the caller's team, deleted or not; any other does not exist for them.
async fn find(app: &App, caller: &Identity, id: SecretId) -> Result<std::sync::Arc<SecretRow>, Problem> {
    let row = app.projections.secrets().of(caller.team()?).get(id).await?;
    row.ok_or_else(no_such_secret)
}

fn no_such_secret() -> Problem {
    Problem::not_found().with_code("secret_not_found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_of_time_are_numbers_with_units() {
        let seconds = |text| span(text).map(|span| span.num_seconds()).ok();
        assert_eq!(
            ["0", "90", "90s", "15m", "2h", "30d", "1w"].map(seconds).iter().flatten().sum::<i64>(),
            90 + 90 + 900 + 7_200 + 2_592_000 + 604_800
        );
        for bad in ["", "d", "-1d", "1.5d", "1y", "d1", "1 d", "36526d", "99999999999999999999"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }
}
