//! Claims: operational rows that keep workers from reaching for the same job, and jobs with the same concurrency key apart. They decide
//! nothing, for the aggregate does, so they need not outlive a crash of the database.

use std::collections::{HashMap, HashSet};

use domain::JobId;
use ledger::connect::Pool;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::{Query, QueryScalar};
use uuid::Uuid;

use super::in_time::{PATIENCE, in_time};
use super::queue::ReadyJob;
use crate::{CommandError, Commands};

/// How long a claimed job may take to be started.
const ABOUT_TO_RUN_SECONDS: f64 = 10.0;

/// The claims of all workers.
#[derive(Clone)]
pub(super) struct Claims {
    pool: Pool,
}

impl Claims {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Takes those of `jobs` for `worker` that nobody has and whose turn it is; says which. Always in the order of their ids, so that two
    /// workers that want the same ones do not wait for each other.
    pub(super) async fn take(&self, worker: &str, jobs: &[ReadyJob]) -> Result<Vec<JobId>, sqlx::Error> {
        let (taking_turns, free): (Vec<&ReadyJob>, Vec<&ReadyJob>) =
            jobs.iter().partition(|job| job.concurrency_key.is_some());
        let mut taken = self.take_free(worker, &free).await?;
        match self.take_turns(worker, &taking_turns).await {
            Ok(turns) => taken.extend(turns),
            Err(error) if taken.is_empty() => return Err(error),
            // What was taken is, all the same.
            Err(error) => tracing::warn!(%error, "jobs with concurrency keys could not be claimed"),
        }
        Ok(taken)
    }

    async fn take_free(&self, worker: &str, jobs: &[&ReadyJob]) -> Result<Vec<JobId>, sqlx::Error> {
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let query = sqlx::query_scalar(
            "insert into job_claims (job_id, worker) select id, $1 from unnest($2) as job(id) \
             where exists (select from workers where name = $1 and not lost) \
             order by id on conflict do nothing returning job_id",
        );
        self.taken(query.bind(worker).bind(ids(jobs))).await
    }

    /// A job with a concurrency key takes the lowest free slot, if fewer are taken than it allows: of two workers that want the same one,
    /// one gets nothing. Jobs that run without a claim count as well: after a crash of the database none of those that ran before has one
    /// with a slot.
    async fn take_turns(&self, worker: &str, jobs: &[&ReadyJob]) -> Result<Vec<JobId>, sqlx::Error> {
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let turns: Vec<Option<String>> = jobs.iter().map(|job| turn(job)).collect();
        let limits: Vec<i32> =
            jobs.iter().map(|job| job.concurrency_limit.min(1_000).cast_signed()).collect();
        let holders: HashSet<(String, JobId)> = jobs
            .iter()
            .filter_map(|job| Some((turn(job)?, &job.holders)))
            .flat_map(|(turn, holders)| holders.iter().map(move |holder| (turn.clone(), *holder)))
            .collect();
        let (held, holding): (Vec<String>, Vec<Uuid>) =
            holders.into_iter().map(|(turn, holder)| (turn, holder.0)).unzip();
        let query = sqlx::query_scalar(
            "insert into job_claims (job_id, worker, turn, slot) \
             select job.id, $1, job.turn, free.slot \
             from (select id, turn, most, row_number() over (partition by turn order by place) as nth \
                   from unnest($2, $3, $4) with ordinality as job(id, turn, most, place)) job \
             cross join lateral ( \
                 select slot from generate_series(1, job.most) slot \
                 where not exists (select from job_claims c where c.turn = job.turn and c.slot = slot.slot) \
                 order by slot offset job.nth - 1 limit 1) free \
             where exists (select from workers where name = $1 and not lost) \
               and job.most >= job.nth + (select count(*) from ( \
                 select c.job_id from job_claims c where c.turn = job.turn \
                 union select h.job_id from unnest($5, $6) h(turn, job_id) where h.turn = job.turn) held) \
             order by job.id on conflict do nothing returning job_id",
        );
        self.taken(query.bind(worker).bind(ids(jobs)).bind(turns).bind(limits).bind(held).bind(holding)).await
    }

    async fn taken(
        &self,
        query: QueryScalar<'_, Postgres, Uuid, PgArguments>,
    ) -> Result<Vec<JobId>, sqlx::Error> {
        // Claims of a try that was given up are given up as well, once they are stale.
        let taken = in_time(PATIENCE, query.fetch_all(&self.pool)).await?;
        Ok(taken.into_iter().map(JobId).collect())
    }

    /// Makes the claims of `worker` what it runs: enters what is missing, since the table is empty after a crash of the database, and gives
    /// up what is neither run nor about to be, since giving it up may have failed. What is entered here is not about to be run: should it
    /// have ended just now, it is given up the next time. What seems to be claimed in the future was claimed before the database's clock was
    /// set back.
    pub(super) async fn settle(&self, worker: &str, running: &[JobId]) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = running.iter().map(|job| job.0).collect();
        let query = sqlx::query(
            "with stale as (delete from job_claims where worker = $1 and job_id <> all($2) \
                 and (claimed_at < clock_timestamp() - make_interval(secs => $3) or claimed_at > clock_timestamp())) \
             insert into job_claims (job_id, worker, claimed_at) \
             select id, $1, 'epoch'::timestamptz from unnest($2) as job(id) on conflict do nothing",
        );
        let query = query.bind(worker).bind(ids).bind(ABOUT_TO_RUN_SECONDS);
        self.change(query).await
    }

    /// Gives claims up; does nothing to another worker's.
    pub(super) async fn release(&self, worker: &str, jobs: &[JobId]) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
        let query = sqlx::query("delete from job_claims where worker = $1 and job_id = any($2)");
        self.change(query.bind(worker).bind(ids)).await
    }

    /// Gives up all that `worker` has, which stops.
    pub(super) async fn release_all(&self, worker: &str) -> Result<(), sqlx::Error> {
        sqlx::query("delete from job_claims where worker = $1").bind(worker).execute(&self.pool).await?;
        Ok(())
    }

    /// Gives up what workers had that are lost, or were never there.
    pub(super) async fn release_lost(&self) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "delete from job_claims c where not exists (select from workers w where w.name = c.worker and not w.lost)",
        );
        self.change(query).await
    }

    pub(super) async fn set_progress(
        &self,
        job: JobId,
        worker: &str,
        progress: f64,
    ) -> Result<(), sqlx::Error> {
        let query = sqlx::query("update job_claims set progress = $3 where job_id = $1 and worker = $2");
        self.change(query.bind(job.0).bind(worker).bind(progress)).await
    }

    async fn change(&self, query: Query<'_, Postgres, PgArguments>) -> Result<(), sqlx::Error> {
        in_time(PATIENCE, query.execute(&self.pool)).await.map(drop)
    }
}

fn ids(jobs: &[&ReadyJob]) -> Vec<Uuid> {
    jobs.iter().map(|job| job.id.0).collect()
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
            "select job_id, progress from job_claims where job_id = any($1) and progress is not null",
        )
        .bind(ids)
        .fetch_all(self.ledger.pool())
        .await
        .map_err(ledger::LedgerError::from)?;
        Ok(rows.into_iter().map(|(job, progress)| (job.to_string(), progress)).collect())
    }
}
