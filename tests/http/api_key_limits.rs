//! Keys for programs: how many, how often, how not.

use futures::future::join_all;
use serde_json::json;
use tests::{Reply, Setup, TestApp};

use super::api_keys::{KEYS, listed, make, no_such_key, program};
use super::device::set_up;
use super::support::{count, keep, problem, up_to_now};

#[tokio::test]
async fn a_repeated_request_gets_the_same_key_once() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let keyed = operator.with_header("idempotency-key", "k1");
    let body = json!({"name": "deploy", "scopes": ["secrets:read"]});
    let first = keyed.post(KEYS, body.clone()).await.expect(201);
    let again = keyed.post(KEYS, body.clone()).await.expect(201);
    assert_eq!(again.json, first.json);
    assert_eq!(again.header("daybook-position"), first.header("daybook-position"));
    app.anon().with_token(again.str("key")).get("/api/secrets").await.expect(200);
    let other = json!({"name": "deploy", "scopes": ["secrets:write"]});
    problem(&keyed.post(KEYS, other).await, 422, "idempotency_key_reused");
    let elsewhere = app.as_user(app.people.operator).with_header("idempotency-key", "k1");
    let elsewhere = elsewhere.post(KEYS, body.clone()).await.expect(201);
    assert_ne!(elsewhere.json["id"], first.json["id"], "another team, another request");

    let replies = join_all((0..16).map(|_| operator.with_header("idempotency-key", "k2")).map(|client| {
        let body = body.clone();
        async move { client.post(KEYS, body).await }
    }))
    .await;
    let made: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert!(!made.is_empty() && made.iter().all(|reply| reply.json == made[0].json));
    for busy in replies.iter().filter(|reply| reply.status != 201) {
        problem(busy, 409, "idempotency_key_in_use");
    }
    assert_eq!(count(&app, "select count(*) from events where event_type = 'ApiKeyMade'").await, 3);

    operator.delete(&format!("{KEYS}/{}", first.str("id"))).await.expect(204);
    problem(&keyed.post(KEYS, body).await, 409, "api_key_revoked");
}

#[tokio::test]
async fn a_person_has_a_hundred_keys_at_most() {
    let app = TestApp::start().await;
    let operator = app.operator();
    for _ in 0..100 {
        make(&operator, &["secrets:read"]).await.expect(201);
    }
    problem(&make(&operator, &["secrets:read"]).await, 409, "too_many_api_keys");
    let keys = listed(&operator).await;
    assert_eq!(keys.len(), 100);
    let (mut met, mut cursor) = (vec![], String::new());
    loop {
        let page = operator.get(&format!("{KEYS}?limit=30{cursor}")).await.expect(200);
        met.extend(page.json["items"].as_array().unwrap().clone());
        let Some(next) = page.json["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(met, keys, "in the order in which they were made, each once");
    operator.delete(&format!("{KEYS}/{}", keys[50]["id"].as_str().unwrap())).await.expect(204);
    make(&operator, &["secrets:read"]).await.expect(201);
    problem(&make(&operator, &["secrets:read"]).await, 409, "too_many_api_keys");
    // Others have their own hundred.
    make(&app.viewer(), &["secrets:read"]).await.expect(201);
}

#[tokio::test]
async fn only_a_key_as_it_was_given_out_opens_anything() {
    let app = TestApp::start().await;
    let made = make(&app.operator(), &["secrets:read"]).await.expect(201);
    let other = make(&app.viewer(), &["secrets:read"]).await.expect(201);
    let (key, other) = (made.str("key"), other.str("key"));
    let (ids, proof) = key.split_once('.').unwrap();
    let (other_ids, other_proof) = other.split_once('.').unwrap();
    let last = if proof.ends_with('0') { "1" } else { "0" };
    let head = key.len() - 1;
    let (id, user, other_user) = (&ids[4..36], &ids[36..], &other_ids[36..]);
    for bad in [
        "dbk_".to_owned(),
        "dbk_.".to_owned(),
        ids.to_owned(),
        format!("{ids}."),
        format!("{ids}.{other_proof}"),
        format!("{other_ids}.{proof}"),
        format!("dbk_{id}{other_user}.{proof}"),
        format!("dbk_{user}{id}.{proof}"),
        format!("{}{last}", &key[..head]),
        key[..head].to_owned(),
        format!("{key}0"),
        key.replacen("dbk_", "dbk_0", 1),
        format!("dbk_{}.{proof}", ids[4..].to_uppercase()),
        format!("{ids}.{}", proof.to_uppercase()),
        format!("{ids}.{}", "0".repeat(64)),
        format!("dbk_{}", "é".repeat(16)),
        format!("{key}{}", "0".repeat(4_000)),
    ] {
        let reply =
            app.anon().with_header("authorization", format!("Bearer {bad}")).get("/api/secrets").await;
        if reply.status == 401 && reply.str("code") == "unauthorized" {
            assert!(!bad.is_ascii(), "{bad}");
        } else {
            no_such_key(&reply);
        }
    }
    for (bad, code) in
        [(key.replacen("dbk_", "DBK_", 1), "token_invalid"), (key[4..].to_owned(), "token_invalid")]
    {
        problem(&app.anon().with_token(&bad).get("/api/secrets").await, 401, code);
    }
    let basic = app.anon().with_header("authorization", format!("Basic {key}"));
    problem(&basic.get("/api/secrets").await, 401, "unauthorized");
    let refresh = app.anon().post("/api/auth/refresh", json!({"refresh_token": key})).await;
    problem(&refresh, 401, "refresh_token_invalid");
    app.anon().with_token(key).get("/api/secrets").await.expect(200);
    let lower = app.anon().with_header("authorization", format!("bearer {key}"));
    up_to_now(&app, &lower).await.get("/api/secrets").await.expect(200);
}

#[tokio::test]
async fn each_key_has_a_share_of_requests_that_nobody_else_uses_up() {
    let setup = Setup::default()
        .with("RATE_LIMIT_ENABLED", "true")
        .with("RATE_LIMIT_PER_MINUTE", 30)
        .with("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", 40);
    let app = TestApp::with(setup).await;
    let operator = app.operator();
    let made = make(&operator, &["jobs:read"]).await.expect(201);
    let [key, other] = [made, make(&operator, &["jobs:read"]).await.expect(201)]
        .map(|made| app.anon().with_token(made.str("key")));
    // Somebody who knows a key's name and not the key: a stranger's forgeries count for the stranger.
    let forged = key.with_token(&format!("{}.{}", key.token().split_once('.').unwrap().0, "0".repeat(64)));
    let forgeries = join_all((0..200).map(|_| forged.get("/api/jobs"))).await;
    let refused = forgeries.iter().filter(|reply| reply.status == 401).count();
    assert!((30..200).contains(&refused), "{refused}");
    assert!(forgeries.iter().all(|reply| [401, 429].contains(&reply.status)));

    let mut answered = 0;
    let refused = loop {
        let reply = key.get("/api/jobs").await;
        if reply.status != 200 {
            break reply;
        }
        answered += 1;
        assert!(answered < 400, "never refused");
    };
    assert!(answered >= 40, "{answered}");
    problem(&refused, 429, "too_many_requests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Neither another key of the same person nor the person waits for it.
    other.get("/api/jobs").await.expect(200);
    operator.get("/api/jobs").await.expect(200);
}

#[tokio::test]
async fn a_team_that_asks_for_a_second_factor_asks_it_of_the_makers_of_keys() {
    let app = TestApp::start().await;
    let (owner, operator) = (app.owner(), app.operator());
    let program = program(&app, &operator, &["secrets:read", "secrets:write"]).await;
    keep(&program, "before").await;
    set_up(&owner).await;
    owner.patch("/api/team", json!({"two_factor_required": true})).await.expect(200);
    problem(&program.get("/api/secrets").await, 403, "two_factor_required");
    // What its scopes do not open no second factor would.
    problem(&program.get("/api/jobs").await, 403, "forbidden");
    let none = make(&operator, &["secrets:read"]).await;
    assert_eq!((none.status, none.fields()), (422, vec!["scopes"]), "{}", none.text);
    set_up(&operator).await;
    program.get("/api/secrets").await.expect(200);
    make(&operator, &["secrets:read"]).await.expect(201);
}
