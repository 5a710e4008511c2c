use uuid::Uuid;

use super::*;
use crate::testing::{at, fact, folded, id, team_id, user_id};

fn created() -> TeamEvent {
    TeamEvent::TeamCreated {
        team_id: team_id(100),
        name: "Main".into(),
        slug: "main".into(),
        owner: user_id(1),
    }
}

/// The row after the team was made (event 1) and these (from event 2), all by `actor`.
fn after_by(actor: &str, events: impl IntoIterator<Item = TeamEvent>) -> TeamRow {
    let events = std::iter::once(created()).chain(events);
    let by = |fact: Fact| Fact { actor: actor.to_owned(), ..fact };
    let facts: Vec<Fact> = (1..).zip(events).map(|(n, event)| by(fact(n, "team", id(100), event))).collect();
    let mut rows = folded::<Teams>(&facts);
    rows.remove(&id(100)).unwrap_or_else(|| panic!("no row after {facts:?}"))
}

fn after(events: impl IntoIterator<Item = TeamEvent>) -> TeamRow {
    after_by("system", events)
}

/// As it was made, but for what event `n` has touched.
fn touched(n: i64) -> TeamRow {
    TeamRow {
        id: id(100),
        slug: "main".into(),
        name: "Main".into(),
        members: [(user_id(1), Role::Owner)].into(),
        two_factor_required: false,
        reveal_reason_required: false,
        jobs_paused: false,
        paused_kinds: BTreeSet::new(),
        invitations: BTreeMap::new(),
        created_by: "system".into(),
        created_at: at(1),
        updated_at: at(n),
        sequence: n,
    }
}

fn invitation_id(n: u128) -> InvitationId {
    InvitationId(Uuid::from_u128(n))
}

fn invited(n: u128, email: Personal) -> TeamEvent {
    TeamEvent::MemberInvited {
        invitation_id: invitation_id(n),
        email,
        email_hash: "h".into(),
        role: Role::Operator,
        token_hash: "t".into(),
        expires_at: at(500) + chrono::TimeDelta::microseconds(7),
        team_name: "Main".into(),
    }
}

fn grace() -> Personal {
    Personal::new("invitee-h", "Grace@Example.org")
}

#[test]
fn members_come_change_and_go() {
    let row = after([
        TeamEvent::MemberAdded { user_id: user_id(2), role: Role::Viewer },
        TeamEvent::MemberAdded { user_id: user_id(3), role: Role::Viewer },
        TeamEvent::MemberRoleChanged { user_id: user_id(2), role: Role::Auditor },
        TeamEvent::MemberRemoved { user_id: user_id(3) },
    ]);
    let members = [(user_id(1), Role::Owner), (user_id(2), Role::Auditor)].into();
    assert_eq!(row, TeamRow { members, ..touched(5) });
}

#[test]
fn what_is_said_of_a_team_changes_and_its_slug_stays() {
    let row = after([
        TeamEvent::TeamRenamed { name: "Payments".into() },
        TeamEvent::TwoFactorRequirementChanged { required: true },
    ]);
    assert_eq!(row, TeamRow { name: "Payments".into(), two_factor_required: true, ..touched(3) });
    let back = after([
        TeamEvent::TwoFactorRequirementChanged { required: true },
        TeamEvent::TwoFactorRequirementChanged { required: false },
    ]);
    assert_eq!(back, touched(3));
}

#[test]
fn who_is_asked_to_join_is_shown_until_they_have_or_it_was_taken_back() {
    let actor = format!("user:{}", id(1));
    let row = after_by(&actor, [invited(7, grace()), invited(8, grace())]);
    let open = |created| InvitationRow {
        email: "Grace@Example.org".into(),
        email_hash: "h".into(),
        role: Role::Operator,
        invited_by: actor.clone(),
        created_at: at(created),
        expires_at: at(500),
    };
    let invitations = [(invitation_id(7), open(2)), (invitation_id(8), open(3))].into();
    assert_eq!(row, TeamRow { invitations, created_by: actor.clone(), ..touched(3) });

    let withdrawn = TeamEvent::InvitationWithdrawn { invitation_id: invitation_id(7) };
    let row = after([invited(7, grace()), invited(8, grace()), withdrawn]);
    assert_eq!(row.invitations.keys().collect::<Vec<_>>(), [&invitation_id(8)]);
    let accepted = TeamEvent::InvitationAccepted { invitation_id: invitation_id(7), user_id: user_id(9) };
    let joined = TeamEvent::MemberAdded { user_id: user_id(9), role: Role::Operator };
    let row = after([invited(7, grace()), accepted, joined]);
    let members = [(user_id(1), Role::Owner), (user_id(9), Role::Operator)].into();
    assert_eq!(row, TeamRow { members, ..touched(4) });
}

#[test]
fn a_forgotten_address_is_not_shown() {
    let row = after([invited(7, Personal::Erased { erased: true, subject: "invitee-h".into() })]);
    assert_eq!(row.invitations[&invitation_id(7)].email, "erased");
}

#[test]
fn nothing_happens_to_a_team_that_was_never_made() {
    let facts = [fact(1, "team", id(100), TeamEvent::TeamRenamed { name: "Payments".into() })];
    assert_eq!(folded::<Teams>(&facts), [].into());
}

#[test]
fn kinds_and_all_jobs_are_paused_and_resumed_apart() {
    let kind = |name: &str| Some(name.to_owned());
    let row = after([
        TeamEvent::JobsPaused { kind: kind("report") },
        TeamEvent::JobsPaused { kind: None },
        TeamEvent::JobsPaused { kind: kind("mail") },
        TeamEvent::JobsResumed { kind: kind("report") },
    ]);
    assert_eq!((row.jobs_paused, row.paused_kinds), (true, ["mail".to_owned()].into()));
    let row = after([TeamEvent::JobsPaused { kind: None }, TeamEvent::JobsResumed { kind: None }]);
    assert_eq!((row.jobs_paused, row.paused_kinds), (false, BTreeSet::new()));
}
