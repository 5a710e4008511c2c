//! The second factor: off, begun, on.

use super::*;

fn begin(sealed: &str) -> UserCommand {
    UserCommand::BeginTwoFactor { sealed: sealed.into() }
}

fn begun(sealed: &str) -> UserEvent {
    UserEvent::TwoFactorBegun { sealed: sealed.into() }
}

fn hashes() -> BTreeSet<String> {
    ["r1".to_owned(), "r2".to_owned()].into()
}

fn enable() -> UserCommand {
    UserCommand::EnableTwoFactor { recovery_code_hashes: hashes() }
}

fn enabled() -> UserEvent {
    UserEvent::TwoFactorEnabled { recovery_code_hashes: hashes() }
}

fn recover(hash: &str) -> UserCommand {
    UserCommand::UseRecoveryCode { hash: hash.into() }
}

fn recovered(hash: &str) -> UserEvent {
    UserEvent::RecoveryCodeUsed { hash: hash.into() }
}

fn reset() -> UserCommand {
    UserCommand::ResetTwoFactor { operator: "root".into() }
}

fn reset_done() -> UserEvent {
    UserEvent::TwoFactorReset { operator: Personal::new("operators", "root") }
}

fn off() -> [User; 3] {
    [
        given([registered()]),
        given([registered(), begun("s"), enabled(), UserEvent::TwoFactorDisabled {}]),
        given([registered(), begun("s"), enabled(), reset_done()]),
    ]
}

fn being_set_up() -> User {
    given([registered(), begun("s")])
}

fn on() -> User {
    given([registered(), begun("s"), enabled()])
}

#[test]
fn what_is_off_can_only_be_begun() {
    for user in off() {
        assert_eq!((user.begun_two_factor(), user.second_factor()), (None, None));
        assert_eq!(user.decide(begin("s")), Ok(vec![begun("s")]));
        assert_eq!(user.decide(enable()), Err(UserError::TwoFactorNotBegun));
        for command in [UserCommand::DisableTwoFactor, reset(), recover("r1")] {
            assert_eq!(user.decide(command), Err(UserError::TwoFactorOff));
        }
    }
}

#[test]
fn what_was_begun_can_be_begun_anew_and_confirmed_and_is_not_on_yet() {
    let user = being_set_up();
    assert_eq!((user.begun_two_factor(), user.second_factor()), (Some("s"), None));
    assert_eq!(user.decide(enable()), Ok(vec![enabled()]));
    for command in [UserCommand::DisableTwoFactor, reset(), recover("r1")] {
        assert_eq!(user.decide(command), Err(UserError::TwoFactorOff));
    }
    assert_eq!(user.decide(begin("t")), Ok(vec![begun("t")]));
    let anew = given::<User>([registered(), begun("s"), begun("t")]);
    assert_eq!(anew.begun_two_factor(), Some("t"), "the first one is worthless");
}

#[test]
fn what_is_on_cannot_be_replaced_only_switched_off() {
    let user = on();
    assert_eq!((user.begun_two_factor(), user.second_factor()), (None, Some("s")));
    assert_eq!(user.decide(begin("t")), Err(UserError::TwoFactorOn));
    assert_eq!(user.decide(enable()), Err(UserError::TwoFactorOn));
    assert_eq!(user.decide(UserCommand::DisableTwoFactor), Ok(vec![UserEvent::TwoFactorDisabled {}]));
    assert_eq!(user.decide(reset()), Ok(vec![reset_done()]));
}

#[test]
fn a_recovery_code_is_good_for_one_use() {
    let user = on();
    assert_eq!(user.decide(recover("r1")), Ok(vec![recovered("r1")]));
    assert_eq!(user.decide(recover("r3")), Err(UserError::NoSuchRecoveryCode));
    let user = given::<User>([registered(), begun("s"), enabled(), recovered("r1")]);
    assert_eq!(user.decide(recover("r1")), Err(UserError::NoSuchRecoveryCode));
    assert_eq!(user.decide(recover("r2")), Ok(vec![recovered("r2")]));
    let none_left = given::<User>([registered(), begun("s"), enabled(), recovered("r1"), recovered("r2")]);
    assert_eq!(none_left.decide(recover("r2")), Err(UserError::NoSuchRecoveryCode));
    assert!(none_left.decide(UserCommand::DisableTwoFactor).is_ok(), "it is still on");
}

#[test]
fn old_recovery_codes_are_worth_nothing_after_setting_up_anew() {
    let fresh = UserEvent::TwoFactorEnabled { recovery_code_hashes: ["r9".to_owned()].into() };
    let disabled = UserEvent::TwoFactorDisabled {};
    let user = given::<User>([registered(), begun("s"), enabled(), disabled, begun("t"), fresh]);
    assert_eq!(user.decide(recover("r1")), Err(UserError::NoSuchRecoveryCode));
    assert_eq!(user.decide(recover("r9")), Ok(vec![recovered("r9")]));
}

#[test]
fn another_password_leaves_the_second_factor_as_it_is() {
    let changed = UserEvent::PasswordChanged { password_hash: personal("h2") };
    let reset =
        UserEvent::PasswordReset { password_hash: personal("h3"), token_id: TokenId(Uuid::from_u128(7)) };
    let user = given::<User>([registered(), begun("s"), enabled(), changed, reset, deactivated()]);
    assert_eq!(user.decide(begin("t")), Err(UserError::TwoFactorOn));
    assert!(user.decide(recover("r1")).is_ok());
}
