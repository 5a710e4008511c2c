//! Rights to secrets, each for itself: list, describe, reveal, use, write.

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, Setup, TestApp};

use super::api_keys::program;
use super::secret_lists::names;
use super::secret_support::{items, path};
use super::support::{audited, keep, problem, said};

#[tokio::test]
async fn who_may_only_list_sees_names_and_nothing_that_tells_more() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let body = json!({"name": "a/db", "value": "v", "description": "hidden", "tags": ["prod"]});
    let kept = owner.post("/api/secrets", body).await.expect(201);
    let secret = path(&kept);
    keep(&owner, "b").await;
    let lister = program(&app, &owner, &["secrets:list"]).await;
    let listed = items(&lister, "/api/secrets?limit=1").await;
    assert_eq!(listed, [json!({"id": kept.str("id"), "name": "a/db"})]);
    for fields in ["id", "name", "id,description", "tags", "version"] {
        let items = items(&lister, &format!("/api/secrets?prefix=a/&fields={fields}")).await;
        let shown: Vec<&String> = items[0].as_object().unwrap().keys().collect();
        assert!(shown.iter().all(|field| ["id", "name"].contains(&field.as_str())), "{fields}: {shown:?}");
    }
    assert_eq!(names(&lister, "prefix=a/").await, ["a/db"]);
    let page = lister.get("/api/secrets?limit=1").await.expect(200);
    let next = lister.get(&format!("/api/secrets?limit=1&cursor={}", page.str("next"))).await.expect(200);
    assert_eq!(next.json["items"][0]["name"], "b");
    // A filter tells what it is asked for.
    for filter in ["q=hidden", "q=a", "tag=prod", "deleted=true", "expiring_within=30d", "unused_for=0"] {
        problem(&lister.get(&format!("/api/secrets?{filter}")).await, 403, "forbidden");
        problem(&lister.get(&format!("/api/secrets?prefix=a/&{filter}")).await, 403, "forbidden");
    }
    for url in
        [secret.clone(), format!("{secret}/versions"), format!("{secret}/access"), format!("{secret}/grants")]
    {
        problem(&lister.get(&url).await, 403, "forbidden");
    }
    problem(&lister.get(&format!("{secret}/value")).await, 403, "forbidden");
    let refusals = audited(&app, &owner, "type=AccessRefused").await;
    assert_eq!(refusals.len(), 12 + 4 + 1);
    let reading = refusals.iter().filter(|event| said(event, "permission") == "secrets:read");
    assert_eq!(reading.count(), 16);
}

#[tokio::test]
async fn each_scope_opens_its_doors_and_no_other() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    let (value, versions) = (format!("{secret}/value"), format!("{secret}/versions"));
    let (access, audit) = (format!("{secret}/access"), "/api/audit/secret-access".to_owned());
    let doors: [(&str, Method, &str, Value, &[&str]); 11] = [
        ("list", Method::GET, "/api/secrets", Value::Null, &["secrets:list", "secrets:read"]),
        ("filter", Method::GET, "/api/secrets?q=d", Value::Null, &["secrets:read"]),
        ("show", Method::GET, &secret, Value::Null, &["secrets:read"]),
        ("versions", Method::GET, &versions, Value::Null, &["secrets:read"]),
        ("access", Method::GET, &access, Value::Null, &["secrets:read", "audit:read"]),
        ("readings", Method::GET, &audit, Value::Null, &["audit:read"]),
        ("reveal", Method::GET, &value, Value::Null, &["secrets:reveal"]),
        ("write", Method::PUT, &value, json!({"value": "v"}), &["secrets:write"]),
        ("amend", Method::PATCH, &secret, json!({"description": "d"}), &["secrets:write"]),
        ("restore", Method::POST, &format!("{secret}/restore"), json!({}), &["secrets:write"]),
        ("destroy", Method::POST, &format!("{secret}/destroy"), json!({"versions": [1]}), &["secrets:write"]),
    ];
    let scopes = [
        "secrets:list",
        "secrets:read",
        "secrets:reveal",
        "audit:read",
        "jobs:run",
        "team:write",
        "secrets:write",
    ];
    for scope in scopes {
        let program = program(&app, &owner, &[scope]).await;
        for (door, method, path, body, opened_by) in &doors {
            let request = program.request(method.clone(), path);
            let reply = program.send(if body.is_null() { request } else { request.json(body) }).await;
            if opened_by.contains(&scope) {
                assert_eq!(reply.status, 200, "{scope}: {door}: {}", reply.text);
            } else {
                problem(&reply, 403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_job_may_use_what_its_runner_may_not_see() {
    let kinds = "[jobs.login]\ncommand = ['sh', '-c', 'test \"$KEY\" = \"value of db\"']\nsecrets = { KEY = 'db' }\nmax_attempts = 1";
    let app = TestApp::with(Setup::default().kinds(kinds)).await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    owner.patch("/api/team", json!({"reveal_reason_required": true})).await.expect(200);
    let runner = program(&app, &owner, &["jobs:run", "jobs:read"]).await;
    for url in [secret.clone(), format!("{secret}/value"), "/api/secrets".to_owned()] {
        problem(&runner.get(&url).await, 403, "forbidden");
    }
    let job = run(&runner, json!({"kind": "login"})).await;
    assert_eq!(job["status"], "completed", "{job}");
    let read = items(&owner, &format!("{secret}/access")).await;
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(read[0]["job_id"], job["id"]);
}

async fn run(client: &Client, body: Value) -> Value {
    let job = client.post("/api/jobs", body).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    tests::eventually("the job's end", async || {
        let job = client.get(&path).await.expect(200).json;
        ["completed", "failed"].contains(&job["status"].as_str().unwrap()).then_some(job)
    })
    .await
}
