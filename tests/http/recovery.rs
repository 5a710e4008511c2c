//! Getting back in, and showing that an address is one's own, with what only the mailbox has.

use chrono::{TimeDelta, Utc};
use domain::{AccessEvent, Personal, SessionId, UserId};
use futures::future::join_all;
use ledger::{Append, Metadata, NewEvent, Sha256, StreamId};
use serde_json::{Value, json};
use tests::{PASSWORD, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::support::{audited, count, problem, refresh, refused, said, sign_in};

const NEW: &str = "a staple that is correct";
const RESET: &str = "PasswordResetRequested";
const VERIFY: &str = "EmailVerificationRequested";

async fn ask(app: &TestApp, email: &str) -> Reply {
    app.anon().post("/api/auth/password-reset", json!({ "email": email })).await
}

async fn confirm(app: &TestApp, token: &str, password: &str) -> Reply {
    let body = json!({"token": token, "new_password": password});
    app.anon().post("/api/auth/password-reset/confirm", body).await
}

async fn verify(app: &TestApp, token: &str) -> Reply {
    app.anon().post("/api/auth/verify-email", json!({ "token": token })).await
}

async fn login(app: &TestApp, email: &str, password: &str) -> u16 {
    app.anon().post("/api/auth/login", json!({"email": email, "password": password})).await.status
}

/// The token of a mail to the viewer, who asks for it.
async fn reset_token(app: &TestApp, nth: usize) -> String {
    ask(app, "viewer@example.org").await.expect(202);
    app.mail_tokens(RESET, app.people.viewer, nth).await.pop().unwrap()
}

#[track_caller]
fn not_open(reply: &Reply) {
    problem(reply, 422, "token_not_open");
    assert_eq!(reply.fields(), ["token"]);
}

/// Body and headers, but for what tells the request and the time.
fn looks(reply: &Reply) -> (u16, String, Vec<(String, String)>) {
    let headers = reply.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (reply.status, reply.text.clone(), headers.collect())
}

async fn registered(app: &TestApp, email: &str) -> UserId {
    let body = json!({"email": email, "password": PASSWORD, "name": "Ada"});
    app.anon().post("/api/auth/register", body).await.expect(201).str("id").parse().unwrap()
}

async fn amend(app: &TestApp, user: UserId, change: Value) {
    app.admin().patch(&format!("/api/users/{user}"), change).await.expect(200);
}

#[tokio::test]
async fn whether_an_address_is_known_is_not_told() {
    let app = TestApp::start().await;
    amend(&app, app.people.auditor, json!({"active": false})).await;
    app.admin().post(&format!("/api/users/{}/erase", app.people.stranger), json!(null)).await.expect(204);
    let known = ask(&app, "viewer@example.org").await.expect(202);
    assert_eq!(known.text, "");
    for email in [
        "nobody@example.org",
        "auditor@example.org",
        "stranger@example.org",
        "erased@x.org",
        "VIEWER@Example.ORG",
    ] {
        assert_eq!(looks(&ask(&app, email).await), looks(&known), "{email}");
    }
    // Only to those who can use it: the viewer, whatever the letters.
    ask(&app, "owner@example.org").await.expect(202);
    app.mail_tokens(RESET, app.people.owner, 1).await;
    app.mail_tokens(RESET, app.people.viewer, 2).await;
    let all = format!("select count(*) from events where event_type = '{RESET}'");
    assert_eq!(count(&app, &all).await, 3);

    let anon = app.anon();
    for email in ["", "x", "a b@example.org", "a@b@c.org,", "a\u{202e}@example.org"] {
        refused(&ask(&app, email).await, &["email"]);
    }
    refused(&anon.post("/api/auth/password-reset", json!({})).await, &["email"]);
    let more = json!({"email": "viewer@example.org", "url": "https://evil.example"});
    refused(&anon.post("/api/auth/password-reset", more).await, &["url"]);
    assert_eq!(count(&app, &all).await, 3);
}

#[tokio::test]
async fn nobody_fills_anothers_mailbox() {
    let app = TestApp::with(Setup::default().with("RATE_LIMIT_ENABLED", true)).await;
    let mut looked = vec![];
    for _ in 0..8 {
        looked.push(looks(&ask(&app, "viewer@example.org").await));
    }
    looked.dedup();
    assert_eq!(looked.len(), 1, "that a mail is left out does not show");
    ask(&app, "owner@example.org").await.expect(202);
    app.mail_tokens(RESET, app.people.owner, 1).await;
    let mails = app.mail_tokens(RESET, app.people.viewer, 3).await.len();
    assert!(mails < 8, "{mails} mails");
}

#[tokio::test]
async fn a_mails_token_sets_a_new_password_once_and_ends_all_sessions() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (mine, owners) = (sign_in(&app, "viewer").await, sign_in(&app, "owner").await);
    let token = reset_token(&app, 1).await;
    assert_eq!(login(&app, "viewer@example.org", PASSWORD).await, 200, "to ask changes nothing");
    let done = confirm(&app, &token, NEW).await.expect(204);
    assert!(done.header("daybook-position").parse::<i64>().unwrap() > 0 && done.text.is_empty());
    for node in [&app, &other] {
        not_open(&confirm(node, &token, "yet another staple").await);
        let access = node.anon().with_token(mine.str("access_token"));
        eventually("the end of the session", async || {
            (access.get("/api/auth/me").await.status == 401).then_some(())
        })
        .await;
        problem(&refresh(node, mine.str("refresh_token")).await, 401, "refresh_token_invalid");
        assert_eq!(login(node, "viewer@example.org", PASSWORD).await, 401);
        assert_eq!(login(node, "viewer@example.org", NEW).await, 200);
    }
    app.anon().with_token(owners.str("access_token")).get("/api/auth/me").await.expect(200);
    let trail = audited(&app, &app.admin(), "type=PasswordReset").await;
    assert_eq!(trail.len(), 1);
    assert_eq!(trail[0]["request_id"], done.header("x-request-id"));
    assert_eq!(trail[0]["actor"], format!("user:{}", app.people.viewer));
    let asked = audited(&app, &app.admin(), &format!("type={RESET}")).await;
    assert_eq!(said(&trail[0], "token_id"), &asked[0]["aggregate_id"], "which mail allowed it");
}

#[tokio::test]
async fn of_64_who_bring_one_reset_token_at_once_exactly_one_sets_the_password() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let token = reset_token(&app, 1).await;
    let password = |n: usize| format!("the staple number {n}");
    let replies = join_all((0..64).map(|n| {
        let (node, token, password) = (if n % 2 == 0 { &app } else { &other }, &token, password(n));
        async move { confirm(node, token, &password).await }
    }))
    .await;
    let mut won = vec![];
    for (n, reply) in replies.iter().enumerate() {
        match reply.status {
            204 => won.push(n),
            // Passwords are hashed in a bounded pool: on a slow machine some are sent away.
            503 => problem(reply, 503, "overloaded"),
            _ => not_open(reply),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(login(&app, "viewer@example.org", &password(won[0])).await, 200);
    assert_eq!(login(&app, "viewer@example.org", &password((won[0] + 1) % 64)).await, 401);
    let events = |name: &str| format!("select count(*) from events where event_type = '{name}'");
    assert_eq!(count(&app, &events("PasswordReset")).await, 1);
    assert_eq!(count(&app, &events("MailTokenUsed")).await, 1);
}

#[tokio::test]
async fn tokens_from_before_a_new_password_are_worthless() {
    let app = TestApp::start().await;
    let (first, second) = (reset_token(&app, 1).await, reset_token(&app, 2).await);
    confirm(&app, &second, NEW).await.expect(204);
    not_open(&confirm(&app, &first, "yet another staple").await);
    let third = reset_token(&app, 3).await;
    let body = json!({"email": "viewer@example.org", "password": NEW});
    let session = app.anon().post("/api/auth/login", body).await.expect(200);
    let change = json!({"current_password": NEW, "new_password": PASSWORD});
    let client = app.anon().with_token(session.str("access_token"));
    client.post("/api/auth/password", change).await.expect(204);
    not_open(&confirm(&app, &third, NEW).await);
    assert_eq!(login(&app, "viewer@example.org", PASSWORD).await, 200);
    let fourth = reset_token(&app, 4).await;
    confirm(&app, &fourth, NEW).await.expect(204);
}

#[tokio::test]
async fn of_many_tokens_brought_at_once_exactly_one_sets_the_password() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    for n in 1..=5 {
        reset_token(&app, n).await;
    }
    let tokens = app.mail_tokens(RESET, app.people.viewer, 5).await;
    let nodes = [&app, &other];
    let replies = join_all(tokens.iter().enumerate().map(|(n, token)| async move {
        confirm(nodes[n % 2], token, &format!("the staple number {n}")).await
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 204);
    lost.into_iter().for_each(not_open);
    assert_eq!(won.len(), 1, "whoever else has an old mail could have the last word");
}

#[tokio::test]
async fn a_password_that_is_not_acceptable_does_not_use_the_token_up() {
    let app = TestApp::start().await;
    let token = reset_token(&app, 1).await;
    for weak in ["", "eleven char", &"x".repeat(257)] {
        refused(&confirm(&app, &token, weak).await, &["new_password"]);
    }
    let path = "/api/auth/password-reset/confirm";
    refused(&app.anon().post(path, json!({"token": token})).await, &["new_password"]);
    refused(&app.anon().post(path, json!({"new_password": NEW})).await, &["token"]);
    let more = json!({"token": token, "new_password": NEW, "email": "owner@example.org"});
    refused(&app.anon().post(path, more).await, &["email"]);
    confirm(&app, &token, NEW).await.expect(204);
}

#[tokio::test]
async fn whoever_may_not_sign_in_gets_no_new_password_either() {
    let app = TestApp::start().await;
    let token = reset_token(&app, 1).await;
    amend(&app, app.people.viewer, json!({"active": false})).await;
    not_open(&confirm(&app, &token, NEW).await);
    amend(&app, app.people.viewer, json!({"active": true})).await;
    assert_eq!(login(&app, "viewer@example.org", PASSWORD).await, 200);
    confirm(&app, &token, NEW).await.expect(204);
    let token = reset_token(&app, 2).await;
    app.admin().post(&format!("/api/users/{}/erase", app.people.viewer), json!(null)).await.expect(204);
    not_open(&confirm(&app, &token, NEW).await);
}

/// The token of a record that somebody made long ago.
async fn outdated(app: &TestApp, event_type: &str, user: UserId) -> String {
    let id = Uuid::now_v7();
    let token = app.mail_token(id).await;
    let (token_hash, email) = (Sha256::of(&token), Personal::new(user, "somebody@example.org"));
    let expires_at = Utc::now() - TimeDelta::seconds(1);
    let event = if event_type == RESET {
        AccessEvent::PasswordResetRequested { user_id: user, email, token_hash, expires_at }
    } else {
        AccessEvent::EmailVerificationRequested { user_id: user, email, token_hash, expires_at }
    };
    let event = NewEvent {
        stream: StreamId::new("access", id),
        sequence: 1,
        event_type: event_type.to_owned(),
        event_version: "1".to_owned(),
        payload: serde_json::to_value(event).unwrap().into(),
    };
    let metadata = Metadata { actor: "anonymous".to_owned(), ..Metadata::default() };
    app.ledger.append(Append { events: vec![event], metadata, data_keys: vec![] }).await.unwrap();
    token
}

#[tokio::test]
async fn only_a_token_of_ours_in_time_and_for_its_purpose_is_open() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let ada = registered(&app, "ada@example.org").await;
    ask(&app, "ada@example.org").await.expect(202);
    let reset = app.mail_tokens(RESET, ada, 1).await.remove(0);
    let verification = app.mail_tokens(VERIFY, ada, 1).await.remove(0);
    let (name, proof) = reset.split_once('.').unwrap();
    let (other_name, other_proof) = verification.split_once('.').unwrap();
    let mut flipped = reset.clone();
    let last = if flipped.pop() == Some('0') { '1' } else { '0' };
    flipped.push(last);
    let late = [outdated(&app, RESET, ada).await, outdated(&app, VERIFY, ada).await];
    let invitation = app.mail_token(Uuid::now_v7()).await.replacen("dbm_", "dbi_", 1);
    let cases = [
        flipped,
        format!("{name}.{other_proof}"),
        format!("{other_name}.{proof}"),
        format!("{name}."),
        name.to_owned(),
        reset[..reset.len() - 1].to_owned(),
        format!("{reset}0"),
        format!(" {reset}"),
        reset.to_uppercase(),
        app.mail_token(Uuid::now_v7()).await,
        app.refresh_token(SessionId(Uuid::now_v7()), 0).await,
        invitation,
        String::new(),
        "dbm_".to_owned(),
        "dbm_\0.\0".to_owned(),
        "x".repeat(100_000),
    ];
    for token in cases.iter().chain(&late) {
        not_open(&confirm(&app, token, NEW).await);
        not_open(&verify(&app, token).await);
    }
    // Each for its own purpose.
    not_open(&confirm(&app, &verification, NEW).await);
    not_open(&verify(&app, &reset).await);
    // Of a sign-in or a failure to sign in nobody makes a token.
    let session: Uuid = super::support::session_of(sign_in(&app, "owner").await.str("access_token")).0;
    not_open(&verify(&app, &app.mail_token(session).await).await);
    let used = "select count(*) from events where event_type = 'MailTokenUsed'";
    assert_eq!(count(&app, used).await, 0);
    verify(&app, &verification).await.expect(204);
    confirm(&app, &reset, NEW).await.expect(204);
}

#[tokio::test]
async fn an_address_is_shown_to_be_ones_own_once() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let ada = registered(&app, "ada@example.org").await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD});
    let session = app.anon().post("/api/auth/login", body).await.expect(200);
    let me = app.anon().with_token(session.str("access_token"));
    assert_eq!(me.get("/api/auth/me").await.expect(200).json["email_verified"], false);
    let resend = "/api/auth/verify-email/resend";
    problem(&app.anon().post(resend, json!(null)).await, 401, "unauthorized");
    me.post(resend, json!(null)).await.expect(202);
    let tokens = app.mail_tokens(VERIFY, ada, 2).await;
    assert_ne!(tokens[0], tokens[1]);
    let replies = join_all((0..64).map(|_| verify(&app, &tokens[1]))).await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 204);
    lost.into_iter().for_each(not_open);
    assert_eq!(won.len(), 1);
    // No session ends by it, and there is nothing more to show.
    assert_eq!(me.get("/api/auth/me").await.expect(200).json["email_verified"], true);
    problem(&me.post(resend, json!(null)).await, 409, "email_verified");
    verify(&app, &tokens[0]).await.expect(204);
    not_open(&verify(&app, &tokens[0]).await);
    let shown = "select count(*) from events where event_type = 'EmailVerified'
        and recorded_at >= (select recorded_at from events where event_type = 'EmailVerificationRequested' limit 1)";
    assert_eq!(count(&app, shown).await, 1);
    refused(&app.anon().post("/api/auth/verify-email", json!({})).await, &["token"]);
    refused(&app.anon().post("/api/auth/verify-email", json!({"token": 7})).await, &["token"]);
}

#[tokio::test]
async fn no_token_is_kept_anywhere() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let ada = registered(&app, "ada@example.org").await;
    ask(&app, "ada@example.org").await.expect(202);
    let (reset, verification) =
        (app.mail_tokens(RESET, ada, 1).await.remove(0), app.mail_tokens(VERIFY, ada, 1).await.remove(0));
    let session = sign_in(&app, "owner").await;
    let next = refresh(&app, session.str("refresh_token")).await.expect(200);
    audited(&app, &app.admin(), "").await;
    let mut connection = app.database.connect().await;
    let tables =
        "select format('%I', table_name) from information_schema.tables where table_schema = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    let looked_at = ["events", "{audit}", "{credentials}", "{users}"].map(projections::with_tables);
    assert!(looked_at.iter().all(|name| tables.contains(name)), "{tables:?}");
    let secrets = [
        &reset,
        &verification,
        session.str("refresh_token"),
        next.str("refresh_token"),
        session.str("access_token"),
        PASSWORD,
    ];
    for table in tables {
        for secret in secrets {
            let proof = secret.rsplit('.').next().unwrap();
            let found =
                count(&app, &format!("select count(*) from {table} t where t::text like '%{proof}%'")).await;
            assert_eq!(found, 0, "{table} has {secret}");
        }
    }
    let hash = Sha256::of(&reset);
    let kept = format!("select count(*) from events t where t::text like '%{hash}%'");
    assert_eq!(count(&app, &kept).await, 1, "what it is checked against, by which this test would find it");
}
