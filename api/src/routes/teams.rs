//! Teams: their members and their roles, and who is asked to join.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::{Email, Invalid, InvitationId, Permission, Role, Team, TeamCommand, TeamName, TeamSlug, UserId};
use projections::time::text as time;
use projections::{InvitationRow, TeamRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::answer::{Answer, if_match, no_content};
use crate::app::App;
use crate::authenticate::needs::{TeamRead, TeamWrite, TeamsMake};
use crate::authenticate::{Can, Identity, Person};
use crate::extract::{Json, Path, Query};
use crate::input::{Creation, Fields};
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::routes::account::PageQuery;
use crate::routes::auth::of_invitation;

/// A team, as its members see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d", "slug": "payments", "name": "Payments", "two_factor_required": false,
    "reveal_reason_required": false,
    "members": [{"user_id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "name": "Ada Lovelace", "email": "ada@example.org", "role": "owner", "active": true, "two_factor": false}],
    "created_at": "2026-07-01T09:30:00.000Z"
}))]
pub struct TeamBody {
    /// The team's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its short name in addresses.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// Whether its members must have a second factor to speak for it.
    pub two_factor_required: bool,
    /// Whether who sees a secret's value must say why.
    pub reveal_reason_required: bool,
    /// Who is in it, at most 1,000.
    pub members: Vec<MemberBody>,
    /// When it was made.
    pub created_at: String,
}

/// Somebody in a team.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"user_id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "name": "Ada Lovelace", "email": "ada@example.org", "role": "owner", "active": true, "two_factor": false}))]
pub struct MemberBody {
    /// Their account's id.
    #[schema(format = "uuid")]
    pub user_id: String,
    /// What they are called.
    pub name: String,
    /// Where they can be reached.
    pub email: String,
    /// owner, operator, viewer or auditor.
    pub role: String,
    /// Whether they may sign in.
    pub active: bool,
    /// Whether they have a second factor.
    pub two_factor: bool,
}

/// A team one is in, or any for an instance admin.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"id": "0198c5a0-4b10-7f02-8d3c-6e9f2a1b8c4d", "slug": "payments", "name": "Payments", "role": "owner", "members": 4}))]
pub struct TeamSummary {
    /// The team's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its short name.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// What the caller is there; null for an admin who is not in it.
    pub role: Option<String>,
    /// How many are in it.
    pub members: usize,
}

/// The caller's present team with its members and their roles.
#[utoipa::path(
    get, path = "/team", tag = "teams",
    responses((status = 200, description = "The team", body = TeamBody)),
)]
pub async fn show(State(app): State<App>, caller: Can<TeamRead>) -> Result<Answer<TeamBody>, Problem> {
    let row = app.projections.teams().get(caller.team()?).await?.ok_or_else(Problem::not_found)?;
    Ok(Answer::ok(body(&app, &row).await?).tagged(row.sequence))
}

async fn body(app: &App, row: &TeamRow) -> Result<TeamBody, Problem> {
    let mut members = Vec::with_capacity(row.members.len());
    for (id, role) in &row.members {
        members.push(member(app, *id, *role).await?);
    }
    Ok(TeamBody {
        id: row.id.clone(),
        slug: row.slug.clone(),
        name: row.name.clone(),
        two_factor_required: row.two_factor_required,
        reveal_reason_required: row.reveal_reason_required,
        members,
        created_at: time(row.created_at),
    })
}

async fn member(app: &App, id: UserId, role: Role) -> Result<MemberBody, Problem> {
    let user = app.projections.users().get(id).await?;
    let text = |field: fn(&projections::UserRow) -> &String| {
        user.as_deref().map_or_else(|| "erased".to_owned(), |user| field(user).clone())
    };
    Ok(MemberBody {
        user_id: id.to_string(),
        name: text(|user| &user.name),
        email: text(|user| &user.email),
        role: role.as_str().to_owned(),
        active: user.as_deref().is_some_and(|user| user.active),
        two_factor: user.as_deref().is_some_and(|user| user.two_factor),
    })
}

/// What is changed of a team; all of it or nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Payments", "two_factor_required": true}))]
pub struct AmendTeamBody {
    #[serde(default)]
    name: Option<String>,
    /// Whether members must have a second factor to speak for the team.
    #[serde(default)]
    two_factor_required: Option<bool>,
    /// Whether who sees a secret's value must say why.
    #[serde(default)]
    reveal_reason_required: Option<bool>,
}

/// Changes the team's name, and whether it asks its members for a second factor and for reasons to see secrets. Who asks for the
/// second factor must have one.
#[utoipa::path(
    patch, path = "/team", tag = "teams", request_body = AmendTeamBody,
    responses(
        (status = 200, description = "The team", body = TeamBody),
        (status = 409, description = "The caller has no second factor", body = ProblemBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn amend(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    headers: HeaderMap,
    Json(asked): Json<AmendTeamBody>,
) -> Result<Answer<TeamBody>, Problem> {
    let team = caller.team()?;
    let name = asked.name.as_deref().map(TeamName::parse).transpose();
    let name = name.map_err(|invalid| Problem::invalid("name", invalid.0))?;
    let two_factor_required = asked.two_factor_required;
    if two_factor_required == Some(true) && !caller.user.two_factor {
        let detail = "Set up a second factor yourself first: you would be the first to be locked out.";
        return Err(Problem::conflict(detail).with_code("two_factor_off"));
    }
    let reveal_reason_required = asked.reveal_reason_required;
    let command = TeamCommand::Amend { name, two_factor_required, reveal_reason_required };
    let done = app.commands.execute::<Team>(&caller.context, team, if_match(&headers)?, command).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.teams(), &done, |row| row.sequence).await?;
    Ok(Answer::ok(body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// Somebody's role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "operator"}))]
pub struct RoleBody {
    /// owner, operator, viewer or auditor.
    role: String,
}

fn role(name: &str) -> Result<Role, Invalid> {
    let roles = [Role::Owner, Role::Operator, Role::Viewer, Role::Auditor];
    let known = roles.into_iter().find(|role| role.as_str() == name);
    known.ok_or_else(|| Invalid("must be owner, operator, viewer or auditor".to_owned()))
}

/// Gives a member another role. It holds from their next request on. The last owner stays one. `ETag` and `If-Match` are the team's.
#[utoipa::path(
    patch, path = "/team/members/{user_id}", tag = "teams", params(("user_id" = Uuid, Path)), request_body = RoleBody,
    responses(
        (status = 200, description = "The member", body = MemberBody),
        (status = 404, description = "Nobody of this id is in the team", body = ProblemBody),
        (status = 409, description = "The last owner", body = ProblemBody),
        (status = 412, description = "The team has changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn change_role(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    Path(user_id): Path<Uuid>,
    headers: HeaderMap,
    Json(asked): Json<RoleBody>,
) -> Result<Answer<MemberBody>, Problem> {
    let (team, user_id) = (caller.team()?, UserId(user_id));
    let role = role(&asked.role).map_err(|invalid| Problem::invalid("role", invalid.0))?;
    let command = TeamCommand::ChangeRole { user_id, role };
    let done = app.commands.execute::<Team>(&caller.context, team, if_match(&headers)?, command).await?;
    app.settle(done.position).await;
    Ok(Answer::ok(member(&app, user_id, role).await?).tagged(done.sequence).at(done.position))
}

/// Parts with a member; whoever asks it of oneself leaves. The last owner stays.
#[utoipa::path(
    delete, path = "/team/members/{user_id}", tag = "teams", params(("user_id" = Uuid, Path)),
    responses(
        (status = 204, description = "Not in the team any more"),
        (status = 404, description = "Nobody of this id is in the team", body = ProblemBody),
        (status = 409, description = "The last owner", body = ProblemBody),
        (status = 412, description = "The team has changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn remove(
    State(app): State<App>,
    caller: Identity,
    Path(user_id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (team, user_id) = (caller.team()?, UserId(user_id));
    if !caller.is_person(user_id) {
        caller.require(Permission::TeamWrite).await?;
    }
    let command = TeamCommand::RemoveMember { user_id };
    let done = app.commands.execute::<Team>(&caller.context, team, if_match(&headers)?, command).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// Somebody who is asked to join.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a1-0c22-7a13-b14d-7fa03b2c9d5e", "email": "grace@example.org", "role": "operator",
    "invited_by": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c",
    "created_at": "2026-07-01T09:30:00.000Z", "expires_at": "2026-07-08T09:30:00.000Z"
}))]
pub struct InvitationBody {
    /// The invitation's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Where it was sent.
    pub email: String,
    /// What they will be.
    pub role: String,
    /// Who asks.
    pub invited_by: String,
    /// When they were asked.
    pub created_at: String,
    /// Until when they may take it up.
    pub expires_at: String,
}

/// Whom to ask.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "grace@example.org", "role": "operator"}))]
pub struct InviteBody {
    email: String,
    /// owner, operator, viewer or auditor.
    role: String,
}

/// Asks somebody to join the team. A mail with a token goes to the address; it is good for a week, for one person, who has this address.
#[utoipa::path(
    post, path = "/team/invitations", tag = "teams", request_body = InviteBody,
    responses(
        (status = 201, description = "The invitation", body = InvitationBody),
        (status = 409, description = "They are in the team or invited already, or too many invitations are open", body = ProblemBody),
    ),
)]
pub async fn invite(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    creation: Creation<InviteBody>,
) -> Result<Answer<InvitationBody>, Problem> {
    let team = caller.team()?;
    let (asked, context) = creation.within(&caller.context);
    let mut fields = Fields::default();
    let email = fields.check("email", Email::parse(&asked.email));
    let role = fields.check("role", role(&asked.role));
    fields.done()?;
    let (Some(email), Some(role)) = (email, role) else {
        return Err(Problem::internal("checked fields are missing"));
    };
    let invitee = app.projections.users().by_email(&email.canonical()).await?;
    let invitee = invitee.map(|user| user.id.parse()).transpose().map_err(Problem::internal)?;
    let (id, done) = app.commands.invite(&context, team, email, invitee, role).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.teams(), &done, |row| row.sequence).await?;
    let invitation = row.invitations.get(&id);
    let invitation = invitation.ok_or_else(|| Problem::internal("an invitation is not where it was made"))?;
    Ok(Answer::created(invitation_body(id, invitation)).tagged(row.sequence).at(done.position))
}

fn invitation_body(id: InvitationId, row: &InvitationRow) -> InvitationBody {
    InvitationBody {
        id: id.to_string(),
        email: row.email.clone(),
        role: row.role.as_str().to_owned(),
        invited_by: row.invited_by.clone(),
        created_at: time(row.created_at),
        expires_at: time(row.expires_at),
    }
}

/// Who is asked to join and has not yet, in the order in which they were asked.
#[utoipa::path(
    get, path = "/team/invitations", tag = "teams", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<InvitationBody>)),
)]
pub async fn invitations(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let (team, limit) = (caller.team()?, limit(query.limit)?);
    let cursors = Cursors::new(&app, ("invitations", team));
    let after = cursors.open(query.cursor.as_deref()).await?.unwrap_or_default();
    let row = app.projections.teams().get(team).await?.ok_or_else(Problem::not_found)?;
    let (all, now) = (row.invitations.iter(), app.now());
    let open = all.filter(|(id, invitation)| now < invitation.expires_at && id.to_string() > after);
    let items: Vec<_> = open.take(limit + 1).map(|(id, row)| invitation_body(*id, row)).collect();
    let page = cursors.page(items, limit, |invitation: &InvitationBody| invitation.id.clone()).await?;
    Ok(Json(pick(page, query.fields.as_deref())?))
}

/// Takes an invitation back.
#[utoipa::path(
    delete, path = "/team/invitations/{id}", tag = "teams", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Its token is worthless"),
        (status = 404, description = "No such invitation of this team", body = ProblemBody),
        (status = 412, description = "The team has changed meanwhile", body = ProblemBody),
    ),
)]
pub async fn withdraw(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (team, expected) = (caller.team()?, if_match(&headers)?);
    let command = TeamCommand::WithdrawInvitation { id: InvitationId(id) };
    let done = app.commands.execute::<Team>(&caller.context, team, expected, command).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// The teams one is in, for an instance admin all teams, for an API key its own; in the order in which they were made.
#[utoipa::path(
    get, path = "/teams", tag = "teams", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<TeamSummary>)),
)]
pub async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let admin = identity.has(Permission::TeamsMake);
    let cursors = Cursors::new(&app, ("teams", identity.user_id, admin));
    let after = cursors.open(query.cursor.as_deref()).await?;
    let memberships = app.projections.memberships().get(identity.user_id).await?;
    let memberships = memberships.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default();
    let role_in = |id: &str| {
        let found = memberships.iter().find(|membership| membership.team_id.to_string() == id);
        found.map(|membership| membership.role.as_str().to_owned())
    };
    let rows = if admin {
        app.projections.teams().list(after.as_deref(), limit as i64 + 1).await?
    } else {
        // Not in the order in which one joined: whoever leaves the team that a page ended with could not go on from there.
        let after = after.unwrap_or_default();
        let mut ids: Vec<_> = memberships.iter().map(|membership| membership.team_id.to_string()).collect();
        ids.retain(|id| *id > after && identity.may_name(id));
        ids.sort_unstable();
        let mut rows = vec![];
        for id in ids.into_iter().take(limit + 1) {
            rows.extend(app.projections.teams().get(id).await?.map(|row| TeamRow::clone(&row)));
        }
        rows
    };
    let summary = |row: TeamRow| TeamSummary {
        role: role_in(&row.id),
        members: row.members.len(),
        id: row.id,
        slug: row.slug,
        name: row.name,
    };
    let items: Vec<_> = rows.into_iter().map(summary).collect();
    let page = cursors.page(items, limit, |team: &TeamSummary| team.id.clone()).await?;
    Ok(Json(pick(page, query.fields.as_deref())?))
}

/// A team to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Payments", "slug": "payments"}))]
pub struct MakeTeamBody {
    name: String,
    slug: String,
}

/// Makes a team. Whoever makes it owns it.
#[utoipa::path(
    post, path = "/teams", tag = "teams", request_body = MakeTeamBody,
    responses(
        (status = 201, description = "The team", body = TeamBody),
        (status = 409, description = "The slug is taken", body = ProblemBody),
    ),
)]
pub async fn make(
    State(app): State<App>,
    admin: Can<TeamsMake>,
    creation: Creation<MakeTeamBody>,
) -> Result<Answer<TeamBody>, Problem> {
    let (asked, context) = creation.within(&admin.context);
    let mut fields = Fields::default();
    let name = fields.check("name", TeamName::parse(&asked.name));
    let slug = fields.check("slug", TeamSlug::parse(&asked.slug));
    fields.done()?;
    let (Some(name), Some(slug)) = (name, slug) else {
        return Err(Problem::internal("checked fields are missing"));
    };
    let done = app.commands.make_team(&context, name, slug, admin.user_id).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.teams(), &done, |row| row.sequence).await?;
    Ok(Answer::created(body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// What allows one to join.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"invitation_token": "dbi_0198c5a0…"}))]
pub struct JoinBody {
    #[schema(value_type = String)]
    invitation_token: Zeroizing<String>,
}

/// Joins a team by invitation, for somebody who has an account. The invitation must have gone to the account's address.
#[utoipa::path(
    post, path = "/teams/join", tag = "teams", request_body = JoinBody,
    responses(
        (status = 200, description = "The team", body = TeamBody),
        (status = 409, description = "In it already, or the invitation is for another", body = ProblemBody),
        (status = 422, description = "The token is not one that is open", body = ProblemBody),
    ),
)]
pub async fn join(
    State(app): State<App>,
    person: Person,
    Json(asked): Json<JoinBody>,
) -> Result<Answer<TeamBody>, Problem> {
    let email = Email::parse(&person.user.email).map_err(|invalid| Problem::internal(invalid.0))?;
    let token = &asked.invitation_token;
    let done = app.commands.accept_invitation(&person.context, token, person.user_id, &email).await;
    let done = done.map_err(of_invitation)?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.teams(), &done, |row| row.sequence).await?;
    let mut body = body(&app, &row).await?;
    // What the role, or a missing second factor, would hide a moment later is not shown now either.
    let role = row.members.get(&person.user_id).map(|role| role.permissions()).unwrap_or_default();
    if !role.contains(Permission::TeamRead) || (row.two_factor_required && !person.user.two_factor) {
        body.members.clear();
    }
    Ok(Answer::ok(body).tagged(row.sequence).at(done.position))
}
