//! The document that describes the interface, and the page that shows it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::TestApp;

use super::support::{keep, problem};

async fn document(app: &TestApp) -> Value {
    app.anon().get("/openapi.json").await.expect(200).json
}

/// Method, path and what is said of it.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut all = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.clone(), path.clone(), operation));
        }
    }
    assert!(all.len() > 20);
    all
}

#[tokio::test]
async fn every_operation_says_what_it_does_and_how_it_answers() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = format!("{method} {path}");
        let text = |field: &str| operation[field].as_str().is_some_and(|text| !text.trim().is_empty());
        assert!(text("summary") || text("description"), "{name} is not described");
        assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{name} has no tag");
        assert!(ids.insert(operation["operationId"].to_string()), "{name}: its id is another's too");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name} never ends well");
        assert!(responses.values().all(|answer| answer["description"].as_str() != Some("")), "{name}");
        let declared = operation["parameters"].as_array().into_iter().flatten();
        let declared: Vec<_> = declared
            .filter(|p| p["in"] == "path")
            .map(|p| format!("{{{}}}", p["name"].as_str().unwrap()))
            .collect();
        assert_eq!(path.matches('{').count(), declared.len(), "{name}: {declared:?}");
        assert!(declared.iter().all(|parameter| path.contains(parameter)), "{name}: {declared:?}");
    }
}

#[tokio::test]
async fn errors_are_documented_as_the_problems_they_are() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let public = operation["security"].as_array().is_some();
        let mut needed = vec![];
        if !public {
            needed.extend(["401", "429", "503"]);
        }
        if !public && !path.starts_with("/api/auth/") {
            needed.push("403");
        }
        if path.contains("{id}") {
            needed.push("404");
        }
        if operation["requestBody"].is_object() {
            needed.extend(["400", "413", "415", "422"]);
        }
        for status in needed {
            assert!(responses.contains_key(status), "{method} {path} does not tell of {status}");
        }
        for (status, answer) in responses {
            if status.as_str() < "400" || path == "/api/health" {
                continue;
            }
            let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}: {answer}");
        }
    }
}

/// A schema with its references followed.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(target) => resolved(document, document.pointer(target.trim_start_matches('#')).unwrap()),
        None => schema,
    }
}

/// The example of a body: its own, its schema's, or, of a page, the items'.
fn example<'a>(document: &'a Value, content: &'a Value) -> Option<&'a Value> {
    let schema = resolved(document, &content["schema"]);
    let own = [&content["example"], &schema["example"], &schema["examples"][0]];
    let found = own.into_iter().find(|example| !example.is_null());
    found.or_else(|| {
        let items = resolved(document, &schema["properties"]["items"]["items"]);
        [&items["example"], &items["examples"][0]].into_iter().find(|example| !example.is_null())
    })
}

/// The names and types that a schema knows, of its own or put together with others.
fn properties(document: &Value, schema: &Value) -> serde_json::Map<String, Value> {
    let schema = resolved(document, schema);
    let mut known = schema["properties"].as_object().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        known.extend(properties(document, part));
    }
    known
}

#[tokio::test]
async fn every_operation_on_people_teams_and_secrets_shows_examples_of_what_goes_in_and_out() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let mut missing = vec![];
    let mut shown = 0;
    for (method, path, operation) in operations(&document) {
        if !["auth", "users", "teams", "secrets"].iter().any(|tag| operation["tags"][0] == *tag) {
            continue;
        }
        let answers = operation["responses"].as_object().unwrap().iter();
        let answers =
            answers.filter(|(status, _)| status.starts_with('2')).map(|(_, answer)| &answer["content"]);
        for content in answers.chain([&operation["requestBody"]["content"]]) {
            let content = &content["application/json"];
            if content.is_null() {
                continue;
            }
            let Some(example) = example(&document, content) else {
                missing.push(format!("{method} {path}: {content}"));
                continue;
            };
            shown += 1;
            let schema = resolved(&document, &content["schema"]);
            let items = &schema["properties"]["items"]["items"];
            let known = properties(&document, if items.is_null() { schema } else { items });
            for (field, value) in example.as_object().unwrap() {
                let kind = known.get(field).unwrap_or_else(|| panic!("{method} {path}: there is no {field}"));
                assert!(fits(&document, kind, value), "{method} {path}: {field} is {value}, not {kind}");
            }
        }
    }
    assert!(missing.is_empty(), "without an example: {missing:#?}");
    assert!(shown > 45, "{shown}");
}

/// Whether a value has the type that a schema asks for, as far as that is one of JSON's own.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    let schema = resolved(document, schema);
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    kinds.iter().any(|kind| match *kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    found.insert(target.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 5);
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
}

#[tokio::test]
async fn answers_have_the_fields_that_are_documented() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let secret = keep(&app.operator(), "documented").await.json;
    let me = app.operator().get("/api/auth/me").await.expect(200).json;
    let events = app.auditor().get("/api/audit/events").await.expect(200).json["items"][0].clone();
    let owner = app.owner();
    let first = async |path: &str| owner.get(path).await.expect(200).json["items"][0].clone();
    let team = owner.get("/api/team").await.expect(200).json;
    let member = team["members"][0].clone();
    let invitation = json!({"email": "grace@example.org", "role": "viewer"});
    let invitation = owner.post("/api/team/invitations", invitation).await.expect(201).json;
    let key = json!({"name": "deploy", "scopes": ["team:read"]});
    let made = owner.post("/api/auth/api-keys", key).await.expect(201).json;
    let key = first("/api/auth/api-keys").await;
    let of_secret = format!("/api/secrets/{}", secret["id"].as_str().unwrap());
    let version = first(&format!("{of_secret}/versions")).await;
    let grant = json!({"user_id": app.people.viewer, "minutes": 5, "reason": "incident 7"});
    let grant = owner.post(&format!("{of_secret}/grants"), grant).await.expect(201).json;
    owner.get(&format!("{of_secret}/value")).await.expect(200);
    let access = first(&format!("{of_secret}/access")).await;
    let (session, summary) = (first("/api/auth/sessions").await, first("/api/teams").await);
    for (schema, answer) in [
        ("SecretBody", secret),
        ("UserBody", me),
        ("EventBody", events),
        ("TeamBody", team),
        ("MemberBody", member),
        ("InvitationBody", invitation),
        ("MadeKeyBody", made),
        ("ApiKeyBody", key),
        ("SessionBody", session),
        ("TeamSummary", summary),
        ("VersionBody", version),
        ("GrantBody", grant),
        ("AccessBody", access),
    ] {
        let documented = properties(&document, &document["components"]["schemas"][schema]);
        let documented: BTreeSet<_> = documented.keys().collect();
        assert_eq!(answer.as_object().unwrap().keys().collect::<BTreeSet<_>>(), documented, "{schema}");
    }
}

/// What `src` and `href` in the page point to.
fn links(html: &str) -> Vec<String> {
    let mut found = vec![];
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in html.match_indices(attribute) {
            let rest = &html[at + attribute.len()..];
            found.push(rest[..rest.find('"').unwrap()].to_owned());
        }
    }
    found
}

#[tokio::test]
async fn the_docs_page_loads_everything_from_here() {
    let app = TestApp::start().await;
    let page = app.anon().get("/docs").await.expect(200);
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe-eval"), "{policy}");
    assert!(!policy.contains("script-src"), "scripts fall back to default-src: {policy}");
    // 'self' forbids scripts within the page.
    for (at, _) in page.text.match_indices("<script") {
        let tag = &page.text[at..];
        assert!(tag[..tag.find('>').unwrap()].contains("src="), "a script within the page would not run");
    }
    let links = links(&page.text);
    assert!(
        links.iter().any(|link| link.ends_with(".js")) && links.iter().any(|link| link.ends_with(".css"))
    );
    for link in links {
        assert!(!link.contains("//"), "{link} is elsewhere");
        let path = link.trim_start_matches("./").trim_start_matches('/');
        let path = if link.starts_with('/') { link.clone() } else { format!("/docs/{path}") };
        let file = app.anon().get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        let kind = file.header("content-type");
        let expected = [(".js", "javascript"), (".css", "text/css"), (".png", "image/png")];
        for (ending, expected) in expected {
            assert!(!path.ends_with(ending) || kind.contains(expected), "{path}: {kind}");
        }
        if path.ends_with(".css") {
            assert!(!file.text.contains("url(http") && !file.text.contains("@import"), "{path}");
        }
    }
}

#[tokio::test]
async fn the_docs_page_shows_our_document_and_asks_nobody_else_about_it() {
    let app = TestApp::start().await;
    let initializer = app.anon().get("/docs/swagger-initializer.js").await.expect(200).text;
    assert!(initializer.contains("/openapi.json"), "{initializer}");
    assert!(!initializer.contains("http://") && !initializer.contains("https://"), "{initializer}");
    // Unless told otherwise the page has its document checked by a server of its makers.
    assert!(initializer.contains("\"validatorUrl\": \"none\""), "{initializer}");
}

#[tokio::test]
async fn the_versioned_path_is_the_same_interface() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let owner = app.owner();
    let secret = keep(&owner, "shared").await;
    for (method, path, _) in operations(&document) {
        let Some(rest) = path.strip_prefix("/api/") else { continue };
        if method != "get" || rest.contains("jobs/{") || rest.starts_with("schedules/{") {
            continue;
        }
        let rest = rest.replace("{aggregate_type}", "secret").replace("{id}", secret.str("id"));
        let plain = owner.get(&format!("/api/{rest}")).await;
        let versioned = owner.get(&format!("/api/v1/{rest}")).await;
        assert_eq!(plain.status, versioned.status, "{rest}: {}", versioned.text);
        assert!(plain.status == 200 || plain.status == 403, "{rest}: {}", plain.text);
        // The audit trail and the views move on by being looked at.
        let trail = rest.starts_with("audit") || rest == "reports/activity";
        if !trail && rest != "health" && rest != "projections" && plain.status == 200 {
            assert_eq!(plain.json, versioned.json, "{rest}");
        }
    }
    keep(&owner, "written").await;
    let versioned = owner.post("/api/v1/secrets", json!({"name": "written", "value": "v"})).await;
    problem(&versioned, 409, "name_taken");
    problem(&owner.get("/api/v1/nothing").await, 404, "not_found");
    problem(&owner.delete("/api/v1/secrets").await, 405, "method_not_allowed");
}
