//! As much of S3 as an object store needs: a small server on a port of its own, that keeps what it gets in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use regex::Regex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The bucket it has.
pub const BUCKET: &str = "back-office";
/// Who may ask.
pub const KEY_ID: &str = "an-id";
/// The key to that. It is in no request.
pub const SECRET_KEY: &str = "a-secret-key";

/// A server that speaks S3.
pub struct S3 {
    /// Where it listens.
    pub address: SocketAddr,
    kept: Kept,
    server: JoinHandle<()>,
}

type Kept = Arc<Mutex<Inside>>;

#[derive(Default)]
struct Inside {
    objects: BTreeMap<String, Bytes>,
    parts: BTreeMap<(String, u32), Bytes>,
    /// Requests, method and what is asked for; and what was wrong with them.
    requests: Vec<String>,
    failing: bool,
}

impl S3 {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let kept = Kept::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, kept, server }
    }

    fn inside<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The objects, by key.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.inside(|inside| inside.objects.clone())
    }

    /// Puts something in an object's place.
    pub fn replace(&self, key: &str, content: &'static [u8]) {
        self.inside(|inside| inside.objects.insert(key.to_owned(), Bytes::from_static(content)));
    }

    /// What it was asked for.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.inside(|inside| inside.requests.clone())
    }

    /// Whether it refuses everything from now on.
    pub fn fail(&self, failing: bool) {
        self.inside(|inside| inside.failing = failing);
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(kept): State<Kept>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let query: BTreeMap<String, String> = parts.uri.query().map(pairs).unwrap_or_default();
    let path = decoded(parts.uri.path());
    let signed = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut inside = kept.lock().unwrap_or_else(PoisonError::into_inner);
    inside.requests.push(format!("{} {}", parts.method, parts.uri));
    if inside.failing {
        return StatusCode::FORBIDDEN.into_response();
    }
    if !signed.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/")) {
        return (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>").into_response();
    }
    let Some(key) = path.strip_prefix(&format!("/{BUCKET}")).map(|key| key.trim_start_matches('/')) else {
        return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>").into_response();
    };
    inside.answer(&parts.method, key, &query, body)
}

impl Inside {
    fn answer(
        &mut self,
        method: &Method,
        key: &str,
        query: &BTreeMap<String, String>,
        body: Bytes,
    ) -> Response {
        let part = query.get("partNumber").map(|number| number.parse().unwrap());
        match (method.as_str(), part) {
            ("PUT", Some(part)) => {
                self.parts.insert((key.to_owned(), part), body);
                ([("etag", format!("\"{part}\""))], ()).into_response()
            }
            ("PUT", None) => {
                self.objects.insert(key.to_owned(), body);
                ([("etag", "\"whole\"")], ()).into_response()
            }
            ("POST", _) if query.contains_key("uploads") => {
                let id =
                    "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>";
                id.into_response()
            }
            ("POST", _) if query.contains_key("uploadId") => self.complete(key),
            ("POST", _) if query.contains_key("delete") => self.delete(&body),
            ("GET", _) if key.is_empty() => self.list(query.get("prefix").map_or("", String::as_str)),
            ("GET" | "HEAD", _) => self.show(key),
            ("DELETE", _) => {
                self.parts.retain(|(of, _), _| of != key);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    fn complete(&mut self, key: &str) -> Response {
        let parts = self.parts.iter().filter(|((of, _), _)| of == key);
        let whole: Vec<u8> = parts.flat_map(|(_, part)| part.to_vec()).collect();
        self.parts.retain(|(of, _), _| of != key);
        self.objects.insert(key.to_owned(), whole.into());
        "<CompleteMultipartUploadResult><ETag>\"parts\"</ETag></CompleteMultipartUploadResult>"
            .into_response()
    }

    fn delete(&mut self, body: &Bytes) -> Response {
        let text = String::from_utf8_lossy(body);
        let keys = Regex::new("<Key>([^<]*)</Key>").unwrap();
        let mut answer = "<DeleteResult>".to_owned();
        for found in keys.captures_iter(&text) {
            self.objects.remove(&found[1]);
            write!(answer, "<Deleted><Key>{}</Key></Deleted>", &found[1]).unwrap();
        }
        (answer + "</DeleteResult>").into_response()
    }

    fn list(&self, prefix: &str) -> Response {
        let mut answer = "<ListBucketResult>".to_owned();
        for (key, content) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            write!(
                answer,
                "<Contents><Key>{key}</Key><LastModified>2026-03-01T12:00:00.000Z</LastModified>\
                 <ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                content.len()
            )
            .unwrap();
        }
        (answer + "</ListBucketResult>").into_response()
    }

    fn show(&self, key: &str) -> Response {
        match self.objects.get(key) {
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
            Some(content) => {
                let headers = [("etag", "\"e\""), ("last-modified", "Sun, 01 Mar 2026 12:00:00 GMT")];
                (headers, Body::from(content.clone())).into_response()
            }
        }
    }
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    query.split('&').map(pair).collect()
}

fn decoded(text: &str) -> String {
    let coded = Regex::new("%([0-9A-Fa-f]{2})").unwrap();
    let byte =
        |found: &regex::Captures<'_>| char::from(u8::from_str_radix(&found[1], 16).unwrap()).to_string();
    coded.replace_all(text, byte).into_owned()
}
