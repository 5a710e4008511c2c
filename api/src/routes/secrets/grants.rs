//! Leave to see one secret for a while ("break-glass").

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use commands::GrantRequest;
use domain::{GrantId, LONGEST_GRANT, Reason, Secret, SecretCommand, SecretId, UserId};
use projections::{GrantRow, SecretRow, TeamRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::find;
use crate::answer::{Answer, no_content};
use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::{SecretsRead, TeamWrite};
use crate::extract::{Json, Path};
use crate::input::{Creation, Fields};
use crate::list::Page;
use crate::problem::{Problem, ProblemBody};
use projections::time::text as time;

/// Leave to see a secret's values for a while.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e55", "user_id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c",
    "until": "2026-11-21T12:00:00.000Z", "open": true, "reason": "incident 7",
    "granted_by": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3d", "granted_at": "2026-11-21T11:00:00.000Z"
}))]
pub struct GrantBody {
    /// The grant's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Who may.
    pub user_id: String,
    /// When it ends by itself.
    pub until: String,
    /// Whether it has not ended yet.
    pub open: bool,
    /// Why it was given.
    pub reason: String,
    /// Who gave it.
    pub granted_by: String,
    /// When.
    pub granted_at: String,
}

impl GrantBody {
    fn of(secret: &SecretRow, team: Option<&TeamRow>, row: &GrantRow, now: DateTime<Utc>) -> Self {
        let is_member = team.is_some_and(|team| team.members.contains_key(&row.user_id));
        Self {
            id: row.id.to_string(),
            user_id: row.user_id.to_string(),
            until: time(row.until),
            open: now < row.until && !secret.deleted && is_member,
            reason: row.reason.clone(),
            granted_by: row.granted_by.clone(),
            granted_at: time(row.granted_at),
        }
    }
}

/// A grant to come.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "minutes": 60, "reason": "incident 7"}))]
pub struct GrantRequestBody {
    /// A member of the team.
    user_id: Uuid,
    /// How long, 1 to 1,440.
    minutes: i64,
    /// Why; recorded, and told in the mail.
    reason: String,
}

/// Lets a member of the team, whose role is not enough, see this secret's values for a while. It is recorded, the team's owners and the
/// person are told by mail, and it ends by itself. For owners.
#[utoipa::path(
    post, path = "/secrets/{id}/grants", tag = "secrets", params(("id" = Uuid, Path)), request_body = GrantRequestBody,
    responses(
        (status = 201, description = "The grant", body = GrantBody),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
        (status = 409, description = "Too many grants are open", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn grant(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    Path(id): Path<Uuid>,
    creation: Creation<GrantRequestBody>,
) -> Result<Answer<GrantBody>, Problem> {
    let (body, context) = creation.within(&caller.context);
    let (id, team) = (SecretId(id), caller.team()?);
    find(&app, &caller, id).await?;
    let mut fields = Fields::default();
    let reason = fields.check("reason", Reason::parse(&body.reason));
    if !(1..=LONGEST_GRANT.num_minutes()).contains(&body.minutes) {
        fields.refuse("minutes", format!("must be 1 to {}", LONGEST_GRANT.num_minutes()));
    }
    let user_id = UserId(body.user_id);
    let members = app.projections.teams().get(team).await?;
    if !members.as_deref().is_some_and(|team| team.members.contains_key(&user_id)) {
        fields.refuse("user_id", "must be a member of the team");
    }
    fields.done()?;
    let reason = reason.ok_or_else(|| Problem::internal("a checked field is missing"))?;
    let request = GrantRequest { user_id, duration: TimeDelta::minutes(body.minutes), reason };
    let made = app.commands.grant_reveal(&context, id, request).await?;
    app.settle(made.done.position).await;
    let row = app.as_written(app.projections.secrets().of(team), &made.done, |row| row.sequence).await?;
    let grant = row.grants.iter().find(|grant| grant.id == made.id);
    let grant = grant.ok_or_else(|| Problem::internal("a grant is not where it was written"))?;
    Ok(Answer::created(GrantBody::of(&row, members.as_deref(), grant, app.now())).at(made.done.position))
}

/// Who may see this secret for a while, with those whose time was over when the last one was given; at most some dozens.
#[utoipa::path(
    get, path = "/secrets/{id}/grants", tag = "secrets", operation_id = "list_grants", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "All of them", body = Page<GrantBody>),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<SecretsRead>,
    Path(id): Path<Uuid>,
) -> Result<Json<Page<GrantBody>>, Problem> {
    let row: std::sync::Arc<SecretRow> = find(&app, &caller, SecretId(id)).await?;
    let (team, now) = (app.projections.teams().get(row.team_id).await?, app.now());
    let items = row.grants.iter().map(|grant| GrantBody::of(&row, team.as_deref(), grant, now));
    Ok(Json(Page { items: items.collect(), next: None }))
}

/// Ends a grant before its time.
#[utoipa::path(
    delete, path = "/secrets/{id}/grants/{grant_id}", tag = "secrets", operation_id = "withdraw_grant",
    params(("id" = Uuid, Path), ("grant_id" = Uuid, Path)),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "No such secret in this team, or no such grant", body = ProblemBody),
    ),
)]
pub async fn withdraw(
    State(app): State<App>,
    caller: Can<TeamWrite>,
    Path((id, grant_id)): Path<(Uuid, Uuid)>,
) -> Result<Response, Problem> {
    let command = SecretCommand::WithdrawGrant { id: GrantId(grant_id) };
    let done = app.commands.execute::<Secret>(&caller.context, SecretId(id), None, command).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}
