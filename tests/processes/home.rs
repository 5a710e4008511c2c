//! A folder in which `daybook` is run.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tests::{Client, eventually};

use super::Process;
pub(crate) use super::process::Ended;
use super::process::binary;

/// How long the private server of a killed `daybook` may take to stop before it is killed too.
const REMAINS: Duration = Duration::from_secs(20);

/// A folder with settings. Whatever runs in it is gone when it is dropped.
pub(crate) struct Home {
    folder: TempDir,
    settings: Vec<(String, String)>,
}

/// A `daybook serve` that listens.
pub(crate) struct Serving {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// The first admin's address and one-time password, where this process made them.
    pub(crate) admin: Option<(String, String)>,
}

impl Home {
    /// An empty folder that the private server's user may pass through.
    pub(crate) fn new() -> Self {
        Self::with_mode(0o755)
    }

    /// An empty folder of this mode.
    pub(crate) fn with_mode(mode: u32) -> Self {
        let permissions = Permissions::from_mode(mode);
        let folder =
            tempfile::Builder::new().prefix("daybook-home-").permissions(permissions).tempdir().unwrap();
        let settings = vec![];
        Self { folder, settings }.with("LISTEN", "127.0.0.1:0").with("RATE_LIMIT_ENABLED", "false")
    }

    /// One more setting for all that runs here.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Without a setting.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.settings.retain(|(present, _)| present != name);
        self
    }

    /// The value of a setting.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str()).unwrap()
    }

    /// With this `daybook.toml`.
    pub(crate) fn file(self, text: &str) -> Self {
        fs::write(self.path().join("daybook.toml"), text).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The usual data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join(".daybook")
    }

    /// `daybook` with these arguments, and nothing of this process' environment but the way to programs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(binary(), arguments)
    }

    /// The same with another copy of the program.
    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        Process::start(self.command(arguments))
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    /// Starts to serve, and waits until it does.
    pub(crate) async fn serve(&self) -> Serving {
        Serving::of(self.start(&["serve"])).await
    }

    /// Processes that have this folder among their arguments: those of a private server, and its watchdogs.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes_of(self.path())
    }

    /// Waits until nothing runs here any more.
    pub(crate) async fn is_quiet(&self) {
        eventually("all processes of the folder are gone", async || {
            self.processes().is_empty().then_some(())
        })
        .await;
    }

    /// The process id of the private server; none while it is down.
    pub(crate) fn postgres(&self) -> Option<u32> {
        let file = self.data().join("postgres/data/postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let begun = Instant::now();
        while !self.processes().is_empty() && begun.elapsed() < REMAINS {
            std::thread::yield_now();
        }
        for pid in self.processes() {
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
        }
    }
}

/// The processes that have the path among their arguments. A zombie has none.
pub(crate) fn processes_of(path: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path.to_str().unwrap())
    };
    pids.filter(has).collect()
}

impl Serving {
    /// Waits until the process serves.
    pub(crate) async fn of(mut process: Process) -> Self {
        let line = process.line("its address", |line| line.contains(" at http://")).await;
        let address = line.split("http://").nth(1).unwrap().parse().unwrap();
        let anon = Client::new(address, None);
        // It listens before it serves, so the first answer is late but comes. The banner is whole by then.
        assert_eq!(anon.get("/livez").await.expect(200).text, "ok\n");
        let stdout = process.stdout();
        let field = |name: &str| {
            let line = stdout.lines().find(|line| line.trim_start().starts_with(name))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        };
        let admin = field("admin ").zip(field("password "));
        Self { process, address, admin }
    }

    pub(crate) fn anon(&self) -> Client {
        Client::new(self.address, None)
    }

    /// A client that has signed in.
    pub(crate) async fn sign_in(&self, (email, password): &(String, String)) -> Client {
        let body = json!({"email": email, "password": password});
        let tokens = self.anon().post("/api/auth/login", body).await.expect(200);
        Client::new(self.address, Some(tokens.str("access_token").to_owned()))
    }

    pub(crate) async fn stop(self, signal: Signal) -> Ended {
        self.process.stop(signal).await
    }
}
