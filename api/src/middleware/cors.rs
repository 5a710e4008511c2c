//! Which web pages may call the API from a browser.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::request_id::{TRACEPARENT, X_REQUEST_ID};

/// Browsers may keep the answer to a preflight this long.
const MAX_AGE: Duration = Duration::from_secs(600);

const DAYBOOK_POSITION: HeaderName = HeaderName::from_static("daybook-position");
const DAYBOOK_TEAM: HeaderName = HeaderName::from_static("daybook-team");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The layer for `Settings::cors_origins`; with an empty list no page of another origin gets in. Sessions in cookies are
/// for pages of our own origin: no other may send them, nor the headers that go with them.
pub fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins == ["*"] {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            IDEMPOTENCY_KEY,
            DAYBOOK_POSITION,
            DAYBOOK_TEAM,
            X_REQUEST_ID,
            TRACEPARENT,
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER, DAYBOOK_POSITION, X_REQUEST_ID])
        .max_age(MAX_AGE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, Request};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn answer(origins: &[&str], method: &str, origin: &str) -> HeaderMap {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let router = Router::new().route("/", get(|| async {})).layer(cors(&origins));
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "daybook-position");
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().headers().clone()
    }

    #[tokio::test]
    async fn a_listed_origin_may_read() {
        let headers = answer(&["https://a.example", "https://b.example"], "GET", "https://b.example").await;
        assert_eq!(headers["access-control-allow-origin"], "https://b.example");
        assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("daybook-position"));
        assert!(headers.get("access-control-allow-credentials").is_none());
    }

    #[tokio::test]
    async fn a_preflight_lists_methods_and_headers() {
        let headers = answer(&["https://a.example"], "OPTIONS", "https://a.example").await;
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
        assert!(headers["access-control-allow-headers"].to_str().unwrap().contains("daybook-position"));
    }

    #[tokio::test]
    async fn others_may_not() {
        for method in ["GET", "OPTIONS"] {
            for (listed, origin) in
                [(&["https://a.example"][..], "https://evil.example"), (&[], "https://a.example")]
            {
                let headers = answer(listed, method, origin).await;
                assert!(headers.get("access-control-allow-origin").is_none(), "{method} {origin}");
            }
        }
    }

    #[tokio::test]
    async fn a_star_lets_everyone_in() {
        assert_eq!(answer(&["*"], "GET", "https://x.example").await["access-control-allow-origin"], "*");
    }
}
