//! The peer that Daybook succeeds: FastAPI + asyncpg with two workers, doing one insert and one audit row per write, and a
//! read by id. Needs `python3` and the Python package registry; without them this row is left out, and said so.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ledger::private::PrivateServer;
use serde_json::Value;

use crate::http::{Ask, Connection, request};
use crate::table::{Measured, Table, measure};

const SERVICE: &str = include_str!("peer.py");
const PACKAGES: [&str; 3] = ["fastapi==0.115.6", "asyncpg==0.30.0", "uvicorn[standard]==0.34.0"];
const ADDRESS: &str = "127.0.0.1:18765";

/// What the peer reached.
pub(crate) struct Peer {
    pub(crate) write: Measured,
    pub(crate) read: Measured,
}

pub(crate) async fn run(table: &mut Table) -> Option<Peer> {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("FastAPI + asyncpg was not measured: {why}");
            return None;
        }
    };
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    std::fs::write(folder.path().join("peer.py"), SERVICE).unwrap();
    let server = PrivateServer::start_or_join(folder.path()).await.unwrap();
    let mut service = start(&python, folder.path(), &server);
    let measured = ask(table).await;
    let pid = rustix::process::Pid::from_child(&service);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let _ = service.wait();
    server.stop().await;
    measured
}

/// A virtual environment under the target folder, made once.
fn python() -> Result<std::path::PathBuf, String> {
    let place = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("bench-peer");
    let python = place.join("bin/python");
    if !place.join("ready").exists() {
        run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
        run_quietly(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
        std::fs::write(place.join("ready"), "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

pub(crate) fn run_quietly(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn start(python: &Path, folder: &Path, server: &PrivateServer) -> Child {
    let (host, port) = ADDRESS.split_once(':').unwrap();
    Command::new(python)
        .args(["-m", "uvicorn", "peer:app", "--workers", "2", "--log-level", "warning", "--no-access-log"])
        .args(["--host", host, "--port", port])
        .current_dir(folder)
        .env("PEER_DATABASE_URL", server.url())
        .spawn()
        .unwrap()
}

async fn ask(table: &mut Table) -> Option<Peer> {
    let write = request("POST", "/items", "", r#"{"kind":"noop"}"#);
    let deadline = Instant::now() + Duration::from_secs(30);
    while tokio::net::TcpStream::connect(ADDRESS).await.is_err() {
        if Instant::now() > deadline {
            println!("FastAPI + asyncpg was not measured: it did not start");
            return None;
        }
        tokio::task::yield_now().await;
    }
    let mut one = Connection::all(ADDRESS, &write, "HTTP/1.1 201").await.remove(0);
    let item: Value = serde_json::from_slice(&one.ask().await).unwrap();
    let written = measure(Connection::all(ADDRESS, &write, "HTTP/1.1 201").await, Ask).await;
    table.add("FastAPI + asyncpg: insert + audit row, 64 connections", written, None);
    let show = request("GET", &format!("/items/{}", item["id"].as_str().unwrap()), "", "");
    let read = measure(Connection::all(ADDRESS, &show, "HTTP/1.1 200").await, Ask).await;
    table.add("FastAPI + asyncpg: read by id, 64 connections", read, None);
    Some(Peer { write: written, read })
}
