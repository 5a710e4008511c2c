//! Errors as HTTP answers: RFC 9457 problem documents. Nothing else answers with a status of 400 or more.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::ToSchema;

use crate::middleware::request_id::RequestContext;
use crate::panics;

/// A field of the input and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Path of the field, such as `args.day` or `tags[2]`; empty for the input as a whole.
    pub field: String,
    /// What is wrong, for people. Never repeats the value.
    pub message: String,
}

impl FieldError {
    /// A field's error.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// The document a client gets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "/problems/not_found", "title": "Not found", "status": 404, "detail": "There is nothing here.",
    "code": "not_found", "request_id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11"
}))]
pub struct ProblemBody {
    /// `/problems/` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short, the same for every problem of a status.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Stable name to program against.
    pub code: &'static str,
    /// The request, as in the log and in the header `X-Request-Id`.
    pub request_id: Option<String>,
    /// What is wrong with the input, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Text that becomes a problem's detail.
type Detail = Cow<'static, str>;

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Detail>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 401: no credential, or a bad one. Says `WWW-Authenticate: Bearer`.
    pub fn unauthorized(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403: the thing is known to the caller, the permission is missing.
    pub fn forbidden(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: there is no such thing, or it belongs to another team.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here, or nothing you may know of.")
    }

    /// 405: the path exists, not with this method.
    pub fn method_not_allowed() -> Self {
        let detail = "This path has other methods; the header Allow lists them.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// 408: the request took too long to arrive.
    pub fn request_timeout() -> Self {
        let detail = "The request did not arrive in time.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
    }

    /// 409: it does not fit the present state.
    pub fn conflict(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 410: it was there, and is gone for ever.
    pub fn gone(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::GONE, "gone", detail)
    }

    /// 412: `If-Match` names another version than the current one.
    pub fn precondition_failed(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
    }

    /// 413: the body is over `limit` bytes.
    pub fn payload_too_large(limit: usize) -> Self {
        let detail = format!("The body may have {limit} bytes at most.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// 415: the body is not JSON by its own account.
    pub fn unsupported_media_type() -> Self {
        let detail = "Send the body as Content-Type: application/json.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// 422: the input was understood and is wrong.
    pub fn unprocessable(errors: Vec<FieldError>) -> Self {
        let detail = "The input is not valid; see errors.";
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", detail);
        Self { errors, ..problem }
    }

    /// 422 about one field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::unprocessable(vec![FieldError::new(field, message)])
    }

    /// 429: come back after this long.
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests; see Retry-After.")
            .with_retry_after(retry_after)
    }

    /// 500: our fault. The cause goes to the log, the client learns nothing of it.
    pub fn internal<'a>(cause: impl Into<Box<dyn Error + Send + Sync + 'a>>) -> Self {
        tracing::error!(cause = chain(cause.into().as_ref()), "internal error");
        Self::broken()
    }

    /// 503: something we need cannot be reached. The cause goes to the log.
    pub fn unavailable<'a>(
        cause: impl Into<Box<dyn Error + Send + Sync + 'a>>,
        retry_after: Duration,
    ) -> Self {
        tracing::error!(cause = chain(cause.into().as_ref()), "unavailable");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available for the moment; try again.")
            .with_retry_after(retry_after)
    }

    /// 426: this is spoken to over WebSocket.
    pub fn upgrade_required() -> Self {
        let detail = "This is for WebSocket (RFC 6455, version 13): Connection: Upgrade, Upgrade: websocket.";
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail)
            .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
            .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
    }

    /// 503 as an expected answer: a probe that finds the node not ready, asked every few seconds.
    pub fn quietly_unavailable(detail: impl Into<Detail>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).with_retry_after(retry_after)
    }

    /// 504: it was not done in time.
    pub fn gateway_timeout(detail: impl Into<Detail>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", detail)
    }

    /// A more telling code than the status's own, such as `email_taken`.
    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    /// Other words for what happened.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<Detail>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// One more header on the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable name.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong with the input, field by field.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    fn broken() -> Self {
        let detail = "Something went wrong on our side; the log has it under this request id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Whole seconds, rounded up: a client that obeys is not refused again.
    /// When to come back.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).clamp(1, 86_400) as u32;
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("/problems/{}", self.code),
            title: title(self.status),
            status: self.status.as_u16(),
            detail: self.detail.to_string(),
            code: self.code,
            request_id: RequestContext::current().map(|context| context.request_id.to_string()),
            errors: self.errors.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// Answers paths that do not exist; for `Router::fallback`.
pub async fn no_such_path() -> Problem {
    Problem::not_found()
}

/// Answers methods a path does not have; for `Router::method_not_allowed_fallback`. axum adds `Allow`.
pub async fn no_such_method() -> Problem {
    Problem::method_not_allowed()
}

/// Makes a panic a generic 500. To be layered inside the request id middleware, so that both name the request.
pub fn catch_panic() -> CatchPanicLayer<fn(Box<dyn Any + Send + 'static>) -> Response> {
    CatchPanicLayer::custom(after_panic as fn(Box<dyn Any + Send + 'static>) -> Response)
}

fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!(cause = panics::message(panic.as_ref()), "a handler panicked");
    Problem::broken().into_response()
}

/// An error and its sources in one line.
fn chain(error: &(dyn Error + '_)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their source's text in their own.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "Bad request",
        401 => "Not signed in",
        403 => "Not permitted",
        404 => "Not found",
        405 => "Method not allowed",
        408 => "Request too slow",
        409 => "Conflict",
        412 => "Changed meanwhile",
        413 => "Body too large",
        415 => "Unsupported media type",
        422 => "Invalid input",
        426 => "Not over WebSocket",
        429 => "Too many requests",
        503 => "Not available",
        504 => "Not done in time",
        _ => "Internal error",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use axum::routing::get;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::middleware::request_id::request_id;

    async fn parts(response: Response) -> (StatusCode, axum::http::HeaderMap, Value) {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 65_536).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    async fn send(method: &str, path: &str) -> (StatusCode, axum::http::HeaderMap, Value) {
        let router = Router::new()
            .route("/here", get(|| async { "here" }))
            .route("/panic", get(|| async { panic!("secret inside") as &'static str }))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(catch_panic())
            .layer(axum::middleware::from_fn(request_id));
        let request = Request::builder().method(method).uri(path).header("x-request-id", "abc");
        parts(router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
    }

    #[tokio::test]
    async fn the_document_has_the_contracts_fields() {
        let (status, headers, body) = parts(Problem::invalid("name", "is too long").into_response()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(headers["content-type"], "application/problem+json");
        let expected = json!({
            "type": "/problems/unprocessable", "title": "Invalid input", "status": 422, "code": "unprocessable",
            "detail": "The input is not valid; see errors.", "request_id": null,
            "errors": [{ "field": "name", "message": "is too long" }],
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn a_code_of_its_own_shows_in_code_and_type() {
        let problem = Problem::conflict("That address is taken.").with_code("email_taken");
        let (_, _, body) = parts(problem.into_response()).await;
        assert_eq!((&body["type"], &body["code"]), (&json!("/problems/email_taken"), &json!("email_taken")));
        assert_eq!(body["title"], "Conflict");
        assert!(body.get("errors").is_none());
    }

    #[tokio::test]
    async fn waiting_times_are_rounded_up_to_seconds() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            let response = Problem::too_many_requests(Duration::from_millis(millis)).into_response();
            assert_eq!(response.headers()["retry-after"], seconds);
        }
        let unauthorized = Problem::unauthorized("Sign in first.").into_response();
        assert_eq!(unauthorized.headers()["www-authenticate"], "Bearer");
    }

    #[tokio::test]
    async fn a_cause_stays_inside() {
        let cause = std::io::Error::other("password authentication failed for hunter2");
        let (status, _, body) = parts(Problem::internal(cause).into_response()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.to_string().contains("hunter2"), "{body}");
        let (status, headers, body) =
            parts(Problem::unavailable("hunter2", Duration::from_secs(2)).into_response()).await;
        assert_eq!(
            (status, &headers["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"2".parse().unwrap())
        );
        assert!(!body.to_string().contains("hunter2"), "{body}");
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems_too() {
        let (status, headers, body) = send("GET", "/nowhere").await;
        assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
        assert_eq!((&headers["x-request-id"], &body["request_id"]), (&"abc".parse().unwrap(), &json!("abc")));
        let (status, headers, body) = send("DELETE", "/here").await;
        assert_eq!((status, &body["code"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed")));
        assert_eq!(headers["allow"], "GET,HEAD");
    }

    #[tokio::test]
    async fn a_panic_is_a_generic_500_under_the_same_request_id() {
        let (status, _, body) = send("GET", "/panic").await;
        assert_eq!((status, &body["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("internal")));
        assert_eq!(body["request_id"], "abc");
        assert!(!body.to_string().contains("secret inside"), "{body}");
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot append")]
        struct Outer(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot answer: {0}")]
        struct Repeating(#[source] Outer);
        let error = Repeating(Outer(std::io::Error::other("disk full")));
        assert_eq!(chain(&error), "cannot answer: cannot append: disk full");
    }

    #[test]
    fn every_status_in_use_has_a_title_of_its_own() {
        for status in [400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 426, 429, 503, 504] {
            assert_ne!(title(StatusCode::from_u16(status).unwrap()), "Internal error", "{status}");
        }
    }
}
