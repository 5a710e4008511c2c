//! What a request brings to say who asks: an access token, in the header or in a cookie, or an API key. And whether it is still good.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use chrono::{DateTime, Utc};
use commands::{API_KEY, BroughtKey, TicketProof};
use domain::{ApiKeyId, SessionId, UserId};
use ledger::Sha256;
use projections::{ApiKeyRow, CredentialsRow};
use uuid::Uuid;

use crate::app::App;
use crate::cookies::{self, CSRF_HEADER};
use crate::problem::Problem;
use crate::tokens::TokenError;

/// What was brought, as far as it can be told without looking anywhere: a token's signature is good, a key is of our making.
#[derive(Clone)]
pub(crate) enum Brought {
    /// An access token, good until `expires` (seconds since 1970); `by_cookie`: the browser sent it by itself.
    Token { user_id: UserId, session: SessionId, expires: i64, by_cookie: bool },
    /// An API key.
    Key(BroughtKey),
}

/// What was brought, and is good.
pub(crate) enum Credential {
    /// Of a person.
    Session(SessionId),
    /// Of a program.
    Key(ApiKeyRow),
}

impl Brought {
    /// Reads the request's credential.
    pub(crate) async fn by(parts: &Parts, app: &App) -> Result<Self, Problem> {
        let header = bearer(&parts.headers)?;
        let cookie =
            cookies::access_token(&parts.headers, app.settings.production()).map_err(|_| disagreement())?;
        let brought = match (header, cookie) {
            (None, None) => {
                let detail = "An access token or an API key is needed: Authorization: Bearer <token>.";
                return Err(Problem::unauthorized(detail));
            }
            (Some(text), cookie) => {
                let brought = Self::in_header(text, app).await?;
                match cookie {
                    Some(cookie) if !brought.agrees_with(cookie, app) => return Err(disagreement()),
                    Some(_) | None => brought,
                }
            }
            (None, Some(text)) => Self::token(text, app, true).await?,
        };
        Ok(brought)
    }

    /// Reads a credential that stands in an address, where no cookie counts.
    pub(crate) async fn in_address(text: &str, app: &App) -> Result<Self, Problem> {
        Self::in_header(text, app).await
    }

    /// Reads the credential in the header, whatever cookies there are.
    pub(crate) async fn without_cookies(parts: &Parts, app: &App) -> Result<Self, Problem> {
        let header = bearer(&parts.headers)?;
        let text = header.ok_or_else(|| Problem::unauthorized("An access token or an API key is needed."))?;
        Self::in_header(text, app).await
    }

    /// What a ticket was made with.
    pub(crate) fn of_ticket(user_id: UserId, proof: TicketProof) -> Self {
        match proof {
            TicketProof::Session { session, expires } => {
                Self::Token { user_id, session, expires, by_cookie: false }
            }
            TicketProof::Key(key) => Self::Key(key),
        }
    }

    /// What a ticket keeps of it.
    pub(crate) fn proof(&self) -> TicketProof {
        match self {
            Self::Token { session, expires, .. } => {
                TicketProof::Session { session: *session, expires: *expires }
            }
            Self::Key(key) => TicketProof::Key(key.clone()),
        }
    }

    async fn in_header(text: &str, app: &App) -> Result<Self, Problem> {
        if text.starts_with(API_KEY) {
            return app.commands.brought_key(text).await?.map(Self::Key).ok_or_else(no_such_key);
        }
        Self::token(text, app, false).await
    }

    async fn token(text: &str, app: &App, by_cookie: bool) -> Result<Self, Problem> {
        match Self::read_token(text, app, by_cookie) {
            // It may be our idea of the time that is wrong: another node hears sooner that the database's clock was set.
            Err(TokenError::NotYet | TokenError::Expired) => app.ledger.recheck_clock().await,
            read => return Ok(read?),
        }
        Ok(Self::read_token(text, app, by_cookie)?)
    }

    fn read_token(text: &str, app: &App, by_cookie: bool) -> Result<Self, TokenError> {
        let claims = app.tokens.verify(text, app.now())?;
        let (user_id, session) = (UserId(claims.sub), SessionId(claims.sid));
        Ok(Self::Token { user_id, session, expires: claims.exp, by_cookie })
    }

    /// A header and a cookie that name different sessions come from somebody who is confused, or from somebody who confuses.
    fn agrees_with(&self, cookie: &str, app: &App) -> bool {
        match (self, Self::read_token(cookie, app, true)) {
            (Self::Token { session, .. }, Ok(Self::Token { session: other, .. })) => *session == other,
            (Self::Token { .. } | Self::Key(_), _) => false,
        }
    }

    /// Whose it says it is.
    pub(crate) fn user_id(&self) -> UserId {
        match self {
            Self::Token { user_id, .. } => *user_id,
            Self::Key(key) => key.user_id,
        }
    }

    /// Who counts for the rate limit.
    pub(crate) fn client(&self) -> Uuid {
        match self {
            Self::Token { user_id, .. } => user_id.0,
            Self::Key(key) => key.id.0,
        }
    }

    /// Looks whether it has not been ended, revoked or outlived, and whether this request may be made with it.
    pub(crate) async fn check(&self, parts: &Parts, app: &App) -> Result<Credential, Problem> {
        let credential = self.look_up(app).await?;
        self.guard(parts, app).await?;
        Ok(credential)
    }

    /// Looks again, when the request is long under way, whether it has not been ended, revoked or outlived.
    pub(crate) async fn check_again(&self, app: &App) -> Result<Credential, Problem> {
        match self {
            Self::Token { expires, .. } if *expires <= app.now().timestamp() => {
                Err(TokenError::Expired.into())
            }
            Self::Token { .. } | Self::Key(_) => self.look_up(app).await,
        }
    }

    async fn look_up(&self, app: &App) -> Result<Credential, Problem> {
        let user_id = self.user_id();
        let credentials = app.projections.credentials();
        let found = match self.found_in(credentials.get(user_id).await?.as_ref(), app.now()) {
            Some(credential) => Some(credential),
            // Another node may have begun the session a moment ago, and its word not have reached our cache.
            None => self.found_in(credentials.get_uncached(user_id).await?.as_ref(), app.now()),
        };
        found.ok_or_else(|| self.gone())
    }

    fn found_in(&self, row: Option<&Arc<CredentialsRow>>, now: DateTime<Utc>) -> Option<Credential> {
        let row = row?;
        match self {
            Self::Token { session, .. } => {
                row.session(*session, now).map(|session| Credential::Session(session.id))
            }
            // Digests are compared: how long that takes tells nothing of the key.
            Self::Key(key) => row
                .api_key(key.id, now)
                .filter(|known| known.hash == key.hash)
                .map(|known| Credential::Key(known.clone())),
        }
    }

    fn gone(&self) -> Problem {
        match self {
            Self::Token { .. } => Problem::unauthorized("The session has ended.").with_code("session_ended"),
            Self::Key(_) => no_such_key(),
        }
    }

    /// What a browser sends by itself must show that a page of ours is behind it, unless it only reads.
    async fn guard(&self, parts: &Parts, app: &App) -> Result<(), Problem> {
        match self {
            Self::Token { session, by_cookie: true, .. } if !is_safe(&parts.method) => {
                check_csrf(app, &parts.headers, *session).await
            }
            Self::Token { .. } | Self::Key(_) => Ok(()),
        }
    }
}

impl Credential {
    /// The key, if it is one.
    pub(crate) fn key_id(&self) -> Option<ApiKeyId> {
        match self {
            Self::Session(_) => None,
            Self::Key(key) => Some(key.id),
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What [`CSRF_HEADER`] must say for a session.
///
/// # Errors
/// The database is out of reach.
pub(crate) async fn csrf_token(app: &App, session: SessionId) -> Result<String, Problem> {
    Ok(app.ledger.keyed_hash(&["csrf token", &session.to_string()]).await?)
}

/// Asks for the header that only a page of ours can send.
///
/// # Errors
/// 403 when it is missing or another session's.
pub(crate) async fn check_csrf(app: &App, headers: &HeaderMap, session: SessionId) -> Result<(), Problem> {
    let right = csrf_token(app, session).await?;
    // By their digests: how long that takes tells nothing of the right one.
    if headers.get(CSRF_HEADER).is_some_and(|given| Sha256::of(given) == Sha256::of(&right)) {
        return Ok(());
    }
    let detail = "Requests that change something need the header X-CSRF-Token with the value of the session's csrf_token.";
    Err(Problem::forbidden(detail).with_code("csrf_failed"))
}

pub(crate) fn disagreement() -> Problem {
    Problem::unauthorized("The credential in the header and the one in the cookie are not the same.")
        .with_code("credentials_disagree")
}

fn no_such_key() -> Problem {
    Problem::unauthorized("The API key is not valid.").with_code("api_key_invalid")
}

/// The credential in the header, if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || Problem::unauthorized("The header must be Authorization: Bearer <token>.");
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(malformed()) }
}
