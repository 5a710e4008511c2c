//! Refresh tokens: each good for one use, and a copy is found out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{AccessEvent, SessionId};
use futures::future::join_all;
use ledger::{Append, Metadata, NewEvent, Sha256, StreamId};
use serde_json::json;
use tests::{Client, Reply, Setup, TestApp, eventually};
use uuid::{NoContext, Timestamp, Uuid};

use super::support::{audited, count, problem, refresh, refused, said, session_of, sign_in};

async fn me(app: &TestApp, access_token: &str) -> Reply {
    app.anon().with_token(access_token).get("/api/auth/me").await
}

/// How often this has happened.
async fn happened(app: &TestApp, event_type: &str) -> i64 {
    count(app, &format!("select count(*) from events where event_type = '{event_type}'")).await
}

#[tokio::test]
async fn a_session_goes_on_from_token_to_token() {
    let app = TestApp::start().await;
    let first = sign_in(&app, "owner").await;
    let session = session_of(first.str("access_token"));
    let mut seen = BTreeSet::from([first.str("refresh_token").to_owned()]);
    let mut token = first.str("refresh_token").to_owned();
    for generation in 1..=5 {
        let next = refresh(&app, &token).await.expect(200);
        assert_eq!((next.str("token_type"), &next.json["expires_in"]), ("Bearer", &json!(3600)));
        assert_eq!(next.header("cache-control"), "no-store");
        assert!(next.headers.get("set-cookie").is_none());
        assert_eq!(session_of(next.str("access_token")), session);
        me(&app, next.str("access_token")).await.expect(200);
        token = next.str("refresh_token").to_owned();
        assert!(seen.insert(token.clone()), "the same token again");
        assert_eq!(token, app.refresh_token(session, generation).await, "nothing else is known of it");
    }
    // An access token is good until its own time is over.
    me(&app, first.str("access_token")).await.expect(200);
    assert_eq!(happened(&app, "SessionRefreshed").await, 5);
}

#[tokio::test]
async fn of_64_who_bring_one_token_at_once_exactly_one_is_served_and_nobody_is_signed_out() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let signed_in = sign_in(&app, "owner").await;
    let body = json!({"refresh_token": signed_in.str("refresh_token")});
    let nodes = [app.anon(), other.anon()];
    let begun = Instant::now();
    let replies = join_all((0..64).map(|n| {
        let (client, body) = (nodes[n % 2].clone(), body.clone());
        async move { client.post("/api/auth/refresh", body).await }
    }))
    .await;
    let together = begun.elapsed() < Duration::from_secs(1);
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    for reply in lost {
        problem(reply, 409, "refresh_under_way");
        assert_eq!(reply.header("retry-after"), "1");
    }
    let given: BTreeSet<_> = won.iter().map(|reply| reply.str("refresh_token")).collect();
    assert_eq!(given.len(), 1, "two families of tokens");
    // On a machine that is too slow for 64 requests in a second the last ones come as repeats.
    assert!(won.len() == 1 || !together, "{} were served", won.len());
    assert_eq!(happened(&app, "SessionRefreshed").await, 1);
    assert_eq!(happened(&app, "SessionEnded").await, 0);
    me(&app, signed_in.str("access_token")).await.expect(200);
    me(&app, won[0].str("access_token")).await.expect(200);
    refresh(&app, won[0].str("refresh_token")).await.expect(200);
}

/// Repeats a refresh as a client does that was told to come back.
async fn repeated(client: &Client, token: &str) -> Reply {
    eventually("the answer to the repeat", async || {
        let reply = client.post("/api/auth/refresh", json!({"refresh_token": token})).await;
        if reply.status == 409 {
            problem(&reply, 409, "refresh_under_way");
            return None;
        }
        Some(reply)
    })
    .await
}

#[tokio::test]
async fn whoever_lost_an_answer_gets_it_again_also_from_another_node() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let signed_in = sign_in(&app, "owner").await;
    let next = refresh(&app, signed_in.str("refresh_token")).await.expect(200);
    for node in [&app, &other] {
        let again = repeated(&node.anon(), signed_in.str("refresh_token")).await.expect(200);
        assert_eq!(again.str("refresh_token"), next.str("refresh_token"));
        me(node, again.str("access_token")).await.expect(200);
    }
    assert_eq!(happened(&app, "SessionRefreshed").await, 1, "a repeat changes nothing");
    refresh(&app, next.str("refresh_token")).await.expect(200);
    assert_eq!(happened(&app, "SessionEnded").await, 0);
}

#[tokio::test]
async fn an_old_token_ends_its_session_and_no_other_and_that_is_on_record() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (stolen, elsewhere) = (sign_in(&app, "owner").await, sign_in(&app, "owner").await);
    let second = refresh(&app, stolen.str("refresh_token")).await.expect(200);
    let third = refresh(&app, second.str("refresh_token")).await.expect(200);
    // Two generations back: no tab and no lost answer explains that.
    let thief = app.anon().with_header("user-agent", "thief/1");
    let caught = thief.post("/api/auth/refresh", json!({"refresh_token": stolen.str("refresh_token")})).await;
    problem(&caught, 401, "refresh_token_reused");
    for token in [&stolen, &second, &third].map(|reply| reply.str("refresh_token")) {
        assert_eq!(refresh(&app, token).await.status, 401, "it goes on");
        assert_eq!(refresh(&other, token).await.status, 401, "it goes on");
    }
    for token in [&stolen, &second, &third].map(|reply| reply.str("access_token")) {
        problem(&me(&app, token).await, 401, "session_ended");
        eventually("the end on the other node", async || {
            (me(&other, token).await.status == 401).then_some(())
        })
        .await;
    }
    me(&app, elsewhere.str("access_token")).await.expect(200);
    refresh(&app, elsewhere.str("refresh_token")).await.expect(200);
    app.owner().get("/api/auth/me").await.expect(200);

    let admin = app.admin();
    let reused = audited(&app, &admin, "type=RefreshTokenReused").await;
    assert_eq!(reused.len(), 1, "once, however often it is brought again");
    assert_eq!(said(&reused[0], "generation"), &json!(0));
    assert_eq!(said(&reused[0], "user_id"), &json!(app.people.owner));
    assert_eq!(reused[0]["request_id"], caught.header("x-request-id"));
    assert_eq!(reused[0]["ip"], "127.0.0.1");
    let session = session_of(stolen.str("access_token")).to_string();
    let ended = audited(&app, &admin, "type=SessionEnded").await;
    assert_eq!(ended.len(), 1);
    assert_eq!(
        (&ended[0]["aggregate_id"], said(&ended[0], "reason")),
        (&json!(session), &json!("token_reused"))
    );
    assert_eq!(ended[0]["aggregate_id"], reused[0]["aggregate_id"]);
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused_and_ends_nothing() {
    let app = TestApp::start().await;
    let (mine, another) = (sign_in(&app, "owner").await, sign_in(&app, "owner").await);
    let good = mine.str("refresh_token").to_owned();
    let (name, proof) = good.rsplit_once('.').unwrap();
    let (session, _) = name.rsplit_once('.').unwrap();
    let (_, other_proof) = another.str("refresh_token").rsplit_once('.').unwrap();
    let mut flipped = good.clone();
    let last = if flipped.pop() == Some('A') { 'B' } else { 'A' };
    flipped.push(last);
    let nobody = app.refresh_token(SessionId(Uuid::now_v7()), 0).await;
    let record = Uuid::now_v7();
    let failed = AccessEvent::SignInFailed { account: "x".to_owned(), reason: "y".to_owned() };
    append(&app, record, "SignInFailed", &failed).await;
    let no_session = app.refresh_token(SessionId(record), 0).await;
    let mail = app.mail_token(session_of(mine.str("access_token")).0).await;
    for (what, token) in [
        ("another generation", format!("{session}.1.{proof}")),
        ("another session's proof", format!("{name}.{other_proof}")),
        ("a changed proof", flipped),
        ("no proof", format!("{name}.")),
        ("nothing after the generation", name.to_owned()),
        ("cut short", good[..good.len() - 1].to_owned()),
        ("too long", format!("{good}A")),
        ("a generation with a sign", format!("{session}.+0.{proof}")),
        ("a generation beyond all", format!("{session}.4294967296.{proof}")),
        ("in capitals", good.to_uppercase()),
        ("a space", format!(" {good}")),
        ("a line", format!("{good}\n")),
        ("an access token", mine.str("access_token").to_owned()),
        ("a mail's token", mail),
        ("another prefix", good.replacen("dbr_", "dbk_", 1)),
        ("a session that never was", nobody),
        ("a record that is no session", no_session),
        ("nothing", String::new()),
        ("a NUL", "dbr_\0".to_owned()),
        ("very long", format!("dbr_{}", "0".repeat(500_000))),
    ] {
        let reply = refresh(&app, &token).await;
        assert_eq!(
            (reply.status, reply.str("code")),
            (401, "refresh_token_invalid"),
            "{what}: {}",
            reply.text
        );
        assert_eq!(reply.header("www-authenticate"), "Bearer", "{what}");
    }
    let anon = app.anon();
    refused(&anon.post("/api/auth/refresh", json!({})).await, &["refresh_token"]);
    refused(&anon.post("/api/auth/refresh", json!({"refresh_token": null})).await, &["refresh_token"]);
    refused(&anon.post("/api/auth/refresh", json!({"refresh_token": 7})).await, &["refresh_token"]);
    refused(&anon.post("/api/auth/refresh", json!({"token": good})).await, &["token"]);
    // And the other way round.
    for token in [&good, another.str("refresh_token")] {
        problem(&me(&app, token).await, 401, "token_invalid");
    }
    assert_eq!(happened(&app, "RefreshTokenReused").await + happened(&app, "SessionRefreshed").await, 0);
    for session in [&mine, &another] {
        me(&app, session.str("access_token")).await.expect(200);
        refresh(&app, session.str("refresh_token")).await.expect(200);
    }
}

#[tokio::test]
async fn another_instances_tokens_open_nothing() {
    // The same JWT_SECRET, but another ENCRYPTION_KEY and another log.
    let (here, there) = (TestApp::start().await, TestApp::start().await);
    let (ours, theirs) = (sign_in(&here, "owner").await, sign_in(&there, "owner").await);
    problem(&refresh(&here, theirs.str("refresh_token")).await, 401, "refresh_token_invalid");
    problem(&me(&here, theirs.str("access_token")).await, 401, "session_ended");
    // Made by them for a session of ours.
    let forged = there.refresh_token(session_of(ours.str("access_token")), 0).await;
    assert_ne!(forged, ours.str("refresh_token"));
    problem(&refresh(&here, &forged).await, 401, "refresh_token_invalid");
    refresh(&here, ours.str("refresh_token")).await.expect(200);
}

#[tokio::test]
async fn no_session_is_refreshed_for_ever() {
    let app = TestApp::start().await;
    let begun = Utc::now() - TimeDelta::days(90) + TimeDelta::hours(1);
    let at = Timestamp::from_unix(NoContext, begun.timestamp().unsigned_abs(), 0);
    let session = SessionId(Uuid::new_v7(at));
    let (user_id, token) = (app.people.viewer, app.refresh_token(session, 0).await);
    let refresh_token_hash = Sha256::of(&token);
    let refresh_expires_at = Utc::now() + TimeDelta::hours(1);
    let signed_in =
        AccessEvent::SignedIn { user_id, session_id: session, refresh_token_hash, refresh_expires_at };
    append(&app, session.0, "SignedIn", &signed_in).await;
    let next = refresh(&app, &token).await.expect(200);
    let client = app.anon().with_token(next.str("access_token"));
    let sessions = client.get("/api/auth/sessions").await.expect(200);
    let sessions = sessions.json["items"].as_array().unwrap().clone();
    let current = sessions.iter().find(|session| session["current"] == true).unwrap();
    let expires: DateTime<Utc> = current["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires <= begun + TimeDelta::days(90), "{current}");
    refresh(&app, next.str("refresh_token")).await.expect(200);
}

/// Begins the access record `id` with this event, as somebody might have done long ago.
async fn append(app: &TestApp, id: Uuid, event_type: &str, event: &AccessEvent) {
    let event = NewEvent {
        stream: StreamId::new("access", id),
        sequence: 1,
        event_type: event_type.to_owned(),
        event_version: "1".to_owned(),
        payload: serde_json::to_value(event).unwrap().into(),
    };
    let metadata = Metadata { actor: "system".to_owned(), ..Metadata::default() };
    app.ledger.append(Append { events: vec![event], metadata, data_keys: vec![] }).await.unwrap();
}

#[tokio::test]
async fn a_session_that_was_not_refreshed_in_time_is_over() {
    let app = TestApp::start().await;
    let session = SessionId(Uuid::now_v7());
    let token = app.refresh_token(session, 0).await;
    let signed_in = AccessEvent::SignedIn {
        user_id: app.people.viewer,
        session_id: session,
        refresh_token_hash: Sha256::of(&token),
        refresh_expires_at: Utc::now() - TimeDelta::seconds(1),
    };
    append(&app, session.0, "SignedIn", &signed_in).await;
    problem(&refresh(&app, &token).await, 401, "refresh_token_expired");
    let now = Utc::now().timestamp();
    let claims =
        api::tokens::Claims { sub: app.people.viewer.0, sid: session.0, iat: now, exp: now + 60, jti: None };
    let access = app.tokens().issue(&claims).unwrap();
    problem(&me(&app, &access).await, 401, "session_ended");
    let sessions = app.viewer().get("/api/auth/sessions").await.expect(200);
    assert!(!sessions.text.contains(&session.to_string()), "{}", sessions.text);
    assert_eq!(happened(&app, "SessionEnded").await, 0, "time ends it, nobody else");
}
