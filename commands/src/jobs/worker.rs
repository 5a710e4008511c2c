//! The worker: claims jobs, runs them, says that it lives, and gives back what lost workers had (D10).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use domain::JobId;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::artifacts::ArtifactStore;
use super::claims::Claims;
use super::kinds::Kinds;
use super::process::StopReason;
use super::queue::{ReadyJob, WorkQueue};
use super::registry::Registry;
use super::starting::Started;
use super::watchdog::Watchdog;
use crate::{CommandError, Commands};

/// How often it looks for work by itself, besides being told of changes: this finds what has become due.
const POLL: Duration = Duration::from_millis(500);
/// How long it rests at least after it has found nothing.
const REST: Duration = Duration::from_millis(5);
/// How often it looks for cancelled jobs by itself, besides being told of changes.
const CANCELLATIONS: Duration = Duration::from_secs(1);
/// Jobs that are remembered as dealt with, since the view may show them as they were before.
const REMEMBERED: usize = 10_000;
/// How long a worker that stops tries to say so.
const FAREWELL: Duration = Duration::from_secs(5);
/// Claims given up at a time.
const MOST_RELEASED: usize = 1_000;

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
        }
    }
}

/// One process' worker.
pub struct Worker<Q> {
    pub(super) commands: Commands,
    pub(super) kinds: Arc<Kinds>,
    pub(super) queue: Q,
    pub(super) options: WorkerOptions,
    pub(super) claims: Claims,
    pub(super) registry: Registry,
    pub(super) running: Running,
    /// The name it is on the list under; another one after it was given up.
    name: Mutex<Arc<str>>,
    /// How far the database's clock is ahead of ours, as of the last beat: due is what is due by its clock, for all workers alike.
    ahead: Mutex<TimeDelta>,
    /// Somebody wants it to take no more jobs.
    draining: watch::Sender<bool>,
    /// Told when an attempt has ended and there is room for another.
    room: Notify,
}

/// The attempts under way and how to stop each; and those that have ended, as far as the view may not show it yet.
#[derive(Default)]
pub(super) struct Running(Mutex<Attempts>);

#[derive(Default)]
struct Attempts {
    under_way: HashMap<JobId, watch::Sender<Option<StopReason>>>,
    /// How long each job's stream was when it was looked at here last.
    seen: HashMap<JobId, i64>,
}

impl Running {
    fn with<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn ids(&self) -> Vec<JobId> {
        self.with(|attempts| attempts.under_way.keys().copied().collect())
    }

    pub(super) fn has(&self, job: JobId) -> bool {
        self.with(|attempts| attempts.under_way.contains_key(&job))
    }

    pub(super) fn stop(&self, job: JobId, reason: StopReason) {
        self.with(|attempts| {
            if let Some(stop) = attempts.under_way.get(&job) {
                // The first reason counts.
                stop.send_if_modified(|present| present.is_none() && present.replace(reason).is_none());
            }
        });
    }

    pub(super) fn stop_all(&self, reason: StopReason) {
        self.ids().into_iter().for_each(|job| self.stop(job, reason));
    }

    fn begin(&self, job: &ReadyJob) -> watch::Receiver<Option<StopReason>> {
        let (stop, stopped) = watch::channel(None);
        self.with(|attempts| {
            attempts.under_way.insert(job.id, stop);
            if attempts.seen.len() >= REMEMBERED {
                attempts.seen.clear();
            }
            attempts.seen.insert(job.id, job.sequence);
        });
        stopped
    }

    fn end(&self, job: JobId) {
        self.with(|attempts| attempts.under_way.remove(&job));
    }

    /// Whether the view shows something of the job that was not dealt with here before.
    fn is_new(&self, job: &ReadyJob) -> bool {
        self.with(|attempts| {
            !attempts.under_way.contains_key(&job.id)
                && attempts.seen.get(&job.id).is_none_or(|seen| job.sequence > *seen)
        })
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// A worker that is on no list yet.
    #[must_use]
    pub fn new(commands: &Commands, kinds: Arc<Kinds>, queue: Q, options: WorkerOptions) -> Self {
        let pool = commands.ledger.pool();
        Self {
            commands: commands.clone(),
            kinds,
            queue,
            options,
            claims: Claims::new(pool.clone()),
            registry: Registry::new(pool.clone()),
            running: Running::default(),
            name: Mutex::new(Arc::from("")),
            ahead: Mutex::new(TimeDelta::zero()),
            draining: watch::Sender::new(false),
            room: Notify::new(),
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

    /// Sets our clock by the database's.
    pub(super) fn set_clock(&self, at: DateTime<Utc>) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = at - Utc::now();
    }

    /// The time by the database's clock, to the millisecond.
    fn now(&self) -> DateTime<Utc> {
        (Utc::now() + *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)).trunc_subsecs(3)
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
        // Heartbeats go on while attempts come to their end.
        let beating = tokio::spawn(Arc::clone(&worker).beat());
        let recovering = tokio::spawn(Arc::clone(&worker).recover(shutdown.clone()));
        let watching = tokio::spawn(Arc::clone(&worker).watch_cancellations());
        let (ended, releases) = mpsc::channel(worker.options.concurrency.max(1));
        let releasing = tokio::spawn(Arc::clone(&worker).release(releases));
        worker.claim(&watchdog, &mut attempts, &ended, &shutdown).await;
        worker.drain(&mut attempts).await;
        drop(ended);
        let _ended = releasing.await;
        for task in [beating, recovering, watching] {
            task.abort();
        }
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
        self.kinds.iter().map(|kind| kind.name().to_owned()).filter(|name| wanted(name)).collect()
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

    /// Takes what is ready, as long as there is room for it.
    async fn claim(
        self: &Arc<Self>,
        watchdog: &Arc<Watchdog>,
        attempts: &mut JoinSet<()>,
        ended: &mpsc::Sender<(Arc<str>, JobId)>,
        shutdown: &CancellationToken,
    ) {
        let kinds = self.kind_names();
        let mut changes = self.queue.changes();
        let mut draining = self.draining.subscribe();
        while !shutdown.is_cancelled() {
            // Interest is registered before looking, so that nothing is slept over.
            changes.mark_unchanged();
            let room = self.room.notified();
            while attempts.try_join_next().is_some() {}
            let free = self.options.concurrency.saturating_sub(attempts.len());
            let looked = Instant::now();
            let works = free > 0 && !kinds.is_empty() && !*draining.borrow_and_update();
            let took = if works { self.take(&kinds, free).await } else { vec![] };
            let took_some = !took.is_empty();
            for (started, name) in took {
                let stopped = self.running.begin(&started.job);
                // Given up meanwhile: others may have the job already.
                if self.name() != name {
                    self.running.stop(started.job.id, StopReason::LeaseLost);
                }
                let (worker, watchdog, ended) = (Arc::clone(self), Arc::clone(watchdog), ended.clone());
                attempts.spawn(async move {
                    let id = started.job.id;
                    worker.attempt(started, &name, &watchdog, stopped).await;
                    worker.running.end(id);
                    // Nobody listens only once all attempts have ended.
                    let _nobody = ended.send((name, id)).await;
                    worker.room.notify_one();
                });
            }
            if took_some {
                continue;
            }
            // Views change all the time on a busy node, mostly for other reasons.
            let rested = sleep_until(looked + REST);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = rested => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = room => {}
                _ = draining.changed() => {}
                changed = changes.changed(), if works => if changed.is_err() { sleep(POLL).await },
                () = sleep(POLL) => {}
            }
        }
    }

    /// Claims and starts jobs, `free` at most.
    async fn take(&self, kinds: &[String], free: usize) -> Vec<(Started, Arc<str>)> {
        let name = self.name();
        if name.is_empty() {
            return vec![];
        }
        let claimed = match self.claimed(&name, kinds, free).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "looking for jobs failed");
                sleep(POLL).await;
                return vec![];
            }
        };
        let mut started = vec![];
        // Also what could not even be looked at is left.
        let mut left: Vec<JobId> = claimed.iter().map(|job| job.id).collect();
        for (job, outcome) in self.commands.start_jobs(claimed, &name, self.now()).await {
            match outcome {
                Ok(start) => {
                    metrics::counter!("job_attempts_total").increment(1);
                    // If we die from here on, the attempt is recorded as lost once we are missed.
                    left.retain(|id| *id != job.id);
                    started.push((start, Arc::clone(&name)));
                }
                Err(CommandError::Refused(_) | CommandError::Stale { .. }) => {}
                Err(CommandError::Append(ledger::AppendError::Conflict)) => {}
                Err(error) => tracing::warn!(job = %job.id, %error, "a job could not be started"),
            }
        }
        if !left.is_empty()
            && let Err(error) = self.claims.release(&name, &left).await
        {
            tracing::debug!(%error, "claims were not given up, and are with the next heartbeat");
        }
        started
    }

    async fn claimed(
        &self,
        name: &str,
        kinds: &[String],
        free: usize,
    ) -> Result<Vec<ReadyJob>, Box<dyn std::error::Error + Send + Sync>> {
        // More than there is room for: other workers look at the same head of the queue.
        let mut ready = self.queue.ready(self.now(), kinds, 2 * free + self.options.concurrency).await?;
        ready.retain(|job| self.running.is_new(job));
        if ready.is_empty() {
            return Ok(ready);
        }
        let mut claimed = vec![];
        while claimed.len() < free && !ready.is_empty() {
            let tried: Vec<ReadyJob> = ready.drain(..ready.len().min(free - claimed.len())).collect();
            let taken = self.claims.take(name, &tried).await?;
            claimed.extend(tried.into_iter().filter(|job| taken.contains(&job.id)));
        }
        Ok(claimed)
    }

    /// Gives claims up as attempts end; what ends meanwhile goes together.
    async fn release(self: Arc<Self>, mut ended: mpsc::Receiver<(Arc<str>, JobId)>) {
        let mut batch = vec![];
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
            let running = self.running.ids();
            if running.is_empty() {
                continue;
            }
            sleep(REST).await;
            match self.queue.cancel_requested(&running).await {
                Ok(jobs) => jobs.into_iter().for_each(|job| self.running.stop(job, StopReason::Cancel)),
                Err(error) => tracing::warn!(%error, "looking for cancelled jobs failed"),
            }
        }
    }
}
