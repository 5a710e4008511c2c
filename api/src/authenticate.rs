//! Who asks, and whether they may: every handler takes one of these extractors.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chrono::Utc;
use commands::Context;
use domain::{AccessEvent, Actor, Caller, Permission, Permissions, TeamId, UserId};
use projections::UserRow;

use crate::app::App;
use crate::middleware::client_ip::ClientIp;
use crate::middleware::request_id::RequestContext;
use crate::problem::Problem;

/// The header that names the team a caller speaks for, by slug or id.
const DAYBOOK_TEAM: &str = "daybook-team";
/// The header that names the position a read must have passed.
pub(crate) const DAYBOOK_POSITION: &str = "daybook-position";
/// Bytes of a user agent that are recorded.
const USER_AGENT_BYTES: usize = 256;

/// Somebody who did not say who they are. Counts against their address's limit.
pub struct Anonymous {
    /// Where they are.
    pub ip: ClientIp,
    /// The circumstances, for records.
    pub context: Context,
}

impl FromRequestParts<App> for Anonymous {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let ip = ClientIp::of(&parts.extensions);
        app.limits.check_anonymous(ip)?;
        // Addresses of people who did not say who they are belong to the day: its key can be destroyed as a whole.
        let subject = format!("visitors-{}", Utc::now().format("%Y-%m-%d"));
        let caller = Caller { actor: Actor::Anonymous, team: None, permissions: Permissions::default() };
        Ok(Self { ip, context: circumstances(parts, caller, subject) })
    }
}

/// A signed-in person, speaking for a team (if they are in any).
pub struct Identity {
    /// Their account's id.
    pub user_id: UserId,
    /// Their account.
    pub user: Arc<UserRow>,
    /// Who they are and what they may do, for commands.
    pub context: Context,
    app: App,
}

impl FromRequestParts<App> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let ip = ClientIp::of(&parts.extensions);
        let user_id = match bearer(&parts.headers).and_then(|token| check_token(app, token)) {
            Ok(user_id) => user_id,
            Err(problem) => {
                app.limits.check_anonymous(ip)?;
                return Err(problem);
            }
        };
        app.limits.check_authenticated(user_id.0)?;
        await_position(app, &parts.headers, false).await?;
        let user = app.projections.users().get(user_id).await?;
        let user = user
            .filter(|user| user.active)
            .ok_or_else(|| Problem::unauthorized("The account is not active."))?;
        let (team, mut permissions) = team(app, &parts.headers, user_id).await?;
        if user.admin {
            permissions = permissions.union(Permissions::admin());
        }
        let caller = Caller { actor: Actor::User(user_id), team, permissions };
        let context = circumstances(parts, caller, user_id.to_string());
        Ok(Self { user_id, user, context, app: app.clone() })
    }
}

impl Identity {
    /// The team the caller speaks for.
    ///
    /// # Errors
    /// 403 for somebody who is in no team.
    pub fn team(&self) -> Result<TeamId, Problem> {
        let in_none = || Problem::forbidden("You are not a member of any team.").with_code("no_team");
        self.context.caller.team.ok_or_else(in_none)
    }

    /// Whether the caller has `permission`.
    #[must_use]
    pub fn has(&self, permission: Permission) -> bool {
        self.context.caller.permissions.contains(permission)
    }

    /// Asks for `permission`. A refusal is recorded before it is told.
    ///
    /// # Errors
    /// 403 that names the permission.
    pub async fn require(&self, permission: Permission, resource: &str) -> Result<(), Problem> {
        if self.has(permission) {
            return Ok(());
        }
        let refused =
            AccessEvent::AccessRefused { permission: permission.to_string(), resource: resource.to_owned() };
        self.app.commands.record(&self.context, &refused).await?;
        Err(Problem::forbidden(format!("The permission {permission} is missing.")))
    }
}

/// A permission as a type, so that a handler's signature says what it needs.
pub trait Needs: Send + Sync + 'static {
    /// The permission.
    const PERMISSION: Permission;
}

macro_rules! needs {
    ($($name:ident),*) => {$(
        #[doc = concat!("Needs [`Permission::", stringify!($name), "`].")]
        pub struct $name;

        impl Needs for $name {
            const PERMISSION: Permission = Permission::$name;
        }
    )*};
}

/// The permissions as types.
pub mod needs {
    use super::{Needs, Permission};

    needs!(AuditRead, JobsRead, JobsRun, SecretsRead, SecretsReveal, SecretsWrite, ViewsManage);
}

/// A signed-in person who has the permission `P`.
pub struct Can<P> {
    identity: Identity,
    needs: PhantomData<P>,
}

impl<P> Deref for Can<P> {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl<P: Needs> FromRequestParts<App> for Can<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let identity = Identity::from_request_parts(parts, app).await?;
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        identity.require(P::PERMISSION, &format!("{} {path}", parts.method)).await?;
        Ok(Self { identity, needs: PhantomData })
    }
}

/// Somebody who may read the audit trail: an auditor of a team, or of the whole instance.
pub struct CanAudit(Identity);

impl Deref for CanAudit {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl FromRequestParts<App> for CanAudit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let identity = Identity::from_request_parts(parts, app).await?;
        await_position(app, &parts.headers, true).await?;
        if !identity.has(Permission::AuditInstance) {
            let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
            identity.require(Permission::AuditRead, &format!("{} {path}", parts.method)).await?;
        }
        Ok(Self(identity))
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || Problem::unauthorized("An access token is needed: Authorization: Bearer <token>.");
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| missing())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

fn check_token(app: &App, token: &str) -> Result<UserId, Problem> {
    let claims = app.tokens.verify(token, Utc::now())?;
    Ok(UserId(claims.sub))
}

/// A read that names a position waits until the views have passed it (D6).
async fn await_position(app: &App, headers: &HeaderMap, with_audit: bool) -> Result<(), Problem> {
    let Some(value) = headers.get(DAYBOOK_POSITION) else { return Ok(()) };
    let position =
        value.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|position| *position >= 0);
    let position =
        position.ok_or_else(|| Problem::invalid("Daybook-Position", "must be a position of the log"))?;
    app.wait(position, with_audit).await
}

/// The team the request speaks for, and what the caller's role there allows.
async fn team(
    app: &App,
    headers: &HeaderMap,
    user: UserId,
) -> Result<(Option<TeamId>, Permissions), Problem> {
    let memberships = app.projections.memberships().get(user).await?;
    let memberships = memberships.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default();
    let membership = match headers.get(DAYBOOK_TEAM) {
        None => memberships.first(),
        Some(value) => {
            let unknown = || {
                Problem::not_found()
                    .with_detail("You are in no team of this name.")
                    .with_code("team_not_found")
            };
            let name = value.to_str().map_err(|_| unknown())?;
            let wanted = match name.parse::<TeamId>() {
                Ok(id) => id,
                Err(_) => {
                    let named = app.projections.teams().by_slug(name).await?.ok_or_else(unknown)?;
                    named.id.parse().map_err(Problem::internal)?
                }
            };
            Some(memberships.iter().find(|membership| membership.team_id == wanted).ok_or_else(unknown)?)
        }
    };
    Ok(membership.map_or((None, Permissions::default()), |membership| {
        (Some(membership.team_id), membership.role.permissions())
    }))
}

fn circumstances(parts: &Parts, caller: Caller, subject: String) -> Context {
    let request = RequestContext::current();
    let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let mut context = Context::of(caller);
    context.request_id = request.as_ref().map(|request| request.request_id.to_string());
    context.trace_id = request.and_then(|request| request.trace_id.map(|trace| trace.to_string()));
    context.subject = Some(subject);
    context.ip = Some(ClientIp::of(&parts.extensions).0.to_string());
    context.user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_BYTES).collect());
    context
}
