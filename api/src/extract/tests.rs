#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    inner: Option<Inner>,
    mode: Option<Mode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    size: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    Slow,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    limit: Option<u32>,
    team: Option<Uuid>,
}

fn router() -> Router {
    let show = |Json(thing): Json<Thing>| async move {
        let size = thing.inner.map(|inner| inner.size);
        format!("{} {} {size:?} {:?}", thing.name, thing.tags.len(), thing.mode)
    };
    let list = |Query(list): Query<List>| async move { format!("{:?} {:?}", list.limit, list.team) };
    Router::new()
        .route("/things", post(show).get(list))
        .route("/things/{id}", get(|Path(id): Path<Uuid>| async move { id.to_string() }))
        .route("/things/{id}/{other}", get(|Path(id): Path<Uuid>| async move { id.to_string() }))
}

async fn send(request: Request) -> (StatusCode, Value) {
    let response = router().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 2 * MAX_BODY_BYTES).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn create(content_type: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post("/things").header("content-type", content_type).body(body.into());
    send(request.unwrap()).await
}

async fn fetch(uri: &str) -> (StatusCode, Value) {
    send(Request::get(uri).body(Body::empty()).unwrap()).await
}

/// The one field error of a 422.
async fn refused(answer: (StatusCode, Value)) -> (String, String) {
    let (status, body) = answer;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("unprocessable")),
        "{body}"
    );
    let [error] = &body["errors"].as_array().unwrap()[..] else { panic!("{body}") };
    (error["field"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
}

async fn refused_json(body: &str) -> (String, String) {
    refused(create("application/json", body.to_owned()).await).await
}

fn pair(field: &str, message: &str) -> (String, String) {
    (field.to_owned(), message.to_owned())
}

#[tokio::test]
async fn good_input_arrives() {
    let body = r#"{"name": "a", "tags": ["x"], "inner": {"size": 3}, "mode": "fast"}"#;
    for content_type in
        ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
    {
        let (status, text) = create(content_type, body).await;
        assert_eq!((status, text), (StatusCode::OK, json!("a 1 Some(3) Some(Fast)")), "{content_type}");
    }
    let id = Uuid::from_u128(7);
    assert_eq!(fetch(&format!("/things/{id}")).await, (StatusCode::OK, json!(id.to_string())));
    let (_, text) = fetch(&format!("/things?limit=3&team={id}")).await;
    assert_eq!(text, format!("Some(3) Some({id})"));
}

#[tokio::test]
async fn another_content_type_is_415() {
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "", "json", "text/x+json"] {
        let (status, body) = create(content_type, "{}").await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!("unsupported_media_type"))
        );
    }
    let (status, _) = send(Request::post("/things").body(Body::from("{}")).unwrap()).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn what_is_not_json_is_400_and_not_repeated() {
    let deep = "[".repeat(100_000);
    let not_utf8 = b"{\"name\": \"\xff\"}".to_vec();
    let bodies: [Vec<u8>; 6] = [
        b"".to_vec(),
        b"{hunter2".to_vec(),
        b"{\"name\": \"hunter2".to_vec(),
        b"{\"name\": \"a\"} hunter2".to_vec(),
        not_utf8,
        format!(r#"{{"name": {deep}"#).into_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
        let (status, problem) = create("application/json", body).await;
        // The type refuses a list where a text belongs before the depth shows; both are the caller's mistake.
        assert!(matches!(status.as_u16(), 400 | 422), "{shown} {problem}");
        assert_eq!(status.as_u16() == 422, shown.contains("[["), "{shown} {problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let fits = format!(r#"{{"name": "{}"}}"#, "a".repeat(MAX_BODY_BYTES - 12));
    assert_eq!(fits.len(), MAX_BODY_BYTES);
    assert_eq!(create("application/json", fits.clone()).await.0, StatusCode::OK);
    let over = format!("{fits} ");
    assert_eq!(create("application/json", over.clone()).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // The same without an announced length, and with a false one.
    let chunks = futures::stream::iter(
        over.into_bytes().chunks(4096).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let (status, body) = create("application/json", Body::from_stream(chunks)).await;
    assert_eq!((status, &body["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("payload_too_large")));
    let announced = Request::post("/things")
        .header("content-type", "application/json")
        .header("content-length", "99999999");
    assert_eq!(send(announced.body(Body::from("{}")).unwrap()).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let broken = futures::stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("reset"))]);
    assert_eq!(create("application/json", Body::from_stream(broken)).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn wrong_input_is_422_and_names_the_field() {
    assert_eq!(refused_json("{}").await, pair("name", "is missing"));
    assert_eq!(refused_json(r#"{"name": "a", "inner": {}}"#).await, pair("inner.size", "is missing"));
    assert_eq!(refused_json(r#"{"name": "a", "nmae": 1}"#).await, pair("nmae", "is not a known field"));
    let unknown = refused_json(r#"{"name": "a", "inner": {"size": 1, "depth": 2}}"#).await;
    assert_eq!(unknown, pair("inner.depth", "is not a known field"));
    assert_eq!(refused_json(r#"{"name": "a", "name": "b"}"#).await, pair("name", "is given more than once"));
    assert_eq!(refused_json(r#"{"name": 1}"#).await, pair("name", "expected a string"));
    assert_eq!(
        refused_json(r#"{"name": "a", "tags": ["x", 2]}"#).await,
        pair("tags[1]", "expected a string")
    );
    let mode = refused_json(r#"{"name": "a", "mode": "medium"}"#).await;
    assert_eq!(mode, pair("mode", "expected `fast` or `slow`"));
    let (field, message) = refused_json("[1]").await;
    assert!(field.is_empty() || field == "[0]" || field == "name", "{field}: {message}");
}

#[tokio::test]
async fn a_wrong_value_is_not_repeated() {
    let (field, message) = refused_json(r#"{"name": "a", "inner": {"size": "hunter2"}}"#).await;
    assert_eq!((field.as_str(), message.as_str()), ("inner.size", "expected u32"));
    let (_, message) = refused_json(r#"{"name": "a", "mode": "hunter2"}"#).await;
    assert!(!message.contains("hunter2"), "{message}");
    // Nor one that looks like the end of the message that it stands in.
    for value in ["expected hunter2", ", expected hunter2", r#"x\", expected hunter2"#, "`, expected hunter2"]
    {
        let (_, message) = refused_json(&format!(r#"{{"name": "a", "inner": {{"size": "{value}"}}}}"#)).await;
        assert_eq!(message, "expected u32", "{value}");
        let (_, message) = refused_json(&format!(r#"{{"name": "a", "mode": "{value}"}}"#)).await;
        assert_eq!(message, "expected `fast` or `slow`", "{value}");
        let (_, message) = refused_json(&format!(r#"{{"name": "a", "tags": "{value}"}}"#)).await;
        assert_eq!(message, "expected a sequence", "{value}");
    }
}

#[tokio::test]
async fn a_name_without_end_is_repeated_in_part() {
    let (field, message) = refused_json(&format!(r#"{{"name": "a", "{}": 1}}"#, "ä".repeat(5000))).await;
    assert_eq!((field, message.as_str()), (format!("{}…", "ä".repeat(100)), "is not a known field"));
}

#[tokio::test]
async fn a_wrong_query_is_422_and_names_the_parameter() {
    let (field, message) = refused(fetch("/things?limit=hunter2").await).await;
    assert_eq!(field, "limit");
    assert!(!message.contains("hunter2"), "{message}");
    assert_eq!(refused(fetch("/things?team=x").await).await.0, "team");
    assert_eq!(refused(fetch("/things?lmit=1").await).await, pair("lmit", "is not a known field"));
    assert_eq!(
        refused(fetch("/things?limit=1&limit=2").await).await,
        pair("limit", "is given more than once")
    );
}

#[tokio::test]
async fn an_id_that_is_none_is_404_like_any_unknown_thing() {
    for path in ["/things/1", "/things/%ff", "/things/..", "/things/0000000g-0000-0000-0000-000000000007"] {
        let (status, body) = fetch(path).await;
        assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{path}");
    }
}

#[tokio::test]
async fn a_handler_that_asks_for_other_parameters_is_our_mistake() {
    assert_eq!(fetch("/things/a/b").await.0, StatusCode::INTERNAL_SERVER_ERROR);
}
