//! Versions of secrets: made by every write, read, listed, limited; and two who write at once.

use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp};

use super::secret_lists::names;
use super::secret_support::{all_pages, at_once, items, keys, path, put, reveal};
use super::support::{keep, problem, refused};

#[tokio::test]
async fn every_write_makes_a_version_and_each_of_them_can_be_read() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let path = path(&secret);
    for version in 2..=12 {
        let changed = put(&operator, &path, &format!("v{version}")).await.expect(200);
        assert_eq!(changed.json["version"], version);
    }
    // The same value again is a version too: whoever rotates wants to see it.
    assert_eq!(put(&operator, &path, "v12").await.expect(200).json["version"], 13);
    for version in 1..=13 {
        let revealed = reveal(&operator, &path, &format!("?version={version}")).await.expect(200);
        let value = match version {
            1 => "value of db".to_owned(),
            13 => "v12".to_owned(),
            _ => format!("v{version}"),
        };
        assert_eq!((revealed.str("value"), &revealed.json["version"]), (value.as_str(), &json!(version)));
        assert_eq!(revealed.header("etag"), format!("\"v{version}\""));
    }
    assert_eq!(reveal(&operator, &path, "").await.expect(200).json["version"], 13);
    for query in ["?version=0", "?version=14", "?version=4294967295"] {
        problem(&reveal(&operator, &path, query).await, 404, "version_not_found");
    }
    for query in ["?version=x", "?version=-1", "?version=4294967296", "?version=", "?version=1.0"] {
        refused(&reveal(&operator, &path, query).await, &["version"]);
    }
    assert_eq!(keys(&app, &secret).await, 13);
}

#[tokio::test]
async fn who_changes_a_value_may_insist_on_the_one_they_saw() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let path = path(&keep(&operator, "db").await);
    let put_if = async |tag: &str, expected: Value| {
        let (mut body, mut client) = (json!({"value": "new"}), operator.clone());
        if !expected.is_null() {
            body["expected_version"] = expected;
        }
        if !tag.is_empty() {
            client = client.with_header("if-match", tag);
        }
        client.put(&format!("{path}/value"), body).await
    };
    // From here on the stream's tag and the value's are not of one number.
    operator.patch(&path, json!({"description": "d"})).await.expect(200);
    put_if("\"v1\"", Value::Null).await.expect(200);
    problem(&put_if("\"v1\"", Value::Null).await, 412, "precondition_failed");
    problem(&put_if("\"v3\"", Value::Null).await, 412, "precondition_failed");
    problem(&put_if("W/\"v2\"", Value::Null).await, 412, "precondition_failed");
    let stale = put_if("", json!(1)).await;
    problem(&stale, 409, "stale_version");
    assert!(stale.str("detail").contains("version 2"), "{}", stale.text);
    for expected in [3, 99, u32::MAX] {
        problem(&put_if("", json!(expected)).await, 409, "stale_version");
    }
    assert_eq!(put_if("", json!(2)).await.expect(200).json["version"], 3);
    for wrong in [json!(0), json!(-1), json!("x"), json!(1.5), json!(4_294_967_296_u64)] {
        refused(&put_if("", wrong).await, &["expected_version"]);
    }
    // Both at once: they have to agree, and both have to hold.
    refused(&put_if("\"v3\"", json!(2)).await, &["expected_version"]);
    assert_eq!(put_if("\"v3\"", json!(3)).await.expect(200).json["version"], 4);
    let tag = operator.get(&path).await.expect(200).header("etag").to_owned();
    problem(&put_if(&tag, json!(3)).await, 409, "stale_version");
    problem(&put_if("\"2\"", json!(4)).await, 412, "precondition_failed");
    assert_eq!(put_if(&tag, json!(4)).await.expect(200).json["version"], 5);
    for bad in ["v5", "\"v\"", "\"v5\", \"v6\"", "\"vv5\""] {
        refused(&put_if(bad, Value::Null).await, &["If-Match"]);
    }
    assert_eq!(operator.get(&path).await.expect(200).json["version"], 5);
}

/// Who came first, when all of them were based on the same version.
async fn winner(replies: &[Reply], status: u16, code: &str) -> usize {
    let won: Vec<usize> = (0..replies.len()).filter(|n| replies[*n].status == 200).collect();
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        problem(reply, status, code);
    }
    assert_eq!(won.len(), 1, "{replies:?}");
    won[0]
}

#[tokio::test]
async fn of_many_who_write_over_one_version_on_two_nodes_exactly_one_does() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let secret = keep(&app.operator(), "db").await;
    let path = path(&secret);
    let mut version = 1;
    for (writers, conditions) in [(2, "body"), (16, "body"), (2, "value"), (16, "value"), (16, "stream")] {
        let stream = app.operator().get(&path).await.expect(200).header("etag").to_owned();
        let replies = at_once(writers, |n| {
            let client = if n % 2 == 0 { app.operator() } else { other.operator() };
            let mut body = json!({"value": format!("{version}: writer {n}")});
            let client = match conditions {
                "body" => client,
                "value" => client.with_header("if-match", format!("\"v{version}\"")),
                _ => client.with_header("if-match", &stream),
            };
            if conditions == "body" {
                body["expected_version"] = json!(version);
            }
            let url = format!("{path}/value");
            async move { client.put(&url, body).await }
        })
        .await;
        let (status, code) =
            if conditions == "body" { (409, "stale_version") } else { (412, "precondition_failed") };
        let winner = winner(&replies, status, code).await;
        let value = format!("{version}: writer {winner}");
        version += 1;
        let seen = app.operator().with_header("daybook-position", app.ledger.head().await.unwrap());
        let seen = reveal(&seen, &path, "").await.expect(200);
        assert_eq!((seen.str("value"), &seen.json["version"]), (value.as_str(), &json!(version)));
    }
    assert_eq!(keys(&app, &secret).await, i64::from(version), "no key of those who came too late");
    assert_eq!(items(&app.owner(), &format!("{path}/versions")).await.len() as u32, version);
}

#[tokio::test]
async fn what_was_put_away_is_found_and_taken_back_as_it_was() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = keep(&operator, "db").await;
    let path = path(&secret);
    put(&operator, &path, "v2").await.expect(200);
    keep(&operator, "other").await;
    operator.delete(&path).await.expect(204);
    assert_eq!(names(&operator, "").await, ["other"]);
    assert_eq!(names(&operator, "deleted=true").await, ["db"]);
    assert_eq!(names(&app.viewer(), "deleted=true").await, ["db"]);
    assert!(names(&app.other_team(), "deleted=true").await.is_empty());
    for bad in ["deleted=", "deleted=1", "deleted=yes"] {
        refused(&operator.get(&format!("/api/secrets?{bad}")).await, &["deleted"]);
    }
    problem(&operator.get(&path).await, 404, "secret_not_found");
    problem(&operator.get(&format!("{path}?deleted=false")).await, 404, "secret_not_found");
    let shown = operator.get(&format!("{path}?deleted=true")).await.expect(200);
    assert_eq!((&shown.json["deleted"], &shown.json["destroyed"]), (&json!(true), &json!(false)));
    problem(&app.other_team().get(&format!("{path}?deleted=true")).await, 404, "secret_not_found");
    for query in ["", "?version=1", "?version=2"] {
        problem(&reveal(&operator, &path, query).await, 404, "secret_not_found");
    }
    problem(&put(&operator, &path, "v3").await, 404, "secret_not_found");
    problem(&operator.patch(&path, json!({"description": "d"})).await, 404, "secret_not_found");
    problem(&operator.delete(&path).await, 404, "secret_not_found");
    assert_eq!(items(&operator, &format!("{path}/versions")).await.len(), 2);

    let restore = format!("{path}/restore");
    problem(&app.viewer().post(&restore, json!({})).await, 403, "forbidden");
    problem(&app.other_team().post(&restore, json!({})).await, 404, "not_found");
    let stale = operator.with_header("if-match", "\"2\"");
    problem(&stale.post(&restore, json!({})).await, 412, "precondition_failed");
    let back =
        operator.with_header("if-match", shown.header("etag")).post(&restore, json!({})).await.expect(200);
    assert_eq!(
        (back.str("name"), &back.json["deleted"], &back.json["version"]),
        ("db", &json!(false), &json!(2))
    );
    assert_eq!(operator.get(&path).await.expect(200).json, back.json);
    // Again is no error and changes nothing; nor does it need a body.
    let request = operator.request(reqwest::Method::POST, &restore);
    let again = operator.send(request).await.expect(200);
    assert_eq!((&again.json, again.header("etag")), (&back.json, back.header("etag")));
    assert_eq!(reveal(&operator, &path, "").await.expect(200).str("value"), "v2");
    assert_eq!(reveal(&operator, &path, "?version=1").await.expect(200).str("value"), "value of db");
    assert!(names(&operator, "deleted=true").await.is_empty());
}

#[tokio::test]
async fn a_secret_whose_name_is_taken_comes_back_under_another() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let old = path(&keep(&operator, "db").await);
    operator.delete(&old).await.expect(204);
    let new = path(&keep(&operator, "db").await);
    let restore = async |path: &str, body: Value| operator.post(&format!("{path}/restore"), body).await;
    problem(&restore(&old, json!({})).await, 409, "name_taken");
    problem(&restore(&old, json!({"name": "db"})).await, 409, "name_taken");
    for bad in ["", "../db", "a//b", "a\0"] {
        refused(&restore(&old, json!({"name": bad})).await, &["name"]);
    }
    refused(&restore(&old, json!({"names": "x"})).await, &["names"]);
    let back = restore(&old, json!({"name": "db-old"})).await.expect(200);
    assert_eq!(back.str("name"), "db-old");
    assert_eq!(names(&operator, "").await, ["db", "db-old"]);
    // The name it had is the other's, the one it has is its own.
    problem(&operator.post("/api/secrets", json!({"name": "db-old", "value": "v"})).await, 409, "name_taken");
    operator.delete(&new).await.expect(204);
    keep(&operator, "db").await;
    problem(&restore(&new, json!({})).await, 409, "name_taken");
    operator.delete(&old).await.expect(204);
    keep(&operator, "db-old").await;
}

#[tokio::test]
async fn of_many_that_want_one_name_back_at_once_exactly_one_gets_it() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let operator = app.operator();
    let mut paths = vec![];
    for _ in 0..12 {
        let path = path(&keep(&operator, "db").await);
        operator.delete(&path).await.expect(204);
        paths.push(path);
    }
    assert_eq!(names(&operator, "deleted=true").await, ["db"; 12]);
    let replies = at_once(12, |n| {
        let client = if n % 2 == 0 { app.operator() } else { other.operator() };
        let url = format!("{}/restore", paths[n as usize]);
        async move { client.post(&url, json!({})).await }
    })
    .await;
    winner(&replies, 409, "name_taken").await;
    let now = operator.with_header("daybook-position", app.ledger.head().await.unwrap());
    assert_eq!(names(&now, "").await, ["db"]);
    assert_eq!(names(&now, "deleted=true").await, ["db"; 11]);
}

async fn kept(client: &Client, path: &str) -> Vec<u64> {
    let versions = items(client, &format!("{path}/versions?limit=200")).await;
    let kept = versions.iter().filter(|version| version["destroyed"] == false);
    kept.map(|version| version["version"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_secret_keeps_as_many_versions_as_it_was_told_to() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let body = json!({"name": "db", "value": "v1", "max_versions": 2});
    let secret = operator.post("/api/secrets", body).await.expect(201);
    let path = path(&secret);
    assert_eq!(secret.json["max_versions"], 2);
    for version in 2..=4 {
        put(&operator, &path, &format!("v{version}")).await.expect(200);
        assert_eq!(kept(&operator, &path).await, [version, version - 1]);
        assert_eq!(keys(&app, &secret).await, 2);
    }
    problem(&reveal(&operator, &path, "?version=2").await, 410, "version_destroyed");
    assert_eq!(reveal(&operator, &path, "?version=3").await.expect(200).str("value"), "v3");
    let more = operator.patch(&path, json!({"max_versions": 4})).await.expect(200);
    assert_eq!(more.json["max_versions"], 4);
    for version in 5..=7 {
        put(&operator, &path, &format!("v{version}")).await.expect(200);
    }
    assert_eq!(kept(&operator, &path).await, [7, 6, 5, 4]);
    operator.patch(&path, json!({"max_versions": 1})).await.expect(200);
    assert_eq!((kept(&operator, &path).await, keys(&app, &secret).await), (vec![7], 1));
    assert_eq!(reveal(&operator, &path, "").await.expect(200).str("value"), "v7");
    let all = operator.patch(&path, json!({"max_versions": null})).await.expect(200);
    assert_eq!(all.json["max_versions"], Value::Null);
    for version in 8..=12 {
        put(&operator, &path, &format!("v{version}")).await.expect(200);
    }
    assert_eq!(kept(&operator, &path).await.len(), 6);
    for bad in [json!(0), json!(1_001), json!(-1), json!("2"), json!(1.5)] {
        refused(&operator.patch(&path, json!({"max_versions": bad})).await, &["max_versions"]);
        let body = json!({"name": "new", "value": "v", "max_versions": bad});
        refused(&operator.post("/api/secrets", body).await, &["max_versions"]);
    }
    let stale = operator.with_header("if-match", "\"1\"");
    problem(&stale.patch(&path, json!({"max_versions": 1})).await, 412, "precondition_failed");
    assert_eq!((kept(&operator, &path).await.len(), keys(&app, &secret).await), (6, 6));
}

#[tokio::test]
async fn versions_are_listed_newest_first_page_by_page() {
    let app = TestApp::start().await;
    let (operator, owner) = (app.operator(), app.owner());
    let secret = keep(&operator, "db").await;
    let path = path(&secret);
    for version in 2..=11 {
        let writer = if version % 2 == 0 { &owner } else { &operator };
        put(writer, &path, &format!("v{version}")).await.expect(200);
    }
    let all = items(&app.viewer(), &format!("{path}/versions")).await;
    let numbers: Vec<u64> = all.iter().map(|version| version["version"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=11).rev().collect::<Vec<_>>());
    let first = json!({
        "version": 1, "created_by": format!("user:{}", app.people.operator), "created_at": secret.json["created_at"],
        "destroyed": false, "destroyed_by": null, "destroyed_at": null,
    });
    assert_eq!(all[10], first);
    assert_eq!(all[1]["created_by"], format!("user:{}", app.people.owner));
    for limit in [1, 4, 5, 11] {
        assert_eq!(all_pages(&operator, &format!("{path}/versions?limit={limit}")).await, all);
    }
    let picked = items(&operator, &format!("{path}/versions?limit=1&fields=version")).await;
    assert_eq!(picked, [json!({"version": 11})]);
    let other = self::path(&keep(&operator, "other").await);
    let cursor = operator.get(&format!("{path}/versions?limit=3")).await.expect(200).str("next").to_owned();
    for (url, field) in [
        (format!("{path}/versions?limit=0"), "limit"),
        (format!("{path}/versions?limit=201"), "limit"),
        (format!("{path}/versions?fields=sealed"), "fields"),
        (format!("{path}/versions?fields=value"), "fields"),
        (format!("{path}/versions?cursor=9"), "cursor"),
        (format!("{path}/versions?version=9"), "version"),
        (format!("{other}/versions?cursor={cursor}"), "cursor"),
    ] {
        refused(&operator.get(&url).await, &[field]);
    }
    problem(&app.other_team().get(&format!("{path}/versions")).await, 404, "secret_not_found");
    problem(&app.auditor().get(&format!("{path}/versions")).await, 403, "forbidden");
}
