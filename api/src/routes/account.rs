//! One's own account: the password, the sessions, the second factor.

use axum::extract::State;
use axum::response::Response;
use commands::{About, Password, PresentPassword, SecondFactor};
use domain::{Email, PersonName, SessionId};
use projections::time::text as time;
use projections::{SessionRow, UserRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::answer::{Answer, no_content};
use crate::app::App;
use crate::authenticate::Person;
use crate::confidential::Confidential;
use crate::extract::{Json, Path, Query};
use crate::list::{Cursors, Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::routes::auth::{goodbye, second_factor};

/// A password in place of another.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"current_password": "correct horse battery", "new_password": "a staple that is correct"}))]
pub struct PasswordBody {
    #[schema(value_type = String)]
    current_password: Zeroizing<String>,
    #[schema(value_type = String)]
    new_password: Zeroizing<String>,
}

/// Changes one's password. All sessions end, this one too.
#[utoipa::path(
    post, path = "/auth/password", tag = "auth", request_body = PasswordBody,
    responses(
        (status = 204, description = "Changed; sign in again"),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 422, description = "The present password is not right, or the new one not acceptable", body = ProblemBody),
    ),
)]
pub async fn change_password(
    State(app): State<App>,
    person: Person,
    Json(body): Json<PasswordBody>,
) -> Result<Response, Problem> {
    let new = new_password(body.new_password, &person.user)?;
    let present =
        PresentPassword { hash: person.user.password_hash.clone(), position: person.user.password_position };
    let typed = Password::typed(body.current_password);
    let done = app.commands.change_password(&person.context, person.user_id, present, typed, new).await?;
    app.settle(done.position).await;
    Ok(goodbye(&app, done.position))
}

/// A password that somebody chose in place of another.
pub(super) fn new_password(text: Zeroizing<String>, user: &UserRow) -> Result<Password, Problem> {
    let (email, name) = (Email::parse(&user.email).ok(), PersonName::parse(&user.name).ok());
    let about = About { email: email.as_ref(), name: name.as_ref() };
    Password::choose(text, &about).map_err(|invalid| Problem::invalid("new_password", invalid.0))
}

/// A sign-in that goes on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a1-1d33-7b24-a25e-80b14c3dae6f", "current": true,
    "created_at": "2026-07-01T09:30:00.000Z", "refreshed_at": "2026-07-02T08:15:42.120Z",
    "expires_at": "2026-07-09T08:15:42.120Z", "ip": "192.0.2.7", "user_agent": "curl/8.5.0"
}))]
pub struct SessionBody {
    /// The session's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it began.
    pub created_at: String,
    /// When it was last refreshed.
    pub refreshed_at: String,
    /// When it ends unless it is refreshed.
    pub expires_at: String,
    /// From where it was last refreshed.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}

/// How many, and from where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Items of a page, 1 to 200 (50).
    pub(super) limit: Option<u32>,
    /// From a page's `next`.
    pub(super) cursor: Option<String>,
    /// Picks fields: `fields=id,created_at`.
    pub(super) fields: Option<String>,
}

/// One's sessions, in the order in which they began.
#[utoipa::path(
    get, path = "/auth/sessions", tag = "auth", params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<SessionBody>),
        (status = 403, description = "Not a person's session", body = ProblemBody),
    ),
)]
pub async fn sessions(
    State(app): State<App>,
    person: Person,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let cursors = Cursors::new(&app, ("sessions", person.user_id));
    let after = cursors.open(query.cursor.as_deref()).await?.unwrap_or_default();
    let row = app.projections.credentials().get(person.user_id).await?;
    let now = app.now();
    let mut sessions: Vec<&SessionRow> = row.iter().flat_map(|row| &row.sessions).collect();
    sessions.retain(|session| now < session.expires_at && session.id.to_string() > after);
    sessions.sort_by_key(|session| session.id);
    let items: Vec<_> =
        sessions.into_iter().take(limit + 1).map(|session| body(session, person.session)).collect();
    let page = cursors.page(items, limit, |session: &SessionBody| session.id.clone()).await?;
    Ok(Json(pick(page, query.fields.as_deref())?))
}

fn body(session: &SessionRow, current: SessionId) -> SessionBody {
    SessionBody {
        id: session.id.to_string(),
        current: session.id == current,
        created_at: time(session.created_at),
        refreshed_at: time(session.refreshed_at),
        expires_at: time(session.expires_at),
        ip: session.ip.clone(),
        user_agent: session.user_agent.clone(),
    }
}

/// Ends one of one's sessions.
#[utoipa::path(
    delete, path = "/auth/sessions/{id}", tag = "auth", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Ended"),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 404, description = "No such session of the caller's", body = ProblemBody),
    ),
)]
pub async fn end_session(
    State(app): State<App>,
    person: Person,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let done = app.commands.end_session(&person.context, SessionId(id)).await?;
    app.settle(done.position).await;
    // One's own is a signing out.
    Ok(if id == person.session.0 { goodbye(&app, done.position) } else { no_content(done.position) })
}

/// What a device needs; shown this once.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "otpauth_uri": "otpauth://totp/Daybook:ada%40example.org?secret=GEZD…&issuer=Daybook", "qr_svg": "<svg…"}))]
pub struct EnrolmentBody {
    /// The shared key in base32, to be typed.
    #[schema(value_type = String)]
    secret: Zeroizing<String>,
    /// The same for apps.
    #[schema(value_type = String)]
    otpauth_uri: Zeroizing<String>,
    /// The same as a picture: an SVG document.
    #[schema(value_type = String)]
    qr_svg: Zeroizing<String>,
}

/// Begins to set up a second factor (RFC 6238). It has no effect until it is confirmed.
#[utoipa::path(
    post, path = "/auth/2fa", tag = "auth",
    responses(
        (status = 200, description = "For the device", body = EnrolmentBody),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 409, description = "One is set up already", body = ProblemBody),
    ),
)]
pub async fn begin_two_factor(
    State(app): State<App>,
    person: Person,
) -> Result<Confidential<EnrolmentBody>, Problem> {
    let email = Email::parse(&person.user.email).map_err(|invalid| Problem::internal(invalid.0))?;
    let (enrolment, done) = app.commands.begin_two_factor(&person.context, person.user_id, &email).await?;
    app.settle(done.position).await;
    let body = EnrolmentBody {
        secret: enrolment.secret,
        otpauth_uri: enrolment.otpauth_uri,
        qr_svg: enrolment.qr_svg,
    };
    Ok(Confidential(Answer::ok(body).at(done.position)))
}

/// A code from one's device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"totp_code": "123456"}))]
pub struct CodeBody {
    #[schema(value_type = String)]
    totp_code: Zeroizing<String>,
}

/// What signs one in when the device is lost; shown this once.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"recovery_codes": ["k3wq-8n2p-x7ra-5mzt"]}))]
pub struct RecoveryBody {
    /// Each is good for one use.
    #[schema(value_type = Vec<String>)]
    recovery_codes: Vec<Zeroizing<String>>,
}

/// Confirms the second factor by a code. It is asked for from now on.
#[utoipa::path(
    post, path = "/auth/2fa/confirm", tag = "auth", request_body = CodeBody,
    responses(
        (status = 200, description = "Ten recovery codes", body = RecoveryBody),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 409, description = "None was begun, or one is set up already", body = ProblemBody),
        (status = 422, description = "The code is not right", body = ProblemBody),
    ),
)]
pub async fn confirm_two_factor(
    State(app): State<App>,
    person: Person,
    Json(body): Json<CodeBody>,
) -> Result<Confidential<RecoveryBody>, Problem> {
    let SecondFactor::Totp(code) = second_factor(&body.totp_code)? else {
        return Err(Problem::invalid("totp_code", "must be six digits"));
    };
    let (codes, done) = app.commands.enable_two_factor(&person.context, person.user_id, &code).await?;
    app.settle(done.position).await;
    Ok(Confidential(Answer::ok(RecoveryBody { recovery_codes: codes }).at(done.position)))
}

/// Switches the second factor off; a code, or a recovery code, shows that it is really its person who asks.
#[utoipa::path(
    delete, path = "/auth/2fa", tag = "auth", request_body = CodeBody,
    responses(
        (status = 204, description = "Switched off"),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 409, description = "None is set up", body = ProblemBody),
        (status = 422, description = "The code is not right", body = ProblemBody),
    ),
)]
pub async fn disable_two_factor(
    State(app): State<App>,
    person: Person,
    Json(body): Json<CodeBody>,
) -> Result<Response, Problem> {
    let proof = second_factor(&body.totp_code)?;
    let done = app.commands.disable_two_factor(&person.context, person.user_id, &proof).await?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}
