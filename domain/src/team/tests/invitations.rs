//! Asking people to join, and joining.

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
}

fn invitation(n: u128) -> InvitationId {
    InvitationId(Uuid::from_u128(n))
}

/// Number `n`, for the address whose hash is `whom`, sent at second `n` and good for 100 s.
fn invite(n: u128, whom: &str) -> TeamCommand {
    let now = at(n as i64);
    TeamCommand::Invite(Invite {
        invitee: None,
        id: invitation(n),
        email: Email::parse("grace@example.org").unwrap(),
        email_hash: whom.into(),
        role: Role::Operator,
        token_hash: format!("token {n}"),
        now,
        expires_at: now + chrono::TimeDelta::seconds(100),
    })
}

fn invited(n: u128, whom: &str) -> TeamEvent {
    TeamEvent::MemberInvited {
        invitation_id: invitation(n),
        email: Personal::new(format!("invitee-{whom}"), "grace@example.org"),
        email_hash: whom.into(),
        role: Role::Operator,
        token_hash: format!("token {n}"),
        expires_at: at(n as i64 + 100),
        team_name: "Main".into(),
    }
}

fn withdrawn(n: u128) -> TeamEvent {
    TeamEvent::InvitationWithdrawn { invitation_id: invitation(n) }
}

/// User 9, whose address has the hash `grace`, takes up number `n` at this second.
fn accept(n: u128, second: i64) -> Accept {
    Accept {
        id: invitation(n),
        user_id: user(9),
        email_hash: "grace".into(),
        token_hash: format!("token {n}"),
        now: at(second),
    }
}

fn accepted(n: u128) -> TeamEvent {
    TeamEvent::InvitationAccepted { invitation_id: invitation(n), user_id: user(9) }
}

#[test]
fn an_address_of_somebody_who_has_no_account_belongs_to_whoever_has_the_address() {
    let team = given::<Team>([created()]);
    assert_eq!(team.decide(invite(1, "grace")), Ok(vec![invited(1, "grace")]));
    let renamed = given::<Team>([created(), TeamEvent::TeamRenamed { name: "Payments".into() }]);
    let events = renamed.decide(invite(1, "grace")).unwrap();
    assert!(
        matches!(&events[..], [TeamEvent::MemberInvited { team_name, .. }] if team_name == "Payments"),
        "the mail names the team as it is called now: {events:?}"
    );
}

#[test]
fn an_address_is_invited_once_at_a_time() {
    let team = given::<Team>([created(), invited(1, "grace")]);
    assert_eq!(team.decide(invite(2, "grace")), Err(TeamError::AlreadyInvited));
    assert!(team.decide(invite(2, "ada")).is_ok());
    let team = given::<Team>([created(), invited(1, "grace"), withdrawn(1)]);
    assert_eq!(team.decide(invite(2, "grace")), Ok(vec![invited(2, "grace")]));
}

#[test]
fn expired_ones_make_room_on_the_next_occasion() {
    let team = given::<Team>([created(), invited(1, "grace"), invited(2, "ada"), invited(90, "bob")]);
    // At second 100 the first one is still good, at 101 not any more.
    assert_eq!(team.decide(invite(100, "grace")), Err(TeamError::AlreadyInvited));
    assert_eq!(team.decide(invite(101, "grace")), Ok(vec![withdrawn(1), invited(101, "grace")]));
    let both = vec![withdrawn(1), withdrawn(2), invited(102, "grace")];
    assert_eq!(team.decide(invite(102, "grace")), Ok(both));
}

#[test]
fn a_hundred_are_open_at_most() {
    let all = (1..=MOST_INVITATIONS as u128).map(|n| invited(n, &format!("person {n}")));
    let all = [created()].into_iter().chain(all);
    let full = given::<Team>(all.clone());
    assert_eq!(full.decide(invite(100, "grace")), Err(TeamError::TooManyInvitations));
    // By then the first one has expired.
    assert_eq!(full.decide(invite(101, "grace")), Ok(vec![withdrawn(1), invited(101, "grace")]));
    for room in [withdrawn(50), accepted(50)] {
        assert!(given::<Team>(all.clone().chain([room])).decide(invite(100, "grace")).is_ok());
    }
}

#[test]
fn an_invitation_is_taken_back_once() {
    let withdraw = |n| TeamCommand::WithdrawInvitation { id: invitation(n) };
    let team = given::<Team>([created(), invited(1, "grace")]);
    assert_eq!(team.decide(withdraw(1)), Ok(vec![withdrawn(1)]));
    assert_eq!(team.decide(withdraw(2)), Err(TeamError::NoSuchInvitation));
    for gone in [withdrawn(1), accepted(1)] {
        let team = given::<Team>([created(), invited(1, "grace"), gone]);
        assert_eq!(team.decide(withdraw(1)), Err(TeamError::NoSuchInvitation));
    }
}

#[test]
fn whoever_was_asked_joins_once_as_what_they_were_asked_for() {
    let join = |second| TeamCommand::AcceptInvitation(accept(1, second));
    let team = given::<Team>([created(), invited(1, "grace")]);
    let joined = vec![accepted(1), added(9, Role::Operator)];
    assert_eq!(team.decide(join(100)), Ok(joined.clone()));
    assert_eq!(team.decide(join(101)), Err(TeamError::InvitationNotOpen), "too late");
    let team = given::<Team>([created(), invited(1, "grace")].into_iter().chain(joined));
    assert_eq!(team.decide(join(50)), Err(TeamError::InvitationNotOpen), "it was taken up");
    let team = given::<Team>([created(), invited(1, "grace"), withdrawn(1)]);
    assert_eq!(team.decide(join(50)), Err(TeamError::InvitationNotOpen), "it was taken back");
}

#[test]
fn a_wrong_token_tells_nothing_not_even_whom_it_is_for() {
    let team = given::<Team>([created(), invited(1, "ada"), invited(2, "grace")]);
    let with_token = |n: u128, token: &str| {
        let token_hash = token.to_owned();
        team.decide(TeamCommand::AcceptInvitation(Accept { token_hash, ..accept(n, 50) }))
    };
    assert_eq!(with_token(2, "token 2").map(|events| events.len()), Ok(2));
    for (n, token) in [(2, "token 1"), (2, ""), (1, "token 2"), (3, "token 3")] {
        assert_eq!(with_token(n, token), Err(TeamError::InvitationNotOpen), "{n} {token}");
    }
    assert_eq!(with_token(1, "token 1"), Err(TeamError::InvitationForAnother));
}

#[test]
fn who_is_in_it_already_or_finds_it_full_leaves_the_invitation_open() {
    let join = TeamCommand::AcceptInvitation(accept(1, 50));
    let member = given::<Team>([created(), invited(1, "grace"), added(9, Role::Viewer)]);
    assert_eq!(member.decide(join.clone()), Err(TeamError::AlreadyMember));
    let full = given::<Team>(thousand_without(9).chain([invited(1, "grace")]));
    assert_eq!(full.decide(join), Err(TeamError::TooManyMembers));
}

fn thousand_without(n: u128) -> impl Iterator<Item = TeamEvent> {
    let left = TeamEvent::MemberRemoved { user_id: user(n) };
    thousand().chain([left, added(4_000, Role::Viewer)])
}

#[test]
fn leaving_leaves_room_for_another_invitation() {
    let left = TeamEvent::MemberRemoved { user_id: user(9) };
    let before = [created(), invited(1, "grace"), accepted(1), added(9, Role::Operator), left];
    let team = given::<Team>(before.clone());
    assert_eq!(team.decide(invite(2, "grace")), Ok(vec![invited(2, "grace")]));
    let team = given::<Team>(before.into_iter().chain([invited(2, "grace")]));
    let again = TeamCommand::AcceptInvitation(accept(2, 50));
    assert_eq!(team.decide(again), Ok(vec![accepted(2), added(9, Role::Operator)]));
}
