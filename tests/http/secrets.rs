//! Secrets: kept sealed, given out only on record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::Row as _;
use tests::{Reply, TestApp, on_tables};

use super::secret_lists::names;
use super::support::{audited, count, keep, problem, refused, said, up_to_now};

fn path(secret: &Reply) -> String {
    format!("/api/secrets/{}", secret.str("id"))
}

#[tokio::test]
async fn a_secret_is_kept_changed_read_and_put_away() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let body = json!({"name": "payments/db", "value": "v1", "description": "Line 1\nLine 2", "tags": ["prod", "env:eu"], "expires_at": "2031-01-02T03:04:05.678Z"});
    let kept = operator.post("/api/secrets", body).await.expect(201);
    let path = path(&kept);
    assert_eq!((&kept.json["version"], &kept.json["tags"]), (&json!(1), &json!(["prod", "env:eu"])));
    assert_eq!(kept.str("description"), "Line 1\nLine 2");
    assert_eq!(kept.str("expires_at"), "2031-01-02T03:04:05.678Z");
    assert_eq!(kept.str("created_by"), format!("user:{}", app.people.operator));
    assert_eq!((kept.header("etag"), kept.json.get("value")), ("\"1\"", None));
    assert_eq!(operator.get(&path).await.expect(200).json, kept.json);

    let changed = operator.put(&format!("{path}/value"), json!({"value": "v2"})).await.expect(200);
    assert_eq!((&changed.json["version"], changed.header("etag")), (&json!(2), "\"2\""));
    assert_eq!(changed.json["created_at"], kept.json["created_at"]);
    assert!(changed.header("daybook-position") > kept.header("daybook-position"));
    let reveal = async |query: &str| operator.get(&format!("{path}/value{query}")).await;
    for (query, version, value) in [("", 2, "v2"), ("?version=1", 1, "v1"), ("?version=2", 2, "v2")] {
        let revealed = reveal(query).await.expect(200);
        let expected = json!({"id": kept.str("id"), "version": version, "value": value});
        assert_eq!((&revealed.json, revealed.header("cache-control")), (&expected, "no-store"));
    }
    for query in ["?version=0", "?version=3", "?version=4294967295"] {
        problem(&reveal(query).await, 404, "version_not_found");
    }
    for query in ["?version=x", "?version=-1", "?version=4294967296", "?version="] {
        refused(&reveal(query).await, &["version"]);
    }
    let read = up_to_now(&app, &operator).await.get(&path).await.expect(200);
    assert!(read.json["last_read_at"].is_string(), "{}", read.text);

    let gone = operator.delete(&path).await.expect(204);
    assert!(gone.header("daybook-position").parse::<i64>().unwrap() > 0 && gone.text.is_empty());
    problem(&operator.get(&path).await, 404, "secret_not_found");
    problem(&reveal("").await, 404, "secret_not_found");
    problem(&reveal("?version=1").await, 404, "secret_not_found");
    problem(&operator.put(&format!("{path}/value"), json!({"value": "v3"})).await, 404, "secret_not_found");
    problem(&operator.delete(&path).await, 404, "secret_not_found");
    assert!(names(&operator, "").await.is_empty());
}

#[tokio::test]
async fn whoever_reads_a_value_is_on_record_before_they_have_it() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let value = format!("{}/value", path(&secret));
    operator.put(&value, json!({"value": "v2"})).await.expect(200);
    let recorded = "select count(*) from events where event_type = 'SecretRevealed'";
    for (number, query) in ["?reason=incident%20%2342", "?version=1"].into_iter().enumerate() {
        let revealed = operator.get(&format!("{value}{query}")).await.expect(200);
        // Not through a view: the record itself stands in the log when the answer arrives.
        assert_eq!(count(&app, recorded).await, number as i64 + 1);
        let event = &audited(&app, &app.auditor(), "type=SecretRevealed").await[0];
        assert_eq!(event["actor"], format!("user:{}", app.people.operator));
        assert_eq!(
            (&event["ip"], &event["request_id"]),
            (&json!("127.0.0.1"), &json!(revealed.header("x-request-id")))
        );
        assert_eq!(said(event, "secret_id"), &json!(secret.str("id")));
        let (reason, version) = [(json!("incident #42"), 2), (Value::Null, 1)][number].clone();
        assert_eq!((said(event, "reason"), said(event, "version")), (&reason, &json!(version)));
    }
    for reason in ["", "%00", "%0A", " x", "%E2%80%AE", &"x".repeat(501)] {
        refused(&operator.get(&format!("{value}?reason={reason}")).await, &["reason"]);
    }
    assert_eq!(count(&app, recorded).await, 2);
}

#[tokio::test]
async fn no_record_no_value() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let value = format!("{}/value", path(&secret));
    // As somebody who holds the log's lock and does not let go.
    let mut blocker = app.database.connect().await;
    sqlx::query("select pg_advisory_lock(7310868735422851431)").execute(&mut blocker).await.unwrap();
    let refused = operator.get(&value).await;
    problem(&refused, 503, "not_recorded");
    assert!(
        !refused.header("retry-after").is_empty() && !refused.text.contains("value of db"),
        "{}",
        refused.text
    );
    sqlx::query("select pg_advisory_unlock_all()").execute(&mut blocker).await.unwrap();
    let recorded = "select count(*) from events where event_type = 'SecretRevealed'";
    assert_eq!(count(&app, recorded).await, 0);
    assert_eq!(operator.get(&value).await.expect(200).str("value"), "value of db");
    assert_eq!(count(&app, recorded).await, 1, "what was given up was not stored later");
}

#[tokio::test]
async fn a_name_is_one_secret_of_a_team_until_it_is_put_away() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let first = keep(&operator, "db").await;
    let again = json!({"name": "db", "value": "other"});
    problem(&operator.post("/api/secrets", again.clone()).await, 409, "name_taken");
    problem(&app.owner().post("/api/secrets", again).await, 409, "name_taken");
    keep(&app.other_team(), "db").await;
    keep(&operator, "DB").await;
    operator.delete(&path(&first)).await.expect(204);
    let second = keep(&operator, "db").await;
    assert_ne!(first.json["id"], second.json["id"]);
    assert_eq!(names(&operator, "").await, ["DB", "db"]);
    let at_once = join_all((0..16).map(|_| {
        let operator = operator.clone();
        async move { operator.post("/api/secrets", json!({"name": "race", "value": "v"})).await }
    }))
    .await;
    assert_eq!(at_once.iter().filter(|reply| reply.status == 201).count(), 1);
    at_once.iter().filter(|reply| reply.status != 201).for_each(|reply| problem(reply, 409, "name_taken"));
    operator.delete(&path(&second)).await.expect(204);
    keep(&operator, "db").await;
}

#[tokio::test]
async fn another_teams_secret_does_not_exist() {
    let app = TestApp::start().await;
    let secret = keep(&app.owner(), "db").await;
    let (path, other) = (path(&secret), app.other_team());
    let value = format!("{path}/value");
    problem(&other.get(&path).await, 404, "secret_not_found");
    problem(&other.get(&value).await, 404, "secret_not_found");
    problem(&other.get(&format!("{value}?version=1")).await, 404, "secret_not_found");
    // As for an id that nobody has: the answers must not tell which of them is somebody's.
    let nobody = format!("/api/secrets/{}", uuid::Uuid::now_v7());
    for (path, theirs) in [(&path, &nobody), (&value, &format!("{nobody}/value"))] {
        let change = json!({"value": "mine"});
        let (a, b) = if path.ends_with("value") {
            (other.put(path, change.clone()).await, other.put(theirs, change).await)
        } else {
            (other.delete(path).await, other.delete(theirs).await)
        };
        assert_eq!((a.status, b.status), (404, 404));
        assert_eq!((a.str("code"), a.str("detail")), (b.str("code"), b.str("detail")));
        let tagged = other.with_header("if-match", "\"9\"");
        let stale = if path.ends_with("value") {
            tagged.put(path, json!({"value": "mine"})).await
        } else {
            tagged.delete(path).await
        };
        assert_eq!(stale.status, 404, "{}: a version tells that it exists", stale.text);
    }
    for kind in ["history", "state"] {
        problem(
            &other.get(&format!("/api/audit/secret/{}/{kind}", secret.str("id"))).await,
            404,
            "not_found",
        );
    }
    assert!(names(&other, "").await.is_empty());
    assert_eq!(app.owner().get(&path).await.expect(200).json, secret.json);
}

#[tokio::test]
async fn wrong_secrets_are_refused_field_by_field() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let post = async |body: Value| operator.post("/api/secrets", body).await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"name": "db", "value": "v"});
        body[field] = value;
        body
    };
    let limit = 64 * 1024;
    let largest = "x".repeat(limit);
    for value in [json!(""), json!("x".repeat(limit + 1)), json!(7), Value::Null] {
        let reply = post(with("value", value)).await;
        refused(&reply, &["value"]);
        assert!(reply.text.len() < 1_000, "the value comes back");
    }
    for name in [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a b",
        "a\0",
        "é",
        "\u{202e}a",
        ".env",
        "a/b/c/d/e/f/g/h/i",
        &"x".repeat(201),
    ] {
        refused(&post(with("name", json!(name))).await, &["name"]);
    }
    refused(&post(with("description", json!("x".repeat(2_001)))).await, &["description"]);
    refused(&post(with("description", json!("\u{202e}"))).await, &["description"]);
    refused(&post(with("tags", json!(["ok", "", "Not", "ok2"]))).await, &["tags[1]", "tags[2]"]);
    let many: Vec<_> = (0..21).map(|n| format!("t{n}")).collect();
    refused(&post(with("tags", json!(many))).await, &["tags"]);
    refused(&post(with("tags", json!(["a", 1]))).await, &["tags[1]"]);
    for at in ["tomorrow", "2031-02-30T00:00:00Z", "", "+262142-01-01T00:00:00Z"] {
        refused(&post(with("expires_at", json!(at))).await, &["expires_at"]);
    }
    refused(&post(with("owner", json!("me"))).await, &["owner"]);
    refused(&post(json!({"name": "db"})).await, &["value"]);
    let all = post(json!({"name": "", "value": "", "description": "\0", "tags": [""]})).await;
    refused(&all, &["name", "description", "value", "tags[0]"]);
    assert!(names(&operator, "").await.is_empty());

    let body = json!({"name": "x".repeat(200), "value": largest, "description": "x".repeat(2_000), "tags": many[..20]});
    let kept = post(body).await.expect(201);
    let value = format!("{}/value", path(&kept));
    assert_eq!(operator.get(&value).await.expect(200).str("value"), largest);
    let odd = "line 1\nline 2\t\0\u{202e}🔑\u{feff} \"quoted\" \\ ";
    operator.put(&value, json!({"value": odd})).await.expect(200);
    assert_eq!(operator.get(&value).await.expect(200).str("value"), odd);
    for wrong in [json!(""), json!("x".repeat(limit + 1))] {
        refused(&operator.put(&value, json!({"value": wrong})).await, &["value"]);
    }
    refused(&operator.put(&value, json!({"value": "v", "version": 9})).await, &["version"]);
    assert_eq!(operator.get(&path(&kept)).await.expect(200).json["version"], 2);
}

#[tokio::test]
async fn changes_can_insist_on_the_version_they_were_based_on() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let (path, value) = (path(&secret), format!("{}/value", path(&secret)));
    let based_on = |tag: &str| operator.with_header("if-match", tag);
    let put = async |tag: &str| based_on(tag).put(&value, json!({"value": "v"})).await;
    put("\"1\"").await.expect(200);
    let stale = put("\"1\"").await;
    problem(&stale, 412, "precondition_failed");
    assert!(stale.str("detail").contains("\"2\""), "{}", stale.text);
    for never in ["\"7\"", "\"0\"", "\"-1\""] {
        problem(&put(never).await, 412, "precondition_failed");
    }
    problem(&put("W/\"2\"").await, 412, "precondition_failed");
    for bad in ["2", "\"x\"", "\"1\", \"2\""] {
        refused(&put(bad).await, &["If-Match"]);
    }
    put("*").await.expect(200);
    problem(&based_on("\"2\"").delete(&path).await, 412, "precondition_failed");
    let tag = operator.get(&path).await.expect(200).header("etag").to_owned();
    assert_eq!(tag, "\"3\"");
    let racers = join_all((0..8).map(|n| {
        let (client, value) = (based_on(&tag), value.clone());
        async move { client.put(&value, json!({"value": format!("racer {n}")})).await }
    }))
    .await;
    assert_eq!(racers.iter().filter(|reply| reply.status == 200).count(), 1);
    assert!(racers.iter().all(|reply| [200, 412].contains(&reply.status)));
    based_on("\"4\"").delete(&path).await.expect(204);
}

#[tokio::test]
async fn changes_without_a_condition_all_happen_one_after_the_other() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let value = format!("{}/value", path(&secret));
    let replies = join_all((0..8).map(|n| {
        let (client, value) = (operator.clone(), value.clone());
        async move { (n, client.put(&value, json!({"value": format!("v{n}")})).await) }
    }))
    .await;
    let mut done = 0;
    for (n, reply) in replies {
        if reply.status == 503 {
            problem(&reply, 503, "contended");
            continue;
        }
        done += 1;
        let version = reply.expect(200).json["version"].as_i64().unwrap();
        assert!((2..=9).contains(&version), "{n}");
    }
    let version = operator.get(&path(&secret)).await.expect(200).json["version"].as_i64().unwrap();
    assert_eq!(version, 1 + done);
    for version in 1..=version {
        operator.get(&format!("{value}?version={version}")).await.expect(200);
    }
}

#[tokio::test]
async fn a_value_is_nowhere_but_in_the_answer_to_who_may_read_it() {
    const CANARIES: [&str; 2] = ["canary-0f4c9d17-one", "canary-0f4c9d17-two"];
    let app = TestApp::start().await;
    let (owner, operator) = (app.owner(), app.operator());
    let body = json!({"name": "canary", "value": CANARIES[0], "description": "d", "tags": ["t"]});
    let keyed = operator.with_header("idempotency-key", "canary-key");
    let mut answers = vec![keyed.post("/api/secrets", body.clone()).await.expect(201)];
    answers.push(keyed.post("/api/secrets", body.clone()).await.expect(201));
    answers.push(operator.post("/api/secrets", body).await.expect(409));
    let (id, path) = (answers[0].str("id").to_owned(), path(&answers[0]));
    answers.push(operator.put(&format!("{path}/value"), json!({"value": CANARIES[1]})).await.expect(200));
    answers.push(
        operator.put(&format!("{path}/value"), json!({"value": CANARIES[1], "x": 1})).await.expect(422),
    );
    answers.push(
        operator.post("/api/secrets", json!({"name": CANARIES[1], "value": [CANARIES[0]]})).await.expect(422),
    );
    operator.get(&format!("{path}/value")).await.expect(200);
    operator.get(&format!("{path}/value?version=1")).await.expect(200);
    let owner = up_to_now(&app, &owner).await;
    for url in [
        "/api/secrets".to_owned(),
        "/api/secrets?q=canary".to_owned(),
        path.clone(),
        "/api/audit/events?limit=200".to_owned(),
        format!("/api/audit/secret/{id}/history"),
        format!("/api/audit/secret/{id}/state"),
        "/api/auth/me".to_owned(),
        "/metrics".to_owned(),
        "/openapi.json".to_owned(),
    ] {
        answers.push(owner.get(&url).await.expect(200));
    }
    answers.push(app.admin().get("/api/projections").await.expect(200));
    operator.delete(&path).await.expect(204);
    let owner = up_to_now(&app, &owner).await;
    answers.push(owner.get(&format!("/api/audit/secret/{id}/state")).await.expect(200));

    let mut needles: Vec<String> = CANARIES.map(str::to_owned).to_vec();
    needles.extend(CANARIES.map(|value| BASE64.encode(value)[..16].to_owned()));
    for answer in &answers {
        for needle in &needles {
            assert!(!answer.text.contains(needle), "{}", answer.text);
        }
    }
    let mut connection = app.database.connect().await;
    let tables = sqlx::query(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'public'",
    );
    let tables = tables.fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > 8, "{}", tables.len());
    for table in tables {
        let table: String = table.get(0);
        for needle in &needles {
            let sql = format!("select count(*) from {table} t where t::text like '%{needle}%'");
            assert_eq!(count(&app, &sql).await, 0, "{table} holds {needle}");
        }
    }
    assert!(
        count(&app, &on_tables("select count(*) from secrets t where t::text like '%canary%'")).await > 0,
        "the search finds"
    );
}
