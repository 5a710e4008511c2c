//! The rows that say which attempts have left artifacts, and where.

use domain::{Artifact, JobId, TeamId};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use super::{ArtifactError, ArtifactStore};

/// Where an attempt's artifacts are.
pub(super) struct Kept {
    pub(super) attempt: u32,
    pub(super) place: String,
}

impl ArtifactStore {
    /// Says that the attempt may leave objects here, before the first is made.
    pub(super) async fn begin(&self, team: TeamId, job: JobId, attempt: u32) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "insert into job_artifacts (job_id, attempt, team_id, place) values ($1, $2, $3, $4) \
             on conflict (job_id, attempt) do update set place = excluded.place, kept = '[]'",
        );
        let query = query.bind(job.0).bind(attempt.cast_signed()).bind(team.0).bind(&*self.place);
        query.execute(&self.pool).await.map(drop)
    }

    /// Says what the attempt has left, now that all of it is there; nothing is no row.
    pub(super) async fn settle(
        &self,
        job: JobId,
        attempt: u32,
        kept: &[Artifact],
    ) -> Result<(), sqlx::Error> {
        let sql = if kept.is_empty() {
            "delete from job_artifacts where job_id = $1 and attempt = $2 and $3 = '[]'::jsonb"
        } else {
            "update job_artifacts set kept = $3 where job_id = $1 and attempt = $2"
        };
        let query = sqlx::query(sql).bind(job.0).bind(attempt.cast_signed()).bind(Json(kept));
        query.execute(&self.pool).await.map(drop)
    }

    /// The attempt that has left just this; the last one, if several did.
    pub(super) async fn row_with(
        &self,
        team: TeamId,
        job: JobId,
        artifact: &Artifact,
    ) -> Result<Option<Kept>, sqlx::Error> {
        let query = sqlx::query_as(
            "select attempt, place from job_artifacts \
             where job_id = $1 and team_id = $2 and kept @> $3 order by attempt desc limit 1",
        );
        let wanted = json!([{"name": artifact.name, "sha256": artifact.sha256}]);
        let row: Option<(i32, String)> =
            query.bind(job.0).bind(team.0).bind(Json(wanted)).fetch_optional(&self.pool).await?;
        Ok(row.map(|(attempt, place)| Kept { attempt: attempt.cast_unsigned(), place }))
    }

    /// Those of the job's artifacts that are still kept, in whatever place.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn kept(&self, team: TeamId, job: JobId) -> Result<Vec<Artifact>, ArtifactError> {
        let query = sqlx::query_scalar("select kept from job_artifacts where job_id = $1 and team_id = $2");
        let rows: Vec<Json<Vec<Artifact>>> = query.bind(job.0).bind(team.0).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().flat_map(|row| row.0).collect())
    }

    /// Ids of jobs after `after` and before `before` that have left artifacts here, in order.
    pub(in crate::jobs) async fn jobs_between(
        &self,
        after: Uuid,
        before: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let query = sqlx::query_scalar(
            "select distinct job_id from job_artifacts \
             where job_id > $1 and job_id < $2 and place = $3 order by job_id limit $4",
        );
        query.bind(after).bind(before).bind(&*self.place).bind(limit).fetch_all(&self.pool).await
    }

    /// Removes what the attempts up to `attempt` of a job have left here; how many files that were. The row goes last: if we crash before,
    /// the next round comes this way again.
    pub(in crate::jobs) async fn remove_job(&self, job: Uuid, attempt: u32) -> Result<u64, ArtifactError> {
        let query = sqlx::query_as(
            "select team_id, attempt from job_artifacts where job_id = $1 and attempt <= $2 and place = $3",
        );
        let query = query.bind(job).bind(attempt.cast_signed()).bind(&*self.place);
        let rows: Vec<(Uuid, i32)> = query.fetch_all(&self.pool).await?;
        let mut removed = 0;
        for (team, attempt) in rows {
            removed += self.remove(TeamId(team), JobId(job), attempt.cast_unsigned()).await?;
            let query =
                sqlx::query("delete from job_artifacts where job_id = $1 and attempt = $2 and place = $3");
            query.bind(job).bind(attempt).bind(&*self.place).execute(&self.pool).await?;
        }
        Ok(removed)
    }
}
