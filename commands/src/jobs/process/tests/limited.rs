//! What a job's processes may use.

use super::*;

fn limited(root: &TempDir, script: &str, limits: Limits) -> Attempt {
    Attempt { limits, ..attempt(root, &["python3", "-c", script]) }
}

fn none() -> Limits {
    Limits::default()
}

#[tokio::test]
async fn memory_is_limited_and_mere_address_space_is_not() {
    let root = root();
    let script = "import mmap\n\
        mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE, mmap.PROT_READ)\n\
        print(len(bytearray(16 << 20)))\n\
        try: bytearray(256 << 20)\n\
        except MemoryError: print('refused')";
    let limits = Limits { memory_bytes: Some(128 << 20), ..none() };
    let (finished, output) = run_all(limited(&root, script, limits)).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 }, "{output:?}");
    assert_eq!(lines(&output, Stream::Stdout), ["16777216", "refused"]);
}

#[tokio::test]
async fn processor_time_is_limited_and_the_log_says_so() {
    let root = root();
    let limits = Limits { cpu_seconds: Some(1), ..none() };
    let (finished, output) = run_all(limited(&root, "while True: pass", limits)).await;
    assert_eq!(finished.ending, Ending::Signalled { signal: 24 });
    assert_eq!(lines(&output, Stream::System), ["limit of 1 s of processor time reached (SIGXCPU)"]);
    let deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass";
    assert_eq!(run_all(limited(&root, deaf, limits)).await.0.ending, Ending::Signalled { signal: 9 });
}

#[tokio::test]
async fn open_files_are_limited() {
    let script = "files = []\n\
        try:\n  while True: files.append(open('/dev/null'))\n\
        except OSError as error: print(error.errno, len(files) < 32)";
    let (finished, output) =
        run_all(limited(&root(), script, Limits { open_files: Some(32), ..none() })).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    assert_eq!(lines(&output, Stream::Stdout), ["24 True"]);
}

#[tokio::test]
async fn files_are_limited_and_the_log_says_so() {
    let root = root();
    let limits = Limits { file_bytes: Some(10_000), ..none() };
    let mut attempt =
        shell(&root, "head -c 10000 /dev/zero > fits; echo fits; head -c 10001 /dev/zero > big");
    attempt.limits = limits;
    let (finished, output) = run_all(attempt).await;
    assert_eq!(lines(&output, Stream::Stdout), ["fits"]);
    assert_eq!(finished.ending, Ending::Exited { code: 153 });
    assert_eq!(lines(&output, Stream::System), ["limit of 10000 bytes for a file reached (SIGXFSZ)"]);
    let mut attempt = self::attempt(&root, &["dd", "if=/dev/zero", "of=big", "bs=20k", "count=1"]);
    attempt.limits = limits;
    assert_eq!(run_all(attempt).await.0.ending, Ending::Signalled { signal: 25 });
}

#[tokio::test]
async fn processes_are_limited_or_the_attempt_refused() {
    let root = root();
    let mut attempt = shell(&root, "sleep 0; echo started");
    attempt.limits = Limits { processes: Some(1), ..none() };
    let (finished, output) = run_all(attempt).await;
    if rustix::process::geteuid().is_root() {
        let Ending::CouldNotStart { error } = finished.ending else { panic!("{finished:?}") };
        assert!(error.contains("not enforced for root"), "{error}");
    } else {
        assert_ne!(lines(&output, Stream::Stdout), ["started"], "the shell could start another process");
    }
}

#[tokio::test]
async fn limits_hold_for_grandchildren_and_cannot_be_raised() {
    let limits = Limits { open_files: Some(64), file_bytes: Some(512 * 100), cpu_seconds: Some(5), ..none() };
    let script = "sh -c 'ulimit -n; ulimit -f; ulimit -t; ulimit -c'; \
        for limit in n f; do (ulimit -H$limit unlimited && echo \"raised $limit\") 2>/dev/null; done; true";
    let mut attempt = shell(&root(), script);
    attempt.limits = limits;
    let (_, output) = run_all(attempt).await;
    let stdout = lines(&output, Stream::Stdout);
    assert_eq!(stdout[..3], ["64", "100", "5"]);
    // Root may raise its own limits, whoever set them.
    if !rustix::process::geteuid().is_root() {
        assert_eq!(stdout.len(), 4, "{stdout:?}");
    }
}

#[tokio::test]
async fn a_limited_job_is_started_as_any_other() {
    let root = root();
    let limits = Limits { open_files: Some(16), ..none() };
    let mut attempt =
        shell(&root, r#"printf '%s|' "$1" "$2" "$3" "$KEY"; cat; ls -l /proc/self/fd/0 | grep -c /dev/null"#);
    attempt.argv.extend(["sh", "$(touch here) `x`", "-n", "two\nlines \"and\" 'more'"].map(str::to_owned));
    attempt.plain_env = vec![("KEY".to_owned(), "*".to_owned())];
    attempt.limits = limits;
    let (finished, output) = run_all(attempt).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    assert_eq!(
        lines(&output, Stream::Stdout).join("\n"),
        "$(touch here) `x`|-n|two\nlines \"and\" 'more'|*|1"
    );
    let mut missing = self::attempt(&root, &["no-such-command"]);
    missing.limits = limits;
    let Ending::CouldNotStart { error } = run_all(missing).await.0.ending else { panic!("it started") };
    assert!(error.starts_with("the command `no-such-command` was not found in PATH"));
    let mut few = self::attempt(&root, &["true"]);
    few.limits = Limits { open_files: Some(3), ..none() };
    let Ending::CouldNotStart { error } = run_all(few).await.0.ending else { panic!("it started") };
    assert_eq!(error, "the job's limit of open files is below 16");
    let mut stopped = shell(&root, "echo ready; sleep 600");
    stopped.limits = limits;
    let (finished, _) = run_with(stopped, |_, stop| _ = stop.send_replace(Some(StopReason::Cancel))).await;
    assert_eq!(finished.ending, Ending::Cancelled);
}

#[tokio::test]
async fn the_bytes_of_the_output_are_limited() {
    let mut attempt = shell(&root(), "seq 1000; echo '{\"rows\": 3}'");
    attempt.max_output_bytes = Some(1024);
    let (finished, output) = run_all(attempt).await;
    let stored: usize = lines(&output, Stream::Stdout).iter().map(|line| line.len()).sum();
    assert!(stored <= 1024 && stored > 1000, "{stored}");
    assert_eq!(lines(&output, Stream::System), ["output limit of 1 KiB reached; the rest is not stored"]);
    assert_eq!(finished.result, Some(json!({"rows": 3}).into()), "the result is found past the limit");
}
