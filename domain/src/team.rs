//! A team: the owner of secrets and jobs, and the roles of its members.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{aggregate, stored_names};
use crate::{
    Caller, Denied, Guarded, Permission, Refusal, RefusalKind, Role, TeamId, TeamName, TeamSlug, UserId,
};

/// What can be asked of a team.
#[derive(Clone, Debug)]
pub enum TeamCommand {
    /// Make it.
    Create {
        /// Its id.
        id: TeamId,
        /// What it is called.
        name: TeamName,
        /// Its short name in addresses.
        slug: TeamSlug,
        /// Whoever makes a team owns it.
        owner: UserId,
    },
    /// Take somebody in.
    AddMember {
        /// Who.
        user_id: UserId,
        /// As what.
        role: Role,
    },
    /// Give a member another role.
    ChangeRole {
        /// Who.
        user_id: UserId,
        /// As what from now on.
        role: Role,
    },
    /// Part with a member.
    RemoveMember {
        /// Who.
        user_id: UserId,
    },
}

/// What can happen to a team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum TeamEvent {
    /// It was made, with its first owner.
    TeamCreated { team_id: TeamId, name: String, slug: String, owner: UserId },
    /// Somebody joined.
    MemberAdded { user_id: UserId, role: Role },
    /// A member has another role.
    MemberRoleChanged { user_id: UserId, role: Role },
    /// A member left or was removed.
    MemberRemoved { user_id: UserId },
}

stored_names!(TeamEvent { TeamCreated: "1", MemberAdded: "1", MemberRoleChanged: "1", MemberRemoved: "1" });

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TeamError {
    /// There is no such team.
    #[error("there is no such team")]
    NotFound,
    /// The id is taken.
    #[error("this team exists already")]
    AlreadyExists,
    /// They are in it already.
    #[error("this user is a member already")]
    AlreadyMember,
    /// They are not in it.
    #[error("this user is not a member")]
    NotMember,
    /// A team without an owner could never be changed again.
    #[error("the last owner can neither leave nor be given another role")]
    LastOwner,
}

impl Refusal for TeamError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound | Self::NotMember => RefusalKind::NotFound,
            Self::AlreadyExists | Self::AlreadyMember | Self::LastOwner => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "team_not_found",
            Self::AlreadyExists => "team_exists",
            Self::AlreadyMember => "already_member",
            Self::NotMember => "not_a_member",
            Self::LastOwner => "last_owner",
        }
    }
}

/// What the rules need to know of a team.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Team {
    id: Option<TeamId>,
    members: BTreeMap<UserId, Role>,
}

aggregate!(Team, "team", TeamCommand, TeamEvent, TeamError);

impl Team {
    pub(crate) fn decide(&self, command: TeamCommand) -> Result<Vec<TeamEvent>, TeamError> {
        match (self.id, command) {
            (None, TeamCommand::Create { id, name, slug, owner }) => Ok(vec![TeamEvent::TeamCreated {
                team_id: id,
                name: name.to_string(),
                slug: slug.to_string(),
                owner,
            }]),
            (Some(_), TeamCommand::Create { .. }) => Err(TeamError::AlreadyExists),
            (None, _) => Err(TeamError::NotFound),
            (Some(_), TeamCommand::AddMember { user_id, role }) => self.add(user_id, role),
            (Some(_), TeamCommand::ChangeRole { user_id, role }) => self.change(user_id, role),
            (Some(_), TeamCommand::RemoveMember { user_id }) => self.remove(user_id),
        }
    }

    fn add(&self, user_id: UserId, role: Role) -> Result<Vec<TeamEvent>, TeamError> {
        if self.members.contains_key(&user_id) {
            return Err(TeamError::AlreadyMember);
        }
        Ok(vec![TeamEvent::MemberAdded { user_id, role }])
    }

    fn change(&self, user_id: UserId, role: Role) -> Result<Vec<TeamEvent>, TeamError> {
        match self.members.get(&user_id) {
            None => Err(TeamError::NotMember),
            Some(present) if *present == role => Ok(vec![]),
            Some(_) if self.is_last_owner(user_id) => Err(TeamError::LastOwner),
            Some(_) => Ok(vec![TeamEvent::MemberRoleChanged { user_id, role }]),
        }
    }

    fn remove(&self, user_id: UserId) -> Result<Vec<TeamEvent>, TeamError> {
        if !self.members.contains_key(&user_id) {
            return Err(TeamError::NotMember);
        }
        if self.is_last_owner(user_id) {
            return Err(TeamError::LastOwner);
        }
        Ok(vec![TeamEvent::MemberRemoved { user_id }])
    }

    fn is_last_owner(&self, user_id: UserId) -> bool {
        let mut owners = self.members.iter().filter(|(_, role)| **role == Role::Owner);
        owners.next().is_some_and(|(first, _)| *first == user_id) && owners.next().is_none()
    }

    pub(crate) fn evolve(&mut self, event: TeamEvent) {
        match event {
            TeamEvent::TeamCreated { team_id, owner, .. } => {
                self.id = Some(team_id);
                self.members.insert(owner, Role::Owner);
            }
            TeamEvent::MemberAdded { user_id, role } | TeamEvent::MemberRoleChanged { user_id, role } => {
                self.members.insert(user_id, role);
            }
            TeamEvent::MemberRemoved { user_id } => {
                self.members.remove(&user_id);
            }
        }
    }
}

impl Guarded for Team {
    fn admit(&self, command: &TeamCommand, caller: &Caller) -> Result<(), Denied> {
        match command {
            TeamCommand::Create { .. } => caller.require(Permission::TeamsMake),
            TeamCommand::AddMember { .. }
            | TeamCommand::ChangeRole { .. }
            | TeamCommand::RemoveMember { .. } => caller.require_in(self.id, Permission::TeamWrite),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;
    use crate::event::testing::given;
    use crate::{Actor, Permissions};

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn id() -> TeamId {
        TeamId(Uuid::from_u128(100))
    }

    fn created() -> TeamEvent {
        TeamEvent::TeamCreated { team_id: id(), name: "Main".into(), slug: "main".into(), owner: user(1) }
    }

    fn added(n: u128, role: Role) -> TeamEvent {
        TeamEvent::MemberAdded { user_id: user(n), role }
    }

    fn create() -> TeamCommand {
        TeamCommand::Create {
            id: id(),
            name: TeamName::parse("Main").unwrap(),
            slug: TeamSlug::parse("main").unwrap(),
            owner: user(1),
        }
    }

    #[test]
    fn whoever_makes_a_team_owns_it() {
        let team = given::<Team>([]);
        assert_eq!(team.decide(create()), Ok(vec![created()]));
        assert_eq!(given::<Team>([created()]).members.get(&user(1)), Some(&Role::Owner));
    }

    #[test]
    fn a_team_is_made_once() {
        assert_eq!(given::<Team>([created()]).decide(create()), Err(TeamError::AlreadyExists));
    }

    #[test]
    fn people_join_once() {
        let join = TeamCommand::AddMember { user_id: user(2), role: Role::Viewer };
        assert_eq!(given::<Team>([created()]).decide(join.clone()), Ok(vec![added(2, Role::Viewer)]));
        assert_eq!(
            given::<Team>([created(), added(2, Role::Auditor)]).decide(join),
            Err(TeamError::AlreadyMember)
        );
    }

    #[test]
    fn roles_change_and_the_same_role_is_no_event() {
        let team = given::<Team>([created(), added(2, Role::Viewer)]);
        let change = |role| TeamCommand::ChangeRole { user_id: user(2), role };
        let changed = TeamEvent::MemberRoleChanged { user_id: user(2), role: Role::Operator };
        assert_eq!(team.decide(change(Role::Operator)), Ok(vec![changed]));
        assert_eq!(team.decide(change(Role::Viewer)), Ok(vec![]));
    }

    #[test]
    fn strangers_have_no_role_to_change_or_lose() {
        let team = given::<Team>([created()]);
        let change = TeamCommand::ChangeRole { user_id: user(9), role: Role::Owner };
        assert_eq!(team.decide(change), Err(TeamError::NotMember));
        assert_eq!(team.decide(TeamCommand::RemoveMember { user_id: user(9) }), Err(TeamError::NotMember));
    }

    #[test]
    fn the_last_owner_stays() {
        let alone = given::<Team>([created(), added(2, Role::Operator)]);
        let demote = TeamCommand::ChangeRole { user_id: user(1), role: Role::Viewer };
        let leave = TeamCommand::RemoveMember { user_id: user(1) };
        assert_eq!(alone.decide(demote.clone()), Err(TeamError::LastOwner));
        assert_eq!(alone.decide(leave.clone()), Err(TeamError::LastOwner));

        let two = given::<Team>([created(), added(2, Role::Owner)]);
        assert!(two.decide(demote).is_ok());
        assert_eq!(two.decide(leave), Ok(vec![TeamEvent::MemberRemoved { user_id: user(1) }]));
    }

    #[test]
    fn a_team_that_is_not_there_cannot_change() {
        let join = TeamCommand::AddMember { user_id: user(2), role: Role::Viewer };
        assert_eq!(given::<Team>([]).decide(join), Err(TeamError::NotFound));
    }

    #[test]
    fn only_its_own_owners_change_members() {
        let team = given::<Team>([created()]);
        let join = TeamCommand::AddMember { user_id: user(2), role: Role::Viewer };
        let caller = |team, permissions| Caller { actor: Actor::User(user(1)), team, permissions };
        assert_eq!(team.admit(&join, &caller(Some(id()), Role::Owner.permissions())), Ok(()));
        assert_eq!(
            team.admit(&join, &caller(Some(id()), Role::Operator.permissions())),
            Err(Denied::Forbidden(Permission::TeamWrite))
        );
        assert_eq!(team.admit(&join, &caller(None, Role::Owner.permissions())), Err(Denied::NotFound));
        assert_eq!(team.admit(&create(), &caller(None, Permissions::admin())), Ok(()));
    }
}
