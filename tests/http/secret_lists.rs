//! Lists of secrets: filters, picked fields, pages.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use serde_json::json;
use tests::{Client, TestApp};

use super::support::{keep, refused};

/// The names in the list that a query asks for.
pub(crate) async fn names(client: &Client, query: &str) -> Vec<String> {
    let list = client.get(&format!("/api/secrets?limit=200&{query}")).await.expect(200);
    let items = list.json["items"].as_array().unwrap().clone();
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_are_filtered_and_show_the_fields_that_were_picked() {
    let app = TestApp::start().await;
    let operator = app.operator();
    for (name, description, tags) in [
        ("app/Stripe", "Payments", json!(["prod"])),
        ("app/mail", "100% _real_", json!(["prod", "mail"])),
        ("db", "The app's own", json!([])),
    ] {
        let body = json!({"name": name, "value": "v", "description": description, "tags": tags});
        operator.post("/api/secrets", body).await.expect(201);
    }
    for (query, expected) in [
        ("", &["app/Stripe", "app/mail", "db"][..]),
        ("tag=prod", &["app/Stripe", "app/mail"]),
        ("tag=mail", &["app/mail"]),
        ("tag=pro", &[]),
        ("prefix=app/", &["app/Stripe", "app/mail"]),
        ("prefix=App", &[]),
        ("q=PAY", &["app/Stripe"]),
        ("q=app", &["app/Stripe", "app/mail", "db"]),
        ("q=100%25", &["app/mail"]),
        ("q=%25", &["app/mail"]),
        ("q=_", &["app/mail"]),
        ("q=app&tag=prod&prefix=app/m", &["app/mail"]),
        ("q=%27--", &[]),
        ("q=%F0%9F%94%91", &[]),
    ] {
        assert_eq!(names(&operator, query).await, expected, "{query}");
    }
    let picked = operator.get("/api/secrets?fields=name,%20version&limit=1").await.expect(200);
    assert_eq!(picked.json["items"], json!([{"name": "app/Stripe", "version": 1}]));
    assert!(picked.json["next"].is_string());
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("fields=value", "fields"),
        ("fields=", "fields"),
        ("fields=name,sealed", "fields"),
        ("name=db", "name"),
        ("cursor=", "cursor"),
    ] {
        refused(&operator.get(&format!("/api/secrets?{query}")).await, &[field]);
    }
}

/// Follows `next` to the end; `between` is called after each page.
async fn pages(client: &Client, query: &str, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut names, mut cursor, mut page) = (vec![], String::new(), 0);
    loop {
        let reply = client.get(&format!("/api/secrets?{query}{cursor}")).await.expect(200);
        let items = reply.json["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = reply.json["next"].as_str() else { return names };
        cursor = format!("&cursor={next}");
        page += 1;
        between(page).await;
    }
}

#[tokio::test]
async fn paging_misses_nothing_and_repeats_nothing_while_others_write() {
    let app = TestApp::start().await;
    let operator = app.operator();
    let names: Vec<String> = (0..120).map(|n| format!("s{:03}", n * 7 % 120)).collect();
    futures::stream::iter(&names)
        .for_each_concurrent(16, async |name| {
            keep(&operator, name).await;
        })
        .await;
    let sorted: Vec<String> = names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    assert_eq!(pages(&operator, "limit=17", async |_| {}).await, sorted);
    assert_eq!(pages(&operator, "", async |_| {}).await.len(), 120);
    assert_eq!(pages(&operator, "limit=40", async |_| {}).await, sorted, "the last page is full");

    let meanwhile = pages(&operator, "limit=50", async |page| {
        keep(&operator, &format!("a-before-{page}")).await;
        keep(&operator, &format!("z-after-{page}")).await;
    })
    .await;
    let unique: BTreeSet<_> = meanwhile.iter().cloned().collect();
    assert_eq!(unique.len(), meanwhile.len());
    assert!(sorted.iter().all(|name| unique.contains(name)));
    assert!(unique.contains("z-after-1") && !unique.contains("a-before-1"), "keyset, not offset");

    let first = operator.get("/api/secrets?limit=10").await.expect(200);
    let cursor = first.str("next").to_owned();
    let ask =
        async |client: &Client, path: &str, cursor: &str| client.get(&format!("{path}cursor={cursor}")).await;
    let mut tampered = cursor.clone().into_bytes();
    let last = tampered.len() - 2;
    tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).unwrap();
    for (path, cursor) in [
        ("/api/secrets?", tampered.as_str()),
        ("/api/secrets?", "x"),
        ("/api/secrets?", "s009"),
        ("/api/secrets?", "%00"),
        ("/api/secrets?", &cursor[..cursor.len() - 4]),
        ("/api/secrets?q=s&", &cursor),
        ("/api/secrets?tag=x&", &cursor),
        ("/api/secrets?prefix=s&", &cursor),
        ("/api/jobs?", &cursor),
        ("/api/secrets?", &"x".repeat(5_000)),
    ] {
        refused(&ask(&operator, path, cursor).await, &["cursor"]);
    }
    refused(&ask(&app.other_team(), "/api/secrets?", &cursor).await, &["cursor"]);
    ask(&app.owner(), "/api/secrets?limit=3&", &cursor).await.expect(200);
}
