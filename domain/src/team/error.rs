//! Why a command to a team is refused.

use super::{MOST_INVITATIONS, MOST_MEMBERS, MOST_PAUSES};
use crate::{Refusal, RefusalKind};

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
    /// More than one list shows.
    #[error("a team has at most {MOST_MEMBERS} members")]
    TooManyMembers,
    /// They are not in it.
    #[error("this user is not a member")]
    NotMember,
    /// A team without an owner could never be changed again.
    #[error("the last owner can neither leave nor be given another role")]
    LastOwner,
    /// No such invitation is open.
    #[error("there is no such invitation")]
    NoSuchInvitation,
    /// The token belongs to no open invitation: which reason it is, is not told.
    #[error("the invitation is not one that is open")]
    InvitationNotOpen,
    /// The invitation was sent to somebody else.
    #[error("the invitation was sent to another e-mail address")]
    InvitationForAnother,
    /// They are asked already.
    #[error("this address is invited already; withdraw that invitation first")]
    AlreadyInvited,
    /// More than anybody keeps an eye on.
    #[error("a team has at most {MOST_INVITATIONS} open invitations; withdraw one first")]
    TooManyInvitations,
    /// More than anybody keeps an eye on.
    #[error("a team has at most {MOST_PAUSES} kinds paused; pause all of its jobs instead")]
    TooManyPauses,
}

impl Refusal for TeamError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound | Self::NotMember | Self::NoSuchInvitation => RefusalKind::NotFound,
            Self::AlreadyExists
            | Self::AlreadyMember
            | Self::TooManyMembers
            | Self::LastOwner
            | Self::InvitationNotOpen
            | Self::InvitationForAnother
            | Self::AlreadyInvited
            | Self::TooManyInvitations
            | Self::TooManyPauses => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "team_not_found",
            Self::AlreadyExists => "team_exists",
            Self::AlreadyMember => "already_member",
            Self::TooManyMembers => "too_many_members",
            Self::NotMember => "not_a_member",
            Self::LastOwner => "last_owner",
            Self::NoSuchInvitation => "invitation_not_found",
            Self::InvitationNotOpen => "invitation_not_open",
            Self::InvitationForAnother => "invitation_for_another",
            Self::AlreadyInvited => "already_invited",
            Self::TooManyInvitations => "too_many_invitations",
            Self::TooManyPauses => "too_many_pauses",
        }
    }
}
