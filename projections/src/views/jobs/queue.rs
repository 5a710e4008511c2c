//! Ways of reading jobs: a team's list, and what workers look for.

use chrono::{DateTime, Utc};
use domain::{JobId, JobStatus, TeamId};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{JobRow, Jobs};
use crate::error::{Fault, ReadError};
use crate::machine::{MOST_LISTED, Reader};
use crate::team_reader::TeamReader;
use crate::time;

/// Which jobs of a team are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Those that stand so.
    pub status: Option<JobStatus>,
    /// Those of this kind.
    pub kind: Option<String>,
}

/// A job that may be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyJob {
    /// Which.
    pub id: JobId,
    /// Whose it is.
    pub team_id: TeamId,
    /// What runs.
    pub kind: String,
    /// Starts so far.
    pub attempt: u32,
    /// 0 to 9.
    pub priority: u8,
    /// Jobs of the team with the same key take turns.
    pub concurrency_key: Option<String>,
}

/// A job that a worker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// Which.
    pub id: JobId,
    /// Whose it is.
    pub team_id: TeamId,
    /// The attempt that runs.
    pub attempt: u32,
    /// Who runs it.
    pub worker: Option<String>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// How long it may take.
    pub timeout_seconds: u32,
    /// Somebody wants it stopped.
    pub cancel_requested: bool,
}

impl TeamReader<'_, Jobs> {
    /// The team's jobs, newest first, before id `before`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &JobFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<JobRow>, ReadError> {
        let mut query = QueryBuilder::new("select key, row::text from jobs where team_id = ");
        query.push_bind(self.whose.setting());
        if let Some(status) = filter.status {
            query.push(" and status = ").push_bind(status.as_str());
        }
        if let Some(kind) = &filter.kind {
            query.push(" and kind = ").push_bind(kind);
        }
        if let Some(before) = before {
            query.push(" and key < ").push_bind(before);
        }
        query.push(" order by key desc limit ").push_bind(limit.min(MOST_LISTED));
        self.rows(query.build_query_as()).await
    }
}

impl Reader<'_, Jobs> {
    /// Pending jobs of these kinds that are due at `now`, the most urgent first (priority, then due time, then id): at most
    /// `limit` (and 1,000). Jobs whose concurrency key is in use are left out. Each priority's part of the index is read up to `now`.
    ///
    /// The view may lag: whether a job may really be started is decided by the job.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn ready(
        &self,
        now: DateTime<Utc>,
        limit: i64,
        kinds: &[String],
    ) -> Result<Vec<ReadyJob>, ReadError> {
        let query = sqlx::query_as(
            "select j.key, j.team_id, j.kind, (j.row->>'attempt')::bigint, j.priority, j.concurrency_key
             from generate_series(0, 9) p cross join lateral (
                 select * from jobs c
                 where c.status = 'pending' and c.priority = p and c.due <= $1 and c.kind = any($3)
                   and (c.concurrency_key is null or not exists (
                       select from jobs r where r.status = 'running' and r.team_id = c.team_id
                           and r.concurrency_key = c.concurrency_key and r.concurrency_key is not null))
                 order by c.due, c.key limit $2
             ) j order by j.priority desc, j.due, j.key limit $2",
        );
        let found: Vec<(String, String, String, i64, i32, Option<String>)> =
            query.bind(time::text(now)).bind(limit.min(MOST_LISTED)).bind(kinds).fetch_all(self.pool).await?;
        let ready =
            |(key, team, kind, attempt, priority, concurrency_key): (String, String, _, i64, i32, _)| {
                Ok(ReadyJob {
                    id: JobId(uuid(&key, &key)?),
                    team_id: TeamId(uuid(&key, &team)?),
                    kind,
                    attempt: u32::try_from(attempt).map_err(|cause| Fault::at_row("jobs", &key, cause))?,
                    priority: u8::try_from(priority).map_err(|cause| Fault::at_row("jobs", &key, cause))?,
                    concurrency_key,
                })
            };
        found.into_iter().map(ready).collect()
    }

    /// When the next pending job of these kinds becomes due after `now`, to the millisecond.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn next_due(
        &self,
        now: DateTime<Utc>,
        kinds: &[String],
    ) -> Result<Option<DateTime<Utc>>, ReadError> {
        let query = sqlx::query_scalar(
            "select min(j.due) from generate_series(0, 9) p cross join lateral (
                 select c.due from jobs c
                 where c.status = 'pending' and c.priority = p and c.due > $1 and c.kind = any($2)
                 order by c.due limit 1
             ) j",
        );
        let due: Option<String> = query.bind(time::text(now)).bind(kinds).fetch_one(self.pool).await?;
        Ok(due.and_then(|due| due.parse().ok()))
    }

    /// Jobs that workers have, oldest first: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn running(&self, limit: i64) -> Result<Vec<RunningJob>, ReadError> {
        let query =
            sqlx::query_as("select key, row::text from jobs where status = 'running' order by key limit $1");
        let running = |row: JobRow| {
            Ok(RunningJob {
                id: JobId(uuid(&row.id, &row.id)?),
                team_id: row.team_id,
                attempt: row.attempt,
                worker: row.worker,
                started_at: row.started_at,
                timeout_seconds: row.timeout_seconds,
                cancel_requested: row.cancel_requested,
            })
        };
        self.rows(query.bind(limit.min(MOST_LISTED))).await?.into_iter().map(running).collect()
    }
}

fn uuid(key: &str, text: &str) -> Result<Uuid, ReadError> {
    text.parse().map_err(|cause: uuid::Error| Fault::at_row("jobs", key, cause).into())
}
