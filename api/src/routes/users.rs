//! People, for those who administer the instance.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::{Amendment, PersonName, UserId};
use projections::time::text as time;
use projections::{UserFilter, UserRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Answer, if_match, no_content};
use crate::app::App;
use crate::authenticate::needs::UsersManage;
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path, Query};
use crate::forgetting::ties;
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};

/// A person, as everybody who may see them sees them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "email": "ada@example.org", "name": "Ada Lovelace",
    "admin": false, "active": true, "email_verified": true, "two_factor": false,
    "teams": [{"id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d", "slug": "payments", "name": "Payments", "role": "owner"}],
    "created_at": "2026-07-01T09:30:00.000Z", "last_sign_in_at": "2026-07-02T08:15:42.120Z"
}))]
pub struct UserBody {
    /// The account's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// What they sign in with.
    pub email: String,
    /// What they are called.
    pub name: String,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Whether they may sign in.
    pub active: bool,
    /// Whether the address was shown to be theirs.
    pub email_verified: bool,
    /// Whether a second factor is asked of them.
    pub two_factor: bool,
    /// The teams they are in.
    pub teams: Vec<TeamOfUser>,
    /// When the account was made.
    pub created_at: String,
    /// When they signed in last.
    pub last_sign_in_at: Option<String>,
}

/// A team somebody is in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d", "slug": "payments", "name": "Payments", "role": "owner"}))]
pub struct TeamOfUser {
    /// The team's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its short name.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// What they are there: owner, operator, viewer or auditor.
    pub role: String,
}

/// All that is shown of somebody.
pub(super) async fn user_body(app: &App, row: &UserRow) -> Result<UserBody, Problem> {
    let teams = teams_of(app, &row.id).await?;
    let last = app.projections.last_access().get(format!("user/{}", row.id)).await?;
    Ok(body_of(row, teams, last.map(|last| last.at)))
}

/// What the caller may see of somebody.
pub(super) async fn seen_body(app: &App, identity: &Identity, row: &UserRow) -> Result<UserBody, Problem> {
    let mut body = user_body(app, row).await?;
    body.teams.retain(|team| identity.may_name(&team.id));
    Ok(body)
}

async fn teams_of(app: &App, user: &str) -> Result<Vec<TeamOfUser>, Problem> {
    let memberships = app.projections.memberships().get(user).await?;
    let mut teams = vec![];
    for membership in memberships.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default() {
        if let Some(team) = app.projections.teams().get(membership.team_id).await? {
            teams.push(TeamOfUser {
                id: team.id.clone(),
                slug: team.slug.clone(),
                name: team.name.clone(),
                role: membership.role.as_str().to_owned(),
            });
        }
    }
    Ok(teams)
}

/// Of somebody who was just registered. A repeated request gets the first answer: the team that came with the account is the one they
/// joined first.
pub(super) async fn first_body(app: &App, row: &UserRow) -> Result<UserBody, Problem> {
    let mut teams = teams_of(app, &row.id).await?;
    teams.truncate(1);
    Ok(body_of(row, teams, None))
}

fn body_of(row: &UserRow, teams: Vec<TeamOfUser>, last_sign_in: Option<DateTime<Utc>>) -> UserBody {
    UserBody {
        id: row.id.clone(),
        email: row.email.clone(),
        name: row.name.clone(),
        admin: row.admin,
        active: row.active,
        email_verified: row.email_verified,
        two_factor: row.two_factor,
        teams,
        created_at: time(row.created_at),
        last_sign_in_at: last_sign_in.map(time),
    }
}

/// Which people, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Picks fields: `fields=id,email`.
    fields: Option<String>,
    /// Only addresses and names that contain this.
    q: Option<String>,
    /// Only those who may sign in, or who may not.
    active: Option<bool>,
    /// Only those who administer the instance, or who do not.
    admin: Option<bool>,
}

/// All people, in the order in which they registered.
#[utoipa::path(
    get, path = "/users", tag = "users", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<UserBody>)),
)]
pub async fn list(
    State(app): State<App>,
    _: Can<UsersManage>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let filter = UserFilter { q: query.q, active: query.active, admin: query.admin };
    let cursors = Cursors::new(&app, ("users", &filter));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let rows = app.projections.users().list(&filter, after.as_deref(), limit as i64 + 1).await?;
    let page = cursors.page(rows, limit, |row| row.id.clone()).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in &page.items {
        items.push(user_body(&app, row).await?);
    }
    Ok(Json(pick(Page { items, next: page.next }, query.fields.as_deref())?))
}

/// One person; for oneself also without being an admin.
#[utoipa::path(
    get, path = "/users/{id}", tag = "users", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The person", body = UserBody),
        (status = 404, description = "Nobody has this id", body = ProblemBody),
    ),
)]
pub async fn show(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<Uuid>,
) -> Result<Answer<UserBody>, Problem> {
    one(&app, &identity, UserId(id)).await
}

/// The same as `/api/users/{id}`.
#[utoipa::path(
    get, path = "/auth/users/{id}", tag = "auth", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The person", body = UserBody),
        (status = 403, description = "Somebody else, and not an admin who asks", body = ProblemBody),
        (status = 404, description = "Nobody has this id", body = ProblemBody),
    ),
)]
pub async fn show_in_auth(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<Uuid>,
) -> Result<Answer<UserBody>, Problem> {
    one(&app, &identity, UserId(id)).await
}

async fn one(app: &App, identity: &Identity, id: UserId) -> Result<Answer<UserBody>, Problem> {
    if !identity.is_person(id) {
        identity.require(domain::Permission::UsersManage).await?;
    }
    let row = app.projections.users().get(id).await?.ok_or_else(Problem::not_found)?;
    Ok(Answer::ok(seen_body(app, identity, &row).await?).tagged(row.sequence))
}

/// What an admin changes of somebody; all of it or nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"active": false}))]
pub struct AmendUserBody {
    /// Whether they may sign in; `false` ends their sessions.
    #[serde(default)]
    active: Option<bool>,
    /// What they are called.
    #[serde(default)]
    name: Option<String>,
    /// Whether they administer the instance.
    #[serde(default)]
    admin: Option<bool>,
}

/// Changes somebody's name, whether they may sign in, and whether they administer the instance. The last admin stays one.
#[utoipa::path(
    patch, path = "/users/{id}", tag = "users", params(("id" = Uuid, Path)), request_body = AmendUserBody,
    responses(
        (status = 200, description = "The person", body = UserBody),
        (status = 404, description = "Nobody has this id", body = ProblemBody),
        (status = 409, description = "The last admin, or somebody who was erased", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn amend(
    State(app): State<App>,
    admin: Can<UsersManage>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(body): Json<AmendUserBody>,
) -> Result<Answer<UserBody>, Problem> {
    let name = body.name.as_deref().map(PersonName::parse).transpose();
    let name = name.map_err(|invalid| Problem::invalid("name", invalid.0))?;
    let amendment = Amendment { name, active: body.active, admin: body.admin, operator: None };
    let expected = if_match(&headers)?;
    let done = app.commands.amend_user(&admin.context, UserId(id), expected, &amendment).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.users(), &done, |row| row.sequence).await?;
    Ok(Answer::ok(user_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// Erases a person: their key is destroyed, so that nobody reads any more who it was. History stays, and says `erased`. There is no way
/// back.
#[utoipa::path(
    post, path = "/users/{id}/erase", tag = "users", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Erased"),
        (status = 404, description = "Nobody has this id", body = ProblemBody),
        (status = 409, description = "The last admin", body = ProblemBody),
    ),
)]
pub async fn erase(
    State(app): State<App>,
    admin: Can<UsersManage>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (id, expected) = (UserId(id), if_match(&headers)?);
    let row = app.projections.users().get(id).await?.ok_or_else(Problem::not_found)?;
    let email = row.canonical_email.as_deref();
    let hash = match email {
        Some(email) => Some(app.commands.email_hash(email).await?),
        None => None,
    };
    let ties = ties(&app.projections, id, hash.as_deref(), None).await?;
    let done = app.commands.erase(&admin.context, id, expected, email, &ties).await?;
    app.key_uses.forget(id).await.map_err(crate::refusal::database)?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}
