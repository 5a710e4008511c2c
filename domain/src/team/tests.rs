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
fn who_is_in_the_team_is_not_asked_to_join() {
    let team = given::<Team>([created(), added(2, Role::Viewer)]);
    let invite = |invitee| {
        TeamCommand::Invite(Invite {
            id: InvitationId(Uuid::from_u128(7)),
            email: Email::parse("ada@example.org").unwrap(),
            invitee,
            email_hash: "hash".into(),
            role: Role::Owner,
            token_hash: "token".into(),
            now: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH + chrono::TimeDelta::days(7),
        })
    };
    assert_eq!(team.decide(invite(Some(user(2)))), Err(TeamError::AlreadyMember));
    assert!(team.decide(invite(Some(user(3)))).is_ok() && team.decide(invite(None)).is_ok());
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
