//! Who asks, and whether they may.

use std::fmt;
use std::str::FromStr;

use cqrs_es::Aggregate;
use uuid::Uuid;

use crate::{ApiKeyId, JobId, Permission, Permissions, TeamId, UserId};

/// Who acted, as every event's metadata has it: `user:<id>`, `key:<id>`, `job:<id>`, `system` or `anonymous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A signed-in person.
    User(UserId),
    /// An API key.
    Key(ApiKeyId),
    /// A job, while it runs.
    Job(JobId),
    /// Daybook itself: a worker, the command line.
    System,
    /// Somebody who did not say who they are: a failed sign-in, a registration.
    Anonymous,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Job(id) => write!(f, "job:{id}"),
            Self::System => f.write_str("system"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// The text names no actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be user:<id>, key:<id>, job:<id>, system or anonymous")]
pub struct UnknownActor;

impl FromStr for Actor {
    type Err = UnknownActor;

    fn from_str(text: &str) -> Result<Self, UnknownActor> {
        let id = |text: &str| text.parse::<Uuid>().map_err(|_| UnknownActor);
        match text.split_once(':') {
            Some(("user", rest)) => Ok(Self::User(UserId(id(rest)?))),
            Some(("key", rest)) => Ok(Self::Key(ApiKeyId(id(rest)?))),
            Some(("job", rest)) => Ok(Self::Job(JobId(id(rest)?))),
            None if text == "system" => Ok(Self::System),
            None if text == "anonymous" => Ok(Self::Anonymous),
            _ => Err(UnknownActor),
        }
    }
}

/// Somebody with a command: who they are, for which team they speak, and what they may do there.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub actor: Actor,
    /// The team they speak for, if any.
    pub team: Option<TeamId>,
    /// What they may do.
    pub permissions: Permissions,
}

impl Caller {
    /// Daybook itself, acting for `team`.
    #[must_use]
    pub fn system(team: Option<TeamId>) -> Self {
        Self { actor: Actor::System, team, permissions: Permissions::system() }
    }

    /// Asks for one permission.
    ///
    /// # Errors
    /// [`Denied::Forbidden`] names the one that is missing.
    pub fn require(&self, permission: Permission) -> Result<(), Denied> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Denied::Forbidden(permission)) }
    }

    /// Asks for one permission on something that belongs to `owner`. Another team's thing does not exist for the caller.
    ///
    /// # Errors
    /// [`Denied::NotFound`] when the thing is another team's or nobody's, [`Denied::Forbidden`] when it is the caller's team's.
    pub fn require_in(&self, owner: Option<TeamId>, permission: Permission) -> Result<(), Denied> {
        if owner.is_none() || owner != self.team {
            return Err(Denied::NotFound);
        }
        self.require(permission)
    }
}

/// The command was refused before the aggregate decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// As far as this caller is concerned, there is no such thing.
    #[error("there is no such thing")]
    NotFound,
    /// The thing is known to the caller, the permission is missing.
    #[error("the permission {0} is missing")]
    Forbidden(Permission),
}

/// An aggregate that says who may give it which command.
pub trait Guarded: Aggregate {
    /// Whether `caller` may give `command` to the aggregate in its present state.
    ///
    /// # Errors
    /// [`Denied`] says how to refuse.
    fn admit(&self, command: &Self::Command, caller: &Caller) -> Result<(), Denied>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_are_written_and_read_alike() {
        let id = Uuid::from_u128(7);
        for actor in [
            Actor::User(UserId(id)),
            Actor::Key(ApiKeyId(id)),
            Actor::Job(JobId(id)),
            Actor::System,
            Actor::Anonymous,
        ] {
            assert_eq!(actor.to_string().parse(), Ok(actor));
        }
        assert_eq!("user:x".parse::<Actor>(), Err(UnknownActor));
        assert_eq!("root".parse::<Actor>(), Err(UnknownActor));
    }

    #[test]
    fn another_teams_thing_does_not_exist() {
        let mine = TeamId(Uuid::from_u128(1));
        let theirs = TeamId(Uuid::from_u128(2));
        let caller =
            Caller { actor: Actor::Anonymous, team: Some(mine), permissions: Permissions::default() };
        assert_eq!(caller.require_in(Some(theirs), Permission::JobsRun), Err(Denied::NotFound));
        assert_eq!(caller.require_in(None, Permission::JobsRun), Err(Denied::NotFound));
        assert_eq!(
            caller.require_in(Some(mine), Permission::JobsRun),
            Err(Denied::Forbidden(Permission::JobsRun))
        );
    }
}
