//! Registering, signing in, and being who one is.

use std::collections::BTreeSet;

use api::tokens::TokenKeys;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::{Role, Team, TeamCommand};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};

use super::support::{audited, count, keep, problem, refused, said, up_to_now};

async fn open() -> TestApp {
    TestApp::with(Setup::default().with("REGISTRATION", "open")).await
}

async fn register(client: &Client, email: &str) -> Reply {
    let body = json!({"email": email, "password": PASSWORD, "name": "Ada Lovelace"});
    client.post("/api/auth/register", body).await
}

async fn login(client: &Client, email: &str, password: &str) -> Reply {
    client.post("/api/auth/login", json!({"email": email, "password": password})).await
}

#[tokio::test]
async fn somebody_registers_signs_in_and_owns_a_team_of_their_own() {
    let app = open().await;
    let user = register(&app.anon(), "Ada@Example.org").await.expect(201);
    assert_eq!((user.str("email"), user.str("name")), ("Ada@Example.org", "Ada Lovelace"));
    assert_eq!(user.json["teams"].as_array().unwrap().len(), 1);
    assert_eq!(user.json["teams"][0]["role"], "owner");
    let flags = ["admin", "active", "email_verified", "two_factor"].map(|flag| user.json[flag] == true);
    assert_eq!(flags, [false, true, false, false]);
    assert!(user.json["last_sign_in_at"].is_null());
    assert_eq!(user.header("etag"), "\"1\"");
    assert!(user.header("daybook-position").parse::<i64>().unwrap() > 0);

    let tokens = login(&app.anon(), "ADA@example.ORG", PASSWORD).await.expect(200);
    assert_eq!((tokens.str("token_type"), &tokens.json["expires_in"]), ("Bearer", &json!(3600)));
    let ada = app.anon().with_token(tokens.str("access_token"));
    let ada = ada.with_header("daybook-position", tokens.header("daybook-position"));
    let me = ada.get("/api/auth/me").await.expect(200);
    assert_eq!(me.json["id"], user.json["id"]);
    assert!(me.json["last_sign_in_at"].is_string());
    assert!(!me.text.contains("argon2") && !user.text.contains("argon2"));
    keep(&ada, "mine").await;
    assert_eq!(app.other_team().get("/api/secrets").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn registration_is_open_only_where_it_is_said_so() {
    for (setting, token_answer) in [("invite", 422), ("closed", 403)] {
        let app = TestApp::with(Setup::default().with("REGISTRATION", setting)).await;
        problem(&register(&app.anon(), "ada@example.org").await, 403, "registration_closed");
        let body =
            json!({"email": "a@example.org", "password": PASSWORD, "name": "A", "invitation_token": "x"});
        let invited = app.anon().post("/api/auth/register", body).await.expect(token_answer);
        assert!(token_answer == 403 || invited.fields() == ["invitation_token"], "{}", invited.text);
        let registered = "select count(*) from events where event_type = 'UserRegistered'";
        assert_eq!(count(&app, registered).await, 6, "those of the harness");
    }
}

#[tokio::test]
async fn an_address_is_one_account_in_any_letter_case() {
    let app = open().await;
    register(&app.anon(), "ada@example.org").await.expect(201);
    for again in ["ada@example.org", "ADA@EXAMPLE.ORG", "Ada@example.Org"] {
        problem(&register(&app.anon(), again).await, 409, "email_taken");
    }
    register(&app.anon(), "ada+work@example.org").await.expect(201);
}

#[tokio::test]
async fn of_64_who_register_one_address_at_once_exactly_one_wins() {
    let app = open().await;
    let spelling = |n: usize| -> String {
        let letters = "ada.lovelace".chars().enumerate();
        let mixed = |(at, c): (usize, char)| if n >> (at % 6) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        format!("{}@example.org", letters.map(mixed).collect::<String>())
    };
    let anon = app.anon();
    let replies = join_all((0..64).map(|n| {
        let (anon, email) = (anon.clone(), spelling(n));
        async move { register(&anon, &email).await }
    }))
    .await;
    let won = replies.iter().filter(|reply| reply.status == 201).count();
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        // Passwords are hashed in a bounded pool: on a slow machine some are sent away.
        if reply.status == 503 {
            problem(reply, 503, "overloaded")
        } else {
            problem(reply, 409, "email_taken")
        }
    }
    assert_eq!(won, 1);
    let registered = "select count(*) from events where event_type = 'UserRegistered'";
    assert_eq!(count(&app, registered).await, 6 + 1);
    let teams = "select count(*) from events where event_type = 'TeamCreated'";
    assert_eq!(count(&app, teams).await, 6 + 2 + 1, "a team without its account is left over");
    login(&app.anon(), &spelling(0), PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_failed_sign_in_tells_nothing_and_every_attempt_is_recorded() {
    let app = TestApp::start().await;
    let anon = app.anon();
    let wrong = login(&anon, "owner@example.org", "not the password").await;
    let unknown = login(&anon, "nobody@example.org", PASSWORD).await;
    for reply in [&wrong, &unknown] {
        problem(reply, 401, "sign_in_failed");
        assert_eq!(reply.header("www-authenticate"), "Bearer");
    }
    let without_id = |reply: &Reply| {
        let mut json = reply.json.clone();
        json["request_id"] = Value::Null;
        json
    };
    assert_eq!(without_id(&wrong), without_id(&unknown));
    login(&anon, "owner@example.org", "").await.expect(401);
    let good = login(&anon, "owner@example.org", PASSWORD).await.expect(200);

    let admin = app.admin();
    let failed = audited(&app, &admin, "type=SignInFailed").await;
    let reasons: Vec<_> = failed.iter().map(|event| said(event, "reason").as_str().unwrap()).collect();
    assert_eq!(reasons, ["wrong_password", "unknown_account", "wrong_password"], "newest first");
    assert_eq!(failed[0]["ip"], "127.0.0.1");
    assert_eq!(said(&failed[0], "account"), said(&failed[2], "account"), "the same address, hashed");
    assert_ne!(said(&failed[0], "account"), said(&failed[1], "account"));
    let signed_in = audited(&app, &admin, "type=SignedIn").await;
    assert_eq!(signed_in.len(), 7);
    assert_eq!(said(&signed_in[0], "user_id"), &json!(app.people.owner));
    assert_eq!(signed_in[0]["request_id"], good.header("x-request-id"));
    let trail = format!("{failed:?}{signed_in:?}");
    for never in ["nobody@example.org", "not the password", PASSWORD, good.str("refresh_token")] {
        assert!(!trail.contains(never), "{never}");
    }
    let stored = format!(
        "select count(*) from events where payload::text ~ '{}|example.org' or metadata::text ~ '127.0.0.1|example.org'",
        good.str("refresh_token")
    );
    assert_eq!(count(&app, &stored).await, 0, "personal data and tokens are sealed or hashed");
}

#[tokio::test]
async fn wrong_input_is_named_field_by_field_all_at_once() {
    let app = open().await;
    let anon = app.anon();
    let post = async |body: Value| anon.post("/api/auth/register", body).await;
    refused(
        &post(json!({"email": "x", "password": "short", "name": ""})).await,
        &["email", "name", "password"],
    );
    let with = |field: &str, value: Value| {
        let mut body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada"});
        body[field] = value;
        body
    };
    let long = |n: usize| "x".repeat(n);
    let local = format!("{}@example.org", long(65));
    let label = format!("a@{}.org", long(64));
    for email in [
        "",
        " ",
        "ada",
        "@example.org",
        "ada@",
        "a b@example.org",
        " ada@example.org",
        "a..b@example.org",
        "a@b@example.org,",
        "a@-x.org",
        "a@x..org",
        "a\0@example.org",
        "a\u{202e}@example.org",
        "a\n@example.org",
        &local,
        &label,
        &format!("{}@example.org", long(300)),
    ] {
        refused(&post(with("email", json!(email))).await, &["email"]);
    }
    for name in [
        "",
        " ",
        "Ada\0",
        "Ada\u{7}",
        "\u{202e}adA",
        "\u{2066}x\u{2069}",
        "A\u{200b}da",
        " Ada",
        "Ada\n",
        &long(201),
    ] {
        refused(&post(with("name", json!(name))).await, &["name"]);
    }
    for password in ["", "eleven char", &long(257), "Manchester-United", "it is ADA@example.org"] {
        let reply = post(with("password", json!(password))).await;
        refused(&reply, &["password"]);
        assert!(password.is_empty() || !reply.text.contains(password), "{}", reply.text);
    }
    refused(&post(with("admin", json!(true))).await, &["admin"]);
    refused(&post(with("email", json!(7))).await, &["email"]);
    refused(&post(json!({"email": "ada@example.org", "password": PASSWORD})).await, &["name"]);
    let most: String = (100..164).map(|number| format!("{number} ")).collect();
    assert_eq!(most.len(), 256);
    for (email, password) in [
        ("b1@example.org", "twelve chars"),
        ("b2@example.org", &most),
        ("b3@example.org", "пароль 密码 🔑🔑🔑🔑"),
    ] {
        let body = json!({"email": email, "password": password, "name": "李小龙 O'Hara"});
        post(body).await.expect(201);
        login(&anon, email, password).await.expect(200);
    }
    refused(&anon.post("/api/auth/login", json!({"email": "x", "password": "y"})).await, &["email"]);
    refused(
        &anon.post("/api/auth/login", json!({"email": "a@example.org", "password": "y", "otp": 1})).await,
        &["otp"],
    );
}

fn part(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

/// A token with another header, signed by `sign`.
fn forged(good: &str, header: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = good.split('.').nth(1).unwrap();
    let message = format!("{}.{claims}", part(header));
    let signature = BASE64URL.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

#[tokio::test]
async fn only_our_own_tokens_that_have_not_expired_open_the_door() {
    let app = TestApp::start().await;
    let owner = app.people.owner;
    let good = app.token(owner, 60);
    let me = async |authorization: &str| {
        app.anon().with_header("authorization", authorization).get("/api/auth/me").await
    };
    me(&format!("Bearer {good}")).await.expect(200);
    me(&format!("bearer {good}")).await.expect(200);

    let jwks = app.anon().get("/.well-known/jwks.json").await.expect(200).json;
    let (kid, x) = (jwks["keys"][0]["kid"].clone(), jwks["keys"][0]["x"].as_str().unwrap());
    let public = BASE64URL.decode(x).unwrap();
    let header = |alg: &str| json!({"typ": "JWT", "alg": alg, "kid": kid});
    let hmac = |key: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        move |message: &[u8]| ring::hmac::sign(&key, message).as_ref().to_vec()
    };
    let theirs = TokenKeys::new("somebody else's secret of more than 32 characters", None).unwrap();
    let now = chrono::Utc::now().timestamp();
    let claims = api::tokens::Claims { sub: owner.0, sid: owner.0, iat: now, exp: now + 60, jti: None };
    let other_key = theirs.issue(&claims).unwrap();
    let other_signature = other_key.rsplit('.').next().unwrap();
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    let mut altered = BASE64URL.decode(good.split('.').nth(1).unwrap()).unwrap();
    let at = altered.windows(5).position(|window| window == b"\"exp\"").unwrap() + 6;
    altered[at] = b'9';
    let (head, _) = good.split_once('.').unwrap();
    let altered = format!("{head}.{}.{signature}", BASE64URL.encode(altered));
    let refresh = login(&app.anon(), "owner@example.org", PASSWORD).await.expect(200);
    let cases = [
        ("none", forged(&good, &header("none"), |_| vec![])),
        ("None", forged(&good, &header("None"), |_| vec![])),
        ("HS256 with the public key", forged(&good, &header("HS256"), hmac(&public))),
        ("HS256 with the public key's text", forged(&good, &header("HS256"), hmac(x.as_bytes()))),
        ("EdDSA by name, HS256 in fact", forged(&good, &header("EdDSA"), hmac(&public))),
        ("no key id", forged(&good, &json!({"alg": "EdDSA"}), hmac(&public))),
        ("another key", other_key.clone()),
        ("another key's signature", format!("{unsigned}.{other_signature}")),
        ("no signature", format!("{unsigned}.")),
        ("changed claims", altered),
        ("a part missing", unsigned.to_owned()),
        ("a part too many", format!("{good}.x")),
        ("a refresh token", refresh.str("refresh_token").to_owned()),
        ("dots", "..".to_owned()),
        ("words", "open sesame".to_owned()),
        ("very long", format!("{good}{}", "x".repeat(4_000))),
    ];
    for (what, token) in cases {
        let reply = me(&format!("Bearer {token}")).await;
        problem(&reply, 401, "token_invalid");
        assert_eq!(reply.header("www-authenticate"), "Bearer", "{what}");
    }
    problem(&me(&format!("Bearer {}", app.token(owner, -60))).await, 401, "token_expired");
    for header in ["", "Bearer", &good, &format!("Basic {good}")] {
        problem(&me(header).await, 401, "unauthorized");
    }
    let nobody = domain::UserId(uuid::Uuid::now_v7());
    problem(&me(&format!("Bearer {}", app.token(nobody, 60))).await, 401, "session_ended");
}

#[tokio::test]
async fn anybody_can_check_a_token_with_the_published_key() {
    let app = TestApp::start().await;
    let token = login(&app.anon(), "viewer@example.org", PASSWORD).await.expect(200);
    let token = token.str("access_token");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let header: Value =
        serde_json::from_slice(&BASE64URL.decode(message.split('.').next().unwrap()).unwrap()).unwrap();
    let jwks = app.anon().get("/.well-known/jwks.json").await.expect(200).json;
    let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    assert_eq!(
        (&key["kty"], &key["crv"], &header["alg"]),
        (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"))
    );
    assert!(key.get("d").is_none(), "the private part");
    let public = BASE64URL.decode(key["x"].as_str().unwrap()).unwrap();
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
    public.verify(message.as_bytes(), &BASE64URL.decode(signature).unwrap()).unwrap();
}

#[tokio::test]
async fn one_renames_oneself_unless_somebody_was_faster() {
    let app = TestApp::start().await;
    let viewer = app.viewer();
    let me = viewer.get("/api/auth/me").await.expect(200);
    assert_eq!(me.header("etag"), "\"2\"");
    let rename = |tag: &str| viewer.with_header("if-match", tag);
    let renamed = rename("\"2\"").patch("/api/auth/me", json!({"name": "Countess"})).await.expect(200);
    assert_eq!((renamed.str("name"), renamed.header("etag")), ("Countess", "\"3\""));
    let stale = rename("\"2\"").patch("/api/auth/me", json!({"name": "Late"})).await;
    problem(&stale, 412, "precondition_failed");
    problem(
        &rename("W/\"3\"").patch("/api/auth/me", json!({"name": "Weak"})).await,
        412,
        "precondition_failed",
    );
    refused(&rename("3").patch("/api/auth/me", json!({"name": "Bare"})).await, &["If-Match"]);
    rename("*").patch("/api/auth/me", json!({"name": "Any"})).await.expect(200);
    viewer.patch("/api/auth/me", json!({"name": "Without"})).await.expect(200);
    refused(&viewer.patch("/api/auth/me", json!({"name": "x\0"})).await, &["name"]);
    refused(&viewer.patch("/api/auth/me", json!({"name": "x", "admin": true})).await, &["admin"]);
    let me = viewer.get("/api/auth/me").await.expect(200);
    assert_eq!((me.str("name"), me.header("etag")), ("Without", "\"5\""));
    let history =
        app.admin().get(&format!("/api/audit/user/{}/history", app.people.viewer)).await.expect(200);
    let first = &history.json["items"][2];
    assert_eq!(first["changes"], json!([{"field": "name", "before": "viewer", "after": "Countess"}]));
}

#[tokio::test]
async fn one_speaks_for_a_team_one_is_in_and_for_no_other() {
    let app = TestApp::start().await;
    let command = TeamCommand::AddMember { user_id: app.people.stranger, role: Role::Viewer };
    let mut context = commands::Context::system(Some(app.people.team));
    context.caller.permissions = Role::Owner.permissions();
    app.commands.execute::<Team>(&context, app.people.team, None, command).await.unwrap();
    let stranger = up_to_now(&app, &app.as_user(app.people.stranger)).await;
    keep(&app.owner(), "of-main").await;
    keep(&app.other_team(), "of-other").await;

    let names = async |client: Client| -> BTreeSet<String> {
        let list = client.get("/api/secrets").await.expect(200);
        list.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let speaking = |team: &str| stranger.with_header("daybook-team", team);
    assert_eq!(names(speaking("main")).await, ["of-main".to_owned()].into());
    assert_eq!(names(speaking(&app.people.team.to_string())).await, ["of-main".to_owned()].into());
    assert_eq!(names(speaking("other")).await, ["of-other".to_owned()].into());
    // Without the header: the team one has been in for longest, which is one's own.
    assert!(names(stranger.clone()).await.is_empty());
    let role_counts = speaking("main").post("/api/secrets", json!({"name": "x", "value": "v"})).await;
    problem(&role_counts, 403, "forbidden");
    let me = stranger.get("/api/auth/me").await.expect(200);
    let slugs: Vec<_> =
        me.json["teams"].as_array().unwrap().iter().map(|team| team["slug"].as_str().unwrap()).collect();
    assert_eq!((slugs.len(), slugs[1], slugs[2]), (3, "other", "main"));

    let operator = app.as_user(app.people.operator);
    for team in [
        "other",
        &app.people.other_team.to_string(),
        "nowhere",
        &uuid::Uuid::now_v7().to_string(),
        "",
        "MAIN",
        "main'--",
    ] {
        let reply = operator.with_header("daybook-team", team).get("/api/secrets").await;
        problem(&reply, 404, "team_not_found");
    }
}
