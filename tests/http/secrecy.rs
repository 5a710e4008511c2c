//! What people and programs prove themselves with is nowhere to be read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ledger::Sha256;
use serde_json::json;
use tests::TestApp;

use super::device::{begin, confirm, login, recovery_codes, switch_off};
use super::log;
use super::support::{everything_stored, keep, up_to_now};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the interface shows of a person and of what they did, asked by whoever may see most of it.
async fn shown(app: &TestApp) -> String {
    let (admin, owner) = (up_to_now(app, &app.admin()).await, app.owner());
    let user = app.people.owner;
    let mut everything = String::new();
    for path in [
        "/api/audit/events?limit=200".to_owned(),
        format!("/api/audit/user/{user}/history"),
        format!("/api/audit/user/{user}/state"),
        format!("/api/users/{user}"),
        "/api/users".to_owned(),
        "/api/projections".to_owned(),
        "/metrics".to_owned(),
    ] {
        everything.push_str(&admin.get(&path).await.expect(200).text);
    }
    for path in ["/api/auth/me", "/api/auth/sessions", "/api/auth/api-keys", "/api/team", "/api/teams"] {
        everything.push_str(&owner.get(path).await.expect(200).text);
    }
    everything
}

#[tokio::test]
async fn keys_and_codes_are_nowhere_in_clear() {
    log::keep();
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let (device, enrolment) = begin(&owner).await;
    let confirmed = confirm(&owner, &device.code().await).await.expect(200);
    let codes = recovery_codes(&confirmed);
    let scopes = ["secrets:read", "secrets:write", "audit:read"];
    let keyed = owner.with_header("idempotency-key", "once");
    let body = json!({"name": "deploy", "scopes": scopes});
    let made = keyed.post("/api/auth/api-keys", body.clone()).await.expect(201);
    let key = made.str("key");
    assert_eq!(keyed.post("/api/auth/api-keys", body).await.expect(201).str("key"), key);
    keep(&anon.with_token(key), "db").await;
    // All is used, rightly and wrongly.
    let first = login(&anon, "owner", Some(&device.code().await)).await.expect(200);
    login(&anon, "owner", Some(&codes[0])).await.expect(200);
    login(&anon, "owner", Some(&codes[0])).await.expect(401);
    switch_off(&owner, &codes[0]).await.expect(422);
    let refresh = json!({"refresh_token": first.str("refresh_token")});
    let second = anon.post("/api/auth/refresh", refresh).await.expect(200);

    let secret = device.totp().secret();
    let bytes = secret.as_ref();
    let mut never = vec![
        secret.to_base32(),
        secret.to_base32().to_lowercase(),
        hex(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
        "otpauth".to_owned(),
        key.rsplit('.').next().unwrap().to_owned(),
    ];
    for tokens in [&first, &second] {
        never.push(tokens.str("access_token").to_owned());
        never.push(tokens.str("refresh_token").rsplit('.').next().unwrap().to_owned());
    }
    let plain = |code: &String| code.replace('-', "");
    never.extend(codes.iter().cloned().chain(codes.iter().map(plain)));
    assert_eq!(enrolment.str("secret"), never[0]);

    let (stored, shown, logged) = (everything_stored(&app).await, shown(&app).await, log::text());
    for never in &never {
        for (place, text) in [("stored", &stored), ("shown", &shown), ("logged", &logged)] {
            assert!(!text.contains(never), "{place}: {never}");
        }
    }
    // It would have been found: what is kept instead is there, and the log speaks of these requests.
    let kept = [Sha256::of(key), Sha256::of(plain(&codes[5])), Sha256::of(second.str("refresh_token"))];
    assert!(kept.iter().all(|hash| stored.contains(hash)));
    assert!(shown.contains("TwoFactorEnabled") && shown.contains(made.str("id")));
    assert!(logged.contains(second.header("x-request-id")), "the log is not that of these requests");
}
