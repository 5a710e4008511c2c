//! Leases: operational rows that say which worker has which job, until when. They decide nothing: the aggregate does.

use std::collections::HashMap;
use std::time::Duration;

use domain::{JobId, TeamId};
use sqlx::PgPool;
use uuid::Uuid;

use super::queue::ReadyJob;
use crate::{CommandError, Commands};

/// How long a worker may be silent before its jobs are given to others.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// Expired leases taken over at a time.
const MOST_EXPIRED: i64 = 100;

/// The leases of one worker.
#[derive(Clone)]
pub(super) struct Leases {
    pool: PgPool,
    worker: String,
}

/// A lease whose worker fell silent.
#[derive(Debug)]
pub(super) struct Expired {
    pub(super) job_id: JobId,
    pub(super) team_id: TeamId,
    pub(super) attempt: u32,
}

impl Leases {
    pub(super) fn new(pool: PgPool, worker: String) -> Self {
        Self { pool, worker }
    }

    /// Takes those of `jobs` that no worker has and whose turn it is; says which.
    pub(super) async fn take(&self, jobs: &[ReadyJob]) -> Result<Vec<JobId>, sqlx::Error> {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.0).collect();
        let teams: Vec<Uuid> = jobs.iter().map(|job| job.team_id.0).collect();
        let attempts: Vec<i32> = jobs.iter().map(|job| job.attempt.cast_signed() + 1).collect();
        let turns: Vec<Option<String>> = jobs.iter().map(turn).collect();
        let taken: Vec<Uuid> = sqlx::query_scalar(
            "insert into job_leases (job_id, team_id, attempt, turn, worker, expires_at) \
             select job_id, team_id, attempt, turn, $5, now() + make_interval(secs => $6) \
             from unnest($1, $2, $3, $4) as job(job_id, team_id, attempt, turn) \
             on conflict do nothing returning job_id",
        )
        .bind(ids)
        .bind(teams)
        .bind(attempts)
        .bind(turns)
        .bind(&self.worker)
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        Ok(taken.into_iter().map(JobId).collect())
    }

    /// Says that this worker still runs `jobs`; answers with those it still has.
    pub(super) async fn renew(&self, jobs: &[JobId]) -> Result<Vec<JobId>, sqlx::Error> {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
        let kept: Vec<Uuid> = sqlx::query_scalar(
            "update job_leases set expires_at = now() + make_interval(secs => $3) \
             where worker = $1 and job_id = any($2) returning job_id",
        )
        .bind(&self.worker)
        .bind(ids)
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        Ok(kept.into_iter().map(JobId).collect())
    }

    /// Gives a lease up; does nothing to another attempt's.
    pub(super) async fn release(&self, job: JobId, attempt: u32) -> Result<(), sqlx::Error> {
        let query = sqlx::query("delete from job_leases where job_id = $1 and attempt = $2 and worker = $3");
        query.bind(job.0).bind(attempt.cast_signed()).bind(&self.worker).execute(&self.pool).await?;
        Ok(())
    }

    /// Takes over leases of workers that fell silent. If this worker dies before it has dealt with them they expire again, and
    /// the next one does.
    pub(super) async fn take_expired(&self) -> Result<Vec<Expired>, sqlx::Error> {
        let rows: Vec<(Uuid, Uuid, i32)> = sqlx::query_as(
            "update job_leases set worker = $1, expires_at = now() + make_interval(secs => $2) \
             where job_id in (select job_id from job_leases where expires_at < now() \
                              order by expires_at limit $3 for update skip locked) \
             returning job_id, team_id, attempt",
        )
        .bind(&self.worker)
        .bind(LEASE.as_secs_f64())
        .bind(MOST_EXPIRED)
        .fetch_all(&self.pool)
        .await?;
        let expired = |(job, team, attempt): (Uuid, Uuid, i32)| Expired {
            job_id: JobId(job),
            team_id: TeamId(team),
            attempt: attempt.cast_unsigned(),
        };
        Ok(rows.into_iter().map(expired).collect())
    }

    /// Which of these jobs have a lease, whoever holds it.
    pub(super) async fn held(&self, jobs: &[JobId]) -> Result<Vec<JobId>, sqlx::Error> {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
        let query = sqlx::query_scalar("select job_id from job_leases where job_id = any($1)");
        let held: Vec<Uuid> = query.bind(ids).fetch_all(&self.pool).await?;
        Ok(held.into_iter().map(JobId).collect())
    }

    pub(super) async fn set_progress(&self, job: JobId, progress: f64) -> Result<(), sqlx::Error> {
        let query = sqlx::query("update job_leases set progress = $3 where job_id = $1 and worker = $2");
        query.bind(job.0).bind(&self.worker).bind(progress).execute(&self.pool).await?;
        Ok(())
    }
}

fn turn(job: &ReadyJob) -> Option<String> {
    job.concurrency_key.as_ref().map(|key| format!("{}/{key}", job.team_id))
}

impl Commands {
    /// How far running jobs say they are, 0 to 1; jobs that said nothing are left out.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn job_progress<'a>(
        &self,
        jobs: impl IntoIterator<Item = &'a str> + Send,
    ) -> Result<HashMap<String, f64>, CommandError> {
        let ids: Vec<Uuid> = jobs.into_iter().filter_map(|job| job.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(Uuid, f64)> = sqlx::query_as(
            "select job_id, progress from job_leases where job_id = any($1) and progress is not null",
        )
        .bind(ids)
        .fetch_all(self.ledger.pool())
        .await
        .map_err(ledger::LedgerError::from)?;
        Ok(rows.into_iter().map(|(job, progress)| (job.to_string(), progress)).collect())
    }
}
