//! A host that jobs ask over HTTP: it does what the path says, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// One running host; it ends with this.
pub(super) struct Host {
    pub(super) address: SocketAddr,
    asked: Asked,
    /// Requests to `/slow` that came, and that were given up by who asked.
    pub(super) slow: watch::Receiver<(u32, u32)>,
    _stop: DropGuard,
}

type Asked = Arc<Mutex<Vec<Value>>>;

#[derive(Clone)]
struct Shared {
    asked: Asked,
    slow: watch::Sender<(u32, u32)>,
}

impl Host {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (slow, slow_seen) = watch::channel((0, 0));
        let shared = Shared { asked: Asked::default(), slow };
        let (address, asked) = (listener.local_addr().unwrap(), Arc::clone(&shared.asked));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let router = Router::new().fallback(answer).with_state(shared);
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stopped).into_future());
        Self { address, asked, slow: slow_seen, _stop: stop.drop_guard() }
    }

    /// Its URL, without a slash at its end.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked, in order: method, path with query, headers, body.
    pub(super) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

/// Tells when who asked does not wait any more.
struct GivenUp(watch::Sender<(u32, u32)>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.send_modify(|(_, given_up)| *given_up += 1);
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = String::from_utf8_lossy(&to_bytes(body, usize::MAX).await.unwrap()).into_owned();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into())
        })
        .collect();
    let path = parts.uri.path_and_query().unwrap().to_string();
    let asked = json!({"method": parts.method.as_str(), "path": path, "headers": headers, "body": body});
    shared.asked.lock().unwrap().push(asked.clone());
    let answer = Response::builder();
    let (route, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    match route {
        "status" => answer.status(rest.parse::<u16>().unwrap()).body(format!("this is {rest}\n").into()),
        "busy" => {
            answer.status(StatusCode::SERVICE_UNAVAILABLE).header("retry-after", rest).body(Body::empty())
        }
        "large" => answer.body("0123456789abcde\n".repeat(5_000).into()),
        "nested" => {
            let levels = rest.parse().unwrap();
            answer.body(format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into())
        }
        "to" => answer.status(StatusCode::TEMPORARY_REDIRECT).header("location", rest).body(Body::empty()),
        "see" => answer.status(StatusCode::SEE_OTHER).header("location", rest).body(Body::empty()),
        "slow" => {
            let _given_up = GivenUp(shared.slow.clone());
            shared.slow.send_modify(|(came, _)| *came += 1);
            std::future::pending().await
        }
        _ => answer.header("content-type", "application/json").body(asked.to_string().into()),
    }
    .unwrap()
}
