//! Keys for programs.

use super::*;

fn revoke(n: u128) -> UserCommand {
    UserCommand::RevokeApiKey { key_id: key(n).id }
}

fn revoked(n: u128) -> UserEvent {
    UserEvent::ApiKeyRevoked { key_id: key(n).id }
}

#[test]
fn a_key_is_kept_as_its_hash() {
    let made = UserEvent::ApiKeyMade {
        key_id: key(1).id,
        name: "deploy".into(),
        team_id: key(1).team_id,
        prefix: "dbk_0001".into(),
        hash: "ab".into(),
        scopes: [Permission::SecretsRead].into(),
        expires_at: None,
    };
    let user = given::<User>([registered()]);
    assert_eq!(user.decide(UserCommand::MakeApiKey(key(1))), Ok(vec![made]));
}

#[test]
fn a_key_is_revoked_once() {
    let user = given::<User>([registered(), api_key_made(key(1)), api_key_made(key(2))]);
    assert_eq!(user.decide(revoke(1)), Ok(vec![revoked(1)]));
    assert_eq!(user.decide(revoke(3)), Err(UserError::NoSuchApiKey));
    let user = given::<User>([registered(), api_key_made(key(1)), api_key_made(key(2)), revoked(1)]);
    assert_eq!(user.decide(revoke(1)), Err(UserError::NoSuchApiKey));
    assert_eq!(user.decide(revoke(2)), Ok(vec![revoked(2)]));
}

#[test]
fn there_is_a_hundred_of_them_at_most_and_a_revoked_one_makes_room() {
    let all_but_one = (1..MOST_API_KEYS as u128).map(|n| api_key_made(key(n)));
    let user = given::<User>([registered()].into_iter().chain(all_but_one.clone()));
    let last = MOST_API_KEYS as u128;
    assert_eq!(user.decide(UserCommand::MakeApiKey(key(last))), Ok(vec![api_key_made(key(last))]));

    let all = [registered()].into_iter().chain(all_but_one).chain([api_key_made(key(last))]);
    let full = given::<User>(all.clone());
    let one_more = UserCommand::MakeApiKey(key(last + 1));
    assert_eq!(full.decide(one_more.clone()), Err(UserError::TooManyApiKeys));
    assert!(given::<User>(all.chain([revoked(7)])).decide(one_more).is_ok());
}
