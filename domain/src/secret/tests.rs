#![allow(clippy::unwrap_used)]

mod grants;
mod versions;

use uuid::Uuid;

use super::*;
use crate::event::testing::given;
use crate::{Actor, Role};

fn team() -> TeamId {
    TeamId(Uuid::from_u128(1))
}

fn store() -> SecretCommand {
    SecretCommand::Store(Store {
        team_id: team(),
        name: SecretName::parse("report-db").unwrap(),
        description: Description::parse("the report's database").unwrap(),
        tags: vec![Tag::parse("prod").unwrap()],
        expires_at: None,
        max_versions: None,
        sealed: "c2VhbGVk".into(),
    })
}

fn stored() -> SecretEvent {
    SecretEvent::SecretStored {
        team_id: team(),
        name: "report-db".into(),
        description: "the report's database".into(),
        tags: vec!["prod".into()],
        expires_at: None,
        sealed: "c2VhbGVk".into(),
    }
}

fn change(version: u32) -> SecretCommand {
    SecretCommand::ChangeValue { version, sealed: "bmV3".into() }
}

fn changed(version: u32) -> SecretEvent {
    SecretEvent::SecretValueChanged { version, sealed: "bmV3".into() }
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

#[test]
fn a_secret_is_stored_once() {
    assert_eq!(given::<Secret>([]).decide(store()), Ok(vec![stored()]));
    assert_eq!(given::<Secret>([stored()]).decide(store()), Err(SecretError::AlreadyExists));
}

#[test]
fn each_thing_that_is_said_of_it_changes_by_an_event_of_its_own() {
    let at = "2027-01-01T00:00:00Z".parse().unwrap();
    let amendment = SecretAmendment {
        name: Some(name("payments/stripe")),
        description: Some(Description::parse("Stripe's").unwrap()),
        tags: Some(vec![]),
        expires_at: Some(Some(at)),
        max_versions: Some(Some(VersionLimit::parse(3).unwrap())),
    };
    let events = vec![
        SecretEvent::SecretRenamed { from: "report-db".into(), name: "payments/stripe".into() },
        SecretEvent::SecretDescribed { description: "Stripe's".into() },
        SecretEvent::SecretTagged { tags: vec![] },
        SecretEvent::SecretExpiryChanged { expires_at: Some(at) },
        SecretEvent::SecretVersionLimitChanged { max_versions: Some(3) },
    ];
    let amend = || SecretCommand::Amend(amendment.clone());
    assert_eq!(given::<Secret>([stored()]).decide(amend()), Ok(events.clone()));
    let after = given::<Secret>([stored()].into_iter().chain(events));
    assert_eq!(after.decide(amend()), Ok(vec![]), "what is so already is no event");
    assert_eq!(after.decide(SecretCommand::Amend(SecretAmendment::default())), Ok(vec![]));
    let never = SecretAmendment { expires_at: Some(None), max_versions: Some(None), ..Default::default() };
    let cleared = vec![
        SecretEvent::SecretExpiryChanged { expires_at: None },
        SecretEvent::SecretVersionLimitChanged { max_versions: None },
    ];
    assert_eq!(after.decide(SecretCommand::Amend(never)), Ok(cleared));
}

#[test]
fn a_deleted_secret_is_gone_for_every_command_but_restoring_and_destroying() {
    let secret = given::<Secret>([stored(), SecretEvent::SecretDeleted {}]);
    assert_eq!(secret.decide(change(2)), Err(SecretError::NotFound));
    assert_eq!(secret.decide(SecretCommand::Delete), Err(SecretError::NotFound));
    assert_eq!(secret.decide(SecretCommand::Amend(SecretAmendment::default())), Err(SecretError::NotFound));
    assert_eq!(secret.held_name(), None);
    assert_eq!(secret.last_name(), Some((team(), "report-db")));
    let restored = vec![SecretEvent::SecretRestored {}];
    assert_eq!(secret.decide(SecretCommand::Restore { name: None }), Ok(restored));
    let elsewhere = vec![
        SecretEvent::SecretRestored {},
        SecretEvent::SecretRenamed { from: "report-db".into(), name: "report-db-2".into() },
    ];
    assert_eq!(secret.decide(SecretCommand::Restore { name: Some(name("report-db-2")) }), Ok(elsewhere));
}

#[test]
fn what_was_not_deleted_need_not_be_restored() {
    let secret = given::<Secret>([stored()]);
    assert_eq!(secret.decide(SecretCommand::Restore { name: None }), Ok(vec![]));
    assert_eq!(secret.decide(SecretCommand::Restore { name: Some(name("report-db")) }), Ok(vec![]));
    let renamed = secret.decide(SecretCommand::Restore { name: Some(name("other")) });
    assert_eq!(renamed, Err(SecretError::NotDeleted));
}

#[test]
fn deleting_frees_the_name_and_restoring_holds_it_again() {
    let secret = given::<Secret>([stored()]);
    assert_eq!(secret.held_name(), Some((team(), "report-db")));
    assert_eq!(secret.decide(SecretCommand::Delete), Ok(vec![SecretEvent::SecretDeleted {}]));
    let restored = given::<Secret>([stored(), SecretEvent::SecretDeleted {}, SecretEvent::SecretRestored {}]);
    assert_eq!(restored.held_name(), Some((team(), "report-db")));
    assert_eq!(restored.decide(change(2)), Ok(vec![changed(2)]));
}

#[test]
fn what_is_not_there_cannot_change() {
    let secret = given::<Secret>([]);
    for command in [
        change(1),
        SecretCommand::Delete,
        SecretCommand::Restore { name: None },
        SecretCommand::Destroy,
        SecretCommand::DestroyVersions { versions: [1].into() },
    ] {
        assert_eq!(secret.decide(command), Err(SecretError::NotFound));
    }
}

#[test]
fn writers_of_the_same_team_only() {
    let secret = given::<Secret>([stored()]);
    let caller =
        |team, role: Role| Caller { actor: Actor::System, team: Some(team), permissions: role.permissions() };
    let stranger = TeamId(Uuid::from_u128(2));
    for command in [
        SecretCommand::Delete,
        SecretCommand::Destroy,
        SecretCommand::Restore { name: None },
        SecretCommand::Amend(SecretAmendment::default()),
        SecretCommand::DestroyVersions { versions: [1].into() },
    ] {
        assert_eq!(secret.admit(&command, &caller(team(), Role::Operator)), Ok(()));
        let refused = Err(Denied::Forbidden(Permission::SecretsWrite));
        assert_eq!(secret.admit(&command, &caller(team(), Role::Viewer)), refused);
        assert_eq!(secret.admit(&command, &caller(stranger, Role::Owner)), Err(Denied::NotFound));
    }
    assert_eq!(secret.admit(&store(), &caller(stranger, Role::Owner)), Err(Denied::NotFound));
}
