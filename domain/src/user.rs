//! A person's account.

use serde::{Deserialize, Serialize};

use crate::event::{aggregate, stored_names};
use crate::{
    Actor, Caller, Denied, Email, Guarded, Permission, PersonName, Personal, Refusal, RefusalKind, UserId,
};

/// Makes an account.
#[derive(Clone, Debug)]
pub struct Register {
    /// The account's id.
    pub id: UserId,
    /// Where the person can be reached, and what they sign in with.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
    /// PHC string of their password's argon2id hash.
    pub password_hash: String,
    /// Whether they administer the instance.
    pub admin: bool,
}

/// What can be asked of an account.
#[derive(Clone, Debug)]
pub enum UserCommand {
    /// Make it.
    Register(Register),
    /// Change the person's name.
    Rename {
        /// The new name.
        name: PersonName,
    },
}

/// What can happen to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum UserEvent {
    /// It was made.
    UserRegistered { email: Personal, name: Personal, password_hash: Personal, admin: bool },
    /// The person has another name.
    UserRenamed { name: Personal },
}

stored_names!(UserEvent { UserRegistered: "1", UserRenamed: "1" });

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such account.
    #[error("there is no such user")]
    NotFound,
    /// The id is taken.
    #[error("this user exists already")]
    AlreadyExists,
}

impl Refusal for UserError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::AlreadyExists => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "user_not_found",
            Self::AlreadyExists => "user_exists",
        }
    }
}

/// What the rules need to know of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    id: Option<String>,
}

aggregate!(User, "user", UserCommand, UserEvent, UserError);

impl User {
    pub(crate) fn decide(&self, command: UserCommand) -> Result<Vec<UserEvent>, UserError> {
        match (&self.id, command) {
            (None, UserCommand::Register(new)) => {
                let personal = |text: &dyn ToString| Personal::new(new.id, text.to_string());
                Ok(vec![UserEvent::UserRegistered {
                    email: personal(&new.email),
                    name: personal(&new.name),
                    password_hash: personal(&new.password_hash),
                    admin: new.admin,
                }])
            }
            (Some(_), UserCommand::Register(_)) => Err(UserError::AlreadyExists),
            (Some(id), UserCommand::Rename { name }) => {
                Ok(vec![UserEvent::UserRenamed { name: Personal::new(id, name) }])
            }
            (None, UserCommand::Rename { .. }) => Err(UserError::NotFound),
        }
    }

    pub(crate) fn evolve(&mut self, event: UserEvent) {
        match event {
            UserEvent::UserRegistered { email, .. } => {
                let (Personal::Open { subject, .. }
                | Personal::Sealed { subject, .. }
                | Personal::Erased { subject, .. }) = email;
                self.id = Some(subject);
            }
            UserEvent::UserRenamed { .. } => {}
        }
    }
}

impl Guarded for User {
    fn admit(&self, command: &UserCommand, caller: &Caller) -> Result<(), Denied> {
        match command {
            UserCommand::Register(_) => caller.require(Permission::UsersRegister),
            UserCommand::Rename { .. } => match caller.actor {
                Actor::User(id) if self.id == Some(id.to_string()) => Ok(()),
                Actor::User(_) | Actor::Key(_) | Actor::Job(_) | Actor::System | Actor::Anonymous => {
                    caller.require(Permission::UsersManage)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
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
}
