//! Who read which secret: on record before they have it, shown by secret and by person, or there is no value.

use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::api_keys::{KEYS, program};
use super::secret_support::{
    all_pages, at_once, grant, items, path, put, readings, rebuild_everything, reveal,
};
use super::support::{count, keep, problem, refused, up_to_now};

const AUDIT: &str = "/api/audit/secret-access";

async fn access(client: &Client, path: &str) -> Vec<Value> {
    items(client, &format!("{path}/access?limit=200")).await
}

#[tokio::test]
async fn each_reading_says_who_from_where_by_which_request_why_and_what() {
    let app = TestApp::start().await;
    let (operator, owner, auditor) = (app.operator(), app.owner(), app.auditor());
    let kept = keep(&operator, "db").await;
    let secret = path(&kept);
    put(&operator, &secret, "v2").await.expect(200);
    let made = operator.post(KEYS, json!({"name": "deploy", "scopes": ["secrets:reveal"]})).await.expect(201);
    let key = app.anon().with_token(made.str("key"));
    let given = grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    let readers: [(&Client, &str, Value, Value, u32); 3] = [
        (&operator, "?reason=incident%2042", json!("incident 42"), Value::Null, 2),
        (&key, "?version=1", Value::Null, Value::Null, 1),
        (&app.viewer(), "?reason=help", json!("help"), given.json["id"].clone(), 2),
    ];
    let actors = [
        (format!("user:{}", app.people.operator), app.people.operator),
        (format!("key:{}", made.str("id")), app.people.operator),
        (format!("user:{}", app.people.viewer), app.people.viewer),
    ];
    for (n, (client, query, reason, grant_id, version)) in readers.into_iter().enumerate() {
        let client = client.with_header("user-agent", format!("reader/{n}"));
        let request = format!("request-{n}");
        let revealed =
            reveal(&client.with_header("x-request-id", &request), &secret, query).await.expect(200);
        // Not through a view: the record stands in the log when the answer arrives.
        assert_eq!(readings(&app).await, n as i64 + 1);
        let (actor, user_id) = &actors[n];
        let newest = access(&auditor, &secret).await[0].clone();
        let expected = json!({
            "position": newest["position"], "at": newest["at"], "secret_id": kept.str("id"), "version": version,
            "actor": actor, "user_id": user_id, "reason": reason, "grant_id": grant_id, "job_id": null, "attempt": null,
            "request_id": revealed.header("x-request-id"), "ip": "127.0.0.1", "user_agent": format!("reader/{n}"),
        });
        assert_eq!(newest, expected);
        assert!(newest["position"].as_i64().unwrap() > 0 && newest["at"].is_string());
    }
    // By secret and by person: the same records.
    let all = access(&auditor, &secret).await;
    assert_eq!(items(&auditor, &format!("{AUDIT}?secret_id={}", kept.str("id"))).await, all);
    let of_operator = items(&auditor, &format!("{AUDIT}?user_id={}", app.people.operator)).await;
    assert_eq!(of_operator, all[1..], "the person and their programs");
    let of_viewer = items(&auditor, &format!("{AUDIT}?user_id={}", app.people.viewer)).await;
    assert_eq!(of_viewer, all[..1]);
    assert!(items(&auditor, &format!("{AUDIT}?user_id={}", app.people.owner)).await.is_empty());
    let (from, to) = (all[1]["at"].as_str().unwrap(), all[0]["at"].as_str().unwrap());
    for url in [format!("{secret}/access"), AUDIT.to_owned()] {
        let since = items(&auditor, &format!("{url}?from={from}")).await;
        assert!(since.len() >= 2 && since[..2] == all[..2], "{since:?}");
        let before = items(&auditor, &format!("{url}?to={to}")).await;
        assert!(before.iter().all(|record| record["at"].as_str().unwrap() < to), "{before:?}");
    }
    rebuild_everything(&app).await;
    assert_eq!(access(&auditor, &secret).await, all);
    assert_eq!(operator.get(&secret).await.expect(200).json["last_read_at"], all[0]["at"]);
    // Whatever becomes of the secret.
    owner.post(&format!("{secret}/destroy"), json!({})).await.expect(200);
    assert_eq!(access(&auditor, &secret).await, all);
}

#[tokio::test]
async fn records_are_shown_to_who_may_see_them_and_addresses_to_auditors() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let kept = keep(&owner, "db").await;
    let secret = path(&kept);
    reveal(&owner, &secret, "").await.expect(200);
    let audits = program(&app, &owner, &["audit:read"]).await;
    for client in [&owner, &app.auditor(), &audits] {
        let records = access(client, &secret).await;
        assert_eq!((records.len(), &records[0]["ip"]), (1, &json!("127.0.0.1")));
        assert_eq!(items(client, AUDIT).await, records);
    }
    let reads = program(&app, &owner, &["secrets:read"]).await;
    for client in [&app.operator(), &app.viewer(), &reads] {
        let records = access(client, &secret).await;
        assert_eq!(
            (records.len(), &records[0]["ip"], &records[0]["user_agent"]),
            (1, &Value::Null, &Value::Null)
        );
        assert_eq!(records[0]["user_id"], json!(app.people.owner));
        let picked = items(client, &format!("{secret}/access?fields=ip,actor")).await;
        assert_eq!(picked[0]["ip"], Value::Null);
        problem(&client.get(AUDIT).await, 403, "forbidden");
    }
    let reveals = program(&app, &owner, &["secrets:reveal", "secrets:list", "secrets:write"]).await;
    problem(&reveals.get(&format!("{secret}/access")).await, 403, "forbidden");
    problem(&app.anon().get(&format!("{secret}/access")).await, 401, "unauthorized");
    problem(&app.anon().get(AUDIT).await, 401, "unauthorized");

    let other = app.other_team();
    problem(&other.get(&format!("{secret}/access")).await, 404, "secret_not_found");
    for query in [
        String::new(),
        format!("?user_id={}", app.people.owner),
        format!("?secret_id={}", kept.str("id")),
        format!("?secret_id={}&user_id={}", kept.str("id"), app.people.owner),
    ] {
        assert!(items(&other, &format!("{AUDIT}{query}")).await.is_empty(), "{query}");
    }
    // What somebody reads in a team of their own is that team's.
    let own = app.as_user(app.people.owner);
    let elsewhere = own.get("/api/team").await.expect(200).str("id").to_owned();
    assert_ne!(elsewhere, app.people.team.to_string());
    let theirs = path(&keep(&own, "own").await);
    reveal(&own, &theirs, "").await.expect(200);
    assert_eq!(items(&app.auditor(), &format!("{AUDIT}?user_id={}", app.people.owner)).await.len(), 1);
    // Looking is on record too.
    let looked =
        "select count(*) from events where event_type = 'AuditRead' and payload::text like '%/access%'";
    assert!(count(&app, looked).await >= 6);
}

#[tokio::test]
async fn records_come_page_by_page_newest_first() {
    let app = TestApp::start().await;
    let (operator, auditor) = (app.operator(), app.auditor());
    let (secret, other) = (path(&keep(&operator, "db").await), path(&keep(&operator, "other").await));
    for n in 0..11 {
        reveal(&operator, if n % 3 == 2 { &other } else { &secret }, "").await.expect(200);
    }
    let all = items(&auditor, AUDIT).await;
    let positions: Vec<i64> = all.iter().map(|record| record["position"].as_i64().unwrap()).collect();
    assert!(all.len() == 11 && positions.is_sorted_by(|a, b| a > b), "{positions:?}");
    for limit in [1, 4, 11] {
        assert_eq!(all_pages(&auditor, &format!("{AUDIT}?limit={limit}")).await, all);
        let of_secret = all_pages(&auditor, &format!("{secret}/access?limit={limit}")).await;
        assert_eq!(of_secret.len(), 8);
        assert!(of_secret.iter().all(|record| secret.ends_with(record["secret_id"].as_str().unwrap())));
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=0", "cursor"),
        ("cursor=-1", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=99999999999999999999", "cursor"),
        ("from=yesterday", "from"),
        ("to=", "to"),
        ("fields=value", "fields"),
        ("actor=x", "actor"),
    ] {
        for url in [format!("{secret}/access"), AUDIT.to_owned()] {
            refused(&auditor.get(&format!("{url}?{query}")).await, &[field]);
        }
    }
    for (query, field) in [("user_id=x", "user_id"), ("secret_id=", "secret_id"), ("job_id=1", "job_id")] {
        refused(&auditor.get(&format!("{AUDIT}?{query}")).await, &[field]);
    }
    let nowhere = format!("/api/secrets/{}/access", Uuid::now_v7());
    problem(&auditor.get(&nowhere).await, 404, "secret_not_found");
    assert!(items(&auditor, &format!("{AUDIT}?user_id={}", Uuid::now_v7())).await.is_empty());
}

#[tokio::test]
async fn without_the_log_nobody_gets_a_value_and_nothing_is_made_up_for_later() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    let key = program(&app, &owner, &["secrets:reveal"]).await;
    grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    reveal(&owner, &secret, "").await.expect(200);
    // As somebody who holds the log's lock and does not let go.
    let mut blocker = app.database.connect().await;
    let lock = format!("select pg_advisory_lock({})", crate::ledger::support::LOCK);
    sqlx::query(&lock).execute(&mut blocker).await.unwrap();
    let readers = [owner.clone(), app.operator(), key, app.viewer()];
    let replies = at_once(8, |n| {
        let (client, secret) = (readers[n as usize % 4].clone(), secret.clone());
        async move { reveal(&client, &secret, "").await }
    })
    .await;
    for reply in replies {
        problem(&reply, 503, "not_recorded");
        assert!(
            !reply.text.contains("value of db") && !reply.header("retry-after").is_empty(),
            "{}",
            reply.text
        );
    }
    // Nor does anybody see the list of records without being on one.
    assert_eq!(owner.get(&format!("{secret}/access")).await.status, 503);
    // Whoever has the value already needs no record.
    let having = owner.with_header("if-none-match", "\"v1\"");
    reveal(&having, &secret, "").await.expect(304);
    sqlx::query("select pg_advisory_unlock_all()").execute(&mut blocker).await.unwrap();
    reveal(&app.operator(), &secret, "").await.expect(200);
    assert_eq!(readings(&app).await, 2, "what was given up was not stored later");
}

async fn require_reason(owner: &Client, required: bool) -> Reply {
    owner.patch("/api/team", json!({"reveal_reason_required": required})).await
}

#[tokio::test]
async fn a_team_may_ask_for_a_reason() {
    let app = TestApp::start().await;
    let other_node = app.another_node(Setup::default()).await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    problem(&require_reason(&app.operator(), true).await, 403, "forbidden");
    grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    let key = program(&app, &owner, &["secrets:reveal"]).await;
    reveal(&owner, &secret, "").await.expect(200);
    let asked = require_reason(&owner, true).await.expect(200);
    assert_eq!(asked.json["reveal_reason_required"], true);
    let there = other_node.operator().with_header("daybook-position", asked.header("daybook-position"));
    for client in [&owner, &app.operator(), &key, &app.viewer(), &there] {
        for query in ["", "?version=1", "?encoding=base64"] {
            let reply = reveal(client, &secret, query).await;
            problem(&reply, 422, "reason_required");
            refused(&reply, &["reason"]);
            assert!(!reply.text.contains("value of db"), "{}", reply.text);
        }
        for bad in ["", "%20", "a%0Ab", "%E2%80%AE"] {
            refused(&reveal(client, &secret, &format!("?reason={bad}")).await, &["reason"]);
        }
        let seen = reveal(client, &secret, "?reason=incident").await.expect(200);
        assert_eq!(seen.str("value"), "value of db");
    }
    let records = access(&up_to_now(&app, &owner).await, &secret).await;
    assert_eq!(records.len(), 6);
    assert!(records[..5].iter().all(|record| record["reason"] == "incident"), "{records:?}");
    // Who may not see it is not asked why; another team asks nothing.
    problem(&reveal(&app.auditor(), &secret, "").await, 403, "forbidden");
    problem(&reveal(&app.other_team(), &secret, "").await, 404, "secret_not_found");
    let theirs = path(&keep(&app.other_team(), "db").await);
    reveal(&app.other_team(), &theirs, "").await.expect(200);
    require_reason(&owner, false).await.expect(200);
    reveal(&owner, &secret, "").await.expect(200);
    for bad in [json!("yes"), json!(1)] {
        let reply = owner.patch("/api/team", json!({"reveal_reason_required": bad})).await;
        refused(&reply, &["reveal_reason_required"]);
    }
}

#[tokio::test]
async fn records_forget_from_where_an_erased_person_came() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.people.viewer);
    let secret = path(&keep(&owner, "db").await);
    grant(&owner, &secret, viewer, 60).await.expect(201);
    reveal(&app.viewer(), &secret, "?reason=incident").await.expect(200);
    reveal(&owner, &secret, "").await.expect(200);
    app.admin().post(&format!("/api/users/{viewer}/erase"), Value::Null).await.expect(204);
    let records = eventually("the records forget", async || {
        let records = access(&owner, &secret).await;
        (records[1]["ip"] != "127.0.0.1").then_some(records)
    })
    .await;
    assert_eq!((records.len(), &records[0]["ip"]), (2, &json!("127.0.0.1")), "others are as they were");
    assert_eq!(records[1]["user_id"], json!(viewer), "that it was read, and by which account, stays");
    assert_eq!(records[1]["reason"], "incident");
}
