//! E-mail addresses and names of any script, and those that are none.

use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};

use super::support::{count, problem, refused};

async fn open() -> TestApp {
    TestApp::with(Setup::default().with("REGISTRATION", "open")).await
}

async fn register(client: &Client, email: &str, name: &str) -> Reply {
    let body = json!({"email": email, "password": PASSWORD, "name": name});
    client.post("/api/auth/register", body).await
}

async fn login(client: &Client, email: &str) -> Reply {
    client.post("/api/auth/login", json!({"email": email, "password": PASSWORD})).await
}

/// An address of so many bytes.
fn long(bytes: usize) -> String {
    let labels = format!("{0}.{0}.", "d".repeat(63));
    format!("{}@{labels}{}", "l".repeat(64), "e".repeat(bytes - 65 - labels.len()))
}

#[tokio::test]
async fn addresses_that_people_have_are_taken_as_they_are_written() {
    let app = open().await;
    let anon = app.anon();
    for email in [
        "ada+work+2026@example.org",
        "O'Hara_=~@x-y.example.org",
        "юзер@пример.рф",
        "用户@例子.广告",
        "संपर्क@डाटामेल.भारत",
        "Dörte@Sörensen.example.com",
        "مستخدم@مثال.إختبار",
        "xn--80ak6aa92e@xn--e1afmkfd.xn--p1ai",
        &long(254),
    ] {
        let made = register(&anon, email, "Somebody").await.expect(201);
        assert_eq!(made.str("email"), email);
        login(&anon, email).await.expect(200);
        let found = app.admin();
        let found = found.request(reqwest::Method::GET, "/api/users").query(&[("q", email)]);
        let found = app.admin().send(found).await.expect(200).json;
        assert_eq!(found["items"][0]["id"], made.json["id"], "{email}");
    }
    problem(&register(&anon, "ADA+WORK+2026@example.org", "Again").await, 409, "email_taken");
    register(&anon, "ada@example.org", "Without the tag").await.expect(201);
}

#[tokio::test]
async fn addresses_that_look_alike_letter_by_letter_are_one_account() {
    let app = open().await;
    let anon = app.anon();
    for (one, same) in [
        ("jos\u{e9}@example.org", "jose\u{301}@example.org"),
        ("zoe\u{308}@example.org", "ZO\u{cb}@EXAMPLE.org"),
        ("\u{212b}ngstr\u{f6}m@example.org", "\u{e5}ngstro\u{308}m@example.org"),
        ("\u{1112}\u{1161}\u{11ab}@example.org", "\u{d55c}@example.org"),
        ("\u{39f}\u{394}\u{39f}\u{3a3}@example.org", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}@example.org"),
    ] {
        register(&anon, one, "First").await.expect(201);
        problem(&register(&anon, same, "Second").await, 409, "email_taken");
        login(&anon, same).await.expect(200);
        login(&anon, one).await.expect(200);
    }
}

#[tokio::test]
async fn of_64_who_register_one_address_in_every_spelling_at_once_exactly_one_wins() {
    let app = open().await;
    let spelling = |n: usize| -> String {
        let e = ["\u{e9}", "e\u{301}", "\u{c9}", "E\u{301}"][n % 4];
        let rest = ["mile", "MILE", "Mile", "mILE"][n / 4 % 4];
        format!("{e}{rest}@{}", ["example.org", "EXAMPLE.ORG"][n / 16 % 2])
    };
    let anon = app.anon();
    let replies = join_all((0..64).map(|n| {
        let (anon, email) = (anon.clone(), spelling(n));
        async move { register(&anon, &email, "Émile").await }
    }))
    .await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        // Passwords are hashed in a bounded pool: on a slow machine some are sent away.
        let (status, code) = if reply.status == 503 { (503, "overloaded") } else { (409, "email_taken") };
        problem(reply, status, code);
    }
    let registered = "select count(*) from events where event_type = 'UserRegistered'";
    assert_eq!(count(&app, registered).await, 6 + 1);
    for n in [0, 5, 10, 31] {
        login(&anon, &spelling(n)).await.expect(200);
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused_wherever_one_is_asked_for() {
    let app = open().await;
    let anon = app.anon();
    let bad = [
        long(255),
        format!("{}@example.org", "a".repeat(308)),
        format!("{}@example.org", "é".repeat(33)),
        "ada\u{ff20}example.org".to_owned(),
        "a\u{202e}da@example.org".to_owned(),
        "a\u{61c}da@example.org".to_owned(),
        "a\u{3164}@example.org".to_owned(),
        "a\u{ad}da@example.org".to_owned(),
        "\u{301}ada@example.org".to_owned(),
        "ada@\u{301}example.org".to_owned(),
        "a\u{20dd}da@example.org".to_owned(),
        "ada@example\u{3002}org".to_owned(),
        "ada@[127.0.0.1]".to_owned(),
        "\"ada\"@example.org".to_owned(),
        "Ada <ada@example.org>".to_owned(),
        "ada@example.org\r\nBcc: all@example.org".to_owned(),
        "ada,bob@example.org".to_owned(),
        "mailto:ada@example.org".to_owned(),
        "😀@example.org".to_owned(),
    ];
    assert_eq!(bad[1].len(), 320);
    for email in &bad {
        refused(&register(&anon, email, "Ada").await, &["email"]);
        refused(&login(&anon, email).await, &["email"]);
        refused(&anon.post("/api/auth/password-reset", json!({"email": email})).await, &["email"]);
        let invitation = json!({"email": email, "role": "viewer"});
        refused(&app.owner().post("/api/team/invitations", invitation).await, &["email"]);
    }
    let surrogate = r#"{"email": "\ud800@example.org", "password": "correct horse battery", "name": "A"}"#;
    let request = anon.request(reqwest::Method::POST, "/api/auth/register");
    let request = request.header("content-type", "application/json").body(surrogate);
    assert!([400, 422].contains(&anon.send(request).await.status));
}

#[tokio::test]
async fn names_are_of_any_script_and_none_deceives() {
    let app = open().await;
    let (viewer, admin, owner) = (app.viewer(), app.admin(), app.owner());
    let users = format!("/api/users/{}", app.people.viewer);
    for name in [
        "李小龙",
        "Zoë O'Hara-Müller Jr.",
        "م\u{200d}حمد",
        "नमस्ते",
        "👩\u{200d}🚀",
        "X Æ A-12 <script>alert(1)</script>",
        "'; drop table users; --",
        "jose\u{301}",
        &"🦀".repeat(200),
        "x",
    ] {
        let body = json!({"name": name});
        assert_eq!(viewer.patch("/api/auth/me", body.clone()).await.expect(200).str("name"), name);
        assert_eq!(admin.patch(&users, body.clone()).await.expect(200).str("name"), name);
        assert_eq!(owner.patch("/api/team", body).await.expect(200).str("name"), name);
        assert_eq!(viewer.get("/api/auth/me").await.expect(200).str("name"), name);
    }
    let controls = [
        '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
        '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ];
    let others =
        ['\0', '\u{7f}', '\u{85}', '\u{ad}', '\u{200b}', '\u{2028}', '\u{2060}', '\u{feff}', '\u{e0041}'];
    let deceptive = controls.iter().chain(&others).map(|c| format!("Ada{c} Lovelace"));
    let empty =
        ["", " ", "\u{a0}", "\u{3000}", "\u{3164}", "\u{200d}", "\u{fe0f}", "\u{2800}"].map(str::to_owned);
    let long = ["🦀".repeat(201), "x".repeat(300_000)];
    for name in deceptive.chain(empty).chain(long) {
        let body = json!({"name": name});
        refused(&viewer.patch("/api/auth/me", body.clone()).await, &["name"]);
        refused(&admin.patch(&users, body.clone()).await, &["name"]);
        refused(&owner.patch("/api/team", body).await, &["name"]);
        refused(&register(&app.anon(), "new@example.org", &name).await, &["name"]);
    }
    for name in [json!(null), json!(7), json!(["Ada"]), json!({"personal": "Ada", "subject": "x"})] {
        refused(&viewer.patch("/api/auth/me", json!({"name": name})).await, &["name"]);
    }
    assert_eq!(viewer.get("/api/auth/me").await.expect(200).json["name"], Value::from("x"));
}
