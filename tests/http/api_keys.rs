//! Keys for programs: made, used, limited, ended.

use chrono::{SecondsFormat, TimeDelta, Utc};
use ledger::Sha256;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};

use super::support::{audited, count, everything_stored, keep, problem, refused, said};

pub(super) const KEYS: &str = "/api/auth/api-keys";

pub(super) async fn make(person: &Client, scopes: &[&str]) -> Reply {
    person.post(KEYS, json!({"name": "deploy", "scopes": scopes})).await
}

/// A program with a key of this person's for their team.
pub(super) async fn program(app: &TestApp, person: &Client, scopes: &[&str]) -> Client {
    app.anon().with_token(make(person, scopes).await.expect(201).str("key"))
}

/// The person's keys.
pub(super) async fn listed(person: &Client) -> Vec<Value> {
    person.get(&format!("{KEYS}?limit=200")).await.expect(200).json["items"].as_array().unwrap().clone()
}

pub(super) fn no_such_key(reply: &Reply) {
    problem(reply, 401, "api_key_invalid");
    assert_eq!(reply.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn a_key_is_shown_once_and_acts_for_its_maker_under_its_own_name() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let body = json!({"name": "deploy", "scopes": ["secrets:write", "secrets:read", "secrets:read"], "expires_at": "2031-01-02T03:04:05.678Z"});
    let made = operator.post(KEYS, body).await.expect(201);
    let (id, key) = (made.str("id"), made.str("key"));
    assert_eq!(made.header("cache-control"), "no-store");
    assert!(key.starts_with("dbk_") && key.starts_with(made.str("prefix")), "{key}");
    assert!(made.str("prefix").len() < 20, "it is to be recognised, not to be used");
    assert_eq!((made.str("name"), made.str("expires_at")), ("deploy", "2031-01-02T03:04:05.678Z"));
    assert_eq!(made.json["scopes"], json!(["secrets:read", "secrets:write"]));
    assert_eq!(made.json["team_id"], json!(app.people.team));
    assert!(made.json["last_used_at"].is_null() && made.json["last_used_ip"].is_null());

    let list = listed(&operator).await;
    let mut about = made.json.clone();
    about.as_object_mut().unwrap().remove("key");
    assert_eq!(list, [about]);
    let stored = everything_stored(&app).await;
    assert!(stored.contains(&Sha256::of(key)) && !stored.contains(key));

    let program = app.anon().with_token(key);
    let kept = keep(&program, "db").await;
    assert_eq!(kept.str("created_by"), format!("key:{id}"));
    let events = audited(&app, &app.owner(), "type=SecretStored").await;
    assert_eq!((&events[0]["actor"], &events[0]["ip"]), (&json!(format!("key:{id}")), &json!("127.0.0.1")));
    assert_eq!(events[0]["team_id"], json!(app.people.team));
    assert_eq!(audited(&app, &app.owner(), &format!("actor=key:{id}")).await, events);
    let making = audited(&app, &app.admin(), "type=ApiKeyMade").await;
    assert_eq!(making[0]["actor"], format!("user:{}", app.people.operator));
    assert_eq!(
        (said(&making[0], "prefix"), said(&making[0], "hash")),
        (&made.json["prefix"], &json!("sealed"))
    );
}

#[tokio::test]
async fn each_scope_opens_what_it_is_for_and_nothing_else() {
    let app =
        TestApp::with(Setup::default().kinds("[jobs.wait]\ndescription = \"Waits\"\ncommand = [\"true\"]\n"))
            .await;
    let owner = app.owner();
    let secret = keep(&owner, "db").await;
    let value = format!("/api/secrets/{}/value", secret.str("id"));
    let one = format!("/api/secrets/{}", secret.str("id"));
    let doors: [(&str, Method, &str, Value); 9] = [
        ("secrets:list", Method::GET, "/api/secrets", Value::Null),
        ("secrets:read", Method::GET, &one, Value::Null),
        ("secrets:write", Method::POST, "/api/secrets", json!({"name": "new", "value": "v"})),
        ("secrets:reveal", Method::GET, &value, Value::Null),
        ("jobs:read", Method::GET, "/api/jobs", Value::Null),
        ("jobs:run", Method::POST, "/api/jobs", json!({"kind": "wait"})),
        ("audit:read", Method::GET, "/api/audit/events", Value::Null),
        ("team:read", Method::GET, "/api/team", Value::Null),
        ("team:write", Method::PATCH, "/api/team", json!({"name": "Main"})),
    ];
    for (scope, ..) in &doors {
        let program = program(&app, &owner, &[scope]).await;
        for (needed, method, path, body) in &doors {
            let request = program.request(method.clone(), path);
            let reply = program.send(if body.is_null() { request } else { request.json(body) }).await;
            // Who may see what is known of secrets may see which there are.
            if needed == scope || (*scope, *needed) == ("secrets:read", "secrets:list") {
                assert!(reply.status < 300, "{scope}: {method} {path}: {}", reply.text);
            } else {
                problem(&reply, 403, "forbidden");
                assert!(reply.str("detail").contains(needed), "{scope}: {}", reply.text);
            }
        }
    }
    let all: Vec<&str> = doors.iter().map(|(scope, ..)| *scope).collect();
    let program = program(&app, &owner, &all).await;
    program.get(&value).await.expect(200);
    let refusals = audited(&app, &owner, "type=AccessRefused").await;
    assert_eq!(refusals.len(), 9 * 8 - 1);
    assert!(refusals.iter().all(|event| event["actor"].as_str().unwrap().starts_with("key:")));
}

#[tokio::test]
async fn nobody_gives_a_key_more_than_they_have_or_what_no_key_may_have() {
    let app = TestApp::start().await;
    let cases: [(Client, &[&str]); 9] = [
        (app.viewer(), &["secrets:write"]),
        (app.viewer(), &["secrets:read", "secrets:reveal"]),
        (app.operator(), &["audit:read"]),
        (app.operator(), &["team:write"]),
        (app.auditor(), &["secrets:read"]),
        (app.admin(), &["users:manage"]),
        (app.owner(), &["audit:instance"]),
        (app.owner(), &["secrets"]),
        (app.owner(), &[]),
    ];
    for (person, scopes) in cases {
        refused(&make(&person, scopes).await, &["scopes"]);
    }
    let owner = app.owner();
    let with = |field: &str, value: Value| {
        let mut body = json!({"name": "deploy", "scopes": ["secrets:read"]});
        body[field] = value;
        body
    };
    let past = Utc::now() - TimeDelta::seconds(1);
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("a\u{202e}b")),
        ("name", json!("x".repeat(201))),
        ("name", Value::Null),
        ("scopes", json!("secrets:read")),
        ("scopes", json!(["Secrets:Read"])),
        ("expires_at", json!(past.to_rfc3339())),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("99999-01-01T00:00:00Z")),
        ("admin", json!(true)),
    ] {
        let reply = owner.post(KEYS, with(field, value.clone())).await;
        assert_eq!(reply.status, 422, "{field} {value}: {}", reply.text);
        assert!(reply.fields().iter().all(|named| named.starts_with(field)), "{field}: {}", reply.text);
    }
    let everything = json!({"name": "", "scopes": ["x"], "expires_at": past.to_rfc3339()});
    refused(&owner.post(KEYS, everything).await, &["name", "scopes", "expires_at"]);
    assert_eq!(count(&app, "select count(*) from events where event_type = 'ApiKeyMade'").await, 0);
}

#[tokio::test]
async fn what_its_maker_may_not_do_any_more_it_may_not_do_either() {
    let app = TestApp::start().await;
    let (owner, admin) = (app.owner(), app.admin());
    let program = program(&app, &app.operator(), &["secrets:read", "secrets:write"]).await;
    keep(&program, "one").await;
    let member = format!("/api/team/members/{}", app.people.operator);
    let role = async |role: &str| owner.patch(&member, json!({"role": role})).await.expect(200);
    let write = json!({"name": "two", "value": "v"});
    role("viewer").await;
    program.get("/api/secrets").await.expect(200);
    problem(&program.post("/api/secrets", write.clone()).await, 403, "forbidden");
    role("auditor").await;
    problem(&program.get("/api/secrets").await, 403, "forbidden");
    // A better role does not make it more than it was made for.
    role("owner").await;
    program.post("/api/secrets", write).await.expect(201);
    problem(&program.get("/api/team").await, 403, "forbidden");

    let user = format!("/api/users/{}", app.people.operator);
    admin.patch(&user, json!({"active": false})).await.expect(200);
    problem(&program.get("/api/secrets").await, 401, "unauthorized");
    admin.patch(&user, json!({"active": true})).await.expect(200);
    program.get("/api/secrets").await.expect(200);

    owner.delete(&member).await.expect(204);
    problem(&program.get("/api/secrets").await, 404, "team_not_found");
    admin.post(&format!("{user}/erase"), json!({})).await.expect(204);
    no_such_key(&program.get("/api/secrets").await);
}

#[tokio::test]
async fn a_key_ends_when_its_time_is_over_and_not_before() {
    let app = TestApp::start().await;
    let soon = Utc::now() + TimeDelta::seconds(3);
    let soon = soon.to_rfc3339_opts(SecondsFormat::Millis, true);
    let body = json!({"name": "short", "scopes": ["secrets:read"], "expires_at": soon});
    let made = app.operator().post(KEYS, body).await.expect(201);
    assert_eq!(made.str("expires_at"), soon);
    let program = app.anon().with_token(made.str("key"));
    let ended = eventually("the key's end", async || {
        let before = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let reply = program.get("/api/secrets").await;
        // Who asked after its end was refused.
        assert!(before < soon || reply.status == 401, "{}", reply.text);
        (reply.status != 200).then_some(reply)
    })
    .await;
    no_such_key(&ended);
    assert!(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true) >= soon);
    // It is shown until it is revoked, so that one sees why a program fails.
    assert_eq!(listed(&app.operator()).await.len(), 1);
}

#[tokio::test]
async fn a_revoked_key_is_refused_on_every_node() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let operator = app.operator();
    let made = make(&operator, &["secrets:read"]).await.expect(201);
    let (here, path) = (app.anon().with_token(made.str("key")), format!("{KEYS}/{}", made.str("id")));
    let there = other.anon().with_token(made.str("key"));
    // The other node holds it.
    for program in [&here, &there] {
        program.get("/api/secrets").await.expect(200);
    }
    problem(&app.owner().delete(&path).await, 404, "api_key_not_found");
    problem(&app.admin().delete(&path).await, 404, "api_key_not_found");
    here.get("/api/secrets").await.expect(200);

    operator.delete(&path).await.expect(204);
    no_such_key(&here.get("/api/secrets").await);
    let refused = eventually("the refusal", async || {
        let reply = there.get("/api/secrets").await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    no_such_key(&refused);
    assert!(listed(&operator).await.is_empty());
    problem(&operator.delete(&path).await, 404, "api_key_not_found");
    problem(&operator.delete(&format!("{KEYS}/{}", uuid::Uuid::now_v7())).await, 404, "api_key_not_found");
    problem(&operator.delete(&format!("{KEYS}/x")).await, 404, "not_found");
    assert_eq!(count(&app, "select count(*) from api_key_uses").await, 0);
}

#[tokio::test]
async fn what_concerns_the_account_itself_needs_the_person() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let scopes = [
        "secrets:read",
        "secrets:write",
        "secrets:reveal",
        "jobs:read",
        "jobs:run",
        "audit:read",
        "team:read",
        "team:write",
    ];
    let made = make(&owner, &scopes).await.expect(201);
    let program = app.anon().with_token(made.str("key"));
    let key = format!("{KEYS}/{}", made.str("id"));
    let session = format!("/api/auth/sessions/{}", uuid::Uuid::now_v7());
    for (method, path) in [
        (Method::PATCH, "/api/auth/me"),
        (Method::POST, "/api/auth/password"),
        (Method::POST, "/api/auth/logout"),
        (Method::POST, "/api/auth/logout-all"),
        (Method::GET, "/api/auth/sessions"),
        (Method::DELETE, &session),
        (Method::POST, "/api/auth/2fa"),
        (Method::POST, "/api/auth/2fa/confirm"),
        (Method::DELETE, "/api/auth/2fa"),
        (Method::GET, KEYS),
        (Method::POST, KEYS),
        (Method::DELETE, &key),
        (Method::POST, "/api/teams/join"),
    ] {
        let reply = program.send(program.request(method.clone(), path).json(&json!({}))).await;
        assert_eq!((reply.status, reply.str("code")), (403, "session_needed"), "{method} {path}");
    }
    // A program does not leave the team in its maker's name; with the scope it parts with members as an owner does.
    let member = format!("/api/team/members/{}", app.people.owner);
    problem(&program.delete(&member).await, 409, "last_owner");
    let reader = app.anon().with_token(make(&app.viewer(), &["team:read"]).await.expect(201).str("key"));
    let member = format!("/api/team/members/{}", app.people.viewer);
    problem(&reader.delete(&member).await, 403, "forbidden");
    program.get("/api/secrets").await.expect(200);
    assert_eq!(listed(&owner).await.len(), 1, "nothing was made or revoked");
}

#[tokio::test]
async fn a_key_is_never_an_instance_admin() {
    let app = TestApp::start().await;
    // The admin owns a team of their own.
    let admin = app.admin();
    let scopes = ["secrets:read", "audit:read", "team:read", "team:write"];
    let program = program(&app, &admin, &scopes).await;
    keep(&app.owner(), "of-another-team").await;
    let user = format!("/api/users/{}", app.people.viewer);
    for (method, path) in [
        (Method::GET, "/api/users"),
        (Method::GET, &user),
        (Method::PATCH, &user),
        (Method::POST, &format!("{user}/erase")),
        (Method::POST, "/api/teams"),
        (Method::GET, "/api/projections"),
        (Method::POST, "/api/projections/jobs/rebuild"),
    ] {
        let body = json!({"name": "New", "slug": "new"});
        let reply = program.send(program.request(method.clone(), path).json(&body)).await;
        assert_eq!((reply.status, reply.str("code")), (403, "forbidden"), "{method} {path}");
    }
    let trail = program.get("/api/audit/events?limit=200").await.expect(200);
    assert!(!trail.text.contains("of-another-team") && !trail.text.contains(&app.people.team.to_string()));
    let teams = program.get("/api/teams").await.expect(200);
    assert_eq!(teams.json["items"].as_array().unwrap().len(), 1, "{}", teams.text);
}

#[tokio::test]
async fn a_key_speaks_for_the_team_it_was_made_for_and_names_no_other() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let program = program(&app, &owner, &["secrets:read", "secrets:write"]).await;
    keep(&app.as_user(app.people.owner), "of-own-team").await;
    keep(&program, "of-main").await;
    let speaking = |team: &str| program.with_header("daybook-team", team);
    for own in ["main", &app.people.team.to_string()] {
        let list = speaking(own).get("/api/secrets").await.expect(200);
        assert!(list.text.contains("of-main") && !list.text.contains("of-own-team"));
    }
    let teams = app.as_user(app.people.owner).get("/api/auth/me").await.expect(200);
    let teams = teams.json["teams"].as_array().unwrap().clone();
    assert_eq!(teams.len(), 2);
    let another = teams.iter().find(|team| team["slug"] != "main").unwrap()["id"].as_str().unwrap();
    for other in [another, "other", &app.people.other_team.to_string(), "nowhere", ""] {
        problem(&speaking(other).get("/api/secrets").await, 404, "team_not_found");
    }
    for path in ["/api/auth/me", "/api/teams"] {
        let shown = program.get(path).await.expect(200);
        assert!(shown.text.contains("\"main\"") && !shown.text.contains(another), "{}", shown.text);
    }
}

#[tokio::test]
async fn its_last_use_is_shown_and_no_event_of_each() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let made = make(&operator, &["secrets:read"]).await.expect(201);
    let unused = make(&operator, &["secrets:read"]).await.expect(201);
    let program = app.anon().with_token(made.str("key"));
    let before = app.ledger.head().await.unwrap();
    for _ in 0..20 {
        program.get("/api/secrets").await.expect(200);
    }
    assert_eq!(app.ledger.head().await.unwrap(), before);
    let keys = listed(&operator).await;
    let of = |made: &Reply| keys.iter().find(|key| key["id"] == made.json["id"]).unwrap();
    assert_eq!(of(&made)["last_used_ip"], "127.0.0.1");
    assert!(of(&made)["last_used_at"].as_str().unwrap() >= made.str("created_at"));
    assert!(of(&unused)["last_used_at"].is_null() && of(&unused)["last_used_ip"].is_null());
    assert_eq!(count(&app, "select count(*) from api_key_uses").await, 1);
}
