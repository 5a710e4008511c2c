//! Answers that hold what nobody else may know: values of secrets, passwords, tokens.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::compression::Predicate;
use tower_http::compression::predicate::DefaultPredicate;
use zeroize::Zeroizing;

use crate::answer::Answer;
use crate::problem::Problem;

/// An answer in JSON that no cache keeps (`Cache-Control: no-store`, RFC 9111 section 5.2.2.5), that is not compressed, and whose memory
/// is overwritten once it was sent. The body's own texts should be `Zeroizing`.
///
/// Copies that remain: what hyper puts into its write buffer, and the kernel's.
pub struct Confidential<T>(pub Answer<T>);

impl<T: Serialize> IntoResponse for Confidential<T> {
    fn into_response(self) -> Response {
        let (status, mut headers, body) = self.0.into_parts();
        // serde's message could repeat what it failed at.
        let Ok(json) = wiped_json(&body) else {
            return Problem::internal("a confidential answer cannot be written as JSON").into_response();
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (status, headers, Body::from(Bytes::from_owner(json))).into_response()
    }
}

impl<T: Serialize> Confidential<T> {
    /// 200 with `body`.
    pub fn ok(body: T) -> Self {
        Self(Answer::ok(body))
    }
}

/// Written twice: first only counted, so that the memory never has to grow and leaves no copy behind.
fn wiped_json(body: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, body)?;
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, body)?;
    Ok(json)
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is compressed: as usual, but nothing confidential. The compressor would keep copies, and lengths would tell of the content when a
/// request can put something of its own beside it.
#[derive(Clone, Default)]
pub(crate) struct NothingConfidential(DefaultPredicate);

impl Predicate for NothingConfidential {
    fn should_compress<B: axum::body::HttpBody>(&self, response: &axum::http::Response<B>) -> bool {
        let kept = response.headers().get(header::CACHE_CONTROL).is_none_or(|value| value != "no-store");
        kept && self.0.should_compress(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::Router;
    use axum::body::to_bytes;
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use serde_json::json;
    use tower::ServiceExt as _;
    use tower_http::compression::CompressionLayer;

    use super::*;

    #[test]
    fn the_memory_is_as_large_as_what_is_written() {
        for body in
            [json!({"value": "ä\"\\\u{1}\n"}), json!({"value": "x".repeat(100_000), "n": [1.5, null]})]
        {
            let json = wiped_json(&body).unwrap();
            assert_eq!(*json, serde_json::to_vec(&body).unwrap());
            assert_eq!(json.capacity(), json.len(), "it never grew");
        }
    }

    #[tokio::test]
    async fn it_is_neither_kept_nor_compressed_and_others_are() {
        let long = || json!({"value": "x".repeat(1000)});
        let router = Router::new()
            .route(
                "/confidential",
                get(move || async move { Confidential(Answer::created(long()).tagged(3)) }),
            )
            .route("/other", get(move || async move { Answer::ok(long()) }))
            .layer(CompressionLayer::new().compress_when(NothingConfidential::default()));
        let ask = async |path: &str| {
            let request = Request::get(path).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap()
        };
        let confidential = ask("/confidential").await;
        assert_eq!(confidential.status(), StatusCode::CREATED);
        let header = |name: &str| confidential.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!((header("content-type"), header("etag")), (Some("application/json"), Some("\"3\"")));
        assert_eq!(header("content-encoding"), None);
        let body = to_bytes(confidential.into_body(), 65_536).await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), long());
        assert_eq!(ask("/other").await.headers()["content-encoding"], "gzip");
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_written_is_our_mistake_and_not_repeated() {
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("hunter2"))
            }
        }
        let response = Confidential::ok(Broken).into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 65_536).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
    }
}
