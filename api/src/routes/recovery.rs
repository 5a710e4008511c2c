//! Getting back in, and showing that an address is one's own: by a token that was sent there.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use commands::{AttemptError, CommandError, Purpose};
use domain::{Email, MailTokenUse};
use serde::Deserialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::answer::no_content;
use crate::app::App;
use crate::authenticate::{Anonymous, Person};
use crate::extract::Json;
use crate::middleware::client_ip::ClientIp;
use crate::problem::{Problem, ProblemBody};
use crate::routes::account::new_password;

/// Who wants to get back in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org"}))]
pub struct ResetBody {
    email: String,
}

/// Sends a mail with a token for a new password to the address, if somebody has an account with it. The answer does not tell.
#[utoipa::path(
    post, path = "/auth/password-reset", tag = "auth", request_body = ResetBody,
    responses((status = 202, description = "Whatever the address"), (status = 429, description = "Too many attempts", body = ProblemBody)),
    security(()),
)]
pub async fn request_reset(
    State(app): State<App>,
    anonymous: Anonymous,
    Json(body): Json<ResetBody>,
) -> Result<StatusCode, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    let email = Email::parse(&body.email).map_err(|invalid| Problem::invalid("email", invalid.0))?;
    // Nobody can fill another's mailbox, and the answer is the same: what is too much is left out.
    let room = mail_wait(&app, &email, anonymous.ip).await?.is_none();
    let row = app.projections.users().by_email(&email.canonical()).await?;
    // Off the request's way: whether something is recorded must not show in the time of the answer.
    if let Some(row) = row.filter(|row| row.active && room) {
        let address = Email::parse(&row.email).map_err(|invalid| Problem::internal(invalid.0))?;
        let id = row.id.parse().map_err(Problem::internal)?;
        let (commands, context) = (app.commands.clone(), anonymous.context.clone());
        app.in_background(async move {
            if let Err(error) = commands.request_password_reset(&context, id, &address).await {
                tracing::error!(%error, "a password reset could not be recorded");
            }
        });
    }
    Ok(StatusCode::ACCEPTED)
}

/// Counts a mail to this address, on all nodes together. If there were too many of late, it is not to be sent, and the answer is when the
/// next one may be.
async fn mail_wait(app: &App, email: &Email, ip: ClientIp) -> Result<Option<Duration>, Problem> {
    // Not said to have succeeded, it counts.
    match app.commands.guessing().begin(Purpose::Mail, &email.canonical(), ip.0).await {
        Ok(_) => Ok(None),
        Err(AttemptError::TooSoon { wait }) => Ok(Some(wait)),
        Err(error @ AttemptError::Uncounted(_)) => Err(error.into()),
    }
}

/// A new password, and what allows it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "dbm_0198c5a0…", "new_password": "a staple that is correct"}))]
pub struct ConfirmResetBody {
    #[schema(value_type = String)]
    token: Zeroizing<String>,
    #[schema(value_type = String)]
    new_password: Zeroizing<String>,
}

/// Sets a new password. The token is good for an hour and one use; all sessions end. A second factor stays.
#[utoipa::path(
    post, path = "/auth/password-reset/confirm", tag = "auth", request_body = ConfirmResetBody,
    responses(
        (status = 204, description = "Set; sign in"),
        (status = 422, description = "The token is not one that is open, or the password not acceptable", body = ProblemBody),
    ), security(()),
)]
pub async fn confirm_reset(
    State(app): State<App>,
    anonymous: Anonymous,
    Json(body): Json<ConfirmResetBody>,
) -> Result<Response, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    let token = app.commands.read_mail_token(&body.token, MailTokenUse::PasswordReset).await;
    let token = token.map_err(of_token)?;
    let row = app.projections.users().get(token.user_id).await?;
    // A password that was set since makes older tokens worthless: what the command asks again is not worth a hash.
    let row = row.filter(|row| row.active && row.password_position < token.position).ok_or_else(not_open)?;
    let new = new_password(body.new_password, &row)?;
    let done = app.commands.reset_password(&anonymous.context, &token, new).await;
    let done = done.map_err(of_token)?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// What shows that an address is theirs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "dbm_0198c5a0…"}))]
pub struct VerifyBody {
    #[schema(value_type = String)]
    token: Zeroizing<String>,
}

/// Shows that an address is one's own. The token is good for three days and one use.
#[utoipa::path(
    post, path = "/auth/verify-email", tag = "auth", request_body = VerifyBody,
    responses(
        (status = 204, description = "Shown"),
        (status = 422, description = "The token is not one that is open", body = ProblemBody),
    ), security(()),
)]
pub async fn verify_email(
    State(app): State<App>,
    anonymous: Anonymous,
    Json(body): Json<VerifyBody>,
) -> Result<Response, Problem> {
    app.limits.check_sign_in(anonymous.ip)?;
    let token = app.commands.read_mail_token(&body.token, MailTokenUse::EmailVerification).await;
    let token = token.map_err(of_token)?;
    let done = app.commands.verify_email(&anonymous.context, &token).await.map_err(of_token)?;
    app.settle(done.position).await;
    Ok(no_content(done.position))
}

/// Sends the mail that asks one to show that the address is one's own once more.
#[utoipa::path(
    post, path = "/auth/verify-email/resend", tag = "auth",
    responses(
        (status = 202, description = "On its way"),
        (status = 403, description = "Not a person's session, or X-CSRF-Token is missing", body = ProblemBody),
        (status = 409, description = "Shown already", body = ProblemBody),
    ),
)]
pub async fn resend_verification(
    State(app): State<App>,
    person: Person,
    ip: ClientIp,
) -> Result<StatusCode, Problem> {
    if person.user.email_verified {
        return Err(Problem::conflict("The address is known to be yours.").with_code("email_verified"));
    }
    let email = Email::parse(&person.user.email).map_err(|invalid| Problem::internal(invalid.0))?;
    if let Some(wait) = mail_wait(&app, &email, ip).await? {
        return Err(Problem::too_many_requests(wait).with_code("too_many_mails"));
    }
    app.commands.request_email_verification(&person.context, person.user_id, &email).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Whatever is wrong with a token, it is told alike.
fn of_token(error: CommandError) -> Problem {
    match error.refusal_code() {
        Some("token_not_open" | "user_erased" | "user_inactive" | "user_not_found") => not_open(),
        _ => error.into(),
    }
}

fn not_open() -> Problem {
    Problem::invalid("token", "is not one that is open").with_code("token_not_open")
}
