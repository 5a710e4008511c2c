//! Sessions of browsers: tokens in cookies, and what keeps other sites' pages from using them.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};

use super::support::{keep, problem, refresh, refused, session_of, sign_in};

/// What a browser does with cookies, and a page of ours with one of them.
struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    async fn sign_in(app: &TestApp, name: &str) -> (Self, Reply) {
        let mut browser = Self { client: app.anon(), cookies: BTreeMap::new() };
        let body = json!({"email": format!("{name}@example.org"), "password": PASSWORD});
        let asking = browser.client.with_header("daybook-session", "cookie");
        let reply = asking.post("/api/auth/login", body).await.expect(200);
        browser.take(&reply);
        (browser, reply)
    }

    /// Keeps and forgets as told.
    fn take(&mut self, reply: &Reply) {
        for cookie in set_cookies(reply) {
            let (pair, attributes) = cookie.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// What it sends by itself, whoever has made the page.
    fn alone(&self) -> Client {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.client.with_header("cookie", pairs.join("; "))
    }

    /// What a page of ours sends.
    fn page(&self) -> Client {
        self.alone().with_header("x-csrf-token", &self.cookies["daybook_csrf"])
    }

    fn access_token(&self) -> &str {
        &self.cookies["daybook_access"]
    }

    fn refresh_token(&self) -> &str {
        &self.cookies["daybook_refresh"]
    }
}

fn set_cookies(reply: &Reply) -> Vec<String> {
    let values = reply.headers.get_all("set-cookie").iter();
    values.map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The three cookies are there, hidden from scripts where they prove something.
fn keeps_tokens(reply: &Reply) {
    let cookies = set_cookies(reply);
    let names: Vec<_> = cookies.iter().map(|cookie| cookie.split('=').next().unwrap()).collect();
    assert_eq!(names, ["daybook_access", "daybook_refresh", "daybook_csrf"]);
    for (cookie, age) in cookies.iter().zip([3_600, 7 * 86_400, 7 * 86_400]) {
        let attributes: Vec<_> = cookie.split("; ").skip(1).collect();
        let hidden = !cookie.starts_with("daybook_csrf");
        assert_eq!(attributes.contains(&"HttpOnly"), hidden, "{cookie}");
        for needed in ["Path=/", "SameSite=Strict", &format!("Max-Age={age}")] {
            assert!(attributes.contains(&needed), "{cookie}");
        }
        // Development is without TLS; that production is not, a test beside the code shows.
        assert!(!cookie.contains("Secure") && !cookie.contains("Domain"), "{cookie}");
    }
    assert_eq!(reply.header("cache-control"), "no-store");
}

fn forgets_tokens(reply: &Reply) {
    let cookies = set_cookies(reply);
    for name in ["daybook_access", "daybook_refresh", "daybook_csrf"] {
        let forgotten = format!("{name}=; Path=/; Max-Age=0; SameSite=Strict");
        assert!(cookies.iter().any(|cookie| cookie.starts_with(&forgotten)), "{cookies:?}");
    }
}

#[tokio::test]
async fn a_browser_gets_its_tokens_where_no_script_can_read_them() {
    let app = TestApp::start().await;
    let (browser, reply) = Browser::sign_in(&app, "owner").await;
    keeps_tokens(&reply);
    assert_eq!((reply.str("token_type"), &reply.json["expires_in"]), ("Cookie", &json!(3600)));
    assert_eq!(reply.str("csrf_token"), browser.cookies["daybook_csrf"]);
    let fields: Vec<_> = reply.json.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["csrf_token", "expires_in", "token_type"]);
    for token in [browser.access_token(), browser.refresh_token()] {
        assert!(token.len() > 40 && !reply.text.contains(token));
    }
    let me = browser.alone().get("/api/auth/me").await.expect(200);
    assert_eq!(me.str("email"), "owner@example.org");
    let sessions = browser.alone().get("/api/auth/sessions").await.expect(200);
    assert!(sessions.text.contains(&session_of(browser.access_token()).to_string()));
    // Who does not ask for cookies gets none.
    let plain = sign_in(&app, "owner").await;
    assert!(set_cookies(&plain).is_empty() && plain.json.get("csrf_token").is_none());
    let failed = app.anon().with_header("daybook-session", "cookie");
    let failed =
        failed.post("/api/auth/login", json!({"email": "owner@example.org", "password": "no"})).await;
    problem(&failed, 401, "sign_in_failed");
    assert!(set_cookies(&failed).is_empty());
}

#[tokio::test]
async fn what_changes_something_must_come_from_a_page_of_ours() {
    let app = TestApp::start().await;
    let (browser, _) = Browser::sign_in(&app, "owner").await;
    let (same_person, _) = Browser::sign_in(&app, "owner").await;
    let (other_person, _) = Browser::sign_in(&app, "viewer").await;
    let secret = keep(&browser.page(), "kept").await;
    let (path, session) =
        (format!("/api/secrets/{}", secret.str("id")), session_of(same_person.access_token()));
    let changes = [
        (Method::POST, "/api/secrets".to_owned(), json!({"name": "made", "value": "v"})),
        (Method::PUT, format!("{path}/value"), json!({"value": "v2"})),
        (Method::DELETE, path.clone(), Value::Null),
        (Method::PATCH, "/api/auth/me".to_owned(), json!({"name": "Somebody"})),
        (Method::POST, "/api/auth/logout".to_owned(), Value::Null),
        (Method::POST, "/api/auth/logout-all".to_owned(), Value::Null),
        (
            Method::POST,
            "/api/auth/password".to_owned(),
            json!({"current_password": PASSWORD, "new_password": "a staple that is correct"}),
        ),
        (Method::POST, "/api/auth/2fa".to_owned(), Value::Null),
        (Method::DELETE, format!("/api/auth/sessions/{session}"), Value::Null),
    ];
    let csrf = &browser.cookies["daybook_csrf"];
    let tokens = [
        None,
        Some(""),
        Some("null"),
        Some(&csrf[..csrf.len() - 1]),
        Some(browser.access_token()),
        Some(&same_person.cookies["daybook_csrf"]),
        Some(&other_person.cookies["daybook_csrf"]),
    ];
    let before = app.ledger.head().await.unwrap();
    for (method, path, body) in &changes {
        for token in tokens {
            let alone = browser.alone();
            let client = token.map_or(alone.clone(), |token| alone.with_header("x-csrf-token", token));
            let request = client.request(method.clone(), path);
            let reply = client.send(if body.is_null() { request } else { request.json(body) }).await;
            problem(&reply, 403, "csrf_failed");
            assert!(set_cookies(&reply).is_empty());
        }
    }
    assert_eq!(app.ledger.head().await.unwrap(), before, "something was changed");
    browser.alone().get(&path).await.expect(200);
    // A double submit that only repeats the cookie is not enough: its value belongs to the session.
    let mut tossed = Browser { client: app.anon(), cookies: browser.cookies.clone() };
    tossed.cookies.insert("daybook_csrf".to_owned(), "planted".to_owned());
    let reply = tossed.page().post("/api/secrets", json!({"name": "made", "value": "v"})).await;
    problem(&reply, 403, "csrf_failed");

    let renamed = browser.page().patch("/api/auth/me", json!({"name": "Owner"})).await.expect(200);
    assert_eq!(renamed.str("name"), "Owner");
    browser.page().put(&format!("{path}/value"), json!({"value": "v2"})).await.expect(200);
    browser.page().delete(&path).await.expect(204);
    let ended = browser.page().delete(&format!("/api/auth/sessions/{session}")).await.expect(204);
    assert!(set_cookies(&ended).is_empty(), "another session's end is nothing to this browser");
    problem(&same_person.alone().get("/api/auth/me").await, 401, "session_ended");
}

#[tokio::test]
async fn header_and_cookie_must_not_speak_of_different_sessions() {
    let app = TestApp::start().await;
    let (browser, _) = Browser::sign_in(&app, "owner").await;
    let (same_person, _) = Browser::sign_in(&app, "owner").await;
    let plain = sign_in(&app, "viewer").await;
    let key = json!({"name": "ci", "scopes": ["secrets:read"]});
    let key = browser.page().post("/api/auth/api-keys", key).await.expect(201);
    for (what, token) in [
        ("another's", plain.str("access_token")),
        ("the same person's", same_person.access_token()),
        ("a program's", key.str("key")),
    ] {
        assert_eq!(app.anon().with_token(token).get("/api/secrets").await.status, 200, "{what}");
        for client in [browser.alone(), browser.page()] {
            problem(&client.with_token(token).get("/api/auth/me").await, 401, "credentials_disagree");
        }
    }
    let garbled = app.anon().with_header("cookie", "daybook_access=x").with_token(plain.str("access_token"));
    problem(&garbled.get("/api/auth/me").await, 401, "credentials_disagree");
    problem(&browser.alone().with_token("x").get("/api/auth/me").await, 401, "token_invalid");
    // Of the same session: the header is proof enough of who has made the request.
    let both = browser.alone().with_token(browser.access_token());
    both.get("/api/auth/me").await.expect(200);
    keep(&both, "by-both").await;
    let body = json!({"refresh_token": plain.str("refresh_token")});
    problem(&browser.page().post("/api/auth/refresh", body).await, 401, "credentials_disagree");
    refresh(&app, plain.str("refresh_token")).await.expect(200);
}

#[tokio::test]
async fn a_browser_refreshes_by_its_cookie() {
    let app = TestApp::start().await;
    let (mut browser, first) = Browser::sign_in(&app, "owner").await;
    let (other, _) = Browser::sign_in(&app, "owner").await;
    let before = app.ledger.head().await.unwrap();
    problem(&browser.alone().post("/api/auth/refresh", json!({})).await, 403, "csrf_failed");
    let strange = browser.alone().with_header("x-csrf-token", &other.cookies["daybook_csrf"]);
    problem(&strange.post("/api/auth/refresh", json!({})).await, 403, "csrf_failed");
    assert_eq!(app.ledger.head().await.unwrap(), before, "the token was spent");

    let (old_access, old_refresh) = (browser.access_token().to_owned(), browser.refresh_token().to_owned());
    let next = browser.page().post("/api/auth/refresh", json!({})).await.expect(200);
    keeps_tokens(&next);
    assert_eq!((next.str("token_type"), next.str("csrf_token")), ("Cookie", first.str("csrf_token")));
    assert!(next.json.get("access_token").is_none() && next.json.get("refresh_token").is_none());
    browser.take(&next);
    assert_eq!(session_of(browser.access_token()), session_of(&old_access));
    assert_ne!(browser.refresh_token(), old_refresh);
    keep(&browser.page(), "after").await;

    // When the access token's time is over the browser has the others left.
    browser.cookies.remove("daybook_access");
    problem(&browser.alone().get("/api/auth/me").await, 401, "unauthorized");
    let again = browser.page().post("/api/auth/refresh", json!({})).await.expect(200);
    browser.take(&again);
    browser.alone().get("/api/auth/me").await.expect(200);
    // An old cookie of the browser's ends the session like any other old token.
    browser.cookies.insert("daybook_refresh".to_owned(), old_refresh);
    problem(&browser.page().post("/api/auth/refresh", json!({})).await, 401, "refresh_token_reused");
    problem(&browser.alone().get("/api/auth/me").await, 401, "session_ended");
    other.alone().get("/api/auth/me").await.expect(200);
    browser.cookies.insert("daybook_refresh".to_owned(), "x".to_owned());
    problem(&browser.page().post("/api/auth/refresh", json!({})).await, 401, "refresh_token_invalid");
    browser.cookies.remove("daybook_refresh");
    refused(&browser.page().post("/api/auth/refresh", json!({})).await, &["refresh_token"]);
}

#[tokio::test]
async fn signing_out_makes_the_browser_forget() {
    let app = TestApp::start().await;
    let new_password = json!({"current_password": PASSWORD, "new_password": "a staple that is correct"});
    let (own, _) = Browser::sign_in(&app, "operator").await;
    let own_path = format!("/api/auth/sessions/{}", session_of(own.access_token()));
    let cases = [
        ("operator", Method::DELETE, own_path.as_str(), Value::Null),
        ("owner", Method::POST, "/api/auth/logout", Value::Null),
        ("owner", Method::POST, "/api/auth/logout-all", Value::Null),
        ("owner", Method::POST, "/api/auth/password", new_password),
    ];
    for (who, method, path, body) in cases {
        let mut browser = if who == "operator" {
            Browser { client: app.anon(), cookies: own.cookies.clone() }
        } else {
            Browser::sign_in(&app, who).await.0
        };
        let copy = browser.page();
        let request = copy.request(method, path);
        let reply = copy.send(if body.is_null() { request } else { request.json(&body) }).await.expect(204);
        forgets_tokens(&reply);
        browser.take(&reply);
        assert!(browser.cookies.is_empty());
        // Whoever has copied the cookies has nothing.
        problem(&copy.get("/api/auth/me").await, 401, "session_ended");
        problem(&copy.post("/api/auth/refresh", json!({})).await, 401, "refresh_token_invalid");
        problem(&browser.alone().get("/api/auth/me").await, 401, "unauthorized");
    }
}

#[tokio::test]
async fn cookies_are_found_among_those_of_others() {
    let app = TestApp::start().await;
    let (browser, _) = Browser::sign_in(&app, "owner").await;
    let ours = format!("daybook_access={}", browser.access_token());
    let ask = async |cookies: &[&[u8]]| {
        let mut request = app.anon().request(Method::GET, "/api/auth/me");
        for cookies in cookies {
            request = request.header("cookie", *cookies);
        }
        app.anon().send(request).await.status
    };
    // Other programs on the same host write what they like, and a browser sends it along.
    let foreign = ["theme=d\u{e4}mmrig; ".as_bytes(), ours.as_bytes()].concat();
    let latin = [b"theme=d\xe4mmrig;".as_slice(), ours.as_bytes(), b"; x".as_slice()].concat();
    for cookies in [
        &[ours.as_bytes()][..],
        &[b"a=b".as_slice(), ours.as_bytes()],
        &[format!("a; =; ;;b={{\"x\":1}};{ours};c=").as_bytes()],
        &[&foreign],
        &[&latin],
    ] {
        assert_eq!(ask(cookies).await, 200, "{}", String::from_utf8_lossy(&cookies.concat()));
    }
    let token = browser.access_token();
    for cookies in [
        format!("xdaybook_access={token}"),
        format!("Daybook_Access={token}"),
        format!("daybook_refresh={token}; daybook_csrf={token}"),
        "daybook_access".to_owned(),
        "daybook_access=".to_owned(),
        format!("daybook_access={}", browser.refresh_token()),
    ] {
        assert_eq!(ask(&[cookies.as_bytes()]).await, 401, "{cookies}");
    }
}

#[tokio::test]
async fn no_other_site_may_ask_with_a_browsers_cookies() {
    let setup = Setup::default().with("CORS_ORIGINS", "https://console.example.org");
    let app = TestApp::with(setup).await;
    let (browser, _) = Browser::sign_in(&app, "owner").await;
    for (origin, listed) in [("https://evil.example", false), ("https://console.example.org", true)] {
        let from = browser.alone().with_header("origin", origin);
        let reply = from.get("/api/auth/me").await;
        assert_eq!(!reply.header("access-control-allow-origin").is_empty(), listed, "{origin}");
        assert!(reply.headers.get("access-control-allow-credentials").is_none(), "{origin}");
        problem(&from.post("/api/auth/logout", json!(null)).await, 403, "csrf_failed");
        for header in ["x-csrf-token", "daybook-session"] {
            let ask = app.anon().with_header("origin", origin);
            let ask = ask.with_header("access-control-request-method", "POST");
            let ask = ask.with_header("access-control-request-headers", header);
            let preflight = ask.send(ask.request(Method::OPTIONS, "/api/auth/login")).await;
            assert!(!preflight.header("access-control-allow-headers").contains(header), "{origin}");
            assert!(preflight.headers.get("access-control-allow-credentials").is_none(), "{origin}");
        }
    }
    browser.alone().get("/api/auth/me").await.expect(200);
}
