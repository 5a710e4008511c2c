//! Headers that keep browsers from doing harm with an answer.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// An API's answer needs to load nothing.
const API_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// The documentation page loads its own scripts and images and styles itself inline; nothing comes from elsewhere.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const SAME_ORIGIN_OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const SAME_ORIGIN_RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What the headers depend on.
#[derive(Debug, Clone, Copy)]
pub struct SecurityHeaders {
    /// Whether browsers are told to come back by HTTPS only: in production.
    pub strict_transport: bool,
}

/// The middleware, for `axum::middleware::from_fn_with_state`. A header the handler has set stays.
pub async fn security_headers(
    State(policy): State<SecurityHeaders>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let docs = path == "/docs" || path.starts_with("/docs/");
    let data = path.starts_with("/api/") || path.starts_with("/ws/");
    let mut response = next.run(request).await;
    let mut set = |name: HeaderName, text: &'static str| {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(text));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CONTENT_SECURITY_POLICY, if docs { DOCS_POLICY } else { API_POLICY });
    set(SAME_ORIGIN_OPENER, "same-origin");
    set(SAME_ORIGIN_RESOURCE, "same-origin");
    if data {
        set(header::CACHE_CONTROL, "no-store");
    }
    if policy.strict_transport {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=63072000");
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::Router;
    use axum::body::Body;
    use axum::http::HeaderMap;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn headers(path: &str, strict_transport: bool) -> HeaderMap {
        let cached = || async { ([(header::CACHE_CONTROL, "max-age=60")], "") };
        let router = Router::new()
            .route("/api/things", get(|| async {}))
            .route("/api/cached", get(cached))
            .route("/docs/index.html", get(|| async {}))
            .layer(from_fn_with_state(SecurityHeaders { strict_transport }, security_headers));
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router.oneshot(request).await.unwrap().headers().clone()
    }

    #[tokio::test]
    async fn every_answer_carries_them_also_a_404() {
        for path in ["/api/things", "/nowhere", "/docs/index.html"] {
            let headers = headers(path, false).await;
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(headers["x-frame-options"], "DENY");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            assert_eq!(headers["cross-origin-opener-policy"], "same-origin");
            assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
            assert!(headers.get("strict-transport-security").is_none());
        }
    }

    #[tokio::test]
    async fn the_docs_page_may_load_its_own_files_and_the_api_nothing() {
        let policy = |headers: HeaderMap| headers["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy(headers("/docs/index.html", false).await).starts_with("default-src 'self'"));
        assert!(policy(headers("/api/things", false).await).starts_with("default-src 'none'"));
        assert!(policy(headers("/docsx", false).await).starts_with("default-src 'none'"));
    }

    #[tokio::test]
    async fn data_is_not_stored_unless_the_handler_says_so() {
        assert_eq!(headers("/api/things", false).await["cache-control"], "no-store");
        assert_eq!(headers("/api/cached", false).await["cache-control"], "max-age=60");
        assert!(headers("/docs/index.html", false).await.get("cache-control").is_none());
    }

    #[tokio::test]
    async fn production_insists_on_https() {
        assert_eq!(headers("/api/things", true).await["strict-transport-security"], "max-age=63072000");
    }
}
