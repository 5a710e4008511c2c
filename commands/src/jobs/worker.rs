//! The worker: claims jobs, runs them, says that it lives, and gives back what lost workers had (D10).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::JobId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::artifacts::ArtifactStore;
use super::claiming::Claiming;
use super::claims::Claims;
use super::kinds::LiveKinds;
use super::process::StopReason;
use super::queue::WorkQueue;
use super::registry::Registry;
use super::running::{Running, Slots};
use super::watchdog::Watchdog;
use crate::Commands;
use crate::supervisor::Supervisor;

/// How often it looks for work by itself, besides being told of changes and knowing what becomes due when; and its pause after a failure.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// How often it looks for cancelled jobs by itself, besides being told of changes; and at most.
const CANCELLATIONS: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_millis(50);
/// How long a worker that stops tries to say so.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long claims that are given up gather, while nobody but another job of the same key could wait for them.
const GATHER: Duration = Duration::from_millis(5);
/// Claims given up at a time.
const MOST_RELEASED: usize = 1_000;

/// Why something could not be done, for the log.
pub(super) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A job whose claim is given up, and under which name it was had.
pub(super) type Ended = (Arc<str>, JobId);

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Attempts at a time.
    pub concurrency: usize,
    /// Lines stored of an attempt.
    pub max_log_lines: u64,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How long running jobs may go on when the worker is to stop, before they are handed back.
    pub drain: Duration,
    /// Where the jobs' fresh folders are made.
    pub working_root: PathBuf,
    /// Where jobs start; their fresh folder if none.
    pub directory: Option<PathBuf>,
    /// The kinds it runs; all it knows if none.
    pub only: Option<Vec<String>>,
    /// Where files are kept that jobs leave; none are if none.
    pub artifacts: Option<ArtifactStore>,
    /// Watches what the worker does besides.
    pub supervisor: Supervisor,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            concurrency: 8,
            max_log_lines: 2_000,
            grace: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            working_root: std::env::temp_dir(),
            directory: None,
            only: None,
            artifacts: None,
            supervisor: Supervisor::default(),
        }
    }
}

/// One process' worker.
pub struct Worker<Q> {
    pub(super) commands: Commands,
    pub(super) kinds: LiveKinds,
    pub(super) queue: Q,
    pub(super) options: WorkerOptions,
    pub(super) claims: Claims,
    pub(super) registry: Registry,
    pub(super) running: Running,
    pub(super) slots: Slots,
    /// The name it is on the list under; another one after it was given up.
    name: Mutex<Arc<str>>,
    /// Somebody wants it to take no more jobs.
    pub(super) draining: watch::Sender<bool>,
}

/// What a worker does besides working, under watch.
struct Beside<'a, Q>(&'a Arc<Worker<Q>>);

impl<Q: WorkQueue> Beside<'_, Q> {
    fn spawn<T>(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        work: impl Fn(Arc<Worker<Q>>) -> T + Send + Sync + 'static,
    ) -> AbortOnDropHandle<()>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let worker = Arc::clone(self.0);
        let make = move || work(Arc::clone(&worker));
        AbortOnDropHandle::new(self.0.options.supervisor.spawn(name, stop.clone(), make))
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// A worker that is on no list yet.
    #[must_use]
    pub fn new(commands: &Commands, kinds: LiveKinds, queue: Q, options: WorkerOptions) -> Self {
        let pool = commands.ledger.pool();
        Self {
            commands: commands.clone(),
            kinds,
            queue,
            slots: Slots::new(options.concurrency),
            options,
            claims: Claims::new(pool.clone()),
            registry: Registry::new(pool.clone()),
            running: Running::default(),
            name: Mutex::new(Arc::from("")),
            draining: watch::Sender::new(false),
        }
    }

    /// The name it is on the list under.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on it has none, until it is entered into the list again.
    pub(super) fn forget_name(&self) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from("");
    }

    /// The time by the database's clock: due is what is due by its clock, for all workers alike.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.commands.now()
    }

    pub(super) fn set_draining(&self, draining: bool) {
        self.draining.send_if_modified(|present| std::mem::replace(present, draining) != draining);
    }

    /// Works until `shutdown`. Running jobs then have some time to end; what still runs is stopped and given back, which costs it no attempt.
    pub async fn run(self, shutdown: CancellationToken) {
        let watchdog = match self.prepare() {
            Ok(watchdog) => Arc::new(watchdog),
            Err(error) => {
                tracing::error!(%error, "the worker cannot run jobs");
                return;
            }
        };
        let worker = Arc::new(self);
        if !worker.enter_list(&shutdown).await {
            return;
        }
        tracing::info!(worker = %worker.name(), concurrency = worker.options.concurrency, "worker started");
        let mut attempts = JoinSet::new();
        let (ended, releases) = mpsc::channel(MOST_RELEASED);
        // Heartbeats go on while attempts come to their end, and end with this, however it ends: a worker that does not work must be missed.
        let (ending, beside) = (CancellationToken::new(), Beside(&worker));
        let _beating = beside.spawn("worker heartbeat", &ending, Worker::beat);
        let _recovering = beside.spawn("worker recovery", &shutdown, {
            let shutdown = shutdown.clone();
            move |worker| worker.recover(shutdown.clone())
        });
        let _watching = beside.spawn("worker cancellations", &ending, Worker::watch_cancellations);
        let releases = Arc::new(tokio::sync::Mutex::new(releases));
        let releasing =
            beside.spawn("worker claims", &ending, move |worker| worker.release(Arc::clone(&releases)));
        Claiming::new(&worker, &watchdog, &mut attempts, &ended).run(&shutdown).await;
        worker.drain(&mut attempts).await;
        ending.cancel();
        drop(ended);
        let _ended = releasing.await;
        if timeout(FAREWELL, worker.take_leave()).await.is_err() {
            tracing::debug!("the worker could not say in time that it has stopped");
        }
        tracing::info!(worker = %worker.name(), "worker stopped");
    }

    /// Best effort: whoever does not beat is given up, and its claims with it.
    async fn take_leave(&self) {
        let name = self.name();
        if let Err(error) = self.claims.release_all(&name).await {
            tracing::debug!(%error, "claims were not given up, and are by the next worker that looks");
        }
        if let Err(error) = self.registry.leave(&name).await {
            tracing::debug!(%error, "the worker could not say that it has stopped");
        }
    }

    fn prepare(&self) -> std::io::Result<Watchdog> {
        std::fs::create_dir_all(&self.options.working_root)?;
        if let Err(error) = super::sweep(&self.options.working_root) {
            tracing::warn!(%error, "folders of jobs that ended badly could not be removed");
        }
        Watchdog::start()
    }

    /// The kinds it runs.
    pub(super) fn kind_names(&self) -> Vec<String> {
        let wanted =
            |name: &str| self.options.only.as_ref().is_none_or(|only| only.iter().any(|one| one == name));
        self.kinds.now().iter().map(|kind| kind.name().to_owned()).filter(|name| wanted(name)).collect()
    }

    /// Says on the list of workers which kinds it runs from now on.
    pub(super) async fn show_kinds(&self, kinds: &[String]) {
        if let Err(error) = self.registry.set_kinds(&self.name(), kinds).await {
            tracing::warn!(%error, "the list of workers could not be told of other kinds");
        }
    }

    /// Enters the list under a new name; one that was given up while it was drained is drained still. `false`: it is to stop before that could be done.
    pub(super) async fn enter_list(&self, shutdown: &CancellationToken) -> bool {
        let kinds = self.kind_names();
        while !shutdown.is_cancelled() {
            let draining = *self.draining.borrow();
            match self.registry.enter(&kinds, self.options.concurrency, draining).await {
                Ok(name) => {
                    *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(name);
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, "the worker could not be entered into the list of workers");
                    sleep(POLL).await;
                }
            }
        }
        false
    }

    /// Gives claims up as attempts end; what ends meanwhile goes together.
    async fn release(self: Arc<Self>, ended: Arc<tokio::sync::Mutex<mpsc::Receiver<Ended>>>) {
        let (mut ended, mut batch) = (ended.lock().await, vec![]);
        while ended.recv_many(&mut batch, MOST_RELEASED).await > 0 {
            let mut by_name: HashMap<Arc<str>, Vec<JobId>> = HashMap::new();
            for (name, job) in batch.drain(..) {
                by_name.entry(name).or_default().push(job);
            }
            for (name, jobs) in by_name {
                if let Err(error) = self.claims.release(&name, &jobs).await {
                    tracing::warn!(%error, "claims were not given up, and are with the next heartbeat");
                }
            }
            sleep(GATHER).await;
        }
    }

    /// Running jobs have some time; what still runs then is handed back.
    async fn drain(&self, attempts: &mut JoinSet<()>) {
        let all = async { while attempts.join_next().await.is_some() {} };
        if timeout(self.options.drain, all).await.is_ok() {
            return;
        }
        self.running.stop_all(StopReason::HandBack);
        while attempts.join_next().await.is_some() {}
    }

    async fn watch_cancellations(self: Arc<Self>) {
        let mut changes = self.queue.changes();
        loop {
            // Also by itself: a node without a follower hears of no changes, and a look that failed is repeated.
            if let Ok(Err(_)) = timeout(CANCELLATIONS, changes.changed()).await {
                return;
            }
            sleep(CALM).await;
            let running = self.running.ids();
            if running.is_empty() {
                continue;
            }
            match self.queue.cancel_requested(&running).await {
                Ok(jobs) => jobs.into_iter().for_each(|job| self.running.stop(job, StopReason::Cancel)),
                Err(error) => tracing::warn!(%error, "looking for cancelled jobs failed"),
            }
        }
    }
}
