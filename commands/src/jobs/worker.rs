//! The worker: claims jobs, runs them, says that it lives, and gives back what lost workers had (D10).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use domain::{Job, JobCommand, JobId, TeamId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::kinds::Kinds;
use super::leases::{LEASE, Leases};
use super::process::StopReason;
use super::queue::{ReadyJob, WorkQueue};
use super::watchdog::Watchdog;
use crate::{CommandError, Commands, Context};

/// How often a worker says that it lives: five times within a lease.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often it looks for workers that fell silent.
const RECOVERY: Duration = Duration::from_secs(2);
/// How often it looks for work by itself, besides being told of changes: this finds what has become due.
const POLL: Duration = Duration::from_millis(500);
/// How often it looks for cancelled jobs by itself, besides being told of changes.
const CANCELLATIONS: Duration = Duration::from_secs(1);
/// A job that runs without anybody's lease for this long was forgotten.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::seconds(30);
/// Running jobs looked at for that at a time.
const MOST_RUNNING: usize = 1_000;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Attempts at a time.
    pub concurrency: usize,
    /// Lines stored of an attempt.
    pub max_log_lines: u64,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where the jobs' fresh folders are made.
    pub working_root: PathBuf,
    /// Where jobs start; their fresh folder if none.
    pub directory: Option<PathBuf>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            concurrency: 8,
            max_log_lines: 2_000,
            grace: Duration::from_secs(5),
            working_root: std::env::temp_dir(),
            directory: None,
        }
    }
}

/// One process' worker.
pub struct Worker<Q> {
    pub(super) name: String,
    pub(super) commands: Commands,
    pub(super) kinds: Arc<Kinds>,
    pub(super) queue: Q,
    pub(super) options: WorkerOptions,
    pub(super) leases: Leases,
    running: Running,
    /// Told when an attempt has ended and there is room for another.
    room: Notify,
}

/// The attempts under way, and how to stop each.
#[derive(Default)]
struct Running(Mutex<HashMap<JobId, watch::Sender<Option<StopReason>>>>);

impl Running {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<JobId, watch::Sender<Option<StopReason>>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ids(&self) -> Vec<JobId> {
        self.with(|running| running.keys().copied().collect())
    }

    fn stop(&self, job: JobId, reason: StopReason) {
        self.with(|running| {
            if let Some(stop) = running.get(&job) {
                // The first reason counts.
                stop.send_if_modified(|present| present.is_none() && present.replace(reason).is_none());
            }
        });
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// A worker with a name of its own.
    #[must_use]
    pub fn new(commands: &Commands, kinds: Arc<Kinds>, queue: Q, options: WorkerOptions) -> Self {
        let name = worker_name();
        let leases = Leases::new(commands.ledger.pool().clone(), name.clone());
        Self {
            name,
            commands: commands.clone(),
            kinds,
            queue,
            options,
            leases,
            running: Running::default(),
            room: Notify::new(),
        }
    }

    /// Works until `shutdown`; then running jobs are stopped and given back, which costs them no attempt.
    pub async fn run(self, shutdown: CancellationToken) {
        let watchdog = match self.prepare() {
            Ok(watchdog) => Arc::new(watchdog),
            Err(error) => {
                tracing::error!(%error, "the worker cannot run jobs");
                return;
            }
        };
        tracing::info!(worker = self.name, concurrency = self.options.concurrency, "worker started");
        let worker = Arc::new(self);
        let mut attempts = JoinSet::new();
        {
            // Heartbeats go on while attempts are being handed back: they end with this block.
            let beats = worker.clone();
            let beating = tokio::spawn(async move { beats.beat().await });
            let recovering = tokio::spawn(Arc::clone(&worker).recover(shutdown.clone()));
            let watching = tokio::spawn(Arc::clone(&worker).watch_cancellations());
            worker.claim(&watchdog, &mut attempts, &shutdown).await;
            for job in worker.running.ids() {
                worker.running.stop(job, StopReason::HandBack);
            }
            while attempts.join_next().await.is_some() {}
            for task in [beating, recovering, watching] {
                task.abort();
            }
        }
        tracing::info!(worker = worker.name, "worker stopped");
    }

    fn prepare(&self) -> std::io::Result<Watchdog> {
        std::fs::create_dir_all(&self.options.working_root)?;
        if let Err(error) = super::sweep(&self.options.working_root) {
            tracing::warn!(%error, "folders of jobs that ended badly could not be removed");
        }
        Watchdog::start()
    }

    /// Takes what is ready, as long as there is room for it.
    async fn claim(
        self: &Arc<Self>,
        watchdog: &Arc<Watchdog>,
        attempts: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| kind.name().to_owned()).collect();
        let mut changes = self.queue.changes();
        while !shutdown.is_cancelled() {
            // Interest is registered before looking, so that nothing is slept over.
            changes.mark_unchanged();
            let room = self.room.notified();
            while attempts.try_join_next().is_some() {}
            let free = self.options.concurrency.saturating_sub(attempts.len());
            let took = if free > 0 && !kinds.is_empty() { self.take(&kinds, free).await } else { vec![] };
            let took_some = !took.is_empty();
            for job in took {
                let (stop, stopped) = watch::channel(None);
                self.running.with(|running| running.insert(job.id, stop));
                let (worker, watchdog) = (Arc::clone(self), Arc::clone(watchdog));
                attempts.spawn(async move {
                    let id = job.id;
                    worker.attempt(job, &watchdog, stopped).await;
                    worker.running.with(|running| running.remove(&id));
                    worker.room.notify_one();
                });
            }
            if took_some {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = room => {}
                changed = changes.changed(), if free > 0 => if changed.is_err() { sleep(POLL).await },
                () = sleep(POLL) => {}
            }
        }
    }

    async fn take(&self, kinds: &[String], free: usize) -> Vec<ReadyJob> {
        // More than there is room for: other workers look at the same head of the queue.
        let ready = match self.queue.ready(Utc::now(), kinds, free + self.options.concurrency).await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::warn!(%error, "looking for jobs failed");
                sleep(POLL).await;
                return vec![];
            }
        };
        let mine = self.running.ids();
        let mut ready: Vec<ReadyJob> = ready.into_iter().filter(|job| !mine.contains(&job.id)).collect();
        ready.truncate(free);
        if ready.is_empty() {
            return ready;
        }
        match self.leases.take(&ready).await {
            Ok(taken) => ready.retain(|job| taken.contains(&job.id)),
            Err(error) => {
                tracing::warn!(%error, "claiming jobs failed");
                ready.clear();
            }
        }
        ready
    }

    /// Says that this worker lives. What it does not have any more, or could not say so for as long as a lease lasts, it stops: by
    /// then another worker may run it.
    async fn beat(&self) {
        let mut ticks = interval(HEARTBEAT);
        let mut heard = Instant::now();
        loop {
            ticks.tick().await;
            let running = self.running.ids();
            let (kept, reason) = match self.leases.renew(&running).await {
                Ok(kept) => {
                    heard = Instant::now();
                    (kept, StopReason::LeaseLost)
                }
                Err(_) if heard.elapsed() < LEASE => continue,
                Err(error) => {
                    tracing::warn!(%error, "no heartbeat got through for a whole lease: stopping all jobs");
                    (vec![], StopReason::HandBack)
                }
            };
            for job in running.into_iter().filter(|job| !kept.contains(job)) {
                self.running.stop(job, reason);
            }
        }
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
            match self.queue.cancel_requested(&running).await {
                Ok(jobs) => jobs.into_iter().for_each(|job| self.running.stop(job, StopReason::Cancel)),
                Err(error) => tracing::warn!(%error, "looking for cancelled jobs failed"),
            }
        }
    }

    /// Gives back what workers had that fell silent.
    async fn recover(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(RECOVERY);
        let mut round = 0u32;
        loop {
            ticks.tick().await;
            if shutdown.is_cancelled() {
                return;
            }
            if let Err(error) = self.recover_expired().await {
                tracing::warn!(%error, "recovering jobs of lost workers failed");
            }
            if round.is_multiple_of(5)
                && let Err(error) = self.recover_forgotten().await
            {
                tracing::warn!(%error, "looking for forgotten jobs failed");
            }
            round = round.wrapping_add(1);
        }
    }

    async fn recover_expired(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for lease in self.leases.take_expired().await? {
            // If we die here, the lease we have just taken over expires and another worker comes this way.
            self.lose(lease.job_id, lease.team_id, lease.attempt).await?;
            self.leases.release(lease.job_id, lease.attempt).await?;
        }
        Ok(())
    }

    /// A job that runs in the log while nobody has a lease for it: a lease was lost with its table (a restored backup, say).
    async fn recover_forgotten(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let long_ago = Utc::now() - FORGOTTEN_AFTER;
        let mut running = self.queue.running_without(&[], MOST_RUNNING).await?;
        running.retain(|job| job.started_at.is_some_and(|at| at < long_ago));
        if running.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = running.iter().map(|job| job.id).collect();
        let held = self.leases.held(&ids).await?;
        for job in running.into_iter().filter(|job| !held.contains(&job.id)) {
            self.lose(job.id, job.team_id, job.attempt).await?;
        }
        Ok(())
    }

    async fn lose(&self, job: JobId, team: TeamId, attempt: u32) -> Result<(), CommandError> {
        let command = JobCommand::Lose { attempt, at: Utc::now() };
        match self.commands.execute::<Job>(&Context::system(Some(team)), job, None, command).await {
            Ok(_) => {
                tracing::warn!(%job, attempt, "a worker was lost; its job goes back to the queue");
                metrics::counter!("jobs_lost_total").increment(1);
                Ok(())
            }
            // It had ended, or never begun: there is nothing to give back.
            Err(CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Host, process and a few random digits: unique also where every container has process 1.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let random = Uuid::now_v7().simple().to_string();
    format!("{host}-{}-{}", std::process::id(), &random[random.len() - 6..])
}
