//! Who may what.

use super::*;
use crate::{JobId, Permissions};

fn caller(actor: Actor, permissions: Permissions) -> Caller {
    Caller { actor, team: None, permissions }
}

fn everything() -> Permissions {
    Permission::ALL.iter().copied().collect()
}

/// Those who are not the person.
fn others() -> [Actor; 5] {
    [
        Actor::User(UserId(Uuid::from_u128(2))),
        // The same number names something else.
        Actor::Key(ApiKeyId(Uuid::from_u128(1))),
        Actor::Job(JobId(Uuid::from_u128(1))),
        Actor::System,
        Actor::Anonymous,
    ]
}

/// What an admin may do for somebody; of the first two kinds the person as well.
fn managed() -> [UserCommand; 5] {
    [
        rename(),
        UserCommand::RevokeApiKey { key_id: key(1).id },
        UserCommand::ResetTwoFactor { operator: "root".into() },
        UserCommand::Amend { amendment: Amendment::default(), other_admins: 1 },
        UserCommand::Erase { other_admins: 1, subjects: [].into() },
    ]
}

fn is_managed(command: &UserCommand) -> bool {
    let kind = std::mem::discriminant(command);
    managed().iter().any(|managed| std::mem::discriminant(managed) == kind)
}

#[test]
fn not_everybody_registers() {
    let nobody = User::default();
    assert_eq!(nobody.admit(&register(), &caller(Actor::Anonymous, Permissions::registration())), Ok(()));
    assert_eq!(nobody.admit(&register(), &Caller::system(None)), Ok(()));
    let missing = Err(Denied::Forbidden(Permission::UsersRegister));
    assert_eq!(nobody.admit(&register(), &caller(Actor::Anonymous, Permissions::default())), missing);
    let admin = caller(others()[0], Permissions::admin());
    assert_eq!(nobody.admit(&register(), &admin), missing, "people are invited");
}

#[test]
fn a_person_does_what_concerns_the_account_and_does_not_manage_it() {
    let user = given::<User>([registered()]);
    let ada = caller(Actor::User(ada()), Permissions::default());
    for command in every_command() {
        let own = !is_managed(&command)
            || matches!(command, UserCommand::Rename { .. } | UserCommand::RevokeApiKey { .. });
        let expected = if own { Ok(()) } else { Err(Denied::Forbidden(Permission::UsersManage)) };
        assert_eq!(user.admit(&command, &ada), expected, "{command:?}");
    }
}

#[test]
fn who_manages_people_does_nothing_in_their_name() {
    let user = given::<User>([registered()]);
    for actor in others() {
        let manager = caller(actor, everything());
        for command in every_command() {
            let expected = if is_managed(&command) { Ok(()) } else { Err(Denied::NotFound) };
            assert_eq!(user.admit(&command, &manager), expected, "{actor} {command:?}");
        }
    }
}

#[test]
fn strangers_may_nothing() {
    let user = given::<User>([registered()]);
    for actor in others() {
        // All that a team's owner may, which is nothing here.
        let stranger = caller(actor, crate::Role::Owner.permissions());
        for command in every_command() {
            let missing = Denied::Forbidden(Permission::UsersManage);
            let expected = Err(if is_managed(&command) { missing } else { Denied::NotFound });
            assert_eq!(user.admit(&command, &stranger), expected, "{actor} {command:?}");
        }
    }
}

#[test]
fn the_command_line_manages_people() {
    let user = given::<User>([registered()]);
    for command in managed() {
        assert_eq!(user.admit(&command, &Caller::system(None)), Ok(()), "{command:?}");
    }
}

#[test]
fn an_account_that_is_not_there_is_nobodys() {
    let ada = caller(Actor::User(ada()), Permissions::default());
    for command in every_command().into_iter().filter(|command| !is_managed(command)) {
        assert_eq!(User::default().admit(&command, &ada), Err(Denied::NotFound), "{command:?}");
    }
}
