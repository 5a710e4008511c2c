//! Gives every request its id, its trace and its line in the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use tracing::field::Empty;

use crate::problem::Problem;

/// The header, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Stands for a path that no route has. The path itself may hold anything and is never logged.
pub(crate) const UNMATCHED: &str = "unmatched";

/// Asked every few seconds by machines; their answers are logged at `debug`.
const QUIET: [&str; 3] = ["/livez", "/readyz", "/metrics"];
const MAX_REQUEST_ID_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// Who this request is, for events, logs and problems. Also an extractor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    /// 1 to 64 of `[A-Za-z0-9_.-]`.
    pub request_id: Arc<str>,
    /// The caller's trace (32 hexadecimal digits) if it sent a valid `traceparent`.
    pub trace_id: Option<Arc<str>>,
}

impl RequestContext {
    /// The request the current task answers. A task spawned by a handler has none: hand it a copy.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    fn from_headers(headers: &HeaderMap) -> Self {
        let given = only(headers, &X_REQUEST_ID).filter(|text| is_request_id(text));
        let request_id = given.map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Arc::from);
        let trace_id = only(headers, &TRACEPARENT).and_then(trace_id).map(Arc::from);
        Self { request_id, trace_id }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let context = parts.extensions.get::<Self>().cloned();
        context.ok_or_else(|| Problem::internal("the request id middleware is not in place"))
    }
}

/// The middleware; the outermost one, so that everything inside knows the request.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_headers(request.headers());
    let span = span(&request, &context);
    let quiet = QUIET.contains(&request.uri().path());
    request.extensions_mut().insert(context.clone());
    let started = Instant::now();
    let request_id = context.request_id.clone();
    let answer = CURRENT.scope(context, next.run(request)).instrument(span.clone());
    let mut response = answer.await;
    span.record("status", response.status().as_u16());
    span.record("latency_ms", started.elapsed().as_secs_f64() * 1000.0);
    span.in_scope(|| if quiet { tracing::debug!("answered") } else { tracing::info!("answered") });
    // Only visible ASCII gets this far.
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

fn span(request: &Request, context: &RequestContext) -> tracing::Span {
    tracing::info_span!(
        "request",
        request_id = &*context.request_id,
        trace_id = context.trace_id.as_deref(),
        method = %request.method(),
        path = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str),
        status = Empty,
        latency_ms = Empty,
    )
}

/// The header's text if it was sent exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

fn is_request_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

/// The trace id of a `traceparent` header (W3C Trace Context, section 3.2): version, trace id, parent id, flags.
fn trace_id(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let shape = lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(parent, 16) && lower_hex(flags, 2);
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    // Later versions may append parts; version 00 may not, and ff does not exist.
    let version_fits = version != "ff" && (version != "00" || parts.next().is_none());
    (shape && version_fits && not_zero(trace) && not_zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn router() -> Router {
        let handler = |context: RequestContext| async move {
            assert_eq!(RequestContext::current().as_ref(), Some(&context));
            format!("{} {}", context.request_id, context.trace_id.as_deref().unwrap_or("none"))
        };
        Router::new().route("/things/{id}", get(handler)).layer(axum::middleware::from_fn(request_id))
    }

    /// The id on the answer and what the handler saw.
    async fn ask(headers: &[(&str, &str)]) -> (String, String) {
        let mut request = Request::builder().uri("/things/1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let id = response.headers()[X_REQUEST_ID].to_str().unwrap().to_owned();
        let body = to_bytes(response.into_body(), 1024).await.unwrap();
        (id, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_good_id_is_taken_and_echoed() {
        let longest = "a".repeat(64);
        for id in ["x", "Order_1.2-3", &longest] {
            assert_eq!(ask(&[("x-request-id", id)]).await, (id.to_owned(), format!("{id} none")));
        }
    }

    #[tokio::test]
    async fn a_bad_or_doubled_id_is_replaced() {
        let long = "a".repeat(65);
        for id in ["", "a b", "a\"b", "é", "a/b", &long] {
            let (made, seen) = ask(&[("x-request-id", id)]).await;
            assert_eq!(uuid::Uuid::parse_str(&made).unwrap().get_version_num(), 7);
            assert_eq!(seen, format!("{made} none"));
        }
        let (made, _) = ask(&[("x-request-id", "a"), ("x-request-id", "b")]).await;
        assert!(uuid::Uuid::parse_str(&made).is_ok());
    }

    #[tokio::test]
    async fn two_requests_get_two_ids() {
        assert_ne!(ask(&[]).await.0, ask(&[]).await.0);
    }

    #[tokio::test]
    async fn a_trace_is_honoured() {
        let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let (_, seen) = ask(&[("x-request-id", "a"), ("traceparent", &header)]).await;
        assert_eq!(seen, format!("a {TRACE}"));
    }

    #[test]
    fn only_valid_traceparents_have_a_trace() {
        assert_eq!(trace_id(&format!("cc-{TRACE}-00f067aa0ba902b7-01-later")), Some(TRACE));
        let upper = TRACE.to_uppercase();
        for text in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{upper}-00f067aa0ba902b7-01"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}g-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(trace_id(&text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn outside_a_request_there_is_no_context() {
        assert_eq!(RequestContext::current(), None);
    }
}
