//! Who asks: what a sign-in costs beside its hash, what checking a token costs, and authenticated requests with cold and warm caches.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use api::config::{Settings, Sources};
use api::node::{Node, registrar};
use api::tokens::{Claims, TokenKeys};
use chrono::Utc;
use commands::{ImportedAccount, Password, Passwords};
use domain::{Actor, UserId};
use uuid::Uuid;

use crate::http::{Ask, CONNECTIONS, Connection, request};
use crate::table::{AsyncWork, Measured, Table, measure};

/// People of whom each asks once with cold caches, and once more.
const PEOPLE: usize = 6_000;
/// Tokens whose signatures are checked.
const TOKENS: usize = 2_000;

/// All but the requests of many people, which it prepares and answers with.
pub(crate) async fn run(table: &mut Table, folder: &Path, address: &str, password: &str) -> Vec<String> {
    let hash = sign_ins(table, address, password).await;
    tokens();
    people(folder, &hash).await
}

/// One caller checks a password again and again: one core.
#[derive(Clone)]
struct Verify {
    passwords: Passwords,
    password: Password,
    hash: String,
}

impl AsyncWork<()> for Verify {
    async fn once(&self, (): &mut ()) {
        let verdict = self.passwords.verify(self.password.clone(), Some(self.hash.clone())).await;
        assert!(verdict.unwrap().right);
    }
}

/// The hash of the password, for the accounts that are made later.
async fn sign_ins(table: &mut Table, address: &str, password: &str) -> String {
    let passwords = Passwords::new();
    let typed = Password::typed(password.to_owned());
    let hash = passwords.hash(typed.clone()).await.unwrap();
    let alone = measure(vec![()], Verify { passwords, password: typed, hash: hash.clone() }).await;
    table.add("password hash alone, one core", alone, None);
    let body = format!(r#"{{"email":"admin@localhost","password":"{password}"}}"#);
    let login = request("POST", "/api/auth/login", "", &body);
    let mut connections = Connection::all(address, &login, "HTTP/1.1 200").await;
    connections.truncate(1);
    let whole = measure(connections, Ask).await;
    table.add("whole sign-in over HTTP, one connection", whole, Some((alone, "")));
    println!("a sign-in beside its hash: {:.1} ms at p95 (goal: 10)", whole.p95 - alone.p95);
    hash
}

fn claims() -> Claims {
    let now = Utc::now().timestamp();
    Claims { sub: Uuid::now_v7(), sid: Uuid::now_v7(), iat: now, exp: now + 3_600, jti: None }
}

/// In this process: the check of a token that was never seen, and of one that was.
fn tokens() {
    let keys = TokenKeys::new("a secret for the benchmark, long enough", None).unwrap();
    let tokens: Vec<String> = (0..TOKENS).map(|_| keys.issue(&claims()).unwrap()).collect();
    let check = || {
        let began = Instant::now();
        for token in &tokens {
            keys.verify(token, Utc::now()).unwrap();
        }
        began.elapsed().as_secs_f64() * 1e6 / TOKENS as f64
    };
    let (first, again) = (check(), check());
    println!("token check: {first:.1} µs the first time, {again:.2} µs again");
}

/// The same requests twice, on a server that was just started.
pub(crate) async fn cold_and_warm(table: &mut Table, address: &str, requests: &[String]) {
    let cold = drain(address, requests).await;
    let warm = drain(address, requests).await;
    table.add("authenticated request (GET /api/auth/me), cold caches", cold, None);
    table.add("authenticated request, warm caches", warm, Some((cold, "")));
}

/// Accounts with a session each, made by one more node of the same database; what each of them asks.
async fn people(folder: &Path, hash: &str) -> Vec<String> {
    let data = folder.join(".daybook").display().to_string();
    let environment = BTreeMap::from([("DATA_DIR".to_owned(), data)]);
    let settings = Settings::load(&Sources { environment, file: folder.join("none.toml") }).unwrap();
    let node = Node::open(settings).await.unwrap();
    let tokens = Arc::new(TokenKeys::new(node.keys.jwt_secret.expose(), None).unwrap());
    let made = (0..CONNECTIONS).map(|lane| {
        let (commands, tokens, hash) = (node.commands.clone(), Arc::clone(&tokens), hash.to_owned());
        tokio::spawn(async move {
            let mut requests = vec![];
            for number in (lane..PEOPLE).step_by(CONNECTIONS) {
                let line = format!(
                    r#"{{"email":"person-{number}@example.org","name":"Person","password_hash":"{hash}"}}"#
                );
                let account = ImportedAccount::parse(line.as_bytes()).unwrap();
                let made = commands.import(&registrar(), account).await.unwrap();
                let user: UserId = made.id.parse().unwrap();
                let mut context = registrar().acting_as(Actor::User(user));
                context.subject = Some(user.to_string());
                let session = commands.start_session(&context, user, vec![], 7).await.unwrap();
                let claims = Claims { sub: user.0, sid: session.session_id.0, ..claims() };
                let bearer = format!("authorization: Bearer {}\r\n", tokens.issue(&claims).unwrap());
                requests.push(request("GET", "/api/auth/me", &bearer, ""));
            }
            requests
        })
    });
    let mut requests = vec![];
    for lane in made.collect::<Vec<_>>() {
        requests.extend(lane.await.unwrap());
    }
    node.close().await;
    requests
}

/// Asks each once, over all connections.
async fn drain(address: &str, requests: &[String]) -> Measured {
    let connections = Connection::all(address, "", "HTTP/1.1 200").await;
    let waiting = Arc::new(Mutex::new(requests.iter().cloned().collect::<VecDeque<_>>()));
    let began = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                let mut took = vec![];
                loop {
                    let Some(request) = waiting.lock().unwrap().pop_front() else { return took };
                    connection.asks(request);
                    let start = Instant::now();
                    connection.ask().await;
                    took.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
            })
        })
        .collect();
    let mut took = vec![];
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    Measured::of(took, began.elapsed().as_secs_f64())
}
