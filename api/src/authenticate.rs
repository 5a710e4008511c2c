//! Who asks, and whether they may: every handler takes one of these extractors.

mod address;
mod recheck;
mod standing;

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use commands::Context;
use domain::{AccessEvent, Actor, Caller, Permission, Permissions, SessionId, TeamId, UserId};
use projections::UserRow;

use crate::app::App;
use crate::credential::{Brought, Credential};
use crate::middleware::client_ip::ClientIp;
use crate::middleware::request_id::RequestContext;
use crate::problem::Problem;

pub use address::InAddress;
pub(crate) use recheck::recheck;
pub use standing::Standing;

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
        let subject = format!("visitors-{}", app.now().format("%Y-%m-%d"));
        let caller = Caller { actor: Actor::Anonymous, team: None, permissions: Permissions::default() };
        Ok(Self { ip, context: circumstances(parts, caller, subject) })
    }
}

/// Somebody who has said who they are, a person or a program of theirs, speaking for a team (if they are in any).
pub struct Identity {
    /// Their account's id.
    pub user_id: UserId,
    /// Their account.
    pub user: Arc<UserRow>,
    /// Who they are and what they may do, for commands.
    pub context: Context,
    brought: Brought,
    credential: Credential,
    /// What they could do in the team, which asks for a second factor that they have not set up.
    withheld: Permissions,
    /// What was asked for, as the interface writes it: method and path, ids left open.
    operation: (Method, Option<MatchedPath>),
    app: App,
}

impl FromRequestParts<App> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let ip = ClientIp::of(&parts.extensions);
        let brought = match Brought::by(parts, app).await {
            Ok(brought) => brought,
            Err(problem) => {
                app.limits.check_anonymous(ip)?;
                return Err(problem);
            }
        };
        Self::who_brought(brought, parts, app, None).await
    }
}

impl Identity {
    /// Somebody who has brought this; in the team that a ticket was made for, or that the request names.
    async fn who_brought(
        brought: Brought,
        parts: &Parts,
        app: &App,
        ticket_for: Option<TeamId>,
    ) -> Result<Self, Problem> {
        let ip = ClientIp::of(&parts.extensions);
        app.limits.check_authenticated(brought.client())?;
        demand_position(&parts.headers)?;
        let user_id = brought.user_id();
        let credential = match brought.check(parts, app).await {
            Ok(credential) => credential,
            Err(problem) => {
                app.limits.check_anonymous(ip)?;
                return Err(problem);
            }
        };
        let user = active_user(app, user_id).await?;
        let named = match ticket_for {
            Some(team) => Some(team),
            None => named_team(app, &parts.headers).await?,
        };
        let speaking = speaking_for(app, named, &user, &credential, user_id).await?;
        let actor = credential.key_id().map_or(Actor::User(user_id), Actor::Key);
        let caller = Caller { actor, team: speaking.team, permissions: speaking.permissions };
        let context = circumstances(parts, caller, user_id.to_string());
        if let Some(key) = credential.key_id() {
            app.key_uses.note(key, user_id, ip).await;
        }
        recheck::note(app, &brought, &context.caller, user_id);
        let withheld = speaking.withheld;
        let operation = (parts.method.clone(), parts.extensions.get::<MatchedPath>().cloned());
        Ok(Self { user_id, user, context, brought, credential, withheld, operation, app: app.clone() })
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

    /// Whether it is this person who asks, and no program of theirs.
    #[must_use]
    pub fn is_person(&self, user_id: UserId) -> bool {
        self.user_id == user_id && matches!(self.credential, Credential::Session(_))
    }

    /// Whether what is shown of a person's teams may name this one. A key knows of the team it was made for, and of no other.
    #[must_use]
    pub(crate) fn may_name(&self, team: &str) -> bool {
        match &self.credential {
            Credential::Session(_) => true,
            Credential::Key(key) => key.team_id.to_string() == team,
        }
    }

    /// Whether the team asks for a second factor that they have not set up: then they have no part in it, whoever lets them.
    #[must_use]
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.withheld != Permissions::default()
    }

    /// Asks for `permission`. A refusal is recorded, with the operation, before it is told.
    ///
    /// # Errors
    /// 403 that names the permission.
    pub async fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.has(permission) {
            return Ok(());
        }
        let (method, path) = &self.operation;
        // As the document writes it, which knows no rest of a path.
        let path = path.as_ref().map_or("", MatchedPath::as_str).replace("{*", "{");
        let resource = format!("{method} {path}");
        let (actor, team) = (self.context.caller.actor.to_string(), self.context.caller.team);
        let source = [actor, team.map(|team| team.to_string()).unwrap_or_default(), resource.clone()];
        let refused = AccessEvent::AccessRefused { permission: permission.to_string(), resource };
        let source = source.each_ref().map(String::as_str);
        self.app.commands.record_failure(&self.context, &refused, &source).await?;
        if self.withheld.contains(permission) {
            let detail =
                "The team asks its members for a second factor: set one up first (POST /api/auth/2fa).";
            return Err(Problem::forbidden(detail).with_code("two_factor_required"));
        }
        Err(Problem::forbidden(format!("The permission {permission} is missing.")))
    }
}

/// A signed-in person, and no program of theirs: for what concerns the account itself.
pub struct Person {
    identity: Identity,
    /// The session they are signed in with.
    pub session: SessionId,
}

impl Deref for Person {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl FromRequestParts<App> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let identity = Identity::from_request_parts(parts, app).await?;
        match identity.credential {
            Credential::Session(session) => Ok(Self { identity, session }),
            Credential::Key(_) => {
                let detail = "An API key cannot do this: a person has to sign in for it.";
                Err(Problem::forbidden(detail).with_code("session_needed"))
            }
        }
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

    needs!(
        AuditRead,
        JobsRead,
        JobsRun,
        SecretsList,
        SecretsRead,
        SecretsReveal,
        SecretsWrite,
        TeamRead,
        TeamWrite,
        TeamsMake,
        UsersManage,
        ViewsManage,
        WorkersManage
    );
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
        identity.require(P::PERMISSION).await?;
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
        if !identity.has(Permission::AuditInstance) {
            identity.require(Permission::AuditRead).await?;
        }
        Ok(Self(identity))
    }
}

/// A read that names a position waits until the views that it looks at have passed it.
fn demand_position(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(DAYBOOK_POSITION) else { return Ok(()) };
    let position =
        value.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|position| *position >= 0);
    let position =
        position.ok_or_else(|| Problem::invalid("Daybook-Position", "must be a position of the log"))?;
    projections::demand(position, true);
    Ok(())
}

async fn active_user(app: &App, user_id: UserId) -> Result<Arc<UserRow>, Problem> {
    let user = app.projections.users().get(user_id).await?;
    user.filter(|user| user.active).ok_or_else(|| Problem::unauthorized("The account is not active."))
}

/// The team a request speaks for, and what the caller may do, there and in the instance.
struct Speaking {
    team: Option<TeamId>,
    permissions: Permissions,
    /// What a second factor that is missing would add.
    withheld: Permissions,
}

async fn speaking_for(
    app: &App,
    named: Option<TeamId>,
    user: &UserRow,
    credential: &Credential,
    user_id: UserId,
) -> Result<Speaking, Problem> {
    let row = app.projections.memberships().get(user_id).await?;
    let memberships = row.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default();
    let wanted = match credential {
        Credential::Session(_) => named.or(memberships.first().map(|membership| membership.team_id)),
        // A key speaks for the team it was made for, and for no other.
        Credential::Key(key) if named.is_none_or(|named| named == key.team_id) => Some(key.team_id),
        Credential::Key(_) => return Err(in_no_such_team()),
    };
    let instance = match credential {
        Credential::Session(_) if user.admin => Permissions::admin(),
        Credential::Session(_) | Credential::Key(_) => Permissions::default(),
    };
    let Some(team) = wanted else {
        return Ok(Speaking { team: None, permissions: instance, withheld: Permissions::default() });
    };
    let membership = memberships.iter().find(|membership| membership.team_id == team);
    let role = membership.ok_or_else(in_no_such_team)?.role.permissions();
    let asked = app.projections.teams().get(team).await?.is_some_and(|team| team.two_factor_required);
    let there = match credential {
        Credential::Session(_) => role,
        // What its maker may not do (any more), it may not do either.
        Credential::Key(key) => Permissions::of_scopes(key.scopes.iter().copied()).intersection(role),
    };
    let nothing = Permissions::default();
    let (there, withheld) = if asked && !user.two_factor { (nothing, there) } else { (there, nothing) };
    Ok(Speaking { team: Some(team), permissions: there.union(instance), withheld })
}

/// The team that the request names, if it names one.
async fn named_team(app: &App, headers: &HeaderMap) -> Result<Option<TeamId>, Problem> {
    let Some(value) = headers.get(DAYBOOK_TEAM) else { return Ok(None) };
    let name = value.to_str().map_err(|_| in_no_such_team())?;
    if let Ok(id) = name.parse::<TeamId>() {
        return Ok(Some(id));
    }
    let named = app.projections.teams().by_slug(name).await?.ok_or_else(in_no_such_team)?;
    Ok(Some(named.id.parse().map_err(Problem::internal)?))
}

fn in_no_such_team() -> Problem {
    Problem::not_found().with_detail("You are in no team of this name.").with_code("team_not_found")
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
