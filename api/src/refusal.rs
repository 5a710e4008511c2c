//! How what went wrong inside becomes a problem outside: the one mapping.

use std::time::Duration;

use commands::{
    AttemptError, CommandError, PasswordError, RefreshError, RevealError, SignInError, Unreadable,
};
use domain::{ClaimKind, Denied, RefusalKind};
use ledger::connect::Cause;
use ledger::{AppendError, Divergence, LedgerError, SealError};
use projections::{Behind, ReadError};

use crate::problem::{FieldError, Problem};
use crate::tokens::TokenError;

/// When to come back after a passing fault.
const SOON: Duration = Duration::from_secs(1);
/// The same where somebody has to do something first.
const DIVERGED: Duration = Duration::from_secs(60);

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Denied(denied) => denied.into(),
            CommandError::Refused(refusal) => match refusal.kind() {
                RefusalKind::NotFound => {
                    Self::not_found().with_code(refusal.code()).with_detail(refusal.to_string())
                }
                RefusalKind::Conflict => Self::conflict(refusal.to_string()).with_code(refusal.code()),
            },
            CommandError::Taken(kind) => taken(kind),
            CommandError::Stale { present } => Self::precondition_failed(format!(
                "The present version is \"{present}\": read it again before you change it."
            )),
            CommandError::Contended => {
                Self::unavailable("too many conflicts on one stream", SOON).with_code("contended")
            }
            CommandError::KeyReused => {
                let message = "was used for another request";
                Self::unprocessable(vec![FieldError::new("Idempotency-Key", message)])
                    .with_code("idempotency_key_reused")
            }
            CommandError::KeyInUse => {
                Self::conflict("The first request with this Idempotency-Key is still being answered.")
                    .with_code("idempotency_key_in_use")
            }
            CommandError::Password(error) => error.into(),
            CommandError::Attempt(error) => error.into(),
            CommandError::WrongCode => {
                Self::invalid("totp_code", "is not right, or was used before").with_code("wrong_code")
            }
            CommandError::WrongPassword => {
                Self::invalid("current_password", "is not right").with_code("wrong_password")
            }
            CommandError::Totp(error) => Self::internal(error),
            CommandError::Append(error) => error.into(),
            CommandError::Ledger(error) => error.into(),
            CommandError::Seal(error @ SealError::NoWrappingKey { .. }) => {
                Self::unavailable(error, SOON).with_code("key_not_configured")
            }
            CommandError::Seal(error) => Self::internal(error),
            CommandError::Event(cause) => Self::internal(cause),
            CommandError::DamagedEvent(cause) => unreadable_event(cause),
        }
    }
}

/// Somebody has to look at the log; repeating the request does not help.
pub(crate) fn unreadable_event(cause: impl std::fmt::Display) -> Problem {
    tracing::error!(%cause, "an event cannot be read");
    Problem::conflict(format!("It cannot be told from the log: {cause}.")).with_code("event_unreadable")
}

fn taken(kind: ClaimKind) -> Problem {
    let (code, detail) = match kind {
        ClaimKind::Email => ("email_taken", "There is an account with this e-mail address already."),
        ClaimKind::TeamSlug => ("slug_taken", "There is a team with this slug already."),
        ClaimKind::SecretName => ("name_taken", "The team has a secret of this name already."),
        ClaimKind::ScheduleName => ("name_taken", "The team has a schedule of this name already."),
        ClaimKind::IdempotencyKey => ("idempotency_key_in_use", "This Idempotency-Key is in use."),
        ClaimKind::JobPlace => ("job_waiting", "A job like this one waits already."),
        // Nobody is asked for these.
        ClaimKind::TotpStep | ClaimKind::Admins => ("taken", "Somebody else came first."),
    };
    Problem::conflict(detail).with_code(code)
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotFound => Self::not_found(),
            Denied::Forbidden(permission) => {
                Self::forbidden(format!("The permission {permission} is missing."))
            }
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict => Self::conflict("Another change came first."),
            AppendError::Overloaded => Self::unavailable(error, SOON).with_code("overloaded"),
            AppendError::Unanswered | AppendError::Unavailable(_) => {
                let detail = "The event log does not answer. Whether this was done is not known: \
                              ask again with the same Idempotency-Key, or read before you repeat it.";
                Self::unavailable(error, SOON).with_detail(detail).with_code("log_unavailable")
            }
            AppendError::Diverged(divergence) => divergence.into(),
            AppendError::NotDone(cause) => {
                Self::unavailable(error, SOON).with_detail(not_done(cause)).with_code(cause.code())
            }
            AppendError::Refused(_) => Self::internal(error),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Database(cause) => database(cause),
            LedgerError::Diverged(divergence) => divergence.into(),
            LedgerError::Damaged { .. } => unreadable_event(error),
            LedgerError::Migration(_) | LedgerError::Seal(_) => Self::internal(error),
        }
    }
}

/// What is there may not be true any more: rather no answer than that.
impl From<Behind> for Problem {
    fn from(behind: Behind) -> Self {
        let Behind { view, reached, asked } = behind;
        metrics::counter!("views_behind_total", "view" => view).increment(1);
        let problem = if asked {
            let detail = format!(
                "The view {view} has reached position {reached}, not yet the one in Daybook-Position. Try again."
            );
            Self::gateway_timeout(detail).with_retry_after(SOON)
        } else {
            let detail =
                format!("The view {view} is not up to date: it stands at position {reached}. Try again.");
            Self::unavailable(behind, SOON).with_detail(detail)
        };
        problem.with_code("views_behind")
    }
}

/// What is written would not be on the log that was known.
impl From<Divergence> for Problem {
    fn from(divergence: Divergence) -> Self {
        let detail = format!("Nothing was done: {divergence}. An operator has to accept that first.");
        Self::quietly_unavailable(detail, DIVERGED).with_code("log_diverged")
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(cause) => database(cause),
            ReadError::Ledger(cause) => cause.into(),
            ReadError::Behind(behind) => behind.into(),
            ReadError::Fault(fault) => Self::internal(fault),
        }
    }
}

fn not_done(cause: Cause) -> String {
    format!("{} Nothing was done: try again later.", sentence(cause))
}

/// The cause, and nothing of the inside.
fn sentence(cause: Cause) -> String {
    let text = cause.to_string();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}.", first.unwrap_or_default(), characters.as_str())
}

/// A database that is away, full or shutting down is 503; one that does not understand us is our mistake.
pub(crate) fn database(error: sqlx::Error) -> Problem {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let ours = code.is_some_and(|code| ["22", "23", "42"].iter().any(|class| code.starts_with(class)));
    if ours {
        Problem::internal(error)
    } else {
        let cause = Cause::of(&error);
        Problem::unavailable(error, SOON).with_detail(sentence(cause)).with_code(cause.code())
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::unavailable(error, SOON).with_code("overloaded"),
            PasswordError::Hash(_) => Self::internal(error),
        }
    }
}

impl From<AttemptError> for Problem {
    fn from(error: AttemptError) -> Self {
        match error {
            AttemptError::TooSoon { wait } => Self::too_many_requests(wait)
                .with_code("too_many_attempts")
                .with_detail("Too many attempts have failed; see Retry-After."),
            AttemptError::Uncounted(error) => error.into(),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Wrong => {
                Self::unauthorized("The e-mail address or the password is wrong.").with_code("sign_in_failed")
            }
            SignInError::SecondFactorNeeded => {
                let detail =
                    "A second factor is needed: send totp_code, from your device or a recovery code.";
                Self::unauthorized(detail).with_code("totp_required")
            }
            SignInError::WrongSecondFactor => {
                Self::unauthorized("The second factor is not right, or was used before.")
                    .with_code("totp_invalid")
            }
            SignInError::Attempt(error) => error.into(),
            SignInError::Password(error) => error.into(),
            SignInError::Unrecorded(error) => error.into(),
        }
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => {
                Self::unauthorized("The refresh token is not valid.").with_code("refresh_token_invalid")
            }
            RefreshError::Expired => Self::unauthorized("The refresh token has expired: sign in again.")
                .with_code("refresh_token_expired"),
            RefreshError::Reused { .. } => {
                let detail = "The refresh token was used before: the session has ended. Sign in again.";
                Self::unauthorized(detail).with_code("refresh_token_reused")
            }
            RefreshError::Together(wait) => {
                let detail = "Another request with this refresh token came first. Nothing is lost: \
                              repeat this one in a moment and get what that one got.";
                Self::conflict(detail).with_code("refresh_under_way").with_retry_after(wait)
            }
            RefreshError::Command(error) => error.into(),
        }
    }
}

impl From<RevealError> for Problem {
    fn from(error: RevealError) -> Self {
        match error {
            RevealError::Denied(denied) => denied.into(),
            RevealError::Unreadable(unreadable) => unreadable.into(),
            RevealError::Ledger(error) => error.into(),
            RevealError::Unrecorded(error) => Self::unavailable(error, SOON)
                .with_code("not_recorded")
                .with_detail("The reading could not be recorded, so there is no value. Try again."),
        }
    }
}

/// Says which secret and why; never what was inside.
impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        let detail = format!("{error}.");
        match error.cause {
            SealError::Destroyed { .. } => {
                Self::gone(format!("Version {} was destroyed.", error.version)).with_code("version_destroyed")
            }
            // Somebody has to configure it; nothing is lost.
            SealError::UnknownKey { .. } | SealError::NoWrappingKey { .. } => {
                Self::unavailable(error, SOON).with_code("key_not_configured").with_detail(detail)
            }
            SealError::Malformed { .. } | SealError::Forged { .. } | SealError::Lost { .. } => {
                tracing::error!(%error, "a secret is damaged");
                Self::conflict(detail).with_code("secret_damaged")
            }
            SealError::NoRandomness | SealError::Indispensable { .. } => Self::internal(error),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => {
                Self::unauthorized("The access token has expired.").with_code("token_expired")
            }
            TokenError::NotYet => Self::unauthorized(
                "The access token is dated in the future: the clock that issued it and the database's differ. Refresh it or sign in again; \
                 operators find each node's difference in the metric clock_skew_seconds.",
            )
            .with_code("token_invalid"),
            TokenError::Key | TokenError::Signing => Self::internal(error),
            _ => Self::unauthorized("The access token is not valid.").with_code("token_invalid"),
        }
    }
}
