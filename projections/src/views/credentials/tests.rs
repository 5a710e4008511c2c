use chrono::TimeDelta;
use domain::{Personal, SessionEnd, TokenId};
use uuid::Uuid;

use super::*;
use crate::testing::{at, fact, folded, id, team_id, user_id};

fn personal(text: &str) -> Personal {
    Personal::new(id(1), text)
}

fn session_id(n: u128) -> SessionId {
    SessionId(Uuid::from_u128(n))
}

/// Somebody's doing, from somewhere.
fn from(ip: &str, mut fact: Fact) -> Fact {
    (fact.ip, fact.user_agent) = (Some(ip.to_owned()), Some(format!("browser at {ip}")));
    fact
}

/// Event `n`: person 1 begins session `session`, good until second `until`.
fn signed_in(n: i64, session: u128, until: i64) -> Fact {
    let event = AccessEvent::SignedIn {
        user_id: user_id(1),
        session_id: session_id(session),
        refresh_token_hash: "h0".into(),
        // Finer than rows are.
        refresh_expires_at: at(until) + TimeDelta::microseconds(7),
    };
    from("192.0.2.1", fact(n, "access", id(session), event))
}

fn refreshed(n: i64, session: u128, until: i64) -> Fact {
    let event = AccessEvent::SessionRefreshed {
        user_id: user_id(1),
        generation: 1,
        refresh_token_hash: "h1".into(),
        refreshed_at: at(n),
        refresh_expires_at: at(until),
    };
    from("192.0.2.2", fact(n, "access", id(session), event))
}

fn ended(n: i64, session: u128) -> Fact {
    let event = AccessEvent::SessionEnded { user_id: user_id(1), reason: SessionEnd::SignedOut };
    fact(n, "access", id(session), event)
}

/// Event `n` of the account.
fn account(n: i64, event: UserEvent) -> Fact {
    fact(n, "user", id(1), event)
}

fn key_id(n: u128) -> ApiKeyId {
    ApiKeyId(Uuid::from_u128(n))
}

fn key_made(n: i64, key: u128, expires_at: Option<DateTime<Utc>>) -> Fact {
    let event = UserEvent::ApiKeyMade {
        key_id: key_id(key),
        name: "deploy".into(),
        team_id: team_id(100),
        prefix: "dbk_0001".into(),
        hash: "ab".into(),
        scopes: [Permission::SecretsRead].into(),
        expires_at,
    };
    account(n, event)
}

fn key_revoked(n: i64, key: u128) -> Fact {
    account(n, UserEvent::ApiKeyRevoked { key_id: key_id(key) })
}

/// Person 1's row after these.
fn row(facts: &[Fact]) -> Option<CredentialsRow> {
    let mut rows = folded::<Credentials>(facts);
    let row = rows.remove(&id(1));
    assert!(rows.is_empty(), "others are not concerned: {rows:?}");
    row
}

/// The ids of the sessions, in order.
fn sessions(facts: &[Fact]) -> Vec<SessionId> {
    row(facts).unwrap_or_default().sessions.iter().map(|session| session.id).collect()
}

fn begun(session: u128, created: i64, until: i64) -> SessionRow {
    SessionRow {
        id: session_id(session),
        created_at: at(created),
        refreshed_at: at(created),
        expires_at: at(until),
        ip: Some("192.0.2.1".into()),
        user_agent: Some("browser at 192.0.2.1".into()),
    }
}

#[test]
fn sessions_are_kept_in_the_order_in_which_they_began() {
    let row = row(&[signed_in(1, 11, 100), signed_in(2, 10, 101)]);
    let expected = CredentialsRow { sessions: vec![begun(11, 1, 100), begun(10, 2, 101)], api_keys: vec![] };
    assert_eq!(row, Some(expected));
}

#[test]
fn refreshing_says_until_when_and_from_where_and_leaves_the_others() {
    let row = row(&[signed_in(1, 10, 100), signed_in(2, 11, 101), refreshed(3, 10, 103)]);
    let again = SessionRow {
        refreshed_at: at(3),
        expires_at: at(103),
        ip: Some("192.0.2.2".into()),
        user_agent: Some("browser at 192.0.2.2".into()),
        ..begun(10, 1, 100)
    };
    assert_eq!(row.map(|row| row.sessions), Some(vec![again, begun(11, 2, 101)]));
}

#[test]
fn what_has_ended_is_gone_and_is_not_brought_back() {
    let both = [signed_in(1, 10, 100), signed_in(2, 11, 101), ended(3, 10)];
    assert_eq!(sessions(&both), [session_id(11)]);
    assert_eq!(row(&[signed_in(1, 10, 100), ended(2, 10)]), None, "somebody without any has no row");
    assert_eq!(row(&[signed_in(1, 10, 100), ended(2, 10), refreshed(3, 10, 103), ended(4, 10)]), None);
}

#[test]
fn whatever_ends_all_sessions_ends_them_and_leaves_the_keys() {
    let password_hash = personal("h");
    let all = [
        UserEvent::PasswordChanged { password_hash: password_hash.clone() },
        UserEvent::PasswordReset { password_hash, token_id: TokenId(Uuid::from_u128(7)) },
        UserEvent::SignedOutEverywhere {},
        UserEvent::TwoFactorReset { operator: personal("root") },
        UserEvent::UserDeactivated { operator: None },
    ];
    for event in all {
        let before = [signed_in(1, 10, 100), signed_in(2, 11, 101), key_made(3, 20, None)];
        let facts = [&before[..], &[account(4, event.clone()), refreshed(5, 10, 105)]].concat();
        let left = row(&facts).unwrap_or_default();
        assert_eq!((left.sessions.len(), left.api_keys.len()), (0, 1), "{event:?}");
        let facts = [&facts[..], &[signed_in(6, 12, 106)]].concat();
        assert_eq!(sessions(&facts), [session_id(12)], "a new one begins after {event:?}");
        assert_eq!(row(&[signed_in(1, 10, 100), account(2, event)]), None);
    }
}

#[test]
fn whatever_else_happens_to_an_account_ends_nothing() {
    let others = [
        UserEvent::UserRenamed { name: personal("Countess") },
        UserEvent::PasswordRehashed { password_hash: personal("h") },
        UserEvent::EmailVerified {},
        UserEvent::TwoFactorBegun { sealed: "s".into() },
        UserEvent::TwoFactorEnabled { recovery_code_hashes: ["r".to_owned()].into() },
        UserEvent::RecoveryCodeUsed { hash: "r".into() },
        UserEvent::TwoFactorDisabled {},
        UserEvent::UserReactivated {},
        UserEvent::AdminGranted {},
        UserEvent::AdminRevoked {},
    ];
    let before = [signed_in(1, 10, 100), key_made(2, 20, None)];
    let untouched = row(&before);
    for event in others {
        let after = [&before[..], &[account(3, event.clone())]].concat();
        assert_eq!(row(&after), untouched, "{event:?}");
    }
}

#[test]
fn records_of_what_somebody_tried_are_nobodys_credentials() {
    let tried = [
        AccessEvent::RefreshTokenReused { user_id: user_id(1), generation: 0 },
        AccessEvent::ProofFailed { user_id: user_id(1), proof: "password".into() },
        AccessEvent::MailTokenUsed { user_id: user_id(1) },
        AccessEvent::SignInFailed { account: "ab".into(), reason: "wrong_password".into() },
    ];
    for event in tried {
        let fact = fact(2, "access", id(10), event);
        assert!(Credentials::keys(&fact).is_empty());
        assert_eq!(sessions(&[signed_in(1, 10, 100), fact]), [session_id(10)]);
    }
}

#[test]
fn a_session_whose_time_is_over_is_no_answer_and_makes_room_for_the_next() {
    let facts = [signed_in(1, 10, 100), signed_in(2, 11, 200)];
    let two = row(&facts).unwrap_or_default();
    let found = |session, second| two.session(session_id(session), at(second)).map(|session| session.id);
    assert_eq!(found(10, 99), Some(session_id(10)));
    assert_eq!(found(10, 100), None, "rows have no clock: it is still there");
    assert_eq!(found(11, 100), Some(session_id(11)));
    assert_eq!(found(12, 1), None);
    let still = [&facts[..], &[signed_in(99, 12, 300)]].concat();
    assert_eq!(sessions(&still), [session_id(10), session_id(11), session_id(12)]);
    let over = [&facts[..], &[signed_in(100, 12, 300)]].concat();
    assert_eq!(sessions(&over), [session_id(11), session_id(12)]);
}

#[test]
fn of_more_than_fifty_sessions_the_one_used_longest_ago_makes_room() {
    let most = MOST_SESSIONS as i64;
    let mut facts: Vec<Fact> = (1..=most).map(|n| signed_in(n, 100 + n as u128, 10_000)).collect();
    assert_eq!(sessions(&facts).len(), 50);
    // The first one is used again, so the second is the one.
    facts.push(refreshed(60, 101, 10_000));
    facts.push(signed_in(61, 900, 10_000));
    let left = sessions(&facts);
    assert_eq!(left.len(), 50);
    assert!(left.contains(&session_id(101)) && !left.contains(&session_id(102)), "{left:?}");
    assert_eq!(left.last(), Some(&session_id(900)));
}

#[test]
fn keys_are_made_revoked_and_outlived() {
    let end = at(50) + TimeDelta::microseconds(7);
    let facts =
        [key_made(1, 21, None), key_made(2, 20, Some(end)), key_made(3, 22, None), key_revoked(4, 22)];
    let keys = row(&facts).unwrap_or_default();
    let first = ApiKeyRow {
        id: key_id(21),
        name: "deploy".into(),
        team_id: team_id(100),
        prefix: "dbk_0001".into(),
        hash: "ab".into(),
        scopes: [Permission::SecretsRead].into(),
        created_at: at(1),
        expires_at: None,
    };
    let second = ApiKeyRow { id: key_id(20), created_at: at(2), expires_at: Some(at(50)), ..first.clone() };
    assert_eq!(keys, CredentialsRow { sessions: vec![], api_keys: vec![first, second] });
    let found = |key, second| keys.api_key(key_id(key), at(second)).map(|key| key.id);
    assert_eq!((found(20, 49), found(20, 50)), (Some(key_id(20)), None));
    assert_eq!((found(21, 1_000_000), found(22, 1)), (Some(key_id(21)), None));
    assert_eq!(row(&[key_made(1, 21, None), key_revoked(2, 21)]), None);
    assert_eq!(row(&[key_revoked(1, 21)]), None, "of what was never there");
}

#[test]
fn erasing_leaves_nothing() {
    let facts = [
        signed_in(1, 10, 100),
        key_made(2, 20, None),
        account(3, UserEvent::UserErased { subjects: [].into() }),
        refreshed(4, 10, 104),
    ];
    assert_eq!(row(&facts), None);
}
