use domain::{ApiKeyId, TokenId};
use uuid::Uuid;

use super::*;
use crate::testing::{at, fact, folded, id, team_id};

fn personal(text: &str) -> Personal {
    Personal::new(id(1), text)
}

fn registered_event(admin: bool) -> UserEvent {
    UserEvent::UserRegistered {
        email: personal("Ada@Example.org"),
        name: personal("Ada"),
        password_hash: personal("$argon2id$x"),
        admin,
    }
}

/// The row after an account of nobody special was made (event 1) and these (from event 2).
fn after(events: impl IntoIterator<Item = UserEvent>) -> UserRow {
    let events = std::iter::once(registered_event(false)).chain(events);
    let facts: Vec<Fact> = (1..).zip(events).map(|(n, event)| fact(n, "user", id(1), event)).collect();
    let mut rows = folded::<Users>(&facts);
    rows.remove(&id(1)).unwrap_or_else(|| panic!("no row after {facts:?}"))
}

fn fresh() -> UserRow {
    UserRow {
        id: id(1),
        email: "Ada@Example.org".into(),
        canonical_email: Some("ada@example.org".into()),
        name: "Ada".into(),
        canonical_name: "ada".into(),
        password_hash: "$argon2id$x".into(),
        admin: false,
        active: true,
        email_verified: false,
        two_factor: false,
        two_factor_sealed: None,
        recovery_codes_left: 0,
        erased: false,
        password_position: 1,
        operator: None,
        created_at: at(1),
        updated_at: at(1),
        sequence: 1,
    }
}

/// As it was, but for what event `n` has touched.
fn touched(n: i64) -> UserRow {
    UserRow { updated_at: at(n), sequence: n, ..fresh() }
}

fn begun() -> UserEvent {
    UserEvent::TwoFactorBegun { sealed: "c2VhbGVk".into() }
}

fn enabled() -> UserEvent {
    UserEvent::TwoFactorEnabled { recovery_code_hashes: ["r1".to_owned(), "r2".to_owned()].into() }
}

fn recovered() -> UserEvent {
    UserEvent::RecoveryCodeUsed { hash: "r1".into() }
}

#[test]
fn an_account_is_made_and_renamed() {
    assert_eq!(after([]), fresh());
    let renamed = after([UserEvent::UserRenamed { name: personal("GRÄFIN") }]);
    let expected = UserRow { name: "GRÄFIN".into(), canonical_name: "gräfin".into(), ..touched(2) };
    assert_eq!(renamed, expected);
    let admin = folded::<Users>(&[fact(1, "user", id(1), registered_event(true))]);
    assert_eq!(admin, [(id(1), UserRow { admin: true, ..fresh() })].into());
}

#[test]
fn passwords_change_and_it_is_known_since_when_they_are_what_they_are() {
    let token_id = TokenId(Uuid::from_u128(7));
    let changed = after([UserEvent::PasswordChanged { password_hash: personal("h2") }]);
    assert_eq!(changed, UserRow { password_hash: "h2".into(), password_position: 2, ..touched(2) });
    let reset = after([UserEvent::PasswordReset { password_hash: personal("h3"), token_id }]);
    assert_eq!(reset, UserRow { password_hash: "h3".into(), password_position: 2, ..touched(2) });
    // The same password, hashed anew.
    let rehashed = after([UserEvent::PasswordRehashed { password_hash: personal("h4") }]);
    assert_eq!(rehashed, UserRow { password_hash: "h4".into(), ..touched(2) });
}

#[test]
fn an_account_is_verified_deactivated_reactivated_and_made_an_admin() {
    assert_eq!(after([UserEvent::EmailVerified {}]), UserRow { email_verified: true, ..touched(2) });
    let deactivated = || UserEvent::UserDeactivated { operator: Some(Personal::new("operators", "root")) };
    assert_eq!(after([deactivated()]), UserRow { active: false, ..touched(2) });
    assert_eq!(after([deactivated(), UserEvent::UserReactivated {}]), touched(3));
    assert_eq!(after([UserEvent::AdminGranted {}]), UserRow { admin: true, ..touched(2) });
    assert_eq!(after([UserEvent::AdminGranted {}, UserEvent::AdminRevoked {}]), touched(3));
}

#[test]
fn a_second_factor_is_on_once_it_is_confirmed_and_its_codes_are_counted() {
    let sealed = Some("c2VhbGVk".to_owned());
    let being_set_up = UserRow { two_factor_sealed: sealed.clone(), ..touched(2) };
    assert_eq!(after([begun()]), being_set_up);
    let on = UserRow { two_factor: true, two_factor_sealed: sealed, recovery_codes_left: 2, ..touched(3) };
    assert_eq!(after([begun(), enabled()]), on);
    let one_left = UserRow { recovery_codes_left: 1, ..on };
    let one_left = UserRow { updated_at: at(4), sequence: 4, ..one_left };
    assert_eq!(after([begun(), enabled(), recovered()]), one_left);
    for off in [
        UserEvent::TwoFactorDisabled {},
        UserEvent::TwoFactorReset { operator: Personal::new("operators", "root") },
    ] {
        assert_eq!(after([begun(), enabled(), recovered(), off]), touched(5));
    }
}

#[test]
fn what_is_of_no_account_leaves_it_but_for_its_version() {
    let key_id = ApiKeyId(Uuid::from_u128(7));
    let made = UserEvent::ApiKeyMade {
        key_id,
        name: "deploy".into(),
        team_id: team_id(100),
        prefix: "dbk_0001".into(),
        hash: "ab".into(),
        scopes: [].into(),
        expires_at: None,
    };
    for event in [UserEvent::SignedOutEverywhere {}, made, UserEvent::ApiKeyRevoked { key_id }] {
        assert_eq!(after([event]), touched(2));
    }
}

#[test]
fn nothing_happens_to_an_account_that_was_never_made() {
    let facts = [
        fact(1, "user", id(1), UserEvent::UserRenamed { name: personal("Countess") }),
        fact(2, "user", id(1), UserEvent::UserErased { subjects: [].into() }),
    ];
    assert_eq!(folded::<Users>(&facts), [].into());
}

#[test]
fn who_was_erased_is_forgotten_at_once() {
    let everything = [
        UserEvent::EmailVerified {},
        UserEvent::AdminGranted {},
        begun(),
        enabled(),
        UserEvent::UserErased { subjects: [].into() },
    ];
    let expected = UserRow {
        email: "erased".into(),
        canonical_email: None,
        name: "erased".into(),
        canonical_name: "erased".into(),
        password_hash: "erased".into(),
        active: false,
        erased: true,
        ..touched(6)
    };
    assert_eq!(after(everything), expected);
}

/// What is folded after the key was destroyed is what was folded before.
#[test]
fn who_was_erased_is_found_by_no_address_and_a_rebuild_says_the_same() {
    let erased = || Personal::Erased { erased: true, subject: id(1) };
    let registered =
        UserEvent::UserRegistered { email: erased(), name: erased(), password_hash: erased(), admin: false };
    let made = |registered, name| {
        let events =
            [registered, UserEvent::UserRenamed { name }, UserEvent::UserErased { subjects: [].into() }];
        let facts: Vec<Fact> = (1..).zip(events).map(|(n, event)| fact(n, "user", id(1), event)).collect();
        folded::<Users>(&facts)
    };
    let anew = made(registered.clone(), erased());
    assert_eq!(anew, made(registered_event(true), personal("Countess")));
    // Between the key's end and the event's fold.
    let rows = folded::<Users>(&[fact(1, "user", id(1), registered)]);
    assert_eq!((rows[&id(1)].email.as_str(), &rows[&id(1)].canonical_email), ("erased", &None));
}

#[test]
fn nobody_is_shown_the_hash_or_the_shared_key() {
    let shown = Users::public(&after([begun(), enabled()]));
    assert_eq!(shown["password_hash"], "sealed");
    assert_eq!(shown["two_factor_sealed"], "sealed");
    assert!(!shown.to_string().contains("argon2id") && !shown.to_string().contains("c2VhbGVk"), "{shown}");
    assert!(Users::public(&after([]))["two_factor_sealed"].is_null());
}
