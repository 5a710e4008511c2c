//! Secrets: written and revealed over 64 kept connections, each revelation recorded before the value leaves; at a steady 2,000 a second;
//! and while 100,000 data keys are rewrapped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ledger::private::PrivateServer;
use ledger::{Append, Keyring, Ledger, Metadata, NewEvent, Options, StreamId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::{Ask, CONNECTIONS, Connection, Server, request};
use crate::span;
use crate::table::{AsyncWork, Measured, Table, measure};

/// Data keys that are rewrapped.
const KEYS: usize = 100_000;
/// Those of one append.
const KEYS_AT_ONCE: usize = 1_000;
/// Revelations a second, as the goal has it.
const STEADY: f64 = 2_000.0;

pub(crate) async fn run(table: &mut Table, floor: Measured) {
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let (old, new) = (BASE64.encode([7; 32]), BASE64.encode([8; 32]));
    let (server, address, password) = Server::start(folder.path(), "password", &[("ENCRYPTION_KEY", &old)]);
    let bearer = sign_in(&address, &password).await;
    let secrets = store(&address, &bearer).await;
    measured(table, &address, &bearer, &secrets, floor).await;
    drop(server);

    make_keys(folder.path()).await;
    let environment = [("ENCRYPTION_KEY", new.as_str()), ("ENCRYPTION_KEY_PREVIOUS", &old)];
    let (server, address, _) = Server::start(folder.path(), "data", &environment);
    rotated(table, folder.path(), &address, &bearer, &secrets, &environment).await;
    drop(server);
}

async fn sign_in(address: &str, password: &str) -> String {
    let body = format!(r#"{{"email":"admin@localhost","password":"{password}"}}"#);
    let login = request("POST", "/api/auth/login", "", &body);
    let answer = Connection::all(address, &login, "HTTP/1.1 200").await.remove(0).ask().await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    format!("authorization: Bearer {}\r\n", answer["access_token"].as_str().unwrap())
}

/// One secret for each connection; their ids.
async fn store(address: &str, bearer: &str) -> Vec<String> {
    let mut connection = Connection::all(address, "", "HTTP/1.1 201").await.remove(0);
    let mut ids = vec![];
    for number in 0..CONNECTIONS {
        let body = json!({"name": format!("bench/{number}"), "value": "x".repeat(40), "max_versions": 10});
        connection.asks(request("POST", "/api/secrets", bearer, &body.to_string()));
        let made: Value = serde_json::from_slice(&connection.ask().await).unwrap();
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// A connection for each secret, that asks `method` for its value.
async fn values(
    address: &str,
    bearer: &str,
    secrets: &[String],
    method: &str,
    body: &str,
) -> Vec<Connection> {
    let mut connections = Connection::all(address, "", "HTTP/1.1 200").await;
    for (connection, id) in connections.iter_mut().zip(secrets) {
        connection.asks(request(method, &format!("/api/secrets/{id}/value"), bearer, body));
    }
    connections
}

async fn measured(table: &mut Table, address: &str, bearer: &str, secrets: &[String], floor: Measured) {
    let body = json!({"value": "y".repeat(40)}).to_string();
    let put = values(address, bearer, secrets, "PUT", &body).await;
    let write = measure(put, Ask).await;
    table.add("secret write (PUT value, 10 versions kept), 64 connections", write, Some((floor, "")));
    let reveal = measure(values(address, bearer, secrets, "GET", "").await, Ask).await;
    table.add("secret reveal, each recorded, 64 connections", reveal, Some((floor, "")));
    let calm = steadily(values(address, bearer, secrets, "GET", "").await, &Until::span()).await;
    table.add("the same at a steady 2,000/s", calm, Some((floor, "p99 10 ms")));
}

/// When the steady asking ends.
#[derive(Clone)]
enum Until {
    Time(Instant),
    Told(Arc<AtomicBool>),
}

impl Until {
    fn span() -> Self {
        Self::Time(Instant::now() + span())
    }

    fn has_come(&self) -> bool {
        match self {
            Self::Time(end) => Instant::now() >= *end,
            Self::Told(told) => told.load(Ordering::Relaxed),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a rate is made of spans of time")]
async fn until_due(due: Instant) {
    tokio::time::sleep_until(due.into()).await;
}

/// Asks at fixed times, whether or not the answers keep up; what each took since the time it was due.
async fn steadily(connections: Vec<Connection>, until: &Until) -> Measured {
    let between = Duration::from_secs_f64(CONNECTIONS as f64 / STEADY);
    let began = Instant::now();
    let tasks: Vec<_> = (0..)
        .zip(connections)
        .map(|(place, mut connection)| {
            let until = until.clone();
            tokio::spawn(async move {
                let mut took = vec![];
                let mut due = began + between.mul_f64(f64::from(place) / CONNECTIONS as f64);
                while !until.has_come() {
                    until_due(due).await;
                    Ask.once(&mut connection).await;
                    took.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
                    due += between;
                }
                took
            })
        })
        .collect();
    let mut took = vec![];
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    Measured::of(took, began.elapsed().as_secs_f64())
}

/// Data keys, wrapped with the old key.
async fn make_keys(folder: &Path) {
    let server = PrivateServer::start_or_join(&folder.join(".daybook")).await.unwrap();
    let ledger = Ledger::new(server.connect_options(), Keyring::new(&[7; 32], None), &Options::default());
    for _ in 0..KEYS / KEYS_AT_ONCE {
        let data_keys = (0..KEYS_AT_ONCE).map(|_| {
            let name = format!("secret/{}/1", Uuid::now_v7());
            ledger.new_data_key(&name).unwrap().1
        });
        let event = NewEvent {
            stream: StreamId::new("access", Uuid::now_v7()),
            sequence: 1,
            event_type: "AuditRead".into(),
            event_version: "1".into(),
            payload: json!({"AuditRead": {"query": "bench"}}).into(),
        };
        let metadata = Metadata { actor: "system".into(), ..Metadata::default() };
        let data_keys = data_keys.collect();
        ledger.append(Append { events: vec![event], metadata, data_keys }).await.unwrap();
    }
    ledger.close().await;
    server.stop().await;
}

async fn rotated(
    table: &mut Table,
    folder: &Path,
    address: &str,
    bearer: &str,
    secrets: &[String],
    environment: &[(&str, &str)],
) {
    let before = steadily(values(address, bearer, secrets, "GET", "").await, &Until::span()).await;
    table.add("reveals at 2,000/s before a rotation", before, None);
    let over = Arc::new(AtomicBool::new(false));
    let during = {
        let (connections, over) = (values(address, bearer, secrets, "GET", "").await, Arc::clone(&over));
        tokio::spawn(async move { steadily(connections, &Until::Told(over)).await })
    };
    let mut rotate = Command::new(std::env::current_exe().unwrap().with_file_name("daybook"));
    rotate.args(["keys", "rotate"]).current_dir(folder).envs(environment.iter().copied());
    rotate.stdout(Stdio::null());
    let began = Instant::now();
    let status = tokio::task::spawn_blocking(move || rotate.status()).await.unwrap().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    assert!(status.success(), "{status}");
    table.add(
        "reveals at 2,000/s while all data keys are rewrapped",
        during.await.unwrap(),
        Some((before, "")),
    );
    println!(
        "rotation of {KEYS} data keys under that load: {seconds:.2} s, {:.0} per second",
        KEYS as f64 / seconds
    );
}
