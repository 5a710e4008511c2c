//! Who may what.

use super::*;
use crate::{ApiKeyId, JobId, Permissions};

fn caller(actor: Actor, team: Option<TeamId>, permissions: Permissions) -> Caller {
    Caller { actor, team, permissions }
}

fn accept(n: u128) -> TeamCommand {
    TeamCommand::AcceptInvitation(Accept {
        id: InvitationId(Uuid::from_u128(1)),
        user_id: user(n),
        email_hash: "h".into(),
        token_hash: "t".into(),
        now: DateTime::UNIX_EPOCH,
    })
}

fn invite() -> TeamCommand {
    TeamCommand::Invite(Invite {
        invitee: None,
        id: InvitationId(Uuid::from_u128(1)),
        email: Email::parse("grace@example.org").unwrap(),
        email_hash: "h".into(),
        role: Role::Viewer,
        token_hash: "t".into(),
        now: DateTime::UNIX_EPOCH,
        expires_at: DateTime::UNIX_EPOCH,
    })
}

/// What needs the permission to change the team.
fn changes() -> [TeamCommand; 6] {
    [
        TeamCommand::Amend { name: None, two_factor_required: Some(true), reveal_reason_required: None },
        invite(),
        TeamCommand::WithdrawInvitation { id: InvitationId(Uuid::from_u128(1)) },
        TeamCommand::AddMember { user_id: user(2), role: Role::Viewer },
        TeamCommand::ChangeRole { user_id: user(2), role: Role::Viewer },
        TeamCommand::RemoveMember { user_id: user(2) },
    ]
}

#[test]
fn only_who_may_change_it_changes_it_and_only_from_within() {
    let team = given::<Team>([created(), added(2, Role::Viewer)]);
    let (here, there) = (Some(id()), Some(TeamId(Uuid::from_u128(200))));
    let actors = [
        Actor::User(user(1)),
        Actor::Key(ApiKeyId(Uuid::from_u128(2))),
        Actor::Job(JobId(Uuid::from_u128(2))),
        Actor::System,
        Actor::Anonymous,
    ];
    for (actor, command) in actors.iter().flat_map(|actor| changes().map(|command| (*actor, command))) {
        let asked = |team_id, permissions| team.admit(&command, &caller(actor, team_id, permissions));
        assert_eq!(asked(here, Role::Owner.permissions()), Ok(()), "{actor} {command:?}");
        let everything_else: Permissions =
            Permission::ALL.iter().copied().filter(|it| *it != Permission::TeamWrite).collect();
        for permissions in [Role::Operator.permissions(), everything_else] {
            assert_eq!(asked(here, permissions), Err(Denied::Forbidden(Permission::TeamWrite)));
        }
        for elsewhere in [there, None] {
            assert_eq!(asked(elsewhere, Role::Owner.permissions()), Err(Denied::NotFound), "{command:?}");
        }
    }
}

#[test]
fn teams_are_made_by_those_who_may_make_teams() {
    let nobodys = Team::default();
    for permissions in [Permissions::admin(), Permissions::system(), Permissions::registration()] {
        assert_eq!(nobodys.admit(&create(), &caller(Actor::User(user(1)), None, permissions)), Ok(()));
    }
    let owner = caller(Actor::User(user(1)), Some(id()), Role::Owner.permissions());
    assert_eq!(nobodys.admit(&create(), &owner), Err(Denied::Forbidden(Permission::TeamsMake)));
}

#[test]
fn a_team_that_is_not_there_is_nobodys() {
    let owner = caller(Actor::User(user(1)), Some(id()), Role::Owner.permissions());
    for command in changes() {
        assert_eq!(Team::default().admit(&command, &owner), Err(Denied::NotFound), "{command:?}");
    }
}

#[test]
fn whoever_is_in_it_may_leave_and_takes_nobody_along() {
    let team = given::<Team>([created(), added(2, Role::Viewer), added(3, Role::Viewer)]);
    let leave = |n| TeamCommand::RemoveMember { user_id: user(n) };
    // Even without speaking for it: a second factor may be missing for that.
    let viewer = |team| caller(Actor::User(user(2)), team, Permissions::default());
    assert_eq!(team.admit(&leave(2), &viewer(None)), Ok(()));
    assert_eq!(team.admit(&leave(2), &viewer(Some(id()))), Ok(()));
    let missing = Err(Denied::Forbidden(Permission::TeamWrite));
    assert_eq!(team.admit(&leave(3), &viewer(Some(id()))), missing);
    let key = caller(Actor::Key(ApiKeyId(Uuid::from_u128(2))), Some(id()), Permissions::default());
    assert_eq!(team.admit(&leave(2), &key), missing, "a program does not leave for its maker");
    let stranger = caller(Actor::User(user(9)), None, Permissions::default());
    assert_eq!(team.admit(&leave(9), &stranger), Err(Denied::NotFound));
}

#[test]
fn people_join_for_themselves_or_as_they_register() {
    let team = given::<Team>([created()]);
    let asked = |actor, permissions| team.admit(&accept(9), &caller(actor, None, permissions));
    assert_eq!(asked(Actor::User(user(9)), Permissions::default()), Ok(()));
    assert_eq!(asked(Actor::Anonymous, Permissions::registration()), Ok(()));
    assert_eq!(
        asked(Actor::Anonymous, Permissions::default()),
        Err(Denied::Forbidden(Permission::UsersRegister))
    );
    let everything = Permission::ALL.iter().copied().collect();
    for other in [
        Actor::User(user(1)),
        Actor::Key(ApiKeyId(Uuid::from_u128(9))),
        Actor::Job(JobId(Uuid::from_u128(9))),
        Actor::System,
    ] {
        assert_eq!(asked(other, everything), Err(Denied::NotFound), "{other}");
    }
}
