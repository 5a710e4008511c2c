#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{Attempt, Ending, Finished, Output, StopReason, Stream, run};
use crate::jobs::limits::Limits;
use crate::jobs::mask::SecretBytes;
use crate::jobs::watchdog::Watchdog;
use crate::jobs::{KeepArtifacts, NoArtifacts};

mod escaped;
mod leavings;
mod limited;

/// Far longer than anything here takes; only a broken test waits for it.
const FOREVER: Duration = Duration::from_secs(60);

fn attempt(root: &TempDir, argv: &[&str]) -> Attempt {
    Attempt {
        argv: argv.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        plain_env: Vec::new(),
        directory: None,
        job_id: Uuid::nil(),
        attempt: 1,
        timeout: FOREVER,
        max_lines: 2000,
        max_output_bytes: None,
        limits: Limits::default(),
        max_artifact_bytes: 1_000_000,
        grace: FOREVER,
        working_root: root.path().to_owned(),
    }
}

fn shell(root: &TempDir, script: &str) -> Attempt {
    attempt(root, &["sh", "-c", script])
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs to the end; `on_line` sees each line as it comes and may stop the attempt.
async fn run_with(
    attempt: Attempt,
    on_line: impl Fn(&str, &watch::Sender<Option<StopReason>>),
) -> (Finished, Vec<Output>) {
    run_keeping(attempt, on_line, &NoArtifacts).await
}

async fn run_keeping(
    attempt: Attempt,
    on_line: impl Fn(&str, &watch::Sender<Option<StopReason>>),
    keep: &dyn KeepArtifacts,
) -> (Finished, Vec<Output>) {
    let watchdog = Watchdog::start().unwrap();
    let (sender, mut receiver) = mpsc::channel(8);
    let (stop, stopped) = watch::channel(None);
    let collect = async {
        let mut all = Vec::new();
        while let Some(output) = receiver.recv().await {
            if let Output::Line { text, .. } = &output {
                on_line(text, &stop);
            }
            all.push(output);
        }
        all
    };
    tokio::join!(run(attempt, &watchdog, sender, stopped, keep), collect)
}

async fn run_all(attempt: Attempt) -> (Finished, Vec<Output>) {
    run_with(attempt, |_, _| {}).await
}

fn lines(output: &[Output], wanted: Stream) -> Vec<&str> {
    let text = |output: &'_ Output| matches!(output, Output::Line { stream, .. } if *stream == wanted);
    output
        .iter()
        .filter(|output| text(output))
        .map(|output| if let Output::Line { text, .. } = output { text.as_str() } else { "" })
        .collect()
}

fn ended_well(dropped_lines: u64) -> Finished {
    Finished { ending: Ending::Exited { code: 0 }, result: None, artifacts: vec![], dropped_lines }
}

fn make_pipe(root: &TempDir) -> PathBuf {
    let path = root.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Reads a named pipe in a thread of its own: first its first line, then, when the last process that holds it is gone, `None`.
fn read_pipe(path: &Path) -> Receiver<Option<String>> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(File::open(path).unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        sender.send(Some(line.trim().to_owned())).unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap();
        sender.send(None).unwrap();
    });
    receiver
}

#[tokio::test]
async fn the_environment_is_what_was_promised_and_nothing_else() {
    let root = root();
    let mut attempt = attempt(&root, &["env"]);
    attempt.env = vec![("DB_PASSWORD".to_owned(), SecretBytes::new("hunter2 with = and space"))];
    attempt.plain_env =
        vec![("MODE".to_owned(), "fast".to_owned()), ("HOME".to_owned(), "/elsewhere".to_owned())];
    attempt.attempt = 3;
    let (finished, output) = run_all(attempt).await;
    assert_eq!(finished, ended_well(0));
    let env: BTreeMap<&str, &str> =
        lines(&output, Stream::Stdout).into_iter().map(|line| line.split_once('=').unwrap()).collect();
    let names = [
        "DAYBOOK_ARTIFACTS",
        "DAYBOOK_ATTEMPT",
        "DAYBOOK_JOB_ID",
        "DAYBOOK_RESULT",
        "DB_PASSWORD",
        "HOME",
        "MODE",
        "PATH",
    ];
    assert_eq!(env.keys().copied().collect::<Vec<_>>(), names);
    assert_eq!((env["DB_PASSWORD"], env["MODE"], env["DAYBOOK_ATTEMPT"]), ("***", "fast", "3"));
    assert_eq!(env["DAYBOOK_JOB_ID"], Uuid::nil().to_string());
    assert_eq!(env["PATH"], std::env::var("PATH").unwrap());
    assert!(Path::new(env["HOME"]).starts_with(root.path().canonicalize().unwrap()));
}

#[tokio::test]
async fn it_starts_in_a_fresh_folder_that_is_removed() {
    let root = root();
    let script = r#"[ "$PWD" = "$HOME" ] && ls -A . && stat -c %a . && [ -z "$(cat)" ] && touch file && mkdir -p a/b && chmod 500 a"#;
    let (finished, output) = run_all(shell(&root, script)).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    assert_eq!(lines(&output, Stream::Stdout), ["700"]);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    let mut elsewhere = attempt(&root, &["pwd"]);
    elsewhere.directory = Some("/".into());
    assert_eq!(lines(&run_all(elsewhere).await.1, Stream::Stdout), ["/"]);
}

#[tokio::test]
async fn it_leads_a_group_of_its_own() {
    let (_, output) = run_all(shell(&root(), r#"echo $$; ps -o pgid= -p $$ | tr -d " ""#)).await;
    let lines = lines(&output, Stream::Stdout);
    assert_eq!(lines[0], lines[1]);
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let root = root();
    let reason = async |attempt: Attempt| match run_all(attempt).await.0.ending {
        Ending::CouldNotStart { error } => error,
        other => panic!("{other:?}"),
    };
    assert!(
        reason(attempt(&root, &["no-such-command"]))
            .await
            .starts_with("the command `no-such-command` was not found in PATH")
    );
    assert_eq!(reason(attempt(&root, &["./no-such"])).await, "the command `./no-such` does not exist");
    assert_eq!(reason(attempt(&root, &[])).await, "the command is empty");
    let long = "x".repeat(200_000);
    assert!(reason(attempt(&root, &["echo", &long])).await.contains("too long"));
    let mut nul = attempt(&root, &["env"]);
    nul.env = vec![("KEY".to_owned(), SecretBytes::new("a\0b"))];
    assert!(reason(nul).await.starts_with("the secret for `KEY` holds a NUL byte"));
    let mut nowhere = attempt(&root, &["env"]);
    nowhere.directory = Some(root.path().join("nowhere"));
    assert!(reason(nowhere).await.ends_with("nowhere does not exist"));
    let mut unwritable = attempt(&root, &["env"]);
    unwritable.working_root = PathBuf::from("/dev/null/jobs");
    assert!(reason(unwritable).await.starts_with("the job's folder could not be made"));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn it_ends_with_a_code_or_a_signal() {
    let root = root();
    let ending = async |script| run_all(shell(&root, script)).await.0.ending;
    assert_eq!(ending("exit 7").await, Ending::Exited { code: 7 });
    assert_eq!(ending("kill -SEGV $$").await, Ending::Signalled { signal: 11 });
    assert_eq!(ending("kill -KILL $$").await, Ending::Signalled { signal: 9 });
}

#[tokio::test]
async fn one_that_never_ends_times_out() {
    let mut attempt = shell(&root(), "echo started; sleep 600");
    attempt.timeout = Duration::from_millis(300);
    let (finished, output) = run_all(attempt).await;
    assert_eq!(finished.ending, Ending::TimedOut);
    assert_eq!(lines(&output, Stream::System), ["timeout of 0.3 s reached; stopping"]);
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed() {
    let mut attempt = shell(&root(), "trap '' TERM; echo ready; while :; do sleep 1; done");
    attempt.grace = Duration::from_millis(100);
    let (finished, output) =
        run_with(attempt, |_, stop| _ = stop.send_replace(Some(StopReason::Cancel))).await;
    assert_eq!(finished.ending, Ending::Cancelled);
    assert_eq!(
        lines(&output, Stream::System),
        ["cancelled; stopping", "still running 0.1 s after SIGTERM; killed"]
    );
}

#[tokio::test]
async fn a_stop_lets_it_say_goodbye() {
    for (reason, ending) in
        [(StopReason::Cancel, Ending::Cancelled), (StopReason::HandBack, Ending::HandedBack)]
    {
        let script = "trap 'echo {} > $DAYBOOK_RESULT; echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let stop_it = move |line: &str, stop: &watch::Sender<_>| {
            if line == "ready" {
                stop.send_replace(Some(reason));
            }
        };
        let (finished, output) = run_with(shell(&root(), script), stop_it).await;
        assert_eq!((finished.ending, finished.result), (ending, None));
        assert_eq!(lines(&output, Stream::Stdout), ["ready", "bye"]);
    }
}

#[tokio::test]
async fn one_stopped_before_it_began_never_runs() {
    let root = root();
    let marker = root.path().join("ran");
    let (_stop, stopped) = watch::channel(Some(StopReason::HandBack));
    let (sender, _receiver) = mpsc::channel(1);
    let attempt = attempt(&root, &["touch", marker.to_str().unwrap()]);
    let finished = run(attempt, &Watchdog::start().unwrap(), sender, stopped, &NoArtifacts).await;
    assert_eq!(finished.ending, Ending::HandedBack);
    assert!(!marker.exists());
}

#[tokio::test]
async fn grandchildren_that_hold_the_output_die_with_it() {
    let root = root();
    let pipe = make_pipe(&root);
    let holders = read_pipe(&pipe);
    let mut attempt =
        shell(&root, r#"exec 3>"$PIPE"; echo up >&3; (trap '' TERM HUP; sleep 600) & echo done"#);
    attempt.plain_env = vec![("PIPE".to_owned(), pipe.to_str().unwrap().to_owned())];
    let (finished, output) = run_all(attempt).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    assert_eq!(lines(&output, Stream::Stdout), ["done"]);
    assert_eq!(holders.recv_timeout(FOREVER).unwrap().unwrap(), "up");
    assert_eq!(holders.recv_timeout(FOREVER).unwrap(), None, "the grandchild is gone");
}

#[tokio::test]
async fn a_hundred_megabytes_are_taken_and_not_kept() {
    let script = "import sys\nline = b'x' * 99 + b'\\n'\nfor _ in range(1000): sys.stdout.buffer.write(line * 1000)\nprint('::progress 1')";
    let (finished, output) = run_all(attempt(&root(), &["python3", "-c", script])).await;
    assert_eq!(finished, ended_well(998_000));
    assert_eq!(lines(&output, Stream::Stdout).len(), 2000);
    assert_eq!(
        lines(&output, Stream::System),
        ["output limit of 2000 lines reached; the rest is not stored"]
    );
    assert_eq!(output.last(), Some(&Output::Progress(1.0)));
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_cut() {
    let mut attempt = shell(&root(), "head -c 100000000 /dev/zero; echo; echo after");
    attempt.env = vec![("KEY".to_owned(), SecretBytes::new("hunter2"))];
    let (finished, output) = run_all(attempt).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    let lines = lines(&output, Stream::Stdout);
    assert_eq!((lines.len(), lines[1]), (2, "after"));
    assert!(lines[0].starts_with("\u{FFFD}\u{FFFD}") && lines[0].len() < 9000);
}

#[tokio::test]
async fn invalid_utf8_and_both_streams_are_kept() {
    let (_, output) = run_all(shell(&root(), r"printf 'a\377b\000c\n'; printf 'oops' >&2")).await;
    assert_eq!(lines(&output, Stream::Stdout), ["a\u{FFFD}b\u{FFFD}c"]);
    assert_eq!(lines(&output, Stream::Stderr), ["oops"]);
}

#[tokio::test]
async fn secrets_never_show() {
    let script = "import base64, json, os, sys, time\nkey = os.environ['KEY']\n\
        for half in (key[:9], key[9:] + '\\n'): sys.stdout.write(half); sys.stdout.flush(); time.sleep(0.05)\n\
        print(base64.b64encode(('user:' + key).encode()).decode())\n\
        print(key, file=sys.stderr)\n\
        json.dump({'key': key}, open(os.environ['DAYBOOK_RESULT'], 'w'))";
    let mut attempt = attempt(&root(), &["python3", "-c", script]);
    attempt.env = vec![("KEY".to_owned(), SecretBytes::new("correct horse battery staple"))];
    let (finished, output) = run_all(attempt).await;
    let stdout = lines(&output, Stream::Stdout);
    assert_eq!(stdout[0], "***");
    assert!(stdout[1].contains("***") && stdout[1].len() < 20, "{stdout:?}");
    assert_eq!(lines(&output, Stream::Stderr), ["***"]);
    assert_eq!(finished.result, Some(json!({"key": "***"}).into()));
}

#[tokio::test]
async fn the_result_is_read_and_a_bad_one_is_reported() {
    let root = root();
    let (finished, _) = run_all(shell(&root, r#"echo '{"rows": 3}' > "$DAYBOOK_RESULT"; exit 3"#)).await;
    assert_eq!(
        (finished.ending, finished.result),
        (Ending::Exited { code: 3 }, Some(json!({"rows": 3}).into()))
    );
    let (finished, output) = run_all(shell(&root, r#"echo '{rows' > "$DAYBOOK_RESULT""#)).await;
    assert_eq!((finished.ending, finished.result), (Ending::Exited { code: 0 }, None));
    assert!(lines(&output, Stream::System)[0].starts_with("the result is not valid JSON"));
}

#[tokio::test]
async fn progress_is_reported_and_not_kept() {
    let (_, output) =
        run_all(shell(&root(), "echo ::progress 0.25; echo ::progress 2; echo ::progress 1")).await;
    assert_eq!(output.iter().filter(|output| matches!(output, Output::Progress(_))).count(), 2);
    assert_eq!(lines(&output, Stream::Stdout), ["::progress 2"]);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_does_not_delay_the_timeout() {
    let root = root();
    let pipe = make_pipe(&root);
    let holders = read_pipe(&pipe);
    let mut attempt = shell(&root, r#"exec 3>"$PIPE"; echo up >&3; exec yes"#);
    attempt.plain_env = vec![("PIPE".to_owned(), pipe.to_str().unwrap().to_owned())];
    attempt.timeout = Duration::from_millis(300);
    let watchdog = Watchdog::start().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(None);
    let read_late = async {
        let gone =
            tokio::task::spawn_blocking(move || [(); 2].map(|()| holders.recv_timeout(FOREVER).unwrap()));
        assert_eq!(gone.await.unwrap()[1], None, "the process is gone though nobody took its output");
        while receiver.recv().await.is_some() {}
    };
    let (finished, ()) = tokio::join!(run(attempt, &watchdog, sender, stopped, &NoArtifacts), read_late);
    assert_eq!(finished.ending, Ending::TimedOut);
}

#[tokio::test]
async fn an_abandoned_attempt_is_killed_and_cleaned_up() {
    let root = root();
    let pipe = make_pipe(&root);
    let holders = read_pipe(&pipe);
    let mut attempt = shell(&root, r#"exec 3>"$PIPE"; echo up >&3; echo up; sleep 600"#);
    attempt.plain_env = vec![("PIPE".to_owned(), pipe.to_str().unwrap().to_owned())];
    let watchdog = Watchdog::start().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(None);
    tokio::select! {
        _ = run(attempt, &watchdog, sender, stopped, &NoArtifacts) => panic!("it does not end by itself"),
        line = receiver.recv() => assert!(line.is_some()),
    }
    assert_eq!(holders.recv_timeout(FOREVER).unwrap().unwrap(), "up");
    assert_eq!(holders.recv_timeout(FOREVER).unwrap(), None);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "only the test's pipe is left");
}

const VICTIM: &str = "DAYBOOK_TEST_VICTIM_PIPE";

/// Not a test of its own: the worker that `a_killed_worker_takes_its_jobs_along` kills.
#[tokio::test]
async fn victim() {
    let Ok(pipe) = std::env::var(VICTIM) else { return };
    let root = TempDir::new_in(Path::new(&pipe).parent().unwrap()).unwrap();
    let mut attempt =
        shell(&root, r#"exec 3>"$PIPE"; trap '' TERM HUP INT; (sleep 600) & echo up; sleep 600"#);
    attempt.plain_env = vec![("PIPE".to_owned(), pipe.clone())];
    // Output is read only once the watchdog knows the group.
    run_with(attempt, |line, _| std::fs::write(&pipe, format!("{line}\n")).unwrap()).await;
}

#[test]
fn a_killed_worker_takes_its_jobs_along() {
    let root = root();
    let pipe = make_pipe(&root);
    let holders = read_pipe(&pipe);
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jobs::process::tests::victim", "--nocapture"])
        .env(VICTIM, &pipe)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(holders.recv_timeout(FOREVER).unwrap().is_some(), "the job runs");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(holders.recv_timeout(FOREVER).unwrap(), None, "the job and its child are gone");
}
