//! What kinds of jobs do: a type of action reads its part of a kind's table and then runs attempts.
//!
//! Types are `command` (a process) and `http` (a request). A team that builds Daybook with a type of its own writes one file with an
//! [`Action`] and a function that reads it, and names both in one line, in [`Actions::built_in`] or with [`Actions::with`] where a node
//! is put together:
//!
//! ```
//! use commands::jobs::action::{Action, Actions, BoxFuture, Run};
//! use commands::jobs::process::{Ending, Finished};
//! use commands::jobs::{Kinds, Reading, Values};
//!
//! #[derive(Debug)]
//! struct Greet(String);
//!
//! impl Action for Greet {
//!     fn outline(&self, _values: &Values) -> Vec<String> {
//!         vec!["greet".to_owned(), self.0.clone()]
//!     }
//!
//!     fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, Finished> {
//!         Box::pin(async move {
//!             let work = async {
//!                 run.say(format!("hello {}", self.0)).await;
//!                 Finished::without_process(Ending::Exited { code: 0 })
//!             };
//!             run.until_stopped(work).await
//!         })
//!     }
//! }
//!
//! fn read(reading: &mut Reading<'_, '_>) -> Option<std::sync::Arc<dyn Action>> {
//!     Some(std::sync::Arc::new(Greet(reading.text("whom")?)))
//! }
//!
//! let actions = Actions::built_in().with("greet", read);
//! let kinds = Kinds::parse("[jobs.hello]\ntype = 'greet'\nwhom = 'world'", &actions);
//! assert!(kinds.is_ok());
//! ```

mod command;
mod http;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
pub use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::artifacts_folder::KeepArtifacts;
use super::circuits::Circuits;
use super::kinds::{ArgProblem, Reading, Values};
use super::limits::Limits;
use super::mask::SecretBytes;
use super::process::{Ending, Finished, Output, StopReason, Stream, stop_reason};
use super::watchdog::Watchdog;

/// How long Daybook's last remark on an attempt may wait for room in its log.
const LAST_REMARK: Duration = Duration::from_secs(30);

/// What a kind does.
pub trait Action: fmt::Debug + Send + Sync {
    /// What is wrong with values that fit their parameters by themselves. Said when a job is queued, and again before it runs.
    fn check(&self, _values: &Values) -> Vec<ArgProblem> {
        Vec::new()
    }

    /// What would be done with these values, for people: a command's argument list, a request's method and URL. Shows no secret.
    fn outline(&self, values: &Values) -> Vec<String>;

    /// Runs one attempt to its end. It ends early when `run.stop` says so, and after `run.timeout`: [`Run::until_stopped`] sees to
    /// both. What it sends to `run.output` and leaves as result is stored as it is: secrets are masked by whoever uses them.
    ///
    /// If the future is dropped, whatever it started ends.
    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, Finished>;
}

/// What an attempt has to go on.
pub struct Run<'a> {
    /// The job's arguments.
    pub values: Values,
    /// The values of the kind's secrets, by the name that the kind has for each.
    pub secrets: Vec<(String, SecretBytes)>,
    /// The kind's plain variables.
    pub plain_env: Vec<(String, String)>,
    /// Which job.
    pub job_id: Uuid,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How long it may run.
    pub timeout: Duration,
    /// Lines of output to keep; the rest is counted.
    pub max_lines: u64,
    /// Bytes of output to keep, if the kind says so.
    pub output_bytes: Option<u64>,
    /// What a process may use.
    pub limits: Limits,
    /// Bytes of files to keep.
    pub artifacts_bytes: u64,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where a fresh folder is made.
    pub working_root: PathBuf,
    /// Where a process starts; its fresh folder if none.
    pub directory: Option<PathBuf>,
    /// Takes what it says. Bounded: it may make the attempt wait.
    pub output: mpsc::Sender<Output>,
    /// Ends it early.
    pub stop: watch::Receiver<Option<StopReason>>,
    /// Ends processes that outlive the worker.
    pub watchdog: &'a Watchdog,
    /// Keeps the files that it leaves.
    pub keep: &'a dyn KeepArtifacts,
    /// Which hosts are better left alone for now.
    pub circuits: &'a Arc<Circuits>,
}

impl Run<'_> {
    /// Does the work until it ends, has to stop, or has taken its time. Work that is given up is dropped where it waits.
    pub async fn until_stopped(&self, work: impl Future<Output = Finished>) -> Finished {
        let ending = tokio::select! {
            biased;
            reason = stop_reason(self.stop.clone()) => Ending::from(reason),
            finished = work => return finished,
            () = sleep(self.timeout) => Ending::TimedOut,
        };
        let remark = match ending {
            Ending::TimedOut => format!("timeout of {} s reached; stopping", self.timeout.as_secs_f64()),
            Ending::HandedBack => "the worker is shutting down; the job is handed back".to_owned(),
            Ending::TakenAway => "another worker has the job by now; stopping".to_owned(),
            _ => "cancelled; stopping".to_owned(),
        };
        if timeout(LAST_REMARK, self.say(remark)).await.is_err() {
            tracing::warn!(job = %self.job_id, "a remark on a job was lost: nobody took it");
        }
        Finished::without_process(ending)
    }

    /// Puts a remark into the attempt's log, where it stands as Daybook's own. One line, without secrets.
    pub async fn say(&self, text: String) {
        let line = Output::Line { stream: Stream::System, text, at: Utc::now() };
        // Without a receiver there is no log to put it into.
        let _no_log = self.output.send(line).await;
    }
}

/// Reads a kind's own part of its table. `None` once something that is missing or wrong has been reported.
pub type ReadAction = dyn Fn(&mut Reading<'_, '_>) -> Option<Arc<dyn Action>> + Send + Sync;

/// The types of actions there are, by name.
#[derive(Clone)]
pub struct Actions(BTreeMap<String, Arc<ReadAction>>);

impl Actions {
    /// Those that come with Daybook.
    #[must_use]
    pub fn built_in() -> Self {
        Self(BTreeMap::new())
            // One line for each.
            .with("command", command::read)
            .with("http", http::read)
    }

    /// One more; one of the same name is replaced.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        read: impl Fn(&mut Reading<'_, '_>) -> Option<Arc<dyn Action>> + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(name.to_owned(), Arc::new(read));
        self
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The name, if there is such a type.
    pub(super) fn name(&self, name: &str) -> Option<&str> {
        self.0.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// What a kind of this type does, read from its table.
    pub(super) fn read(&self, name: &str, reading: &mut Reading<'_, '_>) -> Option<Arc<dyn Action>> {
        self.0.get(name).and_then(|read| read(reading))
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::built_in()
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}
