#![allow(clippy::unwrap_used)]

mod admission;
mod amendments;
mod api_keys;
mod two_factor;

use uuid::Uuid;

use super::*;
use crate::event::testing::given;
use crate::{Refusal, RefusalKind};

fn ada() -> UserId {
    UserId(Uuid::from_u128(1))
}

fn new_account() -> Register {
    Register {
        id: ada(),
        email: Email::parse("ada@example.org").unwrap(),
        name: PersonName::parse("Ada").unwrap(),
        password_hash: "$argon2id$x".into(),
        admin: false,
        email_verified: false,
        active: true,
    }
}

fn register() -> UserCommand {
    UserCommand::Register(new_account())
}

fn personal(text: &str) -> Personal {
    Personal::new(ada(), text)
}

fn registered() -> UserEvent {
    registered_as(false)
}

fn registered_as(admin: bool) -> UserEvent {
    UserEvent::UserRegistered {
        email: personal("ada@example.org"),
        name: personal("Ada"),
        password_hash: personal("$argon2id$x"),
        admin,
    }
}

fn deactivated() -> UserEvent {
    UserEvent::UserDeactivated { operator: None }
}

fn rename() -> UserCommand {
    UserCommand::Rename { name: PersonName::parse("Countess").unwrap() }
}

fn renamed() -> UserEvent {
    UserEvent::UserRenamed { name: personal("Countess") }
}

fn key(n: u128) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId(Uuid::from_u128(n)),
        name: ApiKeyName::parse("deploy").unwrap(),
        team_id: TeamId(Uuid::from_u128(100)),
        prefix: "dbk_0001".into(),
        hash: "ab".into(),
        scopes: [Permission::SecretsRead].into(),
        expires_at: None,
    }
}

fn reset_password() -> UserCommand {
    UserCommand::ResetPassword { password_hash: "h2".into(), token_id: TokenId(Uuid::from_u128(7)) }
}

/// One of each kind of command but the one that makes the account.
fn every_command() -> Vec<UserCommand> {
    vec![
        rename(),
        UserCommand::ChangePassword { password_hash: "h2".into() },
        reset_password(),
        UserCommand::Rehash { password_hash: "h2".into() },
        UserCommand::VerifyEmail,
        UserCommand::SignOutEverywhere,
        UserCommand::BeginTwoFactor { sealed: "s".into() },
        UserCommand::EnableTwoFactor { recovery_code_hashes: ["r".to_owned()].into() },
        UserCommand::DisableTwoFactor,
        UserCommand::ResetTwoFactor { operator: "root".into() },
        UserCommand::UseRecoveryCode { hash: "r".into() },
        UserCommand::MakeApiKey(key(1)),
        UserCommand::RevokeApiKey { key_id: key(1).id },
        UserCommand::Amend { amendment: Amendment::default(), other_admins: 1 },
        UserCommand::Erase { other_admins: 1, subjects: [].into() },
    ]
}

#[test]
fn registering_makes_an_account_whose_data_belongs_to_the_person() {
    assert_eq!(given::<User>([]).decide(register()), Ok(vec![registered()]));
}

#[test]
fn what_is_known_of_a_new_account_is_said_at_once() {
    let new = Register { admin: true, email_verified: true, active: false, ..new_account() };
    assert_eq!(
        given::<User>([]).decide(UserCommand::Register(new)),
        Ok(vec![registered_as(true), UserEvent::EmailVerified {}, deactivated()])
    );
}

#[test]
fn an_account_is_made_once() {
    assert_eq!(given::<User>([registered()]).decide(register()), Err(UserError::AlreadyExists));
}

#[test]
fn a_person_can_be_renamed() {
    assert_eq!(given::<User>([registered()]).decide(rename()), Ok(vec![renamed()]));
}

#[test]
fn nobody_can_do_nothing() {
    for command in every_command() {
        assert_eq!(given::<User>([]).decide(command.clone()), Err(UserError::NotFound), "{command:?}");
    }
}

#[test]
fn passwords_are_kept_sealed_however_they_came_about() {
    let user = given::<User>([registered()]);
    let password_hash = personal("h2");
    let change = UserCommand::ChangePassword { password_hash: "h2".into() };
    let changed = UserEvent::PasswordChanged { password_hash: password_hash.clone() };
    assert_eq!(user.decide(change), Ok(vec![changed]));
    let token_id = TokenId(Uuid::from_u128(7));
    let reset = UserEvent::PasswordReset { password_hash: password_hash.clone(), token_id };
    assert_eq!(user.decide(reset_password()), Ok(vec![reset]));
    let rehash = UserCommand::Rehash { password_hash: "h2".into() };
    assert_eq!(user.decide(rehash), Ok(vec![UserEvent::PasswordRehashed { password_hash }]));
}

#[test]
fn who_may_not_sign_in_cannot_get_in_by_another_password() {
    let user = given::<User>([registered(), deactivated()]);
    assert_eq!(user.decide(reset_password()), Err(UserError::Inactive));
    let again = given::<User>([registered(), deactivated(), UserEvent::UserReactivated {}]);
    assert!(again.decide(reset_password()).is_ok());
}

#[test]
fn an_address_is_verified_once() {
    let verified = UserEvent::EmailVerified {};
    let user = given::<User>([registered()]);
    assert_eq!(user.decide(UserCommand::VerifyEmail), Ok(vec![verified.clone()]));
    assert_eq!(given::<User>([registered(), verified]).decide(UserCommand::VerifyEmail), Ok(vec![]));
}

#[test]
fn all_sessions_end_at_ones_word() {
    let user = given::<User>([registered()]);
    let ended = Ok(vec![UserEvent::SignedOutEverywhere {}]);
    assert_eq!(user.decide(UserCommand::SignOutEverywhere), ended);
}

#[test]
fn erasing_is_said_once_and_nothing_happens_afterwards() {
    let user = given::<User>([registered()]);
    assert!(!user.is_erased());
    let erase = UserCommand::Erase { other_admins: 0, subjects: [].into() };
    assert_eq!(user.decide(erase.clone()), Ok(vec![UserEvent::UserErased { subjects: [].into() }]));

    let begun = UserEvent::TwoFactorBegun { sealed: "s".into() };
    let enabled = UserEvent::TwoFactorEnabled { recovery_code_hashes: ["r".to_owned()].into() };
    let made = api_key_made(key(1));
    let erased = given::<User>([
        registered_as(true),
        begun,
        enabled,
        made,
        UserEvent::UserErased { subjects: [].into() },
    ]);
    assert!(erased.is_erased() && !erased.is_active_admin());
    assert_eq!(erased.decide(erase), Ok(vec![]), "said already");
    assert_eq!(erased.decide(register()), Err(UserError::AlreadyExists), "the id stays taken");
    for command in every_command() {
        if !matches!(command, UserCommand::Erase { .. }) {
            assert_eq!(erased.decide(command.clone()), Err(UserError::Erased), "{command:?}");
        }
    }
}

#[test]
fn every_refusal_has_a_code_of_its_own() {
    use UserError as E;
    let conflicts = [
        E::AlreadyExists,
        E::Erased,
        E::Inactive,
        E::LastAdmin,
        E::TwoFactorOn,
        E::TwoFactorOff,
        E::TwoFactorNotBegun,
        E::NoSuchRecoveryCode,
        E::TooManyApiKeys,
    ];
    assert!(conflicts.iter().all(|error| error.kind() == RefusalKind::Conflict));
    let missing = [E::NotFound, E::NoSuchApiKey];
    assert!(missing.iter().all(|error| error.kind() == RefusalKind::NotFound));
    let all = conflicts.iter().chain(&missing);
    let codes: BTreeSet<_> = all.map(|error| (error.code(), error.to_string())).collect();
    assert_eq!(codes.len(), 11);
}
