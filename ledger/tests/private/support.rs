//! Folders, other processes, and waiting for what comes to pass by itself.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ledger::private::PrivateServer;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;

/// Names the data folder to the test binary when it plays another process.
pub(crate) const OTHER: &str = "DAYBOOK_PRIVATE_TEST_FOLDER";
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// A data folder through which the server's user may pass.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("daybook-test-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

pub(crate) async fn start(folder: &Path) -> PrivateServer {
    PrivateServer::start_or_join(folder).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn connect(server: &PrivateServer) -> PgConnection {
    server.connect_options().connect().await.unwrap()
}

pub(crate) async fn text(connection: &mut PgConnection, query: &str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

pub(crate) async fn remember(server: &PrivateServer, word: &str) {
    let mut connection = connect(server).await;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS words (word text)").execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO words VALUES ($1)").bind(word).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

pub(crate) async fn words(server: &PrivateServer) -> String {
    let mut connection = connect(server).await;
    let words = text(&mut connection, "SELECT string_agg(word, ' ' ORDER BY word) FROM words").await;
    connection.close().await.unwrap();
    words
}

pub(crate) fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Looks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The processes that have the path among their arguments: postmasters and watchdogs.
pub(crate) fn processes_of(path: &Path) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let line = |pid: u32| {
        Some((
            pid,
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " "),
        ))
    };
    pids.filter_map(line).filter(|(_, line)| line.contains(path.to_str().unwrap())).collect()
}

/// The watchdog of a folder's server, once there is one.
pub(crate) async fn watchdog(path: &Path) -> u32 {
    let look = async || {
        processes_of(path).into_iter().find(|(_, line)| line.contains("read -r _")).map(|(pid, _)| pid)
    };
    eventually("a watchdog", look).await
}

/// Waits until another server than that one answers.
pub(crate) async fn replaced(server: &PrivateServer, old: u32) {
    eventually("a new server", async || server.pid().filter(|&new| new != old)).await;
    let connection = eventually("it answers", async || server.connect_options().connect().await.ok()).await;
    connection.close().await.unwrap();
}

pub(crate) async fn assert_nothing_runs(path: &Path) {
    eventually(&format!("all processes of {} are gone", path.display()), async || {
        processes_of(path).is_empty().then_some(())
    })
    .await;
}

/// Another process that uses the private server of a folder.
pub(crate) struct Other {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn spawn(folder: &Path) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "plays_another_process", "--nocapture"])
            .env(OTHER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// Waits until it is ready and returns the postmaster's process id.
    pub(crate) fn ready(&mut self) -> u32 {
        let mut seen = String::new();
        loop {
            let begin = seen.len();
            assert!(self.output.read_line(&mut seen).unwrap() > 0, "the other process ended: {seen}");
            if let Some(pid) = seen[begin..].trim().strip_prefix("ready ") {
                return pid.parse().unwrap();
            }
        }
    }

    pub(crate) fn start(folder: &Path) -> (Self, u32) {
        let mut other = Self::spawn(folder);
        let pid = other.ready();
        (other, pid)
    }

    /// Lets it leave in good order.
    pub(crate) fn stop(mut self) {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // After a failed test; otherwise it has ended already.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}
