#![allow(clippy::unwrap_used)]
use uuid::Uuid;

use super::*;
use crate::Permissions;
use crate::event::testing::given;

fn ada() -> UserId {
    UserId(Uuid::from_u128(1))
}

fn register() -> UserCommand {
    UserCommand::Register(Register {
        id: ada(),
        email: Email::parse("ada@example.org").unwrap(),
        name: PersonName::parse("Ada").unwrap(),
        password_hash: "$argon2id$x".into(),
        admin: false,
        email_verified: false,
        active: true,
    })
}

fn registered() -> UserEvent {
    let personal = |text: &str| Personal::new(ada(), text);
    UserEvent::UserRegistered {
        email: personal("ada@example.org"),
        name: personal("Ada"),
        password_hash: personal("$argon2id$x"),
        admin: false,
    }
}

fn rename() -> UserCommand {
    UserCommand::Rename { name: PersonName::parse("Countess").unwrap() }
}

#[test]
fn registering_makes_an_account_whose_data_belongs_to_the_person() {
    assert_eq!(given::<User>([]).decide(register()), Ok(vec![registered()]));
}

#[test]
fn an_account_is_made_once() {
    assert_eq!(given::<User>([registered()]).decide(register()), Err(UserError::AlreadyExists));
}

#[test]
fn a_person_can_be_renamed() {
    let renamed = UserEvent::UserRenamed { name: Personal::new(ada(), "Countess") };
    assert_eq!(given::<User>([registered()]).decide(rename()), Ok(vec![renamed]));
}

#[test]
fn nobody_cannot_be_renamed() {
    assert_eq!(given::<User>([]).decide(rename()), Err(UserError::NotFound));
}

#[test]
fn only_the_person_or_an_admin_renames() {
    let user = given::<User>([registered()]);
    let caller = |actor, permissions| Caller { actor, team: None, permissions };
    let other = Actor::User(UserId(Uuid::from_u128(2)));
    assert_eq!(user.admit(&rename(), &caller(Actor::User(ada()), Permissions::default())), Ok(()));
    assert_eq!(user.admit(&rename(), &caller(other, Permissions::admin())), Ok(()));
    assert_eq!(
        user.admit(&rename(), &caller(other, Permissions::default())),
        Err(Denied::Forbidden(Permission::UsersManage))
    );
}

#[test]
fn not_everybody_registers() {
    let caller = |permissions| Caller { actor: Actor::Anonymous, team: None, permissions };
    assert_eq!(User::default().admit(&register(), &caller(Permissions::registration())), Ok(()));
    assert!(User::default().admit(&register(), &caller(Permissions::default())).is_err());
}
