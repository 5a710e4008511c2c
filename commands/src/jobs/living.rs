//! That a worker lives, and what becomes of the jobs of one that does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use domain::{Job, JobCommand, JobId, TeamId};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::process::StopReason;
use super::queue::{RunningJob, WorkQueue};
use super::registry::{LEASE, Pulse, Silence};
use super::worker::{Failed, Worker};
use crate::{CommandError, Commands, Context};

/// How often a worker says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often it looks for workers that fell silent.
const RECOVERY: Duration = Duration::from_secs(2);
/// A job that runs for this long with a worker that is on no list, or does not know of it, was forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Running jobs looked at at a time.
const MOST_RUNNING: usize = 1_000;

impl<Q: WorkQueue> Worker<Q> {
    /// Says that this worker lives. Once it was given up, or could not say so for so long that it soon will be, it stops what it runs: by
    /// then another worker may run it.
    pub(super) async fn beat(self: Arc<Self>) {
        let mut ticks = interval(HEARTBEAT);
        // Its processes are to be dead before anybody gives it up, though they ignore SIGTERM and we notice late.
        let patience = LEASE.saturating_sub(self.options.grace + HEARTBEAT).max(HEARTBEAT);
        let mut heard = Instant::now();
        loop {
            ticks.tick().await;
            let sent = Instant::now();
            // A database that does not answer must not keep us from noticing.
            let answer = timeout_at((sent + HEARTBEAT).min(heard + patience), self.beat_once()).await;
            if matches!(answer, Ok(Ok(()))) {
                heard = sent;
            } else if heard.elapsed() >= patience {
                tracing::warn!("no heartbeat got through for {} s: stopping all jobs", patience.as_secs());
                self.running.stop_all(StopReason::HandBack);
                // The next one has its time.
                heard = Instant::now().checked_sub(patience).unwrap_or(heard) + HEARTBEAT;
            }
        }
    }

    async fn beat_once(&self) -> Result<(), sqlx::Error> {
        let (name, running, clock) = (self.name(), self.running.ids(), self.commands.ledger.clock());
        let asked = clock.asking();
        match self.registry.beat(&name, self.slots.taken()).await? {
            Pulse::Known { draining, at } => {
                self.set_draining(draining);
                clock.heard(asked, at);
                self.claims.settle(&name, &running).await?;
            }
            Pulse::GivenUp => {
                tracing::warn!(worker = %name, "this worker was given up: stopping all jobs");
                // Nameless first: what is just being started under the old name finds that out, and stops.
                self.forget_name();
                self.running.stop_all(StopReason::LeaseLost);
                self.enter_list(&CancellationToken::new()).await;
            }
        }
        Ok(())
    }

    /// Gives back what workers had that fell silent.
    pub(super) async fn recover(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(RECOVERY);
        let (mut silence, mut stray) = (Silence::default(), Stray::default());
        loop {
            ticks.tick().await;
            if shutdown.is_cancelled() {
                return;
            }
            match timeout(LEASE, self.recover_once(&mut silence, &mut stray)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "recovering jobs of lost workers failed"),
                Err(_) => tracing::warn!("recovering jobs of lost workers took too long"),
            }
        }
    }

    async fn recover_once(&self, silence: &mut Silence, stray: &mut Stray) -> Result<(), Failed> {
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
        let mut found = self.queue.running_without(&others, MOST_RUNNING).await?;
        found.retain(|job| !self.running.has(job.id));
        let forgotten = stray.for_long(&found, Instant::now());
        for job in found {
            let of_lost = job.worker.as_ref().is_some_and(|worker| lost.contains(worker));
            // One that cannot be given back is no reason to leave the others.
            if (of_lost || forgotten.contains(&(job.id, job.attempt)))
                && let Err(error) = self.commands.lose_job(&job).await
            {
                tracing::warn!(job = %job.id, %error, "a lost worker's job could not be given back yet");
            }
        }
        self.claims.release_lost().await?;
        Ok(self.registry.tidy().await?)
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// What this worker does around an attempt has panicked, so nobody reports its end: it is recorded as lost, if it was started. Best effort:
    /// once it is not among what runs here, it is found as any that was forgotten.
    pub(super) async fn give_up_attempt(&self, id: JobId, team_id: TeamId, attempt: u32) {
        tracing::error!(job = %id, attempt, "what is around an attempt of a job panicked");
        metrics::counter!("job_attempt_panics_total").increment(1);
        let job = RunningJob { id, team_id, attempt, worker: None, started_at: None };
        match timeout(LEASE, self.commands.lose_job(&job)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(job = %id, %error, "the attempt could not be recorded as lost yet")
            }
            Err(_) => tracing::warn!(job = %id, "the attempt could not be recorded as lost in time"),
        }
    }
}

/// Attempts that run with nobody, and since when they were seen so: by our own clock, which never jumps.
#[derive(Default)]
struct Stray(HashMap<(JobId, u32), Instant>);

impl Stray {
    /// Those of `found` that have been found for so long that their workers must have forgotten them.
    fn for_long(&mut self, found: &[RunningJob], now: Instant) -> HashSet<(JobId, u32)> {
        let present: HashSet<(JobId, u32)> = found.iter().map(|job| (job.id, job.attempt)).collect();
        self.0.retain(|attempt, _| present.contains(attempt));
        for attempt in &present {
            self.0.entry(*attempt).or_insert(now);
        }
        let is_old = |since: &Instant| now.duration_since(*since) >= FORGOTTEN_AFTER;
        self.0.iter().filter(|(_, since)| is_old(since)).map(|(attempt, _)| *attempt).collect()
    }
}

impl Commands {
    async fn lose_job(&self, job: &RunningJob) -> Result<(), CommandError> {
        let (id, attempt): (JobId, u32) = (job.id, job.attempt);
        let team: TeamId = job.team_id;
        let command = JobCommand::Lose { attempt, at: self.now() };
        match self.execute::<Job>(&Context::system(Some(team)), id, None, command).await {
            Ok(_) => {
                tracing::warn!(job = %id, attempt, "an attempt was lost; its job goes back to the queue");
                metrics::counter!("jobs_lost_total").increment(1);
                Ok(())
            }
            // It had ended, or somebody else said so first.
            Err(CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_with_nobody_for_long_was_forgotten() {
        let job = |attempt| RunningJob {
            id: JobId(uuid::Uuid::nil()),
            team_id: TeamId(uuid::Uuid::nil()),
            attempt,
            worker: None,
            // However long ago it began by whose clock ever.
            started_at: None,
        };
        let (mut stray, begin) = (Stray::default(), Instant::now());
        assert!(stray.for_long(&[job(1)], begin).is_empty());
        assert!(stray.for_long(&[job(1)], begin + FORGOTTEN_AFTER / 2).is_empty());
        assert_eq!(stray.for_long(&[job(1)], begin + FORGOTTEN_AFTER).len(), 1);
        assert!(stray.for_long(&[job(2)], begin + FORGOTTEN_AFTER).is_empty(), "another attempt");
        assert!(stray.for_long(&[], begin + FORGOTTEN_AFTER * 2).is_empty());
        assert!(
            stray.for_long(&[job(2)], begin + FORGOTTEN_AFTER * 2).is_empty(),
            "it was not there in between"
        );
    }
}
