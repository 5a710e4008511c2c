#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{at, fact, folded, id, team_id};

fn secret(sequence: i64, event: SecretEvent) -> Fact {
    fact(sequence, "secret", id(5), event)
}

fn stored() -> Fact {
    secret(
        1,
        SecretEvent::SecretStored {
            team_id: team_id(100),
            name: "report-db".into(),
            description: "the report's".into(),
            tags: vec!["prod".into()],
            expires_at: Some(at(99) + chrono::TimeDelta::microseconds(7)),
            sealed: "b25l".into(),
        },
    )
}

fn row() -> SecretRow {
    SecretRow {
        id: id(5),
        team_id: team_id(100),
        name: "report-db".into(),
        description: "the report's".into(),
        tags: vec!["prod".into()],
        version: 2,
        max_versions: None,
        expires_at: Some(at(99)),
        deleted: false,
        destroyed: false,
        grants: vec![],
        created_by: "system".into(),
        created_at: at(1),
        updated_at: at(2),
        sealed: Some("dHdv".into()),
        sealed_sequence: 2,
        sequence: 2,
    }
}

fn changed() -> Fact {
    secret(2, SecretEvent::SecretValueChanged { version: 2, sealed: "dHdv".into() })
}

#[test]
fn a_new_value_is_the_next_version() {
    assert_eq!(folded::<Secrets>(&[stored(), changed()]), [(id(5), row())].into());
}

#[test]
fn a_deleted_secret_stays_and_says_so() {
    let deleted = secret(3, SecretEvent::SecretDeleted {});
    let expected = SecretRow { deleted: true, updated_at: at(3), sequence: 3, ..row() };
    assert_eq!(folded::<Secrets>(&[stored(), changed(), deleted]), [(id(5), expected)].into());
}

#[test]
fn nobody_is_shown_the_sealed_bytes() {
    assert_eq!(Secrets::public(&row())["sealed"], "sealed");
    let stated = stored().stated();
    let sealed = stated.iter().find(|change| change.field == "sealed").map(|change| change.after.clone());
    assert_eq!(sealed, Some(serde_json::Value::from("sealed").into()));
}

fn with(facts: Vec<Fact>) -> SecretRow {
    let all: Vec<Fact> = [stored(), changed()].into_iter().chain(facts).collect();
    folded::<Secrets>(&all).remove(&id(5)).unwrap()
}

#[test]
fn what_is_said_of_it_changes() {
    let facts = vec![
        secret(3, SecretEvent::SecretRenamed { from: "report-db".into(), name: "db".into() }),
        secret(4, SecretEvent::SecretDescribed { description: "d".into() }),
        secret(5, SecretEvent::SecretTagged { tags: vec![] }),
        secret(6, SecretEvent::SecretExpiryChanged { expires_at: None }),
        secret(7, SecretEvent::SecretVersionLimitChanged { max_versions: Some(4) }),
    ];
    let expected = SecretRow {
        name: "db".into(),
        description: "d".into(),
        tags: vec![],
        expires_at: None,
        max_versions: Some(4),
        updated_at: at(7),
        sequence: 7,
        ..row()
    };
    assert_eq!(with(facts), expected);
}

#[test]
fn what_was_put_away_can_come_back() {
    let facts = vec![secret(3, SecretEvent::SecretDeleted {}), secret(4, SecretEvent::SecretRestored {})];
    assert_eq!(with(facts), SecretRow { updated_at: at(4), sequence: 4, ..row() });
}

#[test]
fn the_sealed_value_goes_when_the_present_version_is_destroyed() {
    let destroyed = |versions: &[u32]| SecretEvent::SecretVersionsDestroyed { versions: versions.to_vec() };
    assert_eq!(with(vec![secret(3, destroyed(&[1]))]).sealed, Some("dHdv".into()));
    assert_eq!(with(vec![secret(3, destroyed(&[1, 2]))]).sealed, None);
    let gone = with(vec![secret(3, SecretEvent::SecretDestroyed { versions: vec![1, 2] })]);
    assert!(gone.destroyed && gone.deleted && gone.sealed.is_none());
}

#[test]
fn grants_come_and_go_and_old_ones_make_room() {
    let granted = |n: i64, until| SecretEvent::RevealGranted {
        grant_id: GrantId(uuid::Uuid::from_u128(n as u128)),
        user_id: crate::testing::user_id(1),
        granted_at: at(n),
        until: at(until),
        reason: "why".into(),
        name: "report-db".into(),
    };
    let ids = |row: SecretRow| row.grants.iter().map(|grant| grant.id.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(ids(with(vec![secret(3, granted(3, 9)), secret(4, granted(4, 9))])), [3, 4]);
    assert_eq!(ids(with(vec![secret(3, granted(3, 4)), secret(4, granted(4, 9))])), [4]);
    let withdrawn = SecretEvent::RevealGrantWithdrawn { grant_id: GrantId(uuid::Uuid::from_u128(3)) };
    assert_eq!(ids(with(vec![secret(3, granted(3, 9)), secret(4, withdrawn)])), Vec::<u128>::new());
}
