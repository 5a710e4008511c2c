//! Values: each the next version, some of them gone for ever.

use super::*;

fn destroyed(versions: &[u32]) -> SecretEvent {
    SecretEvent::SecretVersionsDestroyed { versions: versions.to_vec() }
}

fn limited(max_versions: u32) -> SecretEvent {
    SecretEvent::SecretVersionLimitChanged { max_versions: Some(max_versions) }
}

#[test]
fn each_value_is_the_next_version() {
    assert_eq!(given::<Secret>([stored()]).decide(change(2)), Ok(vec![changed(2)]));
    assert_eq!(given::<Secret>([stored(), changed(2)]).decide(change(3)), Ok(vec![changed(3)]));
}

#[test]
fn a_value_sealed_for_another_version_is_stale() {
    for given_version in [1, 2, 4] {
        assert_eq!(
            given::<Secret>([stored(), changed(2)]).decide(change(given_version)),
            Err(SecretError::StaleVersion { present: 2, given: given_version })
        );
    }
}

#[test]
fn with_a_limit_the_oldest_versions_go_as_new_ones_come() {
    let secret = given::<Secret>([stored(), limited(2), changed(2)]);
    assert_eq!(secret.decide(change(3)), Ok(vec![changed(3), destroyed(&[1])]));
    let after = given::<Secret>([stored(), limited(2), changed(2), changed(3), destroyed(&[1])]);
    assert_eq!(after.decide(change(4)), Ok(vec![changed(4), destroyed(&[2])]));
}

#[test]
fn a_lower_limit_lets_go_of_what_is_too_much_at_once() {
    let secret = given::<Secret>([stored(), changed(2), changed(3), changed(4)]);
    let limit = |n| SecretAmendment {
        max_versions: Some(Some(VersionLimit::parse(n).unwrap())),
        ..SecretAmendment::default()
    };
    let events = secret.decide(SecretCommand::Amend(limit(1)));
    assert_eq!(events, Ok(vec![limited(1), destroyed(&[1, 2, 3])]));
    assert_eq!(secret.decide(SecretCommand::Amend(limit(4))), Ok(vec![limited(4)]));
}

#[test]
fn a_limit_given_at_the_beginning_is_kept() {
    let SecretCommand::Store(new) = store() else { return };
    let new = Store { max_versions: VersionLimit::parse(5).ok(), ..new };
    let events = given::<Secret>([]).decide(SecretCommand::Store(new));
    assert_eq!(events, Ok(vec![stored(), limited(5)]));
    assert!(VersionLimit::parse(0).is_err() && VersionLimit::parse(1_001).is_err());
}

#[test]
fn there_is_an_end_to_versions_also_to_those_that_were_destroyed() {
    let most = MOST_VERSIONS;
    let secret = given::<Secret>([stored()].into_iter().chain((2..=most).map(changed)));
    assert_eq!(secret.decide(change(most + 1)), Err(SecretError::TooManyVersions));
    let gone = [limited(1), destroyed(&(1..most).collect::<Vec<_>>())];
    let one_left = given::<Secret>([stored()].into_iter().chain((2..=most).map(changed)).chain(gone));
    assert_eq!(one_left.decide(change(most + 1)), Err(SecretError::TooManyVersions));
    let before = given::<Secret>([stored()].into_iter().chain((2..most).map(changed)));
    assert_eq!(before.decide(change(most)), Ok(vec![changed(most)]));
}

#[test]
fn versions_are_destroyed_once_and_only_those_there_were() {
    let secret = given::<Secret>([stored(), changed(2), changed(3)]);
    let destroy =
        |versions: &[u32]| SecretCommand::DestroyVersions { versions: versions.iter().copied().collect() };
    assert_eq!(secret.decide(destroy(&[3, 1])), Ok(vec![destroyed(&[1, 3])]));
    assert_eq!(secret.decide(destroy(&[1, 4])), Err(SecretError::NoSuchVersion(4)));
    assert_eq!(secret.decide(destroy(&[0])), Err(SecretError::NoSuchVersion(0)));
    let after = given::<Secret>([stored(), changed(2), changed(3), destroyed(&[1, 3])]);
    assert_eq!(after.decide(destroy(&[1, 3])), Ok(vec![]));
    assert_eq!(after.decide(destroy(&[1, 2])), Ok(vec![destroyed(&[2])]));
    assert_eq!(
        after.decide(change(4)),
        Ok(vec![changed(4)]),
        "the present one may be gone, the next one is kept"
    );
}

#[test]
fn a_destroyed_secret_stays_so() {
    let gone = SecretEvent::SecretDestroyed { versions: vec![2, 3] };
    let before = given::<Secret>([stored(), changed(2), changed(3), destroyed(&[1])]);
    assert_eq!(before.decide(SecretCommand::Destroy), Ok(vec![gone.clone()]));
    assert_eq!(gone.destroyed_versions(), [2, 3]);
    let after = given::<Secret>([stored(), changed(2), changed(3), destroyed(&[1]), gone]);
    assert_eq!(after.held_name(), None);
    assert_eq!(after.decide(SecretCommand::Destroy), Ok(vec![]));
    for command in [
        change(4),
        SecretCommand::Restore { name: None },
        SecretCommand::Delete,
        SecretCommand::DestroyVersions { versions: [1].into() },
    ] {
        assert_eq!(after.decide(command), Err(SecretError::Destroyed));
    }
}

#[test]
fn what_was_put_away_can_be_destroyed() {
    let secret = given::<Secret>([stored(), SecretEvent::SecretDeleted {}]);
    let gone = SecretEvent::SecretDestroyed { versions: vec![1] };
    assert_eq!(secret.decide(SecretCommand::Destroy), Ok(vec![gone]));
    let versions = SecretCommand::DestroyVersions { versions: [1].into() };
    assert_eq!(secret.decide(versions), Ok(vec![destroyed(&[1])]));
}
