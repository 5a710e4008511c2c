//! Counts requests and how long they take.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::request_id::UNMATCHED;

/// Requests answered, by method, route and status.
pub const REQUESTS: &str = "http_requests_total";
/// Seconds from the request's head to the answer's head, by method, route and status.
pub const SECONDS: &str = "http_request_duration_seconds";

/// The middleware. The labels have few values: routes instead of paths, and known methods only.
pub async fn count(request: Request, next: Next) -> Response {
    let method = method(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let started = Instant::now();
    let response = next.run(request).await;
    let labels = [
        ("method", method.to_owned()),
        ("path", path.as_ref().map_or(UNMATCHED, MatchedPath::as_str).to_owned()),
        ("status", response.status().as_str().to_owned()),
    ];
    metrics::counter!(REQUESTS, &labels).increment(1);
    metrics::histogram!(SECONDS, &labels).record(started.elapsed().as_secs_f64());
    response
}

fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_route_and_not_by_path() {
        crate::metrics::install();
        let router =
            Router::new().route("/counted/{id}", get(|| async {})).layer(axum::middleware::from_fn(count));
        for (method, path) in
            [("GET", "/counted/1"), ("GET", "/counted/2"), ("BREW", "/counted/3"), ("GET", "/x")]
        {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        let text = crate::metrics::render();
        let line = |wanted: &str| text.lines().any(|line| line == wanted);
        assert!(line(r#"http_requests_total{method="GET",path="/counted/{id}",status="200"} 2"#), "{text}");
        assert!(line(r#"http_requests_total{method="other",path="/counted/{id}",status="405"} 1"#), "{text}");
        assert!(text.contains(r#"path="unmatched",status="404""#), "{text}");
        assert!(!text.contains("/counted/1"), "{text}");
        let bucket = r#"http_request_duration_seconds_bucket{method="GET",path="/counted/{id}",status="200",le="+Inf"} 2"#;
        assert!(line(bucket), "{text}");
    }
}
