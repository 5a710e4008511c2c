#![allow(clippy::unwrap_used)]

mod admission;
mod invitations;

use std::collections::BTreeSet;

use uuid::Uuid;

use super::*;
use crate::event::testing::given;
use crate::{Refusal as _, RefusalKind};

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

fn amend(name: Option<&str>, two_factor_required: Option<bool>) -> TeamCommand {
    let name = name.map(|name| TeamName::parse(name).unwrap());
    TeamCommand::Amend { name, two_factor_required, reveal_reason_required: None }
}

#[test]
fn what_is_said_of_a_team_changes_and_the_same_is_no_event() {
    let renamed = TeamEvent::TeamRenamed { name: "Payments".into() };
    let required = |required| TeamEvent::TwoFactorRequirementChanged { required };
    let team = given::<Team>([created()]);
    let both = amend(Some("Payments"), Some(true));
    assert_eq!(team.decide(both.clone()), Ok(vec![renamed.clone(), required(true)]));
    for nothing in [amend(None, None), amend(Some("Main"), Some(false))] {
        assert_eq!(team.decide(nothing), Ok(vec![]));
    }
    let team = given::<Team>([created(), renamed, required(true)]);
    assert_eq!(team.decide(both), Ok(vec![]));
    assert_eq!(team.decide(amend(Some("Main"), None)).map(|events| events.len()), Ok(1));
    assert_eq!(team.decide(amend(None, Some(false))), Ok(vec![required(false)]));
}

#[test]
fn a_team_asks_for_reasons_or_does_not() {
    let amend = |required| TeamCommand::Amend {
        name: None,
        two_factor_required: None,
        reveal_reason_required: Some(required),
    };
    let changed = |required| TeamEvent::RevealReasonRequirementChanged { required };
    assert_eq!(given::<Team>([created()]).decide(amend(true)), Ok(vec![changed(true)]));
    assert_eq!(given::<Team>([created()]).decide(amend(false)), Ok(vec![]));
    assert_eq!(given::<Team>([created(), changed(true)]).decide(amend(false)), Ok(vec![changed(false)]));
}

fn thousand() -> impl Iterator<Item = TeamEvent> + Clone {
    // The owner is one of them.
    let joined = (2..=MOST_MEMBERS as u128).map(|n| added(n, Role::Viewer));
    [created()].into_iter().chain(joined)
}

#[test]
fn a_team_has_a_thousand_members_at_most() {
    let join = TeamCommand::AddMember { user_id: user(5_000), role: Role::Viewer };
    assert_eq!(given::<Team>(thousand()).decide(join.clone()), Err(TeamError::TooManyMembers));
    let one_left = TeamEvent::MemberRemoved { user_id: user(7) };
    let joined = vec![added(5_000, Role::Viewer)];
    assert_eq!(given::<Team>(thousand().chain([one_left])).decide(join), Ok(joined));
}

#[test]
fn the_last_owner_is_told_from_the_others() {
    let alone = given::<Team>([created(), added(2, Role::Operator)]);
    assert!(alone.is_last_owner(user(1)) && !alone.is_last_owner(user(2)) && !alone.is_last_owner(user(3)));
    let two = given::<Team>([created(), added(2, Role::Owner)]);
    assert!(!two.is_last_owner(user(1)) && !two.is_last_owner(user(2)));
    let changed = TeamEvent::MemberRoleChanged { user_id: user(1), role: Role::Viewer };
    let other = given::<Team>([created(), added(2, Role::Owner), changed]);
    assert!(other.is_last_owner(user(2)) && !other.is_last_owner(user(1)));
}

#[test]
fn owners_and_members_are_known() {
    let team = given::<Team>([created(), added(2, Role::Operator), added(3, Role::Owner)]);
    assert!(team.owners().eq([user(1), user(3)]));
    assert!(team.has_member(user(2)) && !team.has_member(user(4)));
    let changed = TeamEvent::MemberRoleChanged { user_id: user(1), role: Role::Viewer };
    let removed = TeamEvent::MemberRemoved { user_id: user(2) };
    let team = given::<Team>([created(), added(2, Role::Owner), added(3, Role::Owner), changed, removed]);
    assert!(team.owners().eq([user(3)]));
    assert!(team.has_member(user(1)) && !team.has_member(user(2)));
}

#[test]
fn every_refusal_has_a_code_of_its_own() {
    use TeamError as E;
    let conflicts = [
        E::AlreadyExists,
        E::AlreadyMember,
        E::TooManyMembers,
        E::LastOwner,
        E::InvitationNotOpen,
        E::InvitationForAnother,
        E::AlreadyInvited,
        E::TooManyInvitations,
    ];
    assert!(conflicts.iter().all(|error| error.kind() == RefusalKind::Conflict));
    let missing = [E::NotFound, E::NotMember, E::NoSuchInvitation];
    assert!(missing.iter().all(|error| error.kind() == RefusalKind::NotFound));
    let all = conflicts.iter().chain(&missing);
    let codes: BTreeSet<_> = all.map(|error| (error.code(), error.to_string())).collect();
    assert_eq!(codes.len(), 11);
}
