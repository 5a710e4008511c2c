//! That a worker lives, and what becomes of the jobs of one that does not.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use domain::{Job, JobCommand, JobId, TeamId};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::process::StopReason;
use super::queue::{RunningJob, WorkQueue};
use super::registry::{LEASE, Pulse, Silence};
use super::worker::Worker;
use crate::{CommandError, Commands, Context};

/// How often a worker says that it lives: five times within a lease.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often it looks for workers that fell silent.
const RECOVERY: Duration = Duration::from_secs(2);
/// A job that runs for this long with a worker that is on no list, or does not know of it, was forgotten.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::seconds(30);
/// Running jobs looked at at a time.
const MOST_RUNNING: usize = 1_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl<Q: WorkQueue> Worker<Q> {
    /// Says that this worker lives. Once it was given up, or could not say so for as long as that takes, it stops what it runs: by then
    /// another worker may run it.
    pub(super) async fn beat(self: Arc<Self>) {
        let mut ticks = interval(HEARTBEAT);
        let mut heard = Instant::now();
        loop {
            ticks.tick().await;
            // A database that does not answer must not keep us from noticing.
            match timeout(HEARTBEAT, self.beat_once()).await {
                Ok(Ok(())) => heard = Instant::now(),
                Ok(Err(_)) | Err(_) if heard.elapsed() < LEASE => {}
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!("no heartbeat got through for a whole lease: stopping all jobs");
                    self.running.stop_all(StopReason::HandBack);
                }
            }
        }
    }

    async fn beat_once(&self) -> Result<(), sqlx::Error> {
        let (name, running) = (self.name(), self.running.ids());
        match self.registry.beat(&name, running.len()).await? {
            Pulse::Known { draining } => {
                self.set_draining(draining);
                self.claims.settle(&name, &running).await?;
            }
            Pulse::GivenUp => {
                tracing::warn!(worker = %name, "this worker was given up: stopping all jobs");
                self.running.stop_all(StopReason::LeaseLost);
                self.enter_list(&CancellationToken::new()).await;
            }
        }
        Ok(())
    }

    /// Gives back what workers had that fell silent.
    pub(super) async fn recover(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(RECOVERY);
        let mut silence = Silence::default();
        loop {
            ticks.tick().await;
            if shutdown.is_cancelled() {
                return;
            }
            if let Err(error) = self.recover_once(&mut silence).await {
                tracing::warn!(%error, "recovering jobs of lost workers failed");
            }
        }
    }

    async fn recover_once(&self, silence: &mut Silence) -> Result<(), Failure> {
        let mut live = self.registry.live().await?;
        let mine = self.name();
        for (worker, beats) in silence.broken_off(&live, Instant::now()) {
            // If we die after this, the next one that looks finds the worker lost and goes on from here.
            if *worker != *mine && self.registry.give_up(&worker, beats).await? {
                tracing::warn!(worker, "a worker fell silent and was given up");
                live.remove(&worker);
            }
        }
        let lost = self.registry.lost().await?;
        live.retain(|name, _| !lost.contains(name));
        // Its own are looked at as well: a start whose answer was lost may have been recorded.
        let others: Vec<String> = live.keys().filter(|name| ***name != *mine).cloned().collect();
        let long_ago = Utc::now() - FORGOTTEN_AFTER;
        for job in self.queue.running_without(&others, MOST_RUNNING).await? {
            let of_lost = job.worker.as_ref().is_some_and(|worker| lost.contains(worker));
            let is_old = job.started_at.is_some_and(|at| at < long_ago);
            if !self.running.has(job.id) && (of_lost || is_old) {
                self.commands.lose_job(&job).await?;
            }
        }
        self.claims.release_lost().await?;
        Ok(self.registry.tidy().await?)
    }
}

impl Commands {
    async fn lose_job(&self, job: &RunningJob) -> Result<(), CommandError> {
        let (id, attempt): (JobId, u32) = (job.id, job.attempt);
        let team: TeamId = job.team_id;
        let command = JobCommand::Lose { attempt, at: Utc::now() };
        match self.execute::<Job>(&Context::system(Some(team)), id, None, command).await {
            Ok(_) => {
                tracing::warn!(job = %id, attempt, "a worker was lost; its job goes back to the queue");
                metrics::counter!("jobs_lost_total").increment(1);
                Ok(())
            }
            // It had ended, or somebody else said so first.
            Err(CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
