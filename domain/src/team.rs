//! A team: the owner of secrets and jobs, the roles of its members, and who is invited.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{aggregate, stored_names};
use crate::{
    Actor, Caller, Denied, Email, Guarded, InvitationId, KindName, Permission, Personal, Role, TeamId,
    TeamName, TeamSlug, UserId,
};

mod error;

pub use error::TeamError;

/// Invitations that a team may have open at a time.
pub(crate) const MOST_INVITATIONS: usize = 100;

/// Kinds whose jobs a team may have paused at a time.
pub(crate) const MOST_PAUSES: usize = 100;

/// Begins the subject of a personal text about whoever has an address, be it somebody with an account or not; its keyed hash follows.
pub const INVITEE: &str = "invitee-";

/// Members that a team may have.
pub(crate) const MOST_MEMBERS: usize = 1_000;

/// Asks somebody to join.
#[derive(Clone, Debug)]
pub struct Invite {
    /// The invitation's id.
    pub id: InvitationId,
    /// Whom.
    pub email: Email,
    /// Who has an account with this address, if anybody has.
    pub invitee: Option<UserId>,
    /// Keyed hash of the canonical address: what is compared when somebody accepts.
    pub email_hash: String,
    /// As what.
    pub role: Role,
    /// SHA-256 of the token that is sent to them, in hex.
    pub token_hash: String,
    /// When.
    pub now: DateTime<Utc>,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// Takes an invitation up.
#[derive(Clone, Debug)]
pub struct Accept {
    /// Which.
    pub id: InvitationId,
    /// Who joins.
    pub user_id: UserId,
    /// Keyed hash of their canonical address.
    pub email_hash: String,
    /// SHA-256 of the token they bring, in hex.
    pub token_hash: String,
    /// When.
    pub now: DateTime<Utc>,
}

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
    /// Change what is said of it; what is `None` stays, and so does the slug.
    Amend {
        /// What it is called from now on.
        name: Option<TeamName>,
        /// Whether its members must have a second factor to speak for it.
        two_factor_required: Option<bool>,
        /// Whether a reason must be given to see a secret's value.
        reveal_reason_required: Option<bool>,
    },
    /// Have no jobs of the team started until they are resumed.
    PauseJobs {
        /// Only those of this kind; else all.
        kind: Option<KindName>,
    },
    /// The same pause is over.
    ResumeJobs {
        /// Those of this kind; else those that were paused as a whole.
        kind: Option<KindName>,
    },
    /// Ask somebody to join.
    Invite(Invite),
    /// Take an invitation back.
    WithdrawInvitation {
        /// Which.
        id: InvitationId,
    },
    /// Join by invitation.
    AcceptInvitation(Accept),
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
    /// It has another name.
    TeamRenamed { name: String },
    /// Its members must, or need not, sign in with a second factor.
    TwoFactorRequirementChanged { required: bool },
    /// Who sees a secret's value must, or need not, say why.
    RevealReasonRequirementChanged { required: bool },
    /// No jobs of the team (of this kind, if one is named) are started.
    JobsPaused { kind: Option<String> },
    /// They are started again.
    JobsResumed { kind: Option<String> },
    /// Somebody was asked to join. The token they were sent is kept as SHA-256, in hex.
    MemberInvited {
        invitation_id: InvitationId,
        email: Personal,
        email_hash: String,
        role: Role,
        token_hash: String,
        expires_at: DateTime<Utc>,
        team_name: String,
    },
    /// The invitation was taken back, or has expired and made room.
    InvitationWithdrawn { invitation_id: InvitationId },
    /// The invitation was taken up.
    InvitationAccepted { invitation_id: InvitationId, user_id: UserId },
    /// Somebody joined.
    MemberAdded { user_id: UserId, role: Role },
    /// A member has another role.
    MemberRoleChanged { user_id: UserId, role: Role },
    /// A member left or was removed.
    MemberRemoved { user_id: UserId },
}

stored_names!(TeamEvent {
    TeamCreated: "1",
    TeamRenamed: "1",
    TwoFactorRequirementChanged: "1",
    RevealReasonRequirementChanged: "1",
    JobsPaused: "1",
    JobsResumed: "1",
    MemberInvited: "1",
    InvitationWithdrawn: "1",
    InvitationAccepted: "1",
    MemberAdded: "1",
    MemberRoleChanged: "1",
    MemberRemoved: "1",
});

/// What the rules need to know of a team.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Team {
    id: Option<TeamId>,
    name: String,
    two_factor_required: bool,
    #[serde(default)]
    reveal_reason_required: bool,
    /// Kinds whose jobs are not started; `None` among them stands for all.
    #[serde(default)]
    paused: BTreeSet<Option<String>>,
    members: BTreeMap<UserId, Role>,
    invitations: BTreeMap<InvitationId, Open>,
}

/// An invitation that nobody has taken up yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    email_hash: String,
    role: Role,
    token_hash: String,
    expires_at: DateTime<Utc>,
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
            (Some(_), TeamCommand::Amend { name, two_factor_required, reveal_reason_required }) => {
                Ok(self.amend(name, two_factor_required, reveal_reason_required))
            }
            (Some(_), TeamCommand::PauseJobs { kind }) => self.pause(kind.map(|kind| kind.to_string())),
            (Some(_), TeamCommand::ResumeJobs { kind }) => Ok(self.resume(kind.map(|kind| kind.to_string()))),
            (Some(_), TeamCommand::Invite(invite)) => self.invite(invite),
            (Some(_), TeamCommand::WithdrawInvitation { id }) => self.withdraw(id),
            (Some(_), TeamCommand::AcceptInvitation(accept)) => self.accept(&accept),
            (Some(_), TeamCommand::AddMember { user_id, role }) => self.add(user_id, role),
            (Some(_), TeamCommand::ChangeRole { user_id, role }) => self.change(user_id, role),
            (Some(_), TeamCommand::RemoveMember { user_id }) => self.remove(user_id),
        }
    }

    fn pause(&self, kind: Option<String>) -> Result<Vec<TeamEvent>, TeamError> {
        if self.paused.contains(&kind) {
            return Ok(vec![]);
        }
        if self.paused.len() >= MOST_PAUSES {
            return Err(TeamError::TooManyPauses);
        }
        Ok(vec![TeamEvent::JobsPaused { kind }])
    }

    fn resume(&self, kind: Option<String>) -> Vec<TeamEvent> {
        if self.paused.contains(&kind) { vec![TeamEvent::JobsResumed { kind }] } else { vec![] }
    }

    fn amend(
        &self,
        name: Option<TeamName>,
        two_factor_required: Option<bool>,
        reveal_reason_required: Option<bool>,
    ) -> Vec<TeamEvent> {
        let name = name.filter(|name| name.as_str() != self.name);
        let two_factor = two_factor_required.filter(|required| *required != self.two_factor_required);
        let reason = reveal_reason_required.filter(|required| *required != self.reveal_reason_required);
        let mut events = vec![];
        events.extend(name.map(|name| TeamEvent::TeamRenamed { name: name.to_string() }));
        events.extend(two_factor.map(|required| TeamEvent::TwoFactorRequirementChanged { required }));
        events.extend(reason.map(|required| TeamEvent::RevealReasonRequirementChanged { required }));
        events
    }

    /// Invitations that have expired make room for new ones, and are withdrawn on this occasion.
    fn invite(&self, invite: Invite) -> Result<Vec<TeamEvent>, TeamError> {
        if invite.invitee.is_some_and(|invitee| self.members.contains_key(&invitee)) {
            return Err(TeamError::AlreadyMember);
        }
        let (open, expired): (Vec<_>, Vec<_>) =
            self.invitations.iter().partition(|(_, invitation)| invite.now < invitation.expires_at);
        if open.iter().any(|(_, invitation)| invitation.email_hash == invite.email_hash) {
            return Err(TeamError::AlreadyInvited);
        }
        if open.len() >= MOST_INVITATIONS {
            return Err(TeamError::TooManyInvitations);
        }
        let withdrawn =
            |(id, _): (&InvitationId, &Open)| TeamEvent::InvitationWithdrawn { invitation_id: *id };
        let mut events: Vec<TeamEvent> = expired.into_iter().map(withdrawn).collect();
        // Whoever it is has no account yet: their address belongs to whoever has this address, and is forgotten with them.
        let email = Personal::new(format!("{INVITEE}{}", invite.email_hash), invite.email);
        events.push(TeamEvent::MemberInvited {
            invitation_id: invite.id,
            email,
            email_hash: invite.email_hash,
            role: invite.role,
            token_hash: invite.token_hash,
            expires_at: invite.expires_at,
            team_name: self.name.clone(),
        });
        Ok(events)
    }

    fn withdraw(&self, id: InvitationId) -> Result<Vec<TeamEvent>, TeamError> {
        if !self.invitations.contains_key(&id) {
            return Err(TeamError::NoSuchInvitation);
        }
        Ok(vec![TeamEvent::InvitationWithdrawn { invitation_id: id }])
    }

    fn accept(&self, accept: &Accept) -> Result<Vec<TeamEvent>, TeamError> {
        let open = self.invitations.get(&accept.id).ok_or(TeamError::InvitationNotOpen)?;
        if open.token_hash != accept.token_hash || accept.now >= open.expires_at {
            return Err(TeamError::InvitationNotOpen);
        }
        if open.email_hash != accept.email_hash {
            return Err(TeamError::InvitationForAnother);
        }
        let user_id = accept.user_id;
        let mut events = vec![TeamEvent::InvitationAccepted { invitation_id: accept.id, user_id }];
        events.extend(self.add(user_id, open.role)?);
        Ok(events)
    }

    fn add(&self, user_id: UserId, role: Role) -> Result<Vec<TeamEvent>, TeamError> {
        if self.members.contains_key(&user_id) {
            return Err(TeamError::AlreadyMember);
        }
        if self.members.len() >= MOST_MEMBERS {
            return Err(TeamError::TooManyMembers);
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

    /// Who owns it, in the order of their ids.
    pub fn owners(&self) -> impl Iterator<Item = UserId> {
        self.members.iter().filter(|(_, role)| **role == Role::Owner).map(|(user_id, _)| *user_id)
    }

    /// Whether they are in it, as whatever.
    #[must_use]
    pub fn has_member(&self, user_id: UserId) -> bool {
        self.members.contains_key(&user_id)
    }

    /// Whether nobody else owns the team.
    #[must_use]
    pub fn is_last_owner(&self, user_id: UserId) -> bool {
        self.owners().eq([user_id])
    }

    pub(crate) fn evolve(&mut self, event: TeamEvent) {
        match event {
            TeamEvent::TeamCreated { team_id, name, owner, .. } => {
                self.id = Some(team_id);
                self.name = name;
                self.members.insert(owner, Role::Owner);
            }
            TeamEvent::TeamRenamed { name } => self.name = name,
            TeamEvent::TwoFactorRequirementChanged { required } => self.two_factor_required = required,
            TeamEvent::RevealReasonRequirementChanged { required } => self.reveal_reason_required = required,
            TeamEvent::JobsPaused { kind } => {
                self.paused.insert(kind);
            }
            TeamEvent::JobsResumed { kind } => {
                self.paused.remove(&kind);
            }
            TeamEvent::MemberInvited { invitation_id, email_hash, role, token_hash, expires_at, .. } => {
                let open = Open { email_hash, role, token_hash, expires_at };
                self.invitations.insert(invitation_id, open);
            }
            TeamEvent::InvitationWithdrawn { invitation_id }
            | TeamEvent::InvitationAccepted { invitation_id, .. } => {
                self.invitations.remove(&invitation_id);
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
            // Who brings the token was asked; a person joins for themselves, or as they register.
            TeamCommand::AcceptInvitation(accept) => match caller.actor {
                Actor::User(id) if id == accept.user_id => Ok(()),
                Actor::Anonymous => caller.require(Permission::UsersRegister),
                Actor::User(_) | Actor::Key(_) | Actor::Job(_) | Actor::System => Err(Denied::NotFound),
            },
            // A program gives no more than it has: else a key with little would make itself an owner.
            TeamCommand::Invite(Invite { role, .. }) | TeamCommand::ChangeRole { role, .. }
                if matches!(caller.actor, Actor::Key(_))
                    && !role.permissions().is_within(caller.permissions) =>
            {
                let missing = Permission::ALL.iter().find(|permission| {
                    role.permissions().contains(**permission) && !caller.permissions.contains(**permission)
                });
                caller.require_in(self.id, *missing.unwrap_or(&Permission::TeamWrite))
            }
            // Whoever is in it may leave.
            TeamCommand::RemoveMember { user_id }
                if caller.actor == Actor::User(*user_id) && self.members.contains_key(user_id) =>
            {
                Ok(())
            }
            TeamCommand::PauseJobs { .. } | TeamCommand::ResumeJobs { .. } => {
                caller.require_in(self.id, Permission::JobsRun)
            }
            TeamCommand::Amend { .. }
            | TeamCommand::Invite(_)
            | TeamCommand::WithdrawInvitation { .. }
            | TeamCommand::AddMember { .. }
            | TeamCommand::ChangeRole { .. }
            | TeamCommand::RemoveMember { .. } => caller.require_in(self.id, Permission::TeamWrite),
        }
    }
}

#[cfg(test)]
mod tests;
