//! The second factor: a device, set up, asked for and lost.

use std::collections::BTreeSet;

use futures::future::join_all;
use regex::Regex;
use serde_json::{Value, json};
use tests::{Client, Reply, TestApp};

use super::device::{
    Device, begin, confirm, login, photographed, recovery_codes, set_up, settled_step, switch_off,
};
use super::support::{audited, count, problem, refused, said};

/// How often this person has signed in, the harness' own doing left out.
async fn sign_ins(app: &TestApp, user: impl ToString) -> i64 {
    let sql = "select count(*) - 1 from events where event_type = 'SignedIn' and payload::text like '%USER%'";
    count(app, &sql.replace("USER", &user.to_string())).await
}

/// Of many at once one had its way. The others were told that their code is no good any more, or that too many ask at once.
#[track_caller]
fn exactly_one(replies: &[Reply], status: u16, codes: &[&str]) {
    let (won, others): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == status);
    assert_eq!(won.len(), 1, "{others:#?}");
    for reply in others {
        let expected = codes.contains(&reply.str("code")) || [429, 503].contains(&reply.status);
        assert!(expected, "{}", reply.text);
    }
}

async fn me(person: &Client) -> Value {
    person.get("/api/auth/me").await.expect(200).json
}

#[tokio::test]
async fn a_device_is_set_up_confirmed_and_asked_for_from_then_on() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let (device, enrolment) = begin(&owner).await;
    assert_eq!(enrolment.header("cache-control"), "no-store");
    let secret = enrolment.str("secret");
    assert_eq!(device.totp().secret().to_base32(), secret);
    assert_eq!(secret.len(), 32, "160 bits");
    assert_eq!(device.totp().issuer(), Some("Daybook"));
    let uri = enrolment.str("otpauth_uri");
    assert!(uri.starts_with("otpauth://totp/Daybook:owner%40example.org?"), "{uri}");
    assert_eq!(photographed(enrolment.str("qr_svg")), uri);

    // Until it is confirmed it is of no consequence.
    assert_eq!(me(&owner).await["two_factor"], false);
    login(&anon, "owner", None).await.expect(200);
    for malformed in ["", "12345", "1234567", "12345a", "１２３４５６", "abcd-efgh-jkmn-pqrs"] {
        refused(&confirm(&owner, malformed).await, &["totp_code"]);
    }
    let wrong = confirm(&owner, &device.wrong_code()).await;
    problem(&wrong, 422, "wrong_code");
    refused(&wrong, &["totp_code"]);
    assert_eq!(me(&owner).await["two_factor"], false);

    let code = device.code().await;
    let typed = format!(" {} {}", &code[..3], &code[3..]);
    let confirmed = confirm(&owner, &typed).await.expect(200);
    assert_eq!(confirmed.header("cache-control"), "no-store");
    let codes: BTreeSet<String> = recovery_codes(&confirmed).into_iter().collect();
    let form = Regex::new("^[a-hjkmnp-z02-9]{4}(-[a-hjkmnp-z02-9]{4}){3}$").unwrap();
    assert_eq!(codes.len(), 10);
    assert!(codes.iter().all(|code| form.is_match(code)), "{codes:?}");
    assert_eq!(me(&owner).await["two_factor"], true);
    let team = app.viewer().get("/api/team").await.expect(200);
    let members = team.json["members"].as_array().unwrap();
    let with: Vec<_> = members.iter().filter(|member| member["two_factor"] == true).collect();
    assert_eq!((with.len(), &with[0]["name"]), (1, &json!("owner")));

    let without = login(&anon, "owner", None).await;
    problem(&without, 401, "totp_required");
    assert_eq!(without.header("www-authenticate"), "Bearer");
    problem(&login(&anon, "owner", Some(&device.wrong_code())).await, 401, "totp_invalid");
    problem(&login(&anon, "owner", Some(&code)).await, 401, "totp_invalid");
    refused(&login(&anon, "owner", Some("12345")).await, &["totp_code"]);
    let signed_in = login(&anon, "owner", Some(&device.code().await)).await.expect(200);
    me(&anon.with_token(signed_in.str("access_token"))).await;
    // Who has none is not asked, and need not be right.
    login(&anon, "viewer", Some("000000")).await.expect(200);
}

#[tokio::test]
async fn without_the_password_nobody_is_told_that_there_is_a_second_factor() {
    let app = TestApp::start().await;
    let (device, _) = set_up(&app.owner()).await;
    for code in [None, Some(device.code().await), Some(device.wrong_code())] {
        let mut body = json!({"email": "owner@example.org", "password": "not the password"});
        if let Some(code) = code {
            body["totp_code"] = json!(code);
        }
        problem(&app.anon().post("/api/auth/login", body).await, 401, "sign_in_failed");
    }
    assert_eq!(sign_ins(&app, app.people.owner).await, 0);
}

#[tokio::test]
async fn a_code_works_once_and_those_before_it_do_not_any_more() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let step = settled_step().await;
    let (device, _) = begin(&owner).await;
    confirm(&owner, &device.code_of(step - 1)).await.expect(200);
    login(&anon, "owner", Some(&device.code_of(step + 1))).await.expect(200);
    for used_up in [step + 1, step, step - 1] {
        let again = login(&anon, "owner", Some(&device.code_of(used_up))).await;
        problem(&again, 401, "totp_invalid");
    }
    problem(&switch_off(&owner, &device.code_of(step)).await, 422, "wrong_code");
    assert_eq!(sign_ins(&app, app.people.owner).await, 1);
    login(&anon, "owner", Some(&device.code().await)).await.expect(200);
}

#[tokio::test]
async fn of_64_sign_ins_with_one_code_exactly_one_succeeds() {
    let app = TestApp::start().await;
    let other = app.another_node(tests::Setup::default()).await;
    let (device, _) = set_up(&app.owner()).await;
    let code = device.code().await;
    let nodes = [app.anon(), other.anon()];
    let replies = join_all((0..64).map(|n| login(&nodes[n % 2], "owner", Some(&code)))).await;
    exactly_one(&replies, 200, &["totp_invalid"]);
    assert_eq!(sign_ins(&app, app.people.owner).await, 1);
}

#[tokio::test]
async fn of_64_who_confirm_or_switch_off_with_one_code_exactly_one_does() {
    let app = TestApp::start().await;
    let other = app.another_node(tests::Setup::default()).await;
    let owner = app.as_user(app.people.owner);
    let nodes = [owner.clone(), other.as_user(app.people.owner)];
    let (device, _) = begin(&owner).await;
    let code = device.code().await;
    let replies = join_all((0..64).map(|n| confirm(&nodes[n % 2], &code))).await;
    exactly_one(&replies, 200, &["wrong_code", "two_factor_on", "contended"]);
    let code = device.code().await;
    let replies = join_all((0..64).map(|n| switch_off(&nodes[n % 2], &code))).await;
    exactly_one(&replies, 204, &["wrong_code", "two_factor_off", "contended"]);
    for event in ["TwoFactorEnabled", "TwoFactorDisabled"] {
        let sql = format!("select count(*) from events where event_type = '{event}'");
        assert_eq!(count(&app, &sql).await, 1, "{event}");
    }
}

#[tokio::test]
async fn a_recovery_code_signs_in_once_however_it_is_typed() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let (_, codes) = set_up(&owner).await;
    let plain = codes[1].replace('-', "");
    let spaced = codes[2].replace('-', "\u{a0}");
    let odd = [
        codes[0].to_uppercase(),
        plain,
        format!("  {spaced}\t"),
        codes[3].replacen('-', "", 1),
        format!("-{}-", codes[4]),
    ];
    for (code, typed) in codes.iter().zip(&odd) {
        login(&anon, "owner", Some(typed)).await.expect(200);
        problem(&login(&anon, "owner", Some(code)).await, 401, "totp_invalid");
    }
    let state = format!("/api/audit/user/{}/state", app.people.owner);
    let state = app.admin().get(&state).await.expect(200);
    assert_eq!(state.json["state"]["recovery_codes_left"], 5, "{}", state.text);
    for none in ["aaaa-aaaa-aaaa-aaaa", "0000-0000-0000-0000"] {
        problem(&login(&anon, "owner", Some(none)).await, 401, "totp_invalid");
    }
    let last = &codes[9];
    for malformed in [&last[1..], &format!("{last}a"), &last.replace('-', "."), "ключ-ключ"] {
        refused(&login(&anon, "owner", Some(malformed)).await, &["totp_code"]);
    }
    login(&anon, "owner", Some(last)).await.expect(200);
    assert_eq!(sign_ins(&app, app.people.owner).await, 6);
}

#[tokio::test]
async fn of_64_sign_ins_with_one_recovery_code_exactly_one_succeeds() {
    let app = TestApp::start().await;
    let other = app.another_node(tests::Setup::default()).await;
    let (_, codes) = set_up(&app.owner()).await;
    let nodes = [app.anon(), other.anon()];
    let replies = join_all((0..64).map(|n| login(&nodes[n % 2], "owner", Some(&codes[0])))).await;
    exactly_one(&replies, 200, &["totp_invalid", "contended"]);
    assert_eq!(sign_ins(&app, app.people.owner).await, 1);
    let spent = "select count(*) from events where event_type = 'RecoveryCodeUsed'";
    assert_eq!(count(&app, spent).await, 1);
}

#[tokio::test]
async fn it_is_switched_off_with_a_code_or_a_recovery_code_and_not_without() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    problem(&switch_off(&owner, "123456").await, 409, "two_factor_off");
    problem(&switch_off(&owner, "aaaa-aaaa-aaaa-aaaa").await, 409, "two_factor_off");
    let (device, codes) = set_up(&owner).await;
    refused(&switch_off(&owner, "12345").await, &["totp_code"]);
    let none = owner.send(owner.request(reqwest::Method::DELETE, "/api/auth/2fa").json(&json!({}))).await;
    refused(&none, &["totp_code"]);
    problem(&switch_off(&owner, &device.wrong_code()).await, 422, "wrong_code");
    problem(&switch_off(&owner, "aaaa-aaaa-aaaa-aaaa").await, 422, "wrong_code");
    // Another's code is none.
    problem(&switch_off(&app.viewer(), &device.code().await).await, 409, "two_factor_off");
    assert_eq!(me(&owner).await["two_factor"], true);

    switch_off(&owner, &device.code().await).await.expect(204);
    assert_eq!(me(&owner).await["two_factor"], false);
    login(&anon, "owner", None).await.expect(200);
    problem(&switch_off(&owner, &codes[0]).await, 409, "two_factor_off");

    let (_, codes) = set_up(&owner).await;
    switch_off(&owner, &codes[7].to_uppercase()).await.expect(204);
    login(&anon, "owner", None).await.expect(200);
}

#[tokio::test]
async fn another_device_can_be_set_up_at_once_and_the_old_one_is_worthless() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let step = settled_step().await;
    let (old, _) = begin(&owner).await;
    let old_codes = recovery_codes(&confirm(&owner, &old.code_of(step - 1)).await.expect(200));
    switch_off(&owner, &old.code_of(step)).await.expect(204);
    // With a code of the very step in which the old one was switched off.
    let (new, _) = begin(&owner).await;
    confirm(&owner, &new.code_of(step)).await.expect(200);
    for worthless in [&old.code_of(step + 1), &old_codes[0]] {
        problem(&login(&anon, "owner", Some(worthless)).await, 401, "totp_invalid");
    }
    login(&anon, "owner", Some(&new.code_of(step + 1))).await.expect(200);
}

#[tokio::test]
async fn setting_up_twice_leaves_one_device() {
    let app = TestApp::start().await;
    let owner = app.owner();
    problem(&confirm(&owner, "123456").await, 409, "two_factor_not_begun");
    let (first, _) = begin(&owner).await;
    let (second, _) = begin(&owner).await;
    assert_ne!(first.totp().secret().to_base32(), second.totp().secret().to_base32());
    problem(&confirm(&owner, &first.code().await).await, 422, "wrong_code");
    confirm(&owner, &second.code().await).await.expect(200);
    problem(&owner.post("/api/auth/2fa", json!({})).await, 409, "two_factor_on");
    problem(&confirm(&owner, &second.code().await).await, 409, "two_factor_on");
    problem(&confirm(&app.viewer(), &second.code().await).await, 409, "two_factor_not_begun");
}

#[tokio::test]
async fn every_wrong_attempt_is_on_record() {
    let app = TestApp::start().await;
    let (owner, anon, admin) = (app.owner(), app.anon(), app.admin());
    let (device, _) = begin(&owner).await;
    confirm(&owner, &device.wrong_code()).await.expect(422);
    confirm(&owner, &device.code().await).await.expect(200);
    let tried = [device.wrong_code(), "aaaa-aaaa-aaaa-aaaa".to_owned()];
    for code in &tried {
        switch_off(&owner, code).await.expect(422);
        login(&anon, "owner", Some(code)).await.expect(401);
    }
    login(&anon, "owner", None).await.expect(401);

    let proofs = audited(&app, &admin, "type=ProofFailed").await;
    assert_eq!(proofs.len(), 3);
    for event in &proofs {
        assert_eq!(event["actor"], format!("user:{}", app.people.owner));
        assert_eq!(event["ip"], "127.0.0.1");
        assert_eq!(said(event, "user_id"), &json!(app.people.owner));
        assert_eq!(said(event, "proof"), "second_factor");
    }
    let failed = audited(&app, &admin, "type=SignInFailed").await;
    let reasons: Vec<_> = failed.iter().map(|event| said(event, "reason").as_str().unwrap()).collect();
    assert_eq!(reasons, ["second_factor_missing", "wrong_second_factor", "wrong_second_factor"]);
    assert!(failed.iter().all(|event| event["actor"] == "anonymous" && event["ip"] == "127.0.0.1"));
    let trail = format!("{proofs:?}{failed:?}");
    assert!(tried.iter().all(|code| !trail.contains(&format!("\"{code}\""))), "{trail}");
}

#[tokio::test]
async fn it_survives_another_password() {
    let app = TestApp::start().await;
    let (owner, anon) = (app.owner(), app.anon());
    let (device, codes) = set_up(&owner).await;
    let new = "quite another staple, it is";
    let body = json!({"current_password": tests::PASSWORD, "new_password": new});
    owner.post("/api/auth/password", body).await.expect(204);
    let with = async |code: Option<&str>| {
        let mut body = json!({"email": "owner@example.org", "password": new});
        if let Some(code) = code {
            body["totp_code"] = json!(code);
        }
        anon.post("/api/auth/login", body).await
    };
    problem(&with(None).await, 401, "totp_required");
    with(Some(&device.code().await)).await.expect(200);
    with(Some(&codes[0])).await.expect(200);
}

/// What a phone keeps when it is restored from a copy.
#[tokio::test]
async fn a_device_is_known_by_its_shared_key_alone() {
    let app = TestApp::start().await;
    let (device, enrolment) = begin(&app.owner()).await;
    confirm(&app.owner(), &device.code().await).await.expect(200);
    let typed = enrolment.str("secret");
    let copy = Device::from_uri(&format!("otpauth://totp/anything?secret={typed}"));
    copy.code_of(device.shown());
    login(&app.anon(), "owner", Some(&copy.code().await)).await.expect(200);
}
