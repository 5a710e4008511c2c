//! Leave to see one secret for a while.

use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
}

fn grant(n: u128, now: i64, until: i64) -> SecretCommand {
    SecretCommand::GrantReveal(Grant {
        id: GrantId(Uuid::from_u128(n)),
        user_id: UserId(Uuid::from_u128(9)),
        now: at(now),
        until: at(until),
        reason: Reason::parse("incident 7").unwrap(),
    })
}

fn granted(n: u128, now: i64, until: i64) -> SecretEvent {
    SecretEvent::RevealGranted {
        grant_id: GrantId(Uuid::from_u128(n)),
        user_id: UserId(Uuid::from_u128(9)),
        granted_at: at(now),
        until: at(until),
        reason: "incident 7".into(),
        name: "report-db".into(),
    }
}

#[test]
fn a_grant_has_an_end_that_is_near() {
    let secret = given::<Secret>([stored()]);
    assert_eq!(secret.decide(grant(1, 0, 60)), Ok(vec![granted(1, 0, 60)]));
    assert_eq!(secret.decide(grant(1, 0, 24 * 60)), Ok(vec![granted(1, 0, 24 * 60)]));
    for until in [24 * 60 + 1, 0, -1] {
        assert_eq!(secret.decide(grant(1, 0, until)), Err(SecretError::GrantTooLong), "{until}");
    }
}

#[test]
fn those_that_have_ended_make_room() {
    let open = (0..MOST_GRANTS as u128).map(|n| granted(n, 0, 60));
    let secret = given::<Secret>([stored()].into_iter().chain(open));
    assert_eq!(secret.decide(grant(99, 59, 90)), Err(SecretError::TooManyGrants));
    assert_eq!(secret.decide(grant(99, 60, 90)), Ok(vec![granted(99, 60, 90)]));
}

#[test]
fn a_grant_is_withdrawn_once() {
    let withdraw = SecretCommand::WithdrawGrant { id: GrantId(Uuid::from_u128(1)) };
    let withdrawn = SecretEvent::RevealGrantWithdrawn { grant_id: GrantId(Uuid::from_u128(1)) };
    let secret = given::<Secret>([stored(), granted(1, 0, 60)]);
    assert_eq!(secret.decide(withdraw.clone()), Ok(vec![withdrawn.clone()]));
    let after = given::<Secret>([stored(), granted(1, 0, 60), withdrawn]);
    assert_eq!(after.decide(withdraw), Err(SecretError::NoSuchGrant));
}

#[test]
fn a_grant_is_open_until_its_time_is_over_or_it_is_ended_or_the_secret_is_away() {
    let id = GrantId(Uuid::from_u128(1));
    let open = |more: &[SecretEvent], now| {
        let events = [stored(), granted(1, 0, 60)].into_iter().chain(more.iter().cloned());
        given::<Secret>(events).grant_is_open(id, at(now))
    };
    assert!(open(&[], 0) && open(&[], 59) && !open(&[], 60));
    assert!(!given::<Secret>([stored()]).grant_is_open(id, at(0)), "no such grant");
    assert!(open(&[granted(2, 1, 5)], 30), "another one has ended");
    assert!(!open(&[SecretEvent::RevealGrantWithdrawn { grant_id: id }], 30));
    let (deleted, restored) = (SecretEvent::SecretDeleted {}, SecretEvent::SecretRestored {});
    assert!(!open(std::slice::from_ref(&deleted), 30) && open(&[deleted, restored], 30));
    assert!(!open(&[SecretEvent::SecretDestroyed { versions: vec![1] }], 30));
}

#[test]
fn only_who_says_who_may_do_what_and_may_see_it_themselves_gives_leave() {
    let secret = given::<Secret>([stored()]);
    let caller = |permissions: &[Permission]| Caller {
        actor: Actor::System,
        team: Some(team()),
        permissions: permissions.iter().copied().collect(),
    };
    let both = [Permission::TeamWrite, Permission::SecretsReveal];
    assert_eq!(secret.admit(&grant(1, 0, 60), &caller(&both)), Ok(()));
    for (missing, had) in [(both[0], both[1]), (both[1], both[0])] {
        assert_eq!(secret.admit(&grant(1, 0, 60), &caller(&[had])), Err(Denied::Forbidden(missing)));
    }
    let operator =
        Caller { actor: Actor::System, team: Some(team()), permissions: Role::Operator.permissions() };
    assert_eq!(secret.admit(&grant(1, 0, 60), &operator), Err(Denied::Forbidden(Permission::TeamWrite)));
}
