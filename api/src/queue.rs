//! The worker's view of the queue: the composition root's adapter between the read side and the write side, which do not
//! know each other.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use commands::SealedSecret;
use commands::jobs::{QueueError, ReadyJob, RunningJob, WorkQueue};
use domain::{JobId, TeamId};
use projections::{Holder, Jobs, Projections, QueuePlace, Reached, Reader, Ready, SecretRow};
use tokio::sync::watch;

/// The queue as the views show it.
#[derive(Clone)]
pub(crate) struct ViewQueue {
    projections: Projections,
    /// Where the next look begins.
    place: Arc<Mutex<QueuePlace>>,
}

impl ViewQueue {
    /// The queue of these views.
    pub(crate) fn new(projections: &Projections) -> Self {
        Self { projections: projections.clone(), place: Arc::default() }
    }

    fn place(&self) -> QueuePlace {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Workers run the jobs of all teams.
    fn jobs(&self) -> Reader<'_, Jobs> {
        self.projections.jobs().across_teams()
    }
}

fn failed(error: impl std::fmt::Display) -> QueueError {
    QueueError(error.to_string())
}

impl WorkQueue for ViewQueue {
    async fn ready(
        &self,
        now: DateTime<Utc>,
        kinds: &[String],
        limit: usize,
    ) -> Result<(Vec<ReadyJob>, bool), QueueError> {
        let place = self.place();
        let Ready { jobs, more, next } =
            self.jobs().ready_from(&place, now, limit as i64, kinds).await.map_err(failed)?;
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = next;
        let holders = self.jobs().holders(&jobs).await.map_err(failed)?;
        let ready = jobs.into_iter().map(|row| {
            let holds = |holder: &&Holder| {
                holder.team_id == row.team_id && Some(&holder.concurrency_key) == row.concurrency_key.as_ref()
            };
            Ok(ReadyJob {
                holders: holders.iter().filter(holds).map(|holder| holder.id).collect(),
                id: row.id.parse().map_err(failed)?,
                team_id: row.team_id,
                kind: row.kind,
                args: row.args,
                attempt: row.attempt,
                sequence: row.sequence,
                timeout_seconds: row.timeout_seconds,
                concurrency_key: row.concurrency_key,
                concurrency_limit: row.concurrency_limit,
            })
        });
        Ok((ready.collect::<Result<_, QueueError>>()?, more))
    }

    async fn next_due(
        &self,
        now: DateTime<Utc>,
        kinds: &[String],
    ) -> Result<Option<DateTime<Utc>>, QueueError> {
        self.jobs().next_due(&self.place(), now, kinds).await.map_err(failed)
    }

    async fn running_without(&self, live: &[String], limit: usize) -> Result<Vec<RunningJob>, QueueError> {
        let rows = self.jobs().running_without(live, limit as i64).await.map_err(failed)?;
        let running = rows.into_iter().map(|row| RunningJob {
            id: row.id,
            team_id: row.team_id,
            attempt: row.attempt,
            worker: row.worker,
            started_at: row.started_at,
        });
        Ok(running.collect())
    }

    async fn cancel_requested(&self, jobs: &[JobId]) -> Result<Vec<JobId>, QueueError> {
        self.jobs().cancel_requested(jobs).await.map_err(failed)
    }

    async fn secret(&self, team: TeamId, name: &str) -> Result<Option<SealedSecret>, QueueError> {
        let row = self.projections.secrets().of(team).by_name(name).await.map_err(failed)?;
        let sealed = row.map(|row| {
            let id = row.id.parse().map_err(failed)?;
            let SecretRow { name, team_id, version, sealed, .. } = row;
            Ok(SealedSecret { id, name, team_id, version, sealed, grants: vec![] })
        });
        sealed.transpose()
    }

    type Mark = Reached;

    fn changes(&self) -> watch::Receiver<Reached> {
        self.projections.changes()
    }

    fn reached(&self, mark: &Reached) -> i64 {
        self.projections.reached_by::<Jobs>(mark)
    }
}
