//! Names of secrets: paths, unique in a team, changed without losing history, found by prefix, tag and words.

use std::collections::BTreeSet;

use chrono::{Duration, Utc};
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp};

use super::secret_lists::names;
use super::secret_support::{at_once, items, path, put, reveal};
use super::support::{keep, problem, refused, up_to_now};

async fn rename(client: &Client, path: &str, name: &str) -> Reply {
    client.patch(path, json!({"name": name})).await
}

#[tokio::test]
async fn a_name_is_a_bounded_path_of_plain_segments() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let secret = path(&keep(&operator, "db").await);
    let (long, too_long) = (format!("a/{}", "x".repeat(198)), format!("a/{}", "x".repeat(199)));
    let good = ["payments/stripe/api-key", "A", "9", "a.b_c-D", "a/b/c/d/e/f/g/h", "a..b", "a-", &long];
    for name in good {
        assert_eq!(keep(&operator, name).await.str("name"), name);
    }
    let bad = [
        "",
        "/",
        ".",
        "..",
        "/a",
        "a/",
        "a//b",
        "//",
        "../a",
        "a/../b",
        "a/..",
        "./a",
        "a/.",
        "a/./b",
        ".env",
        "a/.env",
        "a/b/c/d/e/f/g/h/i",
        "a b",
        " a",
        "a ",
        "a\0",
        "a\n",
        "a\r\nb",
        "a\tb",
        "a\u{7f}",
        "a\\b",
        "..\\a",
        "%2e%2e/a",
        "a%2fb",
        "é",
        "аpp",
        "ａ",
        "a\u{301}",
        "a\u{200b}b",
        "\u{202e}a",
        "a∕b",
        "a／b",
        "①",
        "-a",
        "_a",
        "a/-b",
        "a:b",
        "a*",
        "a?b",
        "~",
        "$a",
        "日本",
        &too_long,
        &"é".repeat(200),
        &"a/".repeat(100),
        &"x".repeat(100_000),
    ];
    for name in bad {
        let stored = operator.post("/api/secrets", json!({"name": name, "value": "v"})).await;
        for reply in [stored, rename(&operator, &secret, name).await] {
            refused(&reply, &["name"]);
            assert!(reply.text.len() < 2_000, "{}", reply.text.len());
        }
    }
    for name in [json!(7), json!(["a"]), json!({"a": 1})] {
        let reply = operator.patch(&secret, json!({"name": name})).await;
        assert_eq!(reply.status, 422, "{}", reply.text);
    }
    assert_eq!(names(&operator, "").await.len(), good.len() + 1);
    for id in ["..", "%2e%2e", "db", "..%2f..%2fapi", "%00", "0198c5a0"] {
        let reply = operator.get(&format!("/api/secrets/{id}")).await;
        assert!((400..500).contains(&reply.status) || id.contains("."), "{id}: {}", reply.text);
        assert!(reply.status < 500 && !reply.text.contains("value of"), "{id}: {}", reply.text);
    }
}

#[tokio::test]
async fn a_renamed_secret_keeps_everything_and_its_old_name_is_free() {
    let app = TestApp::start().await;
    let (operator, owner) = (app.operator(), app.owner());
    let kept = keep(&operator, "old").await;
    let secret = path(&kept);
    put(&operator, &secret, "v2").await.expect(200);
    let renamed = rename(&operator, &secret, "payments/new").await.expect(200);
    assert_eq!((renamed.str("name"), &renamed.json["version"]), ("payments/new", &json!(2)));
    assert_eq!(operator.get(&secret).await.expect(200).json, renamed.json);
    assert_eq!(reveal(&operator, &secret, "?version=1").await.expect(200).str("value"), "value of old");
    assert_eq!(reveal(&operator, &secret, "").await.expect(200).str("value"), "v2");
    assert_eq!(names(&operator, "").await, ["payments/new"]);
    let taken = json!({"name": "payments/new", "value": "v"});
    problem(&operator.post("/api/secrets", taken).await, 409, "name_taken");
    let other = path(&keep(&operator, "old").await);
    problem(&rename(&operator, &other, "payments/new").await, 409, "name_taken");
    problem(&rename(&operator, &secret, "old").await, 409, "name_taken");
    // To its own name: nothing happens.
    let same = rename(&operator, &secret, "payments/new").await.expect(200);
    assert_eq!(same.header("etag"), renamed.header("etag"));
    // There and back, and letters of another case are another name.
    rename(&operator, &secret, "Payments/New").await.expect(200);
    keep(&operator, "payments/new").await;
    rename(&operator, &other, "other").await.expect(200);
    rename(&operator, &secret, "old").await.expect(200);
    problem(
        &operator.with_header("if-match", "\"1\"").patch(&secret, json!({"name": "x"})).await,
        412,
        "precondition_failed",
    );
    problem(&rename(&app.viewer(), &secret, "x").await, 403, "forbidden");
    let history = items(&owner, &format!("/api/audit/secret/{}/history", kept.str("id"))).await;
    let names: Vec<&Value> = history
        .iter()
        .flat_map(|event| event["changes"].as_array().unwrap())
        .filter(|change| change["field"] == "name")
        .map(|change| &change["after"])
        .collect();
    assert_eq!(names, ["old", "payments/new", "Payments/New", "old"]);
    // With the rest of what is said of it, in one change: all of it or nothing.
    let all = json!({"name": "other", "description": "lost", "tags": ["lost"]});
    problem(&operator.patch(&secret, all).await, 409, "name_taken");
    assert_eq!(operator.get(&secret).await.expect(200).str("description"), "");
    let all = json!({"name": "a/b", "description": "d", "tags": ["t"], "expires_at": "2031-01-01T00:00:00Z"});
    let changed = operator.patch(&secret, all).await.expect(200);
    assert_eq!((changed.str("name"), changed.str("description")), ("a/b", "d"));
}

#[tokio::test]
async fn no_answer_tells_which_names_another_team_has() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.operator(), app.other_team());
    let our_path = path(&keep(&ours, "db").await);
    keep(&ours, "ours").await;
    keep(&theirs, "db").await;
    let their_path = path(&keep(&theirs, "theirs").await);
    rename(&theirs, &their_path, "ours").await.expect(200);
    rename(&theirs, &their_path, "theirs").await.expect(200);
    let nobody = format!("/api/secrets/{}", uuid::Uuid::now_v7());
    for name in ["db", "theirs", "ours", "free"] {
        let (real, none) = (rename(&ours, &their_path, name).await, rename(&ours, &nobody, name).await);
        assert_eq!(
            (real.status, real.str("code"), real.str("detail")),
            (404, none.str("code"), none.str("detail"))
        );
    }
    ours.delete(&our_path).await.expect(204);
    theirs.delete(&their_path).await.expect(204);
    keep(&ours, "theirs").await;
    let (restore, none) = (format!("{their_path}/restore"), format!("{nobody}/restore"));
    for body in [json!({}), json!({"name": "ours"}), json!({"name": "free"})] {
        let (real, none) = (ours.post(&restore, body.clone()).await, ours.post(&none, body).await);
        assert_eq!(
            (real.status, real.str("code"), real.str("detail")),
            (404, none.str("code"), none.str("detail"))
        );
    }
    assert_eq!(names(&theirs, "").await, ["db"]);
    assert_eq!(names(&ours, "").await, ["ours", "theirs"]);
}

#[tokio::test]
async fn of_many_who_want_one_name_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let mut paths = vec![];
    for n in 0..16 {
        paths.push(path(&keep(&app.operator(), &format!("s{n:02}")).await));
    }
    let replies = at_once(32, |n| {
        let client = if n % 3 == 0 { app.operator() } else { other.operator() };
        let path = paths[n as usize / 2].clone();
        async move {
            if n % 2 == 0 {
                rename(&client, &path, "wanted").await
            } else {
                client.post("/api/secrets", json!({"name": "wanted", "value": "v"})).await
            }
        }
    })
    .await;
    let (won, lost): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|reply| reply.status < 300);
    assert_eq!(won.len(), 1);
    lost.into_iter().for_each(|reply| problem(reply, 409, "name_taken"));
    let now = up_to_now(&app, &app.operator()).await;
    assert_eq!(names(&now, "prefix=wanted").await, ["wanted"]);
    // Whoever gives a name up while others want it: one has it at every moment.
    let winner = format!("/api/secrets/{}", won[0].str("id"));
    let replies = at_once(16, |n| {
        let (client, path, winner) = (app.operator(), paths[n as usize].clone(), winner.clone());
        async move {
            if path == winner || n == 0 {
                rename(&client, &winner, &format!("given-up-{n}")).await
            } else {
                rename(&client, &path, "wanted").await
            }
        }
    })
    .await;
    let unexpected: Vec<&Reply> =
        replies.iter().filter(|reply| ![200, 409, 503].contains(&reply.status)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    let now = up_to_now(&app, &app.operator()).await;
    let all = names(&now, "").await;
    let unique: BTreeSet<&String> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "{all:?}");
}

#[tokio::test]
async fn secrets_are_found_below_a_prefix_by_tag_and_by_words() {
    let app = TestApp::start().await;
    let operator = app.operator();
    for (name, description, tags) in [
        ("payments/stripe/api-key", "The LIVE key", json!(["prod", "env:eu"])),
        ("payments/stripe/webhook", "", json!(["prod"])),
        ("payments/paypal", "live too", json!(["test"])),
        ("payments2/x", "100%", json!([])),
        ("payments_x", "", json!([])),
        ("mail", "Payments' mail", json!(["prod"])),
    ] {
        let body = json!({"name": name, "value": "v", "description": description, "tags": tags});
        operator.post("/api/secrets", body).await.expect(201);
    }
    for (query, expected) in [
        ("prefix=payments/", &["payments/paypal", "payments/stripe/api-key", "payments/stripe/webhook"][..]),
        ("prefix=payments/stripe/", &["payments/stripe/api-key", "payments/stripe/webhook"]),
        ("prefix=payments/stripe", &["payments/stripe/api-key", "payments/stripe/webhook"]),
        ("prefix=Payments/", &[]),
        ("prefix=payments%25", &[]),
        ("prefix=payments_", &["payments_x"]),
        ("prefix=..", &[]),
        ("prefix=payments/&tag=prod&q=api", &["payments/stripe/api-key"]),
        ("tag=env:eu", &["payments/stripe/api-key"]),
        ("tag=Prod", &[]),
        ("q=live", &["payments/paypal", "payments/stripe/api-key"]),
        ("q=PAYMENTS&tag=prod", &["mail", "payments/stripe/api-key", "payments/stripe/webhook"]),
        ("q=100%25", &["payments2/x"]),
        ("q='%20or%201=1", &[]),
        ("q=%5C", &[]),
    ] {
        assert_eq!(names(&operator, query).await, expected, "{query}");
    }
    for query in ["q=%00", "prefix=%00", "tag=%00", "prefix=a%00b"] {
        let reply = operator.get(&format!("/api/secrets?{query}")).await;
        assert!(reply.status == 200 || reply.status == 422, "{query}: {}", reply.text);
    }
    // A tag that goes with an amendment is found no more.
    let secret = items(&operator, "/api/secrets?q=paypal").await[0]["id"].as_str().unwrap().to_owned();
    operator.patch(&format!("/api/secrets/{secret}"), json!({"tags": ["new", "new"]})).await.expect(200);
    assert!(names(&operator, "tag=test").await.is_empty());
    assert_eq!(names(&operator, "tag=new").await, ["payments/paypal"]);
}

#[tokio::test]
async fn pages_go_on_from_where_they_were_while_names_change() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let mut paths = vec![];
    for n in 0..30 {
        paths.push(path(&keep(&operator, &format!("p/s{n:02}")).await));
    }
    let (mut seen, mut cursor, mut page) = (vec![], String::new(), 0);
    loop {
        let reply = operator.get(&format!("/api/secrets?prefix=p/&limit=7{cursor}")).await.expect(200);
        seen.extend(reply.json["items"].as_array().unwrap().clone());
        let Some(next) = reply.json["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
        match page {
            // The one the cursor stands on, and one that was shown: to places before.
            0 => {
                rename(&operator, &paths[6], "p/a").await.expect(200);
                operator.delete(&paths[1]).await.expect(204);
            }
            // One to come goes out of the list, another to its end.
            1 => {
                rename(&operator, &paths[20], "q/gone").await.expect(200);
                rename(&operator, &paths[21], "p/z").await.expect(200);
            }
            _ => {}
        }
        page += 1;
    }
    let shown: Vec<&str> = seen.iter().map(|item| item["name"].as_str().unwrap()).collect();
    let ids: BTreeSet<&str> = seen.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), shown.len(), "nothing twice: {shown:?}");
    let mut expected: Vec<String> =
        (0..30).filter(|n| ![20, 21].contains(n)).map(|n| format!("p/s{n:02}")).collect();
    expected.push("p/z".to_owned());
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn what_expires_and_what_nobody_reads_is_listed() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let at = |days: i64| (Utc::now() + Duration::days(days)).to_rfc3339();
    for (name, expires_at) in
        [("expired", json!(at(-1))), ("soon", json!(at(5))), ("later", json!(at(40))), ("never", Value::Null)]
    {
        let body = json!({"name": name, "value": "v", "expires_at": expires_at});
        operator.post("/api/secrets", body).await.expect(201);
    }
    for (query, expected) in [
        ("expiring_within=0", &["expired"][..]),
        ("expiring_within=30d", &["expired", "soon"]),
        ("expiring_within=720h", &["expired", "soon"]),
        ("expiring_within=2592000", &["expired", "soon"]),
        ("expiring_within=6w", &["expired", "later", "soon"]),
        ("expiring_within=36525d", &["expired", "later", "soon"]),
        ("expiring_within=30d&prefix=s", &["soon"]),
        ("unused_for=1d", &[]),
        ("unused_for=0", &["expired", "later", "never", "soon"]),
    ] {
        assert_eq!(names(&operator, query).await, expected, "{query}");
    }
    for field in ["expiring_within", "unused_for"] {
        for bad in ["", "d", "-1d", "1.5d", "1y", "30%20d", "36526d", "99999999999999999999d", "soon", "%00"]
        {
            refused(&operator.get(&format!("/api/secrets?{field}={bad}")).await, &[field]);
        }
    }
    refused(
        &operator.get("/api/secrets?expiring_within=x&unused_for=y").await,
        &["expiring_within", "unused_for"],
    );
    // Read since: in use. Times are moved rather than waited for.
    let ids = items(&operator, "/api/secrets").await;
    let id =
        |name: &str| ids.iter().find(|item| item["name"] == name).unwrap()["id"].as_str().unwrap().to_owned();
    let back =
        "update secrets set row = jsonb_set(row::jsonb, '{created_at}', '\"2020-01-01T00:00:00.000Z\"')";
    super::secret_support::edit(&app, back).await;
    let read = format!("/api/secrets/{}", id("soon"));
    assert_eq!(operator.get(&read).await.expect(200).json["last_read_at"], Value::Null);
    reveal(&operator, &read, "").await.expect(200);
    let now = up_to_now(&app, &operator).await;
    let shown = now.get(&read).await.expect(200);
    assert!(shown.json["last_read_at"].is_string(), "{}", shown.text);
    assert_eq!(names(&now, "unused_for=30d").await, ["expired", "later", "never"]);
    let listed = items(&now, "/api/secrets?prefix=soon&fields=last_read_at").await;
    assert_eq!(listed[0]["last_read_at"], shown.json["last_read_at"]);
    let clear =
        now.patch(&format!("/api/secrets/{}", id("expired")), json!({"expires_at": null})).await.expect(200);
    assert_eq!(clear.json["expires_at"], Value::Null);
    assert!(names(&now, "expiring_within=0").await.is_empty());
}
