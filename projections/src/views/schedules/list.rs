//! Ways of reading schedules: a team's list, and what is due.

use chrono::{DateTime, Utc};
use sqlx::QueryBuilder;

use super::{ScheduleRow, Schedules};
use crate::error::ReadError;
use crate::machine::{Listed, MOST_LISTED, Reader};
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time;

/// Which schedules of a team are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleFilter {
    /// Those of this kind of job.
    pub kind: Option<String>,
    /// Those that rest, or those that do not.
    pub paused: Option<bool>,
}

impl TeamReader<'_, Schedules> {
    /// The team's schedules by name and id, after those two `after`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &ScheduleFilter,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Listed<ScheduleRow>, ReadError> {
        let mut query =
            QueryBuilder::new(sql("select key, row::text from {schedules} where not deleted and team_id = "));
        query.push_bind(self.whose.setting());
        if let Some((name, key)) = after {
            query.push(" and (name, key) > (").push_bind(name).push(", ").push_bind(key).push(")");
        }
        if let Some(kind) = &filter.kind {
            query.push(" and row->>'kind' = ").push_bind(kind);
        }
        if let Some(paused) = filter.paused {
            query.push(" and (row->>'paused')::boolean = ").push_bind(paused);
        }
        query.push(" order by name, key limit ").push_bind(limit.min(MOST_LISTED));
        self.listed(query.build_query_as()).await
    }

    /// How many schedules the team has.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn count(&self) -> Result<i64, ReadError> {
        let query =
            sqlx::query_scalar(sql("select count(*) from {schedules} where not deleted and team_id = $1"));
        let mut connection = self.connection().await?;
        Ok(query.bind(self.whose.setting()).fetch_one(&mut *connection).await?)
    }
}

impl Reader<'_, Schedules> {
    /// Schedules whose moment is not after `now`, those that wait longest first: at most `limit` (and 1,000).
    ///
    /// The view may lag: what a schedule waits for is decided by the schedule.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn due(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<ScheduleRow>, ReadError> {
        let query = sqlx::query_as(sql(
            "select key, row::text from {schedules} where due <= $1 order by due, key limit $2",
        ));
        self.rows(query.bind(time::text(now)).bind(limit.min(MOST_LISTED))).await
    }

    /// The first moment after `now` for which a schedule waits, to the millisecond.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn next_due(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, ReadError> {
        let query = sqlx::query_scalar(sql("select min(due) from {schedules} where due > $1"));
        let due: Option<String> =
            query.bind(time::text(now)).fetch_one(&mut *self.connection().await?).await?;
        Ok(due.and_then(|due| due.parse().ok()))
    }
}
