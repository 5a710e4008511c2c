//! Running one attempt of a job: a process, its surroundings, its output and its end.
//!
//! The process gets its secrets, the kind's plain variables, `PATH` (the worker's own), `HOME` (a fresh folder, where it also starts
//! unless the attempt names another, removed afterwards), `DAYBOOK_JOB_ID`, `DAYBOOK_ATTEMPT`, `DAYBOOK_RESULT` and `DAYBOOK_ARTIFACTS`, and
//! nothing else of the worker's environment (a process with limits is started by a shell, which may add `PWD`, `SHLVL` and `_`). Its
//! standard input is empty. It leads a process group of its own. Signals go to the group and to what left it (see `descendants.rs`): SIGTERM on
//! cancel, timeout and hand-back, SIGKILL after the grace, and SIGKILL for whatever is left once the leader has ended.
//!
//! Jobs run as the user Daybook runs as. If that is root, so do the jobs: run Daybook as an unprivileged user where kinds are not
//! fully trusted.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use domain::Artifact as KeptArtifact;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::artifacts_folder::{self, KeepArtifacts};
use super::folder::Folder;
use super::group::Group;
use super::json_line::LastLine;
use super::launch::{self, Started};
use super::limits::Limits;
use super::lines::Budget;
pub use super::lines::{Output, Stream};
use super::mask::{Patterns, SecretBytes};
use super::output::{Notes, Pumps};
use super::result;
use super::watchdog::Watchdog;
use crate::panics::cut_short;

/// How long output is still read after the processes are dead, when one that escaped or could not be killed keeps it open.
pub const DRAIN: Duration = Duration::from_secs(2);

/// How long the kernel may take to end a process after SIGKILL. One that hangs in a dead disk takes longer and is given up.
pub(super) const REAP: Duration = Duration::from_secs(10);

/// How long storing what an attempt leaves may take.
const KEEP: Duration = Duration::from_secs(300);

/// One attempt of a job.
pub struct Attempt {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables that hold secrets; their values are masked in the output and in the result.
    pub env: Vec<(String, SecretBytes)>,
    /// Other variables.
    pub plain_env: Vec<(String, String)>,
    /// Where it starts; its fresh HOME if none.
    pub directory: Option<PathBuf>,
    /// `DAYBOOK_JOB_ID`.
    pub job_id: Uuid,
    /// `DAYBOOK_ATTEMPT`, from 1.
    pub attempt: u32,
    /// How long it may run.
    pub timeout: Duration,
    /// Lines of output to keep; the rest is counted.
    pub max_lines: u64,
    /// Bytes of output to keep; without it 2 KiB for each line.
    pub max_output_bytes: Option<u64>,
    /// What each of its processes may use.
    pub limits: Limits,
    /// Bytes of the files it leaves that are kept, all of them together; with 0 none is.
    pub max_artifact_bytes: u64,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where the fresh folder is made.
    pub working_root: PathBuf,
}

/// Why a running attempt is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled the job.
    Cancel,
    /// The worker stops; another one will run the job again.
    HandBack,
    /// Somebody else has the job by now, and says how this attempt ended.
    LeaseLost,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Exited {
        /// 0 to 255; 0 means success.
        code: i32,
    },
    /// By a signal that was not ours.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It ran longer than it may.
    TimedOut,
    /// See [`StopReason::Cancel`].
    Cancelled,
    /// See [`StopReason::HandBack`].
    HandedBack,
    /// See [`StopReason::LeaseLost`].
    TakenAway,
    /// It did what it does, and that came to nothing.
    Failed {
        /// A sentence for whoever asked for the job.
        error: String,
        /// Another attempt would end no differently.
        is_final: bool,
        /// The next attempt is of no use before this time has passed.
        retry_after: Option<Duration>,
    },
    /// It never ran.
    CouldNotStart {
        /// A sentence for whoever asked for the job.
        error: String,
    },
}

impl From<StopReason> for Ending {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Cancel => Self::Cancelled,
            StopReason::HandBack => Self::HandedBack,
            StopReason::LeaseLost => Self::TakenAway,
        }
    }
}

/// What is left of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote to `DAYBOOK_RESULT`, else the last line of its standard output that is a JSON object or array, if it ended by
    /// itself or by a foreign signal.
    pub result: Option<domain::JsonText>,
    /// The files it left, as far as they were stored, if it ended in one of these ways or by its timeout.
    pub artifacts: Vec<KeptArtifact>,
    /// Lines of output that were not kept.
    pub dropped_lines: u64,
}

impl Finished {
    /// An attempt that left nothing but its ending.
    #[must_use]
    pub fn without_process(ending: Ending) -> Self {
        Self { ending, result: None, artifacts: vec![], dropped_lines: 0 }
    }
}

/// Runs one attempt to its end and sends what it says to `output`, which may be bounded: a slow reader slows the process down, but
/// delays neither its timeout nor a stop. A reader that takes nothing for 30 seconds after the end loses the rest.
///
/// `stop` ends the attempt early; if its sender is dropped, nothing does. If the future is dropped, the processes are killed. `keep`
/// stores the files it leaves before its folder is removed; it has five minutes.
pub async fn run(
    attempt: Attempt,
    watchdog: &Watchdog,
    output: mpsc::Sender<Output>,
    stop: watch::Receiver<Option<StopReason>>,
    keep: &dyn KeepArtifacts,
) -> Finished {
    let stopped = *stop.borrow();
    if let Some(reason) = stopped {
        return Finished::without_process(reason.into());
    }
    match Prepared::new(attempt).await {
        Ok(prepared) => prepared.run(watchdog, output, stop, keep).await,
        Err(error) => Finished::without_process(Ending::CouldNotStart { error }),
    }
}

/// An attempt with everything it needs but the process.
struct Prepared {
    attempt: Attempt,
    patterns: Arc<Patterns>,
    folder: Folder,
}

impl Prepared {
    async fn new(attempt: Attempt) -> Result<Self, String> {
        spawn_blocking(move || Self::make(attempt))
            .await
            .map_err(|error| format!("preparing the job failed: {}", cut_short(&error)))?
    }

    fn make(attempt: Attempt) -> Result<Self, String> {
        if let Some((name, _)) = attempt.env.iter().find(|(_, value)| value.expose().contains(&0)) {
            return Err(format!(
                "the secret for `{name}` holds a NUL byte, which an environment variable cannot"
            ));
        }
        attempt.limits.check()?;
        let values = attempt.env.iter().map(|(_, value)| value.expose());
        let patterns = Arc::new(Patterns::new(values).map_err(|error| error.to_string())?);
        let folder = Folder::create(&attempt.working_root)
            .map_err(|error| format!("the job's folder could not be made: {error}"))?;
        Ok(Self { attempt, patterns, folder })
    }

    async fn run(
        self,
        watchdog: &Watchdog,
        output: mpsc::Sender<Output>,
        stop: watch::Receiver<Option<StopReason>>,
        keep: &dyn KeepArtifacts,
    ) -> Finished {
        let finished = match launch::launch(&self.attempt, &self.folder) {
            Ok(started) => self.follow(started, watchdog, output, stop, keep).await,
            Err(error) => Finished::without_process(Ending::CouldNotStart { error }),
        };
        // Removing a large folder takes its time; the runtime's threads are not for that.
        if spawn_blocking(move || drop(self.folder)).await.is_err() {
            tracing::warn!("removing a job's folder failed");
        }
        finished
    }

    async fn follow(
        &self,
        mut started: Started,
        watchdog: &Watchdog,
        output: mpsc::Sender<Output>,
        stop: watch::Receiver<Option<StopReason>>,
        keep: &dyn KeepArtifacts,
    ) -> Finished {
        let group = Group::new(&started, &self.folder, watchdog);
        let mut notes = Notes::new(output.clone());
        if let Err(error) = started.begin(&self.attempt.limits).await {
            group.end(&mut notes).await;
            return Finished::without_process(Ending::CouldNotStart { error });
        }
        let budget = Arc::new(Budget::new(self.attempt.max_lines, self.attempt.max_output_bytes));
        let (stdout, stderr) = (started.child.stdout.take(), started.child.stderr.take());
        let pumps = Pumps::start(stdout, stderr, &self.patterns, &budget, &output);
        let early = self.supervise(&group, stop, &mut notes).await;
        group.end(&mut notes).await;
        let status = timeout(REAP, started.child.wait()).await;
        let line = pumps.finish().await;
        let ending = early.unwrap_or_else(|| ending_of(status.map_err(io::Error::from).flatten()));
        notes.say_all(self.attempt.limits.explain(&ending));
        let result = self.result(&ending, line, &mut notes).await;
        let artifacts = self.artifacts(&ending, keep, &mut notes).await;
        notes.finish().await;
        Finished { ending, result, artifacts, dropped_lines: budget.dropped() }
    }

    /// Waits until the leader has ended, by itself (`None`) or because it had to. It is not reaped yet.
    async fn supervise(
        &self,
        group: &Group<'_>,
        stop: watch::Receiver<Option<StopReason>>,
        notes: &mut Notes,
    ) -> Option<Ending> {
        let mut exit = leader_exit(group.leader);
        let ending = tokio::select! {
            biased;
            _ = &mut exit => return None,
            reason = stop_reason(stop) => reason.into(),
            () = sleep(self.attempt.timeout) => Ending::TimedOut,
        };
        notes.say(self.why(&ending));
        group.signal(Signal::TERM).await;
        if timeout(self.attempt.grace, &mut exit).await.is_err() {
            notes.say(format!("still running {} s after SIGTERM; killed", self.attempt.grace.as_secs_f64()));
            group.signal(Signal::KILL).await;
            if timeout(REAP, &mut exit).await.is_err() {
                tracing::error!(job = %self.attempt.job_id, "a job's process does not end after SIGKILL; given up");
            }
        }
        Some(ending)
    }

    fn why(&self, ending: &Ending) -> String {
        match ending {
            Ending::TimedOut => {
                format!("timeout of {} s reached; stopping", self.attempt.timeout.as_secs_f64())
            }
            Ending::HandedBack => "the worker is shutting down; the job is handed back".to_owned(),
            Ending::TakenAway => "another worker has the job by now; stopping".to_owned(),
            Ending::Cancelled
            | Ending::Exited { .. }
            | Ending::Signalled { .. }
            | Ending::Failed { .. }
            | Ending::CouldNotStart { .. } => "cancelled; stopping".to_owned(),
        }
    }

    async fn result(&self, ending: &Ending, line: LastLine, notes: &mut Notes) -> Option<domain::JsonText> {
        if !matches!(ending, Ending::Exited { .. } | Ending::Signalled { .. }) {
            return None;
        }
        let (path, patterns) = (self.folder.result(), Arc::clone(&self.patterns));
        let read = spawn_blocking(move || match result::read(&path, &patterns) {
            Ok(None) => result::of_line(line, &patterns),
            read => read,
        });
        let read = read.await;
        match read.unwrap_or_else(|error| Err(format!("the result could not be read: {}", cut_short(&error))))
        {
            Ok(result) => result,
            Err(reason) => {
                notes.say(reason);
                None
            }
        }
    }

    async fn artifacts(
        &self,
        ending: &Ending,
        keep: &dyn KeepArtifacts,
        notes: &mut Notes,
    ) -> Vec<KeptArtifact> {
        if !matches!(ending, Ending::Exited { .. } | Ending::Signalled { .. } | Ending::TimedOut) {
            return vec![];
        }
        let (folder, most) = (self.folder.artifacts(), self.attempt.max_artifact_bytes);
        let patterns = Arc::clone(&self.patterns);
        let Ok(found) = spawn_blocking(move || artifacts_folder::find(&folder, most, &patterns)).await else {
            notes.say("looking for the artifacts failed; none was kept".to_owned());
            return vec![];
        };
        notes.say_all(found.remarks);
        let count = found.artifacts.len();
        if count == 0 {
            return vec![];
        }
        let kept = timeout(KEEP, keep.keep(found.artifacts)).await.unwrap_or_default();
        if kept.len() < count {
            notes.say(format!("of {count} artifacts only {} could be stored", kept.len()));
        }
        kept
    }
}

fn ending_of(status: io::Result<ExitStatus>) -> Ending {
    match status.map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => Ending::Exited { code },
        Ok((None, Some(signal))) => Ending::Signalled { signal },
        // The process ended, but how is not known: not a success in any case.
        Ok((None, None)) | Err(_) => Ending::Signalled { signal: Signal::KILL.as_raw() },
    }
}

pub(super) async fn stop_reason(mut stop: watch::Receiver<Option<StopReason>>) -> StopReason {
    let reason = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
    match reason {
        Some(reason) => reason,
        // Nobody can stop it any more.
        None => std::future::pending().await,
    }
}

/// Ends when the process has, without reaping it: until then its number, and that of its group, belongs to nobody else.
fn leader_exit(leader: Pid) -> JoinHandle<()> {
    spawn_blocking(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(leader), options) {}
    })
}

#[cfg(test)]
mod tests;
