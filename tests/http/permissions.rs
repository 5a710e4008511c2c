//! Who may do what: every operation of the OpenAPI document, asked by everybody.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use api::server::Roles;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp};

use super::support::{audited, keep, problem, said};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// 2xx.
    Ok,
    /// 403.
    Forbidden,
    /// 404: it belongs to another team.
    Hidden,
}

use Is::{Forbidden as No, Hidden, Ok as Yes};

/// Who asks. The admin and the last one speak for teams of their own, and ask for what belongs to the team of the others.
const EVERYBODY: [&str; 6] = ["owner", "operator", "viewer", "auditor", "admin", "other_team"];

/// Anybody may ask, signed in or not.
const PUBLIC: [Is; 6] = [Yes; 6];
/// Whoever is signed in.
const SIGNED_IN: [Is; 6] = [Yes; 6];
const READ_LIST: [Is; 6] = [Yes, Yes, Yes, No, Yes, Yes];
const READ_ONE: [Is; 6] = [Yes, Yes, Yes, No, Hidden, Hidden];
const MAKE: [Is; 6] = [Yes, Yes, No, No, Yes, Yes];
const CHANGE_ONE: [Is; 6] = [Yes, Yes, No, No, Hidden, Hidden];
const AUDIT_LIST: [Is; 6] = [Yes, No, No, Yes, Yes, Yes];
const AUDIT_ONE: [Is; 6] = [Yes, No, No, Yes, Yes, Hidden];
const ADMIN: [Is; 6] = [No, No, No, No, Yes, No];

/// Every operation: method, path, whether it is public, and what becomes of it for each of [`EVERYBODY`].
const OPERATIONS: &[(&str, &str, bool, [Is; 6])] = &[
    ("POST", "/api/auth/register", true, PUBLIC),
    ("POST", "/api/auth/login", true, PUBLIC),
    ("GET", "/api/auth/me", false, SIGNED_IN),
    ("PATCH", "/api/auth/me", false, SIGNED_IN),
    ("POST", "/api/secrets", false, MAKE),
    ("GET", "/api/secrets", false, READ_LIST),
    ("GET", "/api/secrets/{id}", false, READ_ONE),
    ("DELETE", "/api/secrets/{id}", false, CHANGE_ONE),
    ("GET", "/api/secrets/{id}/value", false, CHANGE_ONE),
    ("PUT", "/api/secrets/{id}/value", false, CHANGE_ONE),
    ("GET", "/api/jobs/kinds", false, READ_LIST),
    ("POST", "/api/jobs", false, MAKE),
    ("GET", "/api/jobs", false, READ_LIST),
    ("GET", "/api/jobs/{id}", false, READ_ONE),
    ("POST", "/api/jobs/{id}/cancel", false, CHANGE_ONE),
    ("GET", "/api/jobs/{id}/logs", false, READ_ONE),
    ("GET", "/api/audit/events", false, AUDIT_LIST),
    ("GET", "/api/audit/{aggregate_type}/{id}/history", false, AUDIT_ONE),
    ("GET", "/api/audit/{aggregate_type}/{id}/state", false, AUDIT_ONE),
    ("GET", "/api/projections", false, ADMIN),
    ("POST", "/api/projections/{name}/rebuild", false, ADMIN),
    ("GET", "/api/health", true, PUBLIC),
    ("GET", "/livez", true, PUBLIC),
    ("GET", "/readyz", true, PUBLIC),
    ("GET", "/metrics", true, PUBLIC),
];

async fn app() -> TestApp {
    let setup = Setup::default()
        .with("REGISTRATION", "open")
        .kinds("[jobs.wait]\ndescription = \"Waits\"\ncommand = [\"true\"]\n")
        .roles(Roles { worker: false, ..Roles::ALL });
    TestApp::with(setup).await
}

fn clients(app: &TestApp) -> [Client; 6] {
    [app.owner(), app.operator(), app.viewer(), app.auditor(), app.admin(), app.other_team()]
}

/// The operation on things that exist and belong to the team of the owner, made for this one call.
async fn ask(app: &TestApp, client: &Client, method: &str, path: &str, number: usize) -> Reply {
    let owner = app.owner();
    let mut url = path.to_owned();
    if path.starts_with("/api/secrets/") || path.starts_with("/api/audit/{") {
        let secret = keep(&owner, &format!("for-{number}")).await;
        url = url.replace("{aggregate_type}", "secret").replace("{id}", secret.str("id"));
    } else if path.starts_with("/api/jobs/{") {
        let job = owner.post("/api/jobs", json!({"kind": "wait"})).await.expect(201);
        url = url.replace("{id}", job.str("id"));
    }
    let url = url.replace("{name}", "last_access");
    let request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), &url);
    let body = body(method, path, number);
    client.send(if body.is_null() { request } else { request.json(&body) }).await
}

fn body(method: &str, path: &str, number: usize) -> Value {
    match (method, path) {
        ("POST", "/api/auth/register") => {
            json!({"email": format!("new{number}@example.org"), "password": tests::PASSWORD, "name": "New"})
        }
        ("POST", "/api/auth/login") => json!({"email": "owner@example.org", "password": tests::PASSWORD}),
        ("PATCH", "/api/auth/me") => json!({"name": "Somebody"}),
        ("POST", "/api/secrets") => json!({"name": format!("made-{number}"), "value": "v"}),
        ("PUT", "/api/secrets/{id}/value") => json!({"value": "v2"}),
        ("POST", "/api/jobs") => json!({"kind": "wait"}),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn every_operation_of_the_document_has_its_line_in_the_table() {
    let app = app().await;
    let document = app.anon().get("/openapi.json").await.expect(200).json;
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let public = operation["security"] == json!([{}]) || operation["security"] == json!([]);
            documented.insert((method.to_uppercase(), path.clone(), public));
        }
    }
    let table: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|(method, path, public, _)| ((*method).to_owned(), (*path).to_owned(), *public))
        .collect();
    let forgotten: Vec<_> = documented.difference(&table).collect();
    let gone: Vec<_> = table.difference(&documented).collect();
    assert!(forgotten.is_empty() && gone.is_empty(), "without a test: {forgotten:?}; not there: {gone:?}");
}

#[tokio::test]
async fn nobody_gets_in_without_saying_who_they_are() {
    let app = app().await;
    for (number, (method, path, public, _)) in OPERATIONS.iter().enumerate() {
        let reply = ask(&app, &app.anon(), method, path, number).await;
        if *public {
            assert!(reply.status < 300, "{method} {path}: {}", reply.text);
        } else {
            problem(&reply, 401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), "Bearer", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_refusals_are_recorded() {
    let app = app().await;
    let clients = clients(&app);
    let mut refusals = BTreeSet::new();
    for (line, (method, path, _, expected)) in OPERATIONS.iter().enumerate() {
        for (who, (client, expected)) in clients.iter().zip(expected).enumerate() {
            let number = line * EVERYBODY.len() + who;
            let client = client.with_header("x-request-id", format!("permission-{number}"));
            let reply = ask(&app, &client, method, path, number).await;
            let case = format!("{} {method} {path}: {} {}", EVERYBODY[who], reply.status, reply.text);
            match expected {
                Yes => assert!(reply.status < 300, "{case}"),
                Hidden => assert_eq!(reply.status, 404, "{case}"),
                No => {
                    problem(&reply, 403, "forbidden");
                    refusals.insert((format!("permission-{number}"), format!("{method} {path}")));
                }
            }
        }
    }
    let recorded: BTreeSet<_> = audited(&app, &app.admin(), "type=AccessRefused")
        .await
        .iter()
        .map(|event| {
            (event["request_id"].as_str().unwrap().into(), said(event, "resource").as_str().unwrap().into())
        })
        .collect();
    assert_eq!(recorded, refusals);
}

#[tokio::test]
async fn being_admin_opens_no_other_teams_door() {
    let app = app().await;
    let secret = keep(&app.owner(), "closed").await;
    let admin = app.admin().with_header("daybook-team", app.people.team);
    let reply = admin.get(&format!("/api/secrets/{}/value", secret.str("id"))).await;
    problem(&reply, 404, "team_not_found");
}

#[test]
fn the_matrix_is_as_written_down() {
    let mut text = domain::permission_matrix();
    write!(text, "\n{:<50}{:<9}", "operation", "anon").unwrap();
    for name in EVERYBODY {
        write!(text, "{name:<11}").unwrap();
    }
    for (method, path, public, expected) in OPERATIONS {
        text.truncate(text.trim_end().len());
        let operation = format!("{method} {path}");
        write!(text, "\n{operation:<50}{:<9}", if *public { "yes" } else { "401" }).unwrap();
        for is in expected {
            let word = match is {
                Yes => "yes",
                No => "403",
                Hidden => "404",
            };
            write!(text, "{word:<11}").unwrap();
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/permission_matrix.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, golden, "if this is meant: UPDATE_GOLDEN=1 cargo test -p tests the_matrix");
}
