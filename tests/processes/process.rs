//! A process with its output, from start to end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tests::eventually;

/// The `daybook` of this build, brought up to date once in a run.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        // target/<profile>/deps/<this>
        let profile = test.parent().and_then(Path::parent).unwrap();
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(&PathBuf::from(cargo), profile);
        }
        let binary = profile.join("daybook");
        assert!(binary.is_file(), "{} is missing: cargo build --bin daybook", binary.display());
        binary
    })
}

fn build(cargo: &Path, profile: &Path) {
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--workspace", "--bin", "daybook", "--target-dir"])
        .arg(profile.parent().unwrap());
    // What cargo says of this package to its tests is not for another cargo: packages that look at it would be built anew each time.
    for name in std::env::vars().map(|(name, _)| name) {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(name);
        }
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "{build:?}");
}

/// A running process. It is killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdout: Captured,
    stderr: Captured,
}

/// What is left of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The same, after making sure of its exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON lines.
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What a process has written so far.
struct Captured {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Captured {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

impl Process {
    /// Starts the command with nothing to read and everything it writes kept.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Captured::new(child.stdout.take().unwrap());
        let stderr = Captured::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a whole line of standard output that fits.
    pub(crate) async fn line(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        eventually(what, async || {
            let text = self.stdout();
            let found =
                text.split_inclusive('\n').filter(|line| line.ends_with('\n')).find(|line| fits(line));
            if found.is_none()
                && let Ok(Some(status)) = self.child.try_wait()
            {
                panic!("{what}: it ended with {status}\n{text}\n{}", self.stderr());
            }
            found.map(|line| line.trim_end().to_owned())
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let status = eventually("the process' end", async || self.child.try_wait().unwrap()).await;
        eventually("the end of its output", async || {
            (self.stdout.reader.is_finished() && self.stderr.reader.is_finished()).then_some(())
        })
        .await;
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Signals it and waits for its end.
    pub(crate) async fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.ended().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a failed test; otherwise it has ended already.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}
