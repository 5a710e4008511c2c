//! Registering, signing in, staying signed in, and who one is.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::TimeDelta;
use commands::{
    About, Account, BroughtRefresh, CommandError, FirstTeam, NewAccount, NewPassword, Password, RefreshError,
    SecondFactor, SignIn, SignedIn,
};
use domain::{Email, Permissions, PersonName, User, UserCommand};
use projections::UserRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::answer::{Answer, if_match};
use crate::app::App;
use crate::authenticate::{Anonymous, Identity, Person};
use crate::confidential::Confidential;
use crate::config::Registration;
use crate::cookies;
use crate::credential::{check_csrf, csrf_token, disagreement};
use crate::extract::Json;
use crate::input::{Creation, Fields};
use crate::problem::{Problem, ProblemBody};
use crate::routes::users::{UserBody, first_body, seen_body, user_body};
use crate::tokens::Claims;

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "password": "correct horse battery", "name": "Ada Lovelace"}))]
pub struct RegisterBody {
    email: String,
    #[schema(value_type = String)]
    password: Zeroizing<String>,
    name: String,
    /// From an invitation to a team.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    invitation_token: Option<Zeroizing<String>>,
}

/// Makes an account, and the team it owns; with an invitation's token it joins that team instead. A mail asks to show that the address is
/// theirs, unless the invitation came to it.
#[utoipa::path(
    post, path = "/auth/register", tag = "auth", request_body = RegisterBody,
    responses(
        (status = 201, description = "The account", body = UserBody),
        (status = 403, description = "Registration is not open", body = ProblemBody),
        (status = 409, description = "The address is taken, or the invitation is for another", body = ProblemBody),
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
    if app.settings.registration != Registration::Open && body.invitation_token.is_none() {
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
    let account = NewAccount {
        email,
        name,
        password: NewPassword::Chosen(password),
        admin: false,
        email_verified: false,
        active: true,
        team: body.invitation_token.map_or(FirstTeam::Own, FirstTeam::Invited),
    };
    let done = app.commands.register(&context, account).await.map_err(of_invitation)?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.users(), &done, |row| row.sequence).await?;
    Ok(Answer::created(first_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// An invitation that is not good is a matter of that field.
pub(super) fn of_invitation(error: CommandError) -> Problem {
    match error.refusal_code() {
        // Nor is it told whether there is such a team.
        Some("invitation_not_open" | "team_not_found") => {
            Problem::invalid("invitation_token", "is not one that is open").with_code("invitation_not_open")
        }
        _ => error.into(),
    }
}

/// Who wants to sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "password": "correct horse battery", "totp_code": "123456"}))]
pub struct LoginBody {
    email: String,
    #[schema(value_type = String)]
    password: Zeroizing<String>,
    /// Six digits from the device, or a recovery code, for those who have a second factor.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    totp_code: Option<Zeroizing<String>>,
}

/// What a signed-in person carries from now on: tokens, or what a browser must know that keeps them in cookies.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"access_token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSIs…", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "dbr_0198c5a0…"}))]
pub struct TokensBody {
    /// For `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    access_token: Option<Zeroizing<String>>,
    /// `Bearer`, or `Cookie` for whoever asked for cookies.
    token_type: &'static str,
    /// Seconds until the access token expires.
    expires_in: i64,
    /// For a new access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
    /// For the header `X-CSRF-Token`, with cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    csrf_token: Option<Zeroizing<String>>,
}

/// Signs in with e-mail address and password, and a second factor where one is set up. Every attempt is recorded. With the header
/// `Daybook-Session: cookie` the tokens go into cookies that scripts cannot read.
#[utoipa::path(
    post, path = "/auth/login", tag = "auth", request_body = LoginBody,
    params(("Daybook-Session" = Option<String>, Header, description = "`cookie`: keep the tokens in cookies")),
    responses(
        (status = 200, description = "Tokens", body = TokensBody),
        (status = 401, description = "Wrong address or password: which one is not told; or the second factor is missing (`totp_required`) or wrong (`totp_invalid`)", body = ProblemBody),
        (status = 429, description = "Too many attempts", body = ProblemBody),
    ), security(()),
)]
pub async fn login(
    State(app): State<App>,
    anonymous: Anonymous,
    headers: HeaderMap,
    Json(body): Json<LoginBody>,
) -> Result<Confidential<TokensBody>, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    let second_factor = match body.totp_code {
        None => None,
        Some(text) => Some(second_factor(&text)?),
    };
    let email = Email::parse(&body.email).map_err(|invalid| Problem::invalid("email", invalid.0))?;
    let row = app.projections.users().by_email(&email.canonical()).await?;
    let attempt = SignIn {
        email,
        password: Password::typed(body.password),
        second_factor,
        account: row.map(account).transpose()?,
        refresh_days: refresh_days(&app),
    };
    let signed_in = app.commands.sign_in(&anonymous.context, attempt).await?;
    tokens(&app, signed_in, cookies::wanted(&headers)).await
}

fn account(row: UserRow) -> Result<Account, Problem> {
    Ok(Account {
        user_id: row.id.parse().map_err(Problem::internal)?,
        active: row.active,
        password_hash: row.password_hash,
        second_factor: row.two_factor_sealed.filter(|_| row.two_factor),
        sequence: row.sequence,
    })
}

/// A second factor as it was typed.
pub(super) fn second_factor(text: &str) -> Result<SecondFactor, Problem> {
    SecondFactor::typed(text)
        .ok_or_else(|| Problem::invalid("totp_code", "must be six digits, or a recovery code"))
}

fn refresh_days(app: &App) -> u16 {
    u16::try_from(app.settings.refresh_token_days).unwrap_or(u16::MAX)
}

/// Waits for the session to be seen, so that its first request is not turned away.
async fn tokens(
    app: &App,
    signed_in: SignedIn,
    in_cookies: bool,
) -> Result<Confidential<TokensBody>, Problem> {
    app.settle(signed_in.position).await;
    // A token that is dated in the future, since the database's clock was set back a moment ago, would soon be refused.
    app.ledger.recheck_clock().await;
    let now = app.now();
    let lifetime = TimeDelta::minutes(i64::from(app.settings.access_token_minutes));
    let claims = Claims {
        sub: signed_in.user_id.0,
        sid: signed_in.session_id.0,
        iat: now.timestamp(),
        exp: (now + lifetime).timestamp(),
        jti: None,
    };
    let (access_token, expires_in) = (Zeroizing::new(app.tokens.issue(&claims)?), lifetime.num_seconds());
    let refresh_token = signed_in.refresh_token;
    if !in_cookies {
        let body = TokensBody {
            access_token: Some(access_token),
            token_type: "Bearer",
            expires_in,
            refresh_token: Some(refresh_token),
            csrf_token: None,
        };
        return Ok(Confidential(Answer::ok(body).at(signed_in.position)));
    }
    let csrf_token = Zeroizing::new(csrf_token(app, signed_in.session_id).await?);
    let kept = cookies::Kept {
        access_token: &access_token,
        access_seconds: expires_in,
        refresh_token: &refresh_token,
        refresh_seconds: TimeDelta::days(i64::from(refresh_days(app))).num_seconds(),
        csrf_token: &csrf_token,
    };
    let cookies = kept.headers(app.settings.production());
    let body = TokensBody {
        access_token: None,
        token_type: "Cookie",
        expires_in,
        refresh_token: None,
        csrf_token: Some(csrf_token),
    };
    Ok(Confidential(Answer::ok(body).at(signed_in.position).with_cookies(cookies)))
}

/// How a session goes on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"refresh_token": "dbr_0198c5a0…"}))]
pub struct RefreshBody {
    /// Left out by browsers that have it in a cookie; they send the header `X-CSRF-Token`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
}

/// Exchanges a refresh token for a new access token and the next refresh token. Each is good for one use: of requests that bring the same
/// one at once exactly one succeeds, and the others are asked to repeat theirs in a second (409, `refresh_under_way`), when they get the same
/// answer. A use of an old token later than some seconds after its exchange ends the session.
#[utoipa::path(
    post, path = "/auth/refresh", tag = "auth", request_body = RefreshBody,
    responses(
        (status = 200, description = "Tokens", body = TokensBody),
        (status = 401, description = "Not a refresh token of a session that goes on", body = ProblemBody),
        (status = 409, description = "Another request with this token came first; see Retry-After", body = ProblemBody),
    ), security(()),
)]
pub async fn refresh(
    State(app): State<App>,
    anonymous: Anonymous,
    headers: HeaderMap,
    Json(body): Json<RefreshBody>,
) -> Result<Confidential<TokensBody>, Problem> {
    let cookie = cookies::refresh_token(&headers, app.settings.production()).map_err(|_| disagreement())?;
    let (token, by_cookie) = match (&body.refresh_token, cookie) {
        (Some(text), Some(cookie)) if text.as_str() != cookie => return Err(disagreement()),
        (Some(text), _) => (text.as_str(), false),
        (None, Some(cookie)) => (cookie, true),
        (None, None) => return Err(Problem::invalid("refresh_token", "is missing")),
    };
    let brought = app.commands.read_refresh_token(token).await?;
    if by_cookie {
        check_csrf(&app, &headers, brought.session_id).await?;
    }
    if !goes_on(&app, &brought).await? {
        return Err(RefreshError::Invalid.into());
    }
    let refreshed = app.commands.refresh_session(&anonymous.context, &brought, refresh_days(&app)).await;
    if let Err(RefreshError::Reused { position }) = &refreshed {
        app.settle(*position).await;
    }
    tokens(&app, refreshed?, by_cookie).await
}

/// Whether nothing has ended the session: what does for access tokens does for refresh tokens, a change of the password or too many
/// sessions included. A view that does not know of it yet is waited for: to be signed out by mistake cannot be made good.
async fn goes_on(app: &App, brought: &BroughtRefresh) -> Result<bool, Problem> {
    projections::demand(brought.position, false);
    let row = app.projections.credentials().get(brought.user_id).await?;
    Ok(row.is_some_and(|row| row.goes_on(brought.session_id)))
}

/// Ends the session. Its tokens are refused from now on, on every node within a second.
#[utoipa::path(
    post, path = "/auth/logout", tag = "auth",
    responses((status = 204, description = "Ended"), (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody)),
)]
pub async fn logout(State(app): State<App>, person: Person) -> Result<Response, Problem> {
    let done = app.commands.end_session(&person.context, person.session).await?;
    app.settle(done.position).await;
    Ok(goodbye(&app, done.position))
}

/// Ends all the caller's sessions.
#[utoipa::path(
    post, path = "/auth/logout-all", tag = "auth",
    responses((status = 204, description = "Ended"), (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody)),
)]
pub async fn logout_all(State(app): State<App>, person: Person) -> Result<Response, Problem> {
    let command = UserCommand::SignOutEverywhere;
    let done = app.commands.execute::<User>(&person.context, person.user_id, None, command).await?;
    app.settle(done.position).await;
    Ok(goodbye(&app, done.position))
}

/// 204, and the browser forgets its cookies.
pub(super) fn goodbye(app: &App, position: Option<i64>) -> Response {
    let cookies = cookies::forgotten(app.settings.production());
    Answer::ok(()).at(position).with_cookies(cookies).without_content()
}

/// Who one is; for an API key who its maker is, with no team but the key's.
#[utoipa::path(
    get, path = "/auth/me", tag = "auth",
    responses((status = 200, description = "The caller", body = UserBody)),
)]
pub async fn me(State(app): State<App>, identity: Identity) -> Result<Answer<UserBody>, Problem> {
    let row = &identity.user;
    Ok(Answer::ok(seen_body(&app, &identity, row).await?).tagged(row.sequence))
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
    person: Person,
    headers: HeaderMap,
    Json(body): Json<RenameBody>,
) -> Result<Answer<UserBody>, Problem> {
    let name = PersonName::parse(&body.name).map_err(|invalid| Problem::invalid("name", invalid.0))?;
    let id = person.user_id;
    let command = UserCommand::Rename { name };
    let done = app.commands.execute::<User>(&person.context, id, if_match(&headers)?, command).await?;
    app.settle(done.position).await;
    let row = app.as_written(app.projections.users(), &done, |row| row.sequence).await?;
    Ok(Answer::ok(user_body(&app, &row).await?).tagged(row.sequence).at(done.position))
}

/// The keys that access tokens are checked with (RFC 7517).
pub async fn jwks(State(app): State<App>) -> axum::Json<serde_json::Value> {
    axum::Json(app.tokens.jwks())
}
