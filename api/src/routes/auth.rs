//! Registering, signing in, and who one is.

use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use commands::{About, NewAccount, Password, SignIn};
use domain::{Email, Permissions, PersonName, User, UserCommand};
use projections::UserRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Answer, if_match};
use crate::app::App;
use crate::authenticate::{Anonymous, Identity};
use crate::config::Registration;
use crate::extract::Json;
use crate::input::{Creation, Fields};
use crate::problem::{Problem, ProblemBody};
use crate::tokens::Claims;

/// A person, as everybody who may see them sees them.
#[derive(Debug, Serialize, ToSchema)]
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

/// A new account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "password": "correct horse battery", "name": "Ada Lovelace"}))]
pub struct RegisterBody {
    email: String,
    password: String,
    name: String,
    /// From an invitation to a team.
    #[serde(default)]
    invitation_token: Option<String>,
}

/// Makes an account, and the team it owns.
#[utoipa::path(
    post, path = "/auth/register", tag = "auth", request_body = RegisterBody,
    responses(
        (status = 201, description = "The account", body = UserBody),
        (status = 403, description = "Registration is not open", body = ProblemBody),
        (status = 409, description = "The address is taken", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ), security(()),
)]
pub async fn register(
    State(app): State<App>,
    anonymous: Anonymous,
    creation: Creation<RegisterBody>,
) -> Result<Answer<UserBody>, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    let (body, mut context) = creation.within(&anonymous.context);
    if app.settings.registration == Registration::Closed {
        return Err(Problem::forbidden("Nobody can register here.").with_code("registration_closed"));
    }
    if body.invitation_token.is_some() {
        return Err(Problem::invalid("invitation_token", "is not one that is open"));
    }
    if app.settings.registration != Registration::Open {
        return Err(
            Problem::forbidden("Registration is by invitation only.").with_code("registration_closed")
        );
    }
    let mut fields = Fields::default();
    let email = fields.check("email", Email::parse(&body.email));
    let name = fields.check("name", PersonName::parse(&body.name));
    let person = About { email: email.as_ref(), name: name.as_ref() };
    let password = fields.check("password", Password::choose(body.password, &person));
    fields.done()?;
    let (Some(email), Some(name), Some(password)) = (email, name, password) else {
        return Err(Problem::internal("checked fields are missing"));
    };
    context.caller.permissions = Permissions::registration();
    let account = NewAccount { email, name, password, admin: false, team: None };
    let done = app.commands.register(&context, account).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.users(), &done, |row| row.sequence).await?;
    let mut teams = teams_of(&app, &row.id).await?;
    // A repeated request gets the first answer: the team that came with the account is the one they joined first.
    teams.truncate(1);
    Ok(Answer::created(body_of(&row, teams, None)).tagged(row.sequence).at(done.position))
}

/// Who wants to sign in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "password": "correct horse battery"}))]
pub struct LoginBody {
    email: String,
    password: String,
    /// Six digits, for those who have a second factor.
    #[serde(default)]
    totp_code: Option<String>,
}

/// What a signed-in person carries from now on.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokensBody {
    /// For `Authorization: Bearer`.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token expires.
    expires_in: i64,
    /// For a new access token.
    refresh_token: String,
}

/// Signs in with e-mail address and password. Every attempt is recorded.
#[utoipa::path(
    post, path = "/auth/login", tag = "auth", request_body = LoginBody,
    responses(
        (status = 200, description = "Tokens", body = TokensBody),
        (status = 401, description = "Wrong address or password: which one is not told", body = ProblemBody),
        (status = 429, description = "Too many attempts", body = ProblemBody),
    ), security(()),
)]
pub async fn login(
    State(app): State<App>,
    anonymous: Anonymous,
    Json(body): Json<LoginBody>,
) -> Result<Answer<TokensBody>, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    app.limits.check_sign_in_email(&body.email.to_lowercase())?;
    if body.totp_code.is_some_and(|code| code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(Problem::invalid("totp_code", "must be six digits"));
    }
    let email = Email::parse(&body.email).map_err(|invalid| Problem::invalid("email", invalid.0))?;
    let row = app.projections.users().by_email(&email.canonical()).await?;
    let account = match row.filter(|row| row.active) {
        Some(row) => Some((row.id.parse().map_err(Problem::internal)?, row.password_hash)),
        None => None,
    };
    let attempt = SignIn {
        email,
        password: Password::typed(body.password),
        account,
        refresh_days: u16::try_from(app.settings.refresh_token_days).unwrap_or(u16::MAX),
    };
    let signed_in = app.commands.sign_in(&anonymous.context, attempt).await?;
    let now = Utc::now();
    let lifetime = TimeDelta::minutes(i64::from(app.settings.access_token_minutes));
    let claims = Claims {
        sub: signed_in.user_id.0,
        sid: signed_in.session_id.0,
        iat: now.timestamp(),
        exp: (now + lifetime).timestamp(),
        jti: None,
    };
    let body = TokensBody {
        access_token: app.tokens.issue(&claims)?,
        token_type: "Bearer",
        expires_in: lifetime.num_seconds(),
        refresh_token: signed_in.refresh_token,
    };
    Ok(Answer::ok(body).at(Some(signed_in.position)))
}

/// Who one is.
#[utoipa::path(
    get, path = "/auth/me", tag = "auth",
    responses((status = 200, description = "The caller", body = UserBody)),
)]
pub async fn me(State(app): State<App>, identity: Identity) -> Result<Answer<UserBody>, Problem> {
    let row = &identity.user;
    Ok(Answer::ok(user_body(&app, row).await?).tagged(row.sequence))
}

/// What one changes about oneself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Ada King"}))]
pub struct RenameBody {
    name: String,
}

/// Changes one's name.
#[utoipa::path(
    patch, path = "/auth/me", tag = "auth", request_body = RenameBody,
    responses(
        (status = 200, description = "The caller", body = UserBody),
        (status = 412, description = "Changed meanwhile", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn rename_me(
    State(app): State<App>,
    identity: Identity,
    headers: HeaderMap,
    Json(body): Json<RenameBody>,
) -> Result<Answer<UserBody>, Problem> {
    let name = PersonName::parse(&body.name).map_err(|invalid| Problem::invalid("name", invalid.0))?;
    let id = identity.user_id;
    let command = UserCommand::Rename { name };
    let done = app.commands.execute::<User>(&identity.context, id, if_match(&headers)?, command).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.users(), &done, |row| row.sequence).await?;
    Ok(Answer::ok(user_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// The keys that access tokens are checked with (RFC 7517).
pub async fn jwks(State(app): State<App>) -> axum::Json<serde_json::Value> {
    axum::Json(app.tokens.jwks())
}

async fn user_body(app: &App, row: &UserRow) -> Result<UserBody, Problem> {
    let teams = teams_of(app, &row.id).await?;
    let last = app.projections.last_access().get(format!("user/{}", row.id)).await?;
    Ok(body_of(row, teams, last.map(|last| last.at)))
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

/// A time as the contract shows times: RFC 3339, UTC, milliseconds.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
