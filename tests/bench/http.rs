//! HTTP over 64 kept connections: a write (token, permission, load, decide, append, fold, answer) and a read by id.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::peer::Peer;
use crate::table::{AsyncWork, Table, measure};

/// Connections.
pub(crate) const CONNECTIONS: usize = 64;

/// A connection that is kept, and what is asked over it.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    /// What it must answer.
    status: &'static str,
}

impl Connection {
    /// What it asks next.
    pub(crate) fn asks(&mut self, request: String) {
        self.request = request.into_bytes();
    }

    pub(crate) async fn all(address: &str, request: &str, status: &'static str) -> Vec<Self> {
        let mut connections = vec![];
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.push(Self { stream, request: request.as_bytes().to_vec(), buffer: vec![], status });
        }
        connections
    }

    /// One request and its whole answer; the body.
    pub(crate) async fn ask(&mut self) -> Vec<u8> {
        self.stream.write_all(&self.request).await.unwrap();
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the server closed the connection");
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
            assert!(head.starts_with(self.status), "{head} {}", String::from_utf8_lossy(&self.buffer));
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if self.buffer.len() >= end + 4 + length.unwrap() {
                return self.buffer[end + 4..].to_vec();
            }
        }
    }
}

/// Asks the same again and again.
#[derive(Clone)]
pub(crate) struct Ask;

impl AsyncWork<Connection> for Ask {
    async fn once(&self, connection: &mut Connection) {
        connection.ask().await;
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\n{headers}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

pub(crate) async fn run(table: &mut Table, peer: Option<Peer>) {
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    std::fs::write(
        folder.path().join("daybook.toml"),
        "[jobs.noop]\ndescription = \"Nothing\"\ncommand = [\"true\"]\n",
    )
    .unwrap();
    let began = Instant::now();
    let (server, address, password) = Server::start(folder.path(), "password", &[]);
    let body = format!(r#"{{"email":"admin@localhost","password":"{password}"}}"#);
    let mut login = Connection::all(&address, &request("POST", "/api/auth/login", "", &body), "HTTP/1.1 200")
        .await
        .remove(0);
    let answer: Value = serde_json::from_slice(&login.ask().await).unwrap();
    println!("from an empty folder to the first signed-in answer: {:.2} s", began.elapsed().as_secs_f64());
    println!("resident memory at rest: {} MiB", resident(server.0.id()));
    let bearer = format!("authorization: Bearer {}\r\n", answer["access_token"].as_str().unwrap());

    let queue = request("POST", "/api/jobs", &bearer, r#"{"kind":"noop"}"#);
    let write = measure(Connection::all(&address, &queue, "HTTP/1.1 201").await, Ask).await;
    let floor = |pick: fn(&Peer) -> crate::table::Measured| peer.as_ref().map(pick);
    table.add(
        "HTTP write (POST /api/jobs), 64 connections",
        write,
        floor(|peer| peer.write).map(|peer| (peer, "8x")),
    );

    let mut one = Connection::all(&address, &queue, "HTTP/1.1 201").await.remove(0);
    let job: Value = serde_json::from_slice(&one.ask().await).unwrap();
    let show = request("GET", &format!("/api/jobs/{}", job["id"].as_str().unwrap()), &bearer, "");
    let read = measure(Connection::all(&address, &show, "HTTP/1.1 200").await, Ask).await;
    table.add(
        "HTTP read by id (GET /api/jobs/{id}), 64 connections",
        read,
        floor(|peer| peer.read).map(|peer| (peer, "12x")),
    );
    println!("resident memory after the load: {} MiB", resident(server.0.id()));
    let requests = crate::identity::run(table, folder.path(), &address, &password).await;
    // Started anew, it has nothing in its caches.
    drop(server);
    let (server, address, _) = Server::start(folder.path(), "data", &[]);
    crate::identity::cold_and_warm(table, &address, &requests).await;
    drop(server);
}

/// The server; it stops with this value, also when the benchmark fails.
pub(crate) struct Server(Child);

impl Server {
    /// The release binary beside this one, on a private PostgreSQL of its own; where it listens, and the admin's password.
    /// `last` begins the last line it says as it starts.
    pub(crate) fn start(
        folder: &std::path::Path,
        last: &str,
        environment: &[(&str, &str)],
    ) -> (Self, String, String) {
        let (child, address, password) = serve(folder, last, environment);
        (Self(child), address, password)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

fn serve(folder: &std::path::Path, last: &str, environment: &[(&str, &str)]) -> (Child, String, String) {
    let binary = std::env::current_exe().unwrap().with_file_name("daybook");
    let mut child = Command::new(binary)
        .args(["serve", "--roles", "api,follower"])
        .current_dir(folder)
        .envs([("LISTEN", "127.0.0.1:0"), ("RATE_LIMIT_ENABLED", "false"), ("LOG_LEVEL", "warn")])
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the release binary: make bench builds it");
    let (mut address, mut password) = (String::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once("at http://") {
            rest.clone_into(&mut address);
        }
        if let Some(rest) = line.trim().strip_prefix("password ") {
            password = rest.split_whitespace().next().unwrap().to_owned();
        }
        if line.trim().starts_with(last) {
            break;
        }
    }
    (child, address, password)
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn stop(server: &mut Child) {
    let pid = rustix::process::Pid::from_child(server);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::yield_now();
    }
}
