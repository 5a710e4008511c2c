//! Processes that leave their job's group, in all the ways they do.

use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::Receiver;

use tempfile::TempDir;

use super::*;
use crate::jobs::sweep;

/// A process that does not want to go: it holds the test's pipe open, and so do its children.
const STAY: &str =
    r#"exec 3>"$PIPE"; echo up >&3; trap "" TERM HUP; echo > "$READY"; while :; do sleep 1; done"#;

/// It has its own session, and nothing of the job's output.
const SETSID: &str = r#"setsid sh -c "$STAY" >/dev/null 2>&1 &"#;

/// The same, and its parent is gone.
const ORPHAN: &str = r#"(setsid sh -c "$STAY" >/dev/null 2>&1 &)"#;

/// It has its own session and nothing of the environment, but the output.
const NO_ENVIRONMENT: &str = r#"env -i PIPE="$PIPE" READY="$READY" PATH="$PATH" setsid sh -c "$STAY" & "#;

/// It has its own session and neither environment nor output: only its parent tells whose it is.
const NOTHING_BUT_A_PARENT: &str =
    r#"env -i PIPE="$PIPE" READY="$READY" PATH="$PATH" setsid sh -c "$STAY" >/dev/null 2>&1 & "#;

/// A daemon by the book.
const DAEMON: &str = r#"python3 -c '
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for stream in range(3): os.dup2(null, stream)
        os.execvp("sh", ["sh", "-c", os.environ["STAY"]])
    os._exit(0)
os.wait()
' "#;

struct Escape {
    root: TempDir,
    holders: Receiver<Option<String>>,
}

impl Escape {
    fn new() -> (Self, PathBuf) {
        let root = root();
        let pipe = make_pipe(&root);
        let ready = root.path().join("ready");
        assert!(std::process::Command::new("mkfifo").arg(&ready).status().unwrap().success());
        (Self { holders: read_pipe(&pipe), root }, pipe)
    }

    /// A job of which a process escapes; then it says `ready` and does what `then` says.
    fn attempt(&self, how: &str, then: &str) -> Attempt {
        attempt_in(self.root.path(), how, then)
    }

    fn is_gone(&self) {
        assert_eq!(self.holders.recv_timeout(FOREVER).unwrap().unwrap(), "up");
        assert_eq!(self.holders.recv_timeout(FOREVER).unwrap(), None, "it lives on");
    }
}

fn attempt_in(root: &Path, how: &str, then: &str) -> Attempt {
    let script = format!("{how}\nread -r _ < \"$READY\"; echo ready; {then}");
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let mut attempt = attempt(&TempDir::new_in(root).unwrap(), &["sh", "-c", &script]);
    attempt.working_root = root.join("jobs");
    attempt.plain_env = vec![
        ("PIPE".to_owned(), path("pipe")),
        ("READY".to_owned(), path("ready")),
        ("STAY".to_owned(), STAY.to_owned()),
    ];
    attempt.grace = Duration::from_millis(100);
    attempt
}

#[tokio::test]
async fn whoever_is_left_at_the_end_is_killed() {
    for how in [SETSID, ORPHAN, NO_ENVIRONMENT, DAEMON] {
        let (escape, _) = Escape::new();
        let (finished, output) = run_all(escape.attempt(how, "exit 0")).await;
        assert_eq!(finished.ending, Ending::Exited { code: 0 });
        assert_eq!(lines(&output, Stream::Stdout), ["ready"]);
        let said = lines(&output, Stream::System).join("\n");
        assert!(
            said.starts_with("processes that were left behind outside of the job's group: "),
            "{how}: {said}"
        );
        escape.is_gone();
        assert_eq!(std::fs::read_dir(escape.root.path().join("jobs")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_cancelled_job_takes_all_along() {
    for how in [SETSID, ORPHAN, NO_ENVIRONMENT, NOTHING_BUT_A_PARENT, DAEMON] {
        let (escape, _) = Escape::new();
        let cancel = |line: &str, stop: &watch::Sender<_>| {
            if line == "ready" {
                stop.send_replace(Some(StopReason::Cancel));
            }
        };
        let (finished, _) = run_with(escape.attempt(how, "sleep 600"), cancel).await;
        assert_eq!(finished.ending, Ending::Cancelled);
        escape.is_gone();
    }
}

#[tokio::test]
async fn one_that_escaped_hears_sigterm_first() {
    let (escape, _) = Escape::new();
    let then = r#"while [ ! -e "$HOME/heard" ]; do sleep 0.01; done; echo heard"#;
    // The trap is set before `ready` is said, for the stop comes with it; and after the start, for it is inherited.
    let mut attempt = escape.attempt(&format!("{SETSID} trap '' TERM"), then);
    attempt.grace = FOREVER;
    let stay = r#"exec 3>"$PIPE"; echo up >&3; trap 'touch "$HOME/heard"; exit' TERM; echo > "$READY"; while :; do sleep 0.01; done"#;
    attempt.plain_env[2].1 = stay.to_owned();
    let (finished, output) = run_with(attempt, |_, stop| {
        stop.send_replace(Some(StopReason::Cancel));
    })
    .await;
    assert_eq!(finished.ending, Ending::Cancelled);
    assert_eq!(lines(&output, Stream::Stdout), ["ready", "heard"]);
    escape.is_gone();
}

#[tokio::test]
async fn a_timeout_takes_all_along() {
    for how in [ORPHAN, NOTHING_BUT_A_PARENT] {
        let (escape, _) = Escape::new();
        // It is up before its time is: else there would be nobody to kill, and the pipe would never be read.
        let mut attempt = escape.attempt(how, "sleep 600");
        attempt.timeout = Duration::from_secs(3);
        assert_eq!(run_all(attempt).await.0.ending, Ending::TimedOut);
        escape.is_gone();
    }
}

#[tokio::test]
async fn processes_that_multiply_are_ended_all_the_same() {
    let multiply = r#"setsid sh -c 'exec 3>"$PIPE"; echo up >&3; trap "" TERM; echo > "$READY"; while :; do (setsid sleep 600 &); sleep 0.005; done' >/dev/null 2>&1 &"#;
    let (escape, _) = Escape::new();
    let (finished, _) = run_all(escape.attempt(multiply, "sleep 0.3")).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    escape.is_gone();
}

#[tokio::test]
async fn a_neighbours_processes_are_left_alone() {
    let (escape, _) = Escape::new();
    let outer = escape.attempt(
        SETSID,
        r#"while [ ! -e "$HOME/go" ]; do sleep 0.01; done; kill -0 "$(cat "$READY.pid")" && echo alive"#,
    );
    let mut outer = outer;
    outer.plain_env[2].1 = format!("echo $$ > \"$READY.pid\"; {STAY}");
    let root = escape.root.path().to_owned();
    let (started, ready) = tokio::sync::oneshot::channel();
    let started = std::sync::Mutex::new(Some(started));
    let first = run_with(outer, |_, _| {
        if let Some(started) = started.lock().unwrap().take() {
            started.send(()).unwrap();
        }
    });
    let second = async {
        ready.await.unwrap();
        // Another job of the same worker begins and ends, and with it whatever is its own.
        let other = super::root();
        let (finished, _) = run_all(shell(&other, "setsid sleep 600 >/dev/null 2>&1 & sleep 0.1")).await;
        assert_eq!(finished.ending, Ending::Exited { code: 0 });
        let folder = std::fs::read_dir(root.join("jobs")).unwrap().next().unwrap().unwrap();
        std::fs::write(folder.path().join("home/go"), "").unwrap();
    };
    let ((finished, output), ()) = tokio::join!(first, second);
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    assert_eq!(lines(&output, Stream::Stdout), ["ready", "alive"]);
    escape.is_gone();
}

#[tokio::test]
async fn an_abandoned_attempt_takes_all_along() {
    let (escape, _) = Escape::new();
    let watchdog = Watchdog::start().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(None);
    tokio::select! {
        _ = run(escape.attempt(ORPHAN, "sleep 600"), &watchdog, sender, stopped, &NoArtifacts) => panic!("it does not end by itself"),
        line = receiver.recv() => assert!(line.is_some()),
    }
    escape.is_gone();
}

const VICTIM: &str = "DAYBOOK_TEST_ESCAPED_VICTIM";

/// Not a test of its own: the worker that `a_killed_worker_takes_all_along` kills.
#[tokio::test]
async fn escaped_victim() {
    let Ok(root) = std::env::var(VICTIM) else { return };
    let mut attempt = attempt_in(Path::new(&root), DAEMON, "sleep 600");
    attempt.max_artifact_bytes = 0;
    run_with(attempt, |_, _| std::fs::write(Path::new(&root).join("pipe"), "ready\n").unwrap()).await;
}

#[test]
fn a_killed_worker_takes_all_along() {
    let (escape, pipe) = Escape::new();
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jobs::process::tests::escaped::escaped_victim", "--nocapture"])
        .env(VICTIM, pipe.parent().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(escape.holders.recv_timeout(FOREVER).unwrap().unwrap(), "up");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(escape.holders.recv_timeout(FOREVER).unwrap(), None, "the daemon is gone");
}

#[test]
fn what_a_dead_workers_job_left_running_ends_with_its_folder() {
    let root = root();
    let pipe = make_pipe(&root);
    let holders = read_pipe(&pipe);
    let folder = root.path().join("attempt-0123456789abcdef");
    std::fs::create_dir(&folder).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    File::open(&folder).unwrap().set_modified(long_ago).unwrap();
    let mut left = std::process::Command::new("sh")
        .args(["-c", r#"exec 3>"$PIPE"; echo up >&3; sleep 600"#])
        .env("PIPE", &pipe)
        .env("DAYBOOK_RESULT", folder.canonicalize().unwrap().join("result.json"))
        .spawn()
        .unwrap();
    assert_eq!(holders.recv_timeout(FOREVER).unwrap().unwrap(), "up");
    assert_eq!(sweep(root.path()).unwrap(), 1);
    assert_eq!(holders.recv_timeout(FOREVER).unwrap(), None, "it is gone");
    left.wait().unwrap();
}
