//! Who may do what: every operation of the OpenAPI document, asked by everybody.

mod asking;
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use api::server::Roles;
use serde_json::json;
use tests::{Setup, TestApp};

use self::asking::Call;
use self::table::{EVERYBODY, Is, OPERATIONS};
use super::support::{audited, keep, problem, said};

async fn app() -> TestApp {
    let setup = Setup::default()
        .with("REGISTRATION", "open")
        .kinds("[jobs.wait]\ndescription = \"Waits\"\ncommand = [\"true\"]\n")
        .roles(Roles { worker: false, ..Roles::ALL });
    TestApp::with(setup).await
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
    let document = &app.anon().get("/openapi.json").await.expect(200).json;
    for (number, (method, path, public, _)) in OPERATIONS.iter().enumerate() {
        let reply = Call { app: &app, document, method, path, who: "owner", number }.ask_anonymously().await;
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
    let document = &app.anon().get("/openapi.json").await.expect(200).json;
    let mut refusals = BTreeSet::new();
    for (line, (method, path, _, expected)) in OPERATIONS.iter().enumerate() {
        for (column, (who, expected)) in EVERYBODY.iter().zip(expected).enumerate() {
            let number = line * EVERYBODY.len() + column;
            let request_id = format!("permission-{number}");
            let reply = Call { app: &app, document, method, path, who, number }.ask(&request_id).await;
            let case = format!("{who} {method} {path}: {} {}", reply.status, reply.text);
            match expected {
                Is::Ok => assert!(reply.status < 300, "{case}"),
                Is::Hidden => assert_eq!(reply.status, 404, "{case}"),
                Is::Forbidden => {
                    problem(&reply, 403, "forbidden");
                    refusals.insert((request_id, format!("{method} {path}")));
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
                Is::Ok => "yes",
                Is::Forbidden => "403",
                Is::Hidden => "404",
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
