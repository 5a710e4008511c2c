//! Sessions: who has which, how they end, and that an end is an end everywhere.

use api::tokens::{Claims, TokenKeys};
use chrono::Utc;
use domain::UserId;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{JWT_SECRET, LIMIT, PASSWORD, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::support::{audited, count, problem, refresh, refused, said, session_of, sign_in, up_to_now};

async fn me(app: &TestApp, session: &Reply) -> Reply {
    app.anon().with_token(session.str("access_token")).get("/api/auth/me").await
}

/// Neither of its tokens opens anything, here at once and on the other node soon.
async fn has_ended(what: &str, here: &TestApp, there: &TestApp, session: &Reply) {
    let refused = me(here, session).await;
    assert_eq!((refused.status, refused.str("code")), (401, "session_ended"), "{what}");
    let refused = refresh(here, session.str("refresh_token")).await;
    assert_eq!((refused.status, refused.str("code")), (401, "refresh_token_invalid"), "{what}");
    eventually("the end on the other node", async || (me(there, session).await.status == 401).then_some(()))
        .await;
    let refused = refresh(there, session.str("refresh_token")).await;
    assert_eq!((refused.status, refused.str("code")), (401, "refresh_token_invalid"), "{what}");
}

async fn goes_on(what: &str, app: &TestApp, session: &Reply) {
    assert_eq!(me(app, session).await.status, 200, "{what}");
}

fn ids(page: &Reply) -> Vec<String> {
    let items = page.json["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn one_sees_ones_sessions_and_nobody_elses() {
    let app = TestApp::start().await;
    let body = json!({"email": "owner@example.org", "password": PASSWORD});
    let telephone = app.anon().with_header("user-agent", "telephone/1");
    let telephone = telephone.post("/api/auth/login", body).await.expect(200);
    let laptop = sign_in(&app, "owner").await;
    let mine = |session: &Reply| app.anon().with_token(session.str("access_token"));
    let page = mine(&laptop).get("/api/auth/sessions").await.expect(200);
    let sessions = page.json["items"].as_array().unwrap();
    assert_eq!((sessions.len(), &page.json["next"]), (3, &Value::Null), "and the harness's own");
    let current: Vec<_> = sessions.iter().map(|session| session["current"] == true).collect();
    assert_eq!(current, [false, false, true], "in the order in which they began");
    assert_eq!(sessions[2]["id"], json!(session_of(laptop.str("access_token"))));
    assert_eq!(
        (&sessions[1]["user_agent"], &sessions[1]["ip"]),
        (&json!("telephone/1"), &json!("127.0.0.1"))
    );
    assert_eq!(sessions[1]["created_at"], sessions[1]["refreshed_at"]);
    for never in ["dbr_", "hash", "eyJ"] {
        assert!(!page.text.contains(never), "{}", page.text);
    }
    let next = app.anon().with_header("user-agent", "telephone/2");
    let body = json!({"refresh_token": telephone.str("refresh_token")});
    next.post("/api/auth/refresh", body).await.expect(200);
    let later = mine(&telephone).get("/api/auth/sessions").await.expect(200);
    assert_eq!(ids(&later), ids(&page));
    let (before, after) = (&page.json["items"][1], &later.json["items"][1]);
    assert_eq!((&after["user_agent"], &after["current"]), (&json!("telephone/2"), &json!(true)));
    assert_eq!(after["created_at"], before["created_at"]);
    for grown in ["refreshed_at", "expires_at"] {
        assert!(after[grown].as_str() > before[grown].as_str(), "{after}");
    }
    let others = app.viewer().get("/api/auth/sessions").await.expect(200);
    assert!(ids(&others).iter().all(|id| !ids(&page).contains(id)) && ids(&others).len() == 1);
    problem(&app.anon().get("/api/auth/sessions").await, 401, "unauthorized");
}

#[tokio::test]
async fn sessions_come_in_pages() {
    let app = TestApp::start().await;
    for _ in 0..4 {
        sign_in(&app, "owner").await;
    }
    let owner = app.owner();
    let all = ids(&owner.get("/api/auth/sessions").await.expect(200));
    assert_eq!(all.len(), 5);
    let (mut seen, mut path) = (vec![], "/api/auth/sessions?limit=2".to_owned());
    let mut first_cursor = String::new();
    for length in [2, 2, 1] {
        let page = owner.get(&path).await.expect(200);
        assert_eq!(ids(&page).len(), length);
        seen.extend(ids(&page));
        if first_cursor.is_empty() {
            page.str("next").clone_into(&mut first_cursor);
        }
        path = format!("/api/auth/sessions?limit=2&cursor={}", page.str("next"));
    }
    assert_eq!(seen, all);
    let exactly = owner.get("/api/auth/sessions?limit=5").await.expect(200);
    assert_eq!((ids(&exactly).len(), &exactly.json["next"]), (5, &Value::Null));
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("page=2", "page"),
    ] {
        refused(&owner.get(&format!("/api/auth/sessions?{query}")).await, &[field]);
    }
    let strange = app.viewer().get(&format!("/api/auth/sessions?cursor={first_cursor}")).await;
    refused(&strange, &["cursor"]);
}

#[tokio::test]
async fn one_ends_a_session_of_ones_own_and_no_other() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (lost, kept, anothers) =
        (sign_in(&app, "owner").await, sign_in(&app, "owner").await, sign_in(&app, "viewer").await);
    let path = |id: &str| format!("/api/auth/sessions/{id}");
    let of = |session: &Reply| session_of(session.str("access_token")).to_string();
    let owner = app.anon().with_token(kept.str("access_token"));
    let record = began_by(&app, "TeamCreated").await;
    for nobodys in [of(&anothers), Uuid::now_v7().to_string(), Uuid::nil().to_string(), record] {
        assert_eq!(owner.delete(&path(&nobodys)).await.status, 404, "{nobodys}");
    }
    // Whether a session is another's or does not exist is not told.
    let without_id = |mut reply: Reply| {
        reply.json["request_id"] = Value::Null;
        reply.json
    };
    let (anothers_answer, nobodys_answer) =
        (owner.delete(&path(&of(&anothers))).await, owner.delete(&path(&Uuid::now_v7().to_string())).await);
    assert_eq!(without_id(anothers_answer), without_id(nobodys_answer));
    assert!([404, 422].contains(&owner.delete(&path("x")).await.status));
    problem(&app.anon().delete(&path(&of(&lost))).await, 401, "unauthorized");
    goes_on("an attempt", &app, &anothers).await;
    goes_on("an attempt", &app, &lost).await;

    let ended = owner.delete(&path(&of(&lost))).await.expect(204);
    assert!(ended.header("daybook-position").parse::<i64>().unwrap() > 0);
    has_ended("from elsewhere", &app, &other, &lost).await;
    owner.delete(&path(&of(&lost))).await.expect(204);
    goes_on("another's end", &app, &kept).await;
    let left = ids(&owner.get("/api/auth/sessions").await.expect(200));
    assert!(!left.contains(&of(&lost)) && left.contains(&of(&kept)));
    // Also the one that asks.
    owner.delete(&path(&of(&kept))).await.expect(204);
    has_ended("its own", &app, &other, &kept).await;
    let records = audited(&app, &app.admin(), "type=SessionEnded").await;
    assert_eq!(records.len(), 2, "ending it again is no news");
    assert!(records.iter().all(|record| said(record, "reason") == "signed_out"));
    assert_eq!(records[0]["actor"], format!("user:{}", app.people.owner));
}

/// The id of a stream that such an event began.
async fn began_by(app: &TestApp, event_type: &str) -> String {
    let mut connection = app.database.connect().await;
    let query = sqlx::query_scalar("select aggregate_id from events where event_type = $1 limit 1");
    query.bind(event_type).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn however_sessions_are_ended_they_have_ended_everywhere() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let people = app.people;
    let new_password = json!({"current_password": PASSWORD, "new_password": "a staple that is correct"});
    let user = |id: UserId| format!("/api/users/{id}");
    let erase = format!("{}/erase", user(people.stranger));
    let cases = [
        ("logout", "operator", true, Method::POST, "/api/auth/logout".to_owned(), json!(null), 204),
        ("logout-all", "viewer", true, Method::POST, "/api/auth/logout-all".to_owned(), json!(null), 204),
        ("another password", "owner", true, Method::POST, "/api/auth/password".to_owned(), new_password, 204),
        (
            "deactivation",
            "auditor",
            false,
            Method::PATCH,
            user(people.auditor),
            json!({"active": false}),
            200,
        ),
        ("erasure", "stranger", false, Method::POST, erase, json!(null), 204),
    ];
    for (what, who, own, method, path, body, status) in cases {
        let (one, two) = (sign_in(&app, who).await, sign_in(&other, who).await);
        // Both nodes have seen them, and hold them in memory.
        for (node, session) in [(&app, &two), (&other, &one), (&app, &one), (&other, &two)] {
            goes_on(what, node, session).await;
        }
        let refreshed = refresh(&app, one.str("refresh_token")).await.expect(200);
        let client = if own { app.anon().with_token(one.str("access_token")) } else { app.admin() };
        let request = client.request(method, &path);
        let reply = client.send(if body.is_null() { request } else { request.json(&body) }).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        has_ended(what, &app, &other, &one).await;
        has_ended(what, &app, &other, &refreshed).await;
        if what == "logout" {
            goes_on("another's logout", &app, &two).await;
            refresh(&other, two.str("refresh_token")).await.expect(200);
        } else {
            has_ended(what, &app, &other, &two).await;
        }
    }
    let refreshed = "select count(*) from events where event_type = 'SessionRefreshed'";
    assert_eq!(count(&app, refreshed).await, 5 + 1, "what has ended is not refreshed, not even in the log");

    // Who may come back comes with a new session; the old ones stay what they are.
    let old = sign_in(&app, "viewer").await;
    let active = |active: bool| json!({ "active": active });
    app.admin().patch(&user(people.viewer), active(false)).await.expect(200);
    app.admin().patch(&user(people.viewer), active(true)).await.expect(200);
    has_ended("a time away", &app, &other, &old).await;
    goes_on("a time away", &other, &sign_in(&app, "viewer").await).await;
}

#[tokio::test]
async fn no_refresh_slips_through_while_all_sessions_end() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let mut sessions = vec![];
    for _ in 0..16 {
        sessions.push(sign_in(&app, "owner").await);
    }
    let goodbye = app.anon().with_token(sessions[0].str("access_token"));
    let refreshes = sessions
        .iter()
        .enumerate()
        .map(|(n, session)| refresh(if n % 2 == 0 { &app } else { &other }, session.str("refresh_token")));
    let (refreshed, ended) =
        tokio::join!(join_all(refreshes), goodbye.post("/api/auth/logout-all", json!(null)));
    ended.expect(204);
    for session in refreshed.iter().filter(|reply| reply.status == 200).chain(&sessions) {
        has_ended("all of them", &app, &other, session).await;
    }
}

/// Somebody whose password is known to others puts an end to it, and they are at work at that very moment.
#[tokio::test]
async fn nobody_slips_through_with_the_old_password_while_it_changes() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let nodes = [&app, &other];
    let mut sessions = vec![];
    for n in 0..4 {
        sessions.push(sign_in(nodes[n % 2], "owner").await);
    }
    let changes = sessions.iter().enumerate().map(|(n, session)| async move {
        let client = nodes[n % 2].anon().with_token(session.str("access_token"));
        let body = json!({"current_password": PASSWORD, "new_password": format!("the staple number {n}")});
        client.post("/api/auth/password", body).await
    });
    let logins = (0..4).map(|n| async move {
        let body = json!({"email": "owner@example.org", "password": PASSWORD});
        nodes[n % 2].anon().post("/api/auth/login", body).await
    });
    let (changed, begun) = tokio::join!(join_all(changes), join_all(logins));
    let won: Vec<_> = (0..4).filter(|n| changed[*n].status == 204).collect();
    assert_eq!(won.len(), 1, "whoever knew the old password could have the last word");
    for lost in changed.iter().filter(|reply| reply.status != 204) {
        assert!(["wrong_password", "session_ended"].contains(&lost.str("code")), "{}", lost.text);
    }
    let head = app.ledger.head().await.unwrap();
    app.projections.wait(head, LIMIT).await.unwrap();
    for session in begun.iter().filter(|reply| reply.status == 200).chain(&sessions) {
        has_ended("the old password", &app, &other, session).await;
    }
    let body = json!({"email": "owner@example.org", "password": format!("the staple number {}", won[0])});
    app.anon().post("/api/auth/login", body).await.expect(200);
}

#[tokio::test]
async fn a_session_begun_on_one_node_is_good_at_once_on_another() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    for n in 0..20 {
        let (here, there) = if n % 2 == 0 { (&app, &other) } else { (&other, &app) };
        let session = sign_in(here, "owner").await;
        goes_on("just begun", there, &session).await;
        let next = refresh(there, session.str("refresh_token")).await.expect(200);
        goes_on("just refreshed", here, &next).await;
    }
}

#[tokio::test]
async fn of_too_many_sessions_the_one_used_longest_ago_makes_room() {
    let app = TestApp::start().await;
    let first = sign_in(&app, "owner").await;
    let used = refresh(&app, sign_in(&app, "owner").await.str("refresh_token")).await.expect(200);
    let mut context = commands::Context::system(None).acting_as(domain::Actor::User(app.people.owner));
    context.subject = Some(app.people.owner.to_string());
    for _ in 0..49 {
        app.commands.start_session(&context, app.people.owner, vec![], 7).await.unwrap();
    }
    let owner = up_to_now(&app, &app.anon().with_token(used.str("access_token"))).await;
    let page = owner.get("/api/auth/sessions?limit=200").await.expect(200);
    assert_eq!(ids(&page).len(), 50);
    problem(&me(&app, &first).await, 401, "session_ended");
    problem(&refresh(&app, first.str("refresh_token")).await, 401, "refresh_token_invalid");
    refresh(&app, used.str("refresh_token")).await.expect(200);
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let app = TestApp::start().await;
    let session = session_of(sign_in(&app, "owner").await.str("access_token"));
    let asks = async |keys: &TokenKeys, issued: i64, expires: i64| {
        let now = Utc::now().timestamp();
        let (iat, exp) = (now + issued, now + expires);
        let claims = Claims { sub: app.people.owner.0, sid: session.0, iat, exp, jti: None };
        app.anon().with_token(&keys.issue(&claims).unwrap()).get("/api/auth/me").await
    };
    let ours = app.tokens();
    asks(ours, 60, 3_600).await.expect(200);
    // Time passes while it is on its way, and the sixtieth second is over when it has begun.
    asks(ours, -3_600, -50).await.expect(200);
    problem(&asks(ours, 3_600, 7_200).await, 401, "token_invalid");
    problem(&asks(ours, 120, 3_600).await, 401, "token_invalid");
    problem(&asks(ours, -3_600, -60).await, 401, "token_expired");
    problem(&asks(ours, -3_600, -70).await, 401, "token_expired");
    problem(&asks(ours, i64::MAX / 2, i64::MAX / 2).await, 401, "token_invalid");
}

#[tokio::test]
async fn tokens_outlive_one_change_of_the_secret_and_not_two() {
    const NEXT: &str = "another secret of the tests, of more than 32 characters";
    const LAST: &str = "a third secret of the tests, of more than 32 characters";
    let app = TestApp::start().await;
    let old = sign_in(&app, "owner").await;
    let secrets = |now: &str, before: &str| {
        Setup::default().with("JWT_SECRET", now).with("JWT_SECRET_PREVIOUS", before)
    };
    let changed = app.another_node(secrets(NEXT, JWT_SECRET)).await;
    goes_on("one change", &changed, &old).await;
    let next = refresh(&changed, old.str("refresh_token")).await.expect(200);
    goes_on("one change", &changed, &next).await;
    let keys = changed.anon().get("/.well-known/jwks.json").await.expect(200);
    assert_eq!(keys.json["keys"].as_array().unwrap().len(), 2);
    problem(&me(&app, &next).await, 401, "token_invalid");

    let again = app.another_node(secrets(LAST, NEXT)).await;
    problem(&me(&again, &old).await, 401, "token_invalid");
    goes_on("one change since", &again, &next).await;
    let alone = app.another_node(Setup::default().with("JWT_SECRET", LAST)).await;
    for retired in [&old, &next] {
        problem(&me(&alone, retired).await, 401, "token_invalid");
    }
    // The session itself goes on: refresh tokens do not depend on that secret.
    let latest = refresh(&alone, next.str("refresh_token")).await.expect(200);
    goes_on("the refresh", &alone, &latest).await;
}
