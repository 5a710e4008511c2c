//! Ways of reading jobs: a team's list, and what workers look for.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{JobId, JobStatus, ScheduleId, TeamId};
use futures::TryStreamExt as _;
use ledger::connect::Transaction;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::{JobRow, Jobs};
use crate::error::{Fault, ReadError};
use crate::machine::{LIST_BYTES, Listed, MOST_LISTED, Reader};
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time;
use crate::weight::weight;

mod place;
pub use place::QueuePlace;

/// Which jobs of a team are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Those that stand in one of these ways; in any, if none is named.
    pub statuses: Vec<JobStatus>,
    /// Those of this kind.
    pub kind: Option<String>,
    /// Those that this schedule queued.
    pub schedule_id: Option<ScheduleId>,
    /// Those that were queued at this moment or later.
    pub from: Option<DateTime<Utc>>,
    /// Those that were queued before this moment.
    pub to: Option<DateTime<Utc>>,
    /// Those with these ids.
    pub among: Option<Vec<String>>,
}

impl JobFilter {
    fn push(&self, query: &mut QueryBuilder<'_, Postgres>) {
        if let [status] = self.statuses[..] {
            query.push(" and status = ").push_bind(status.as_str());
        } else if !self.statuses.is_empty() {
            let statuses: Vec<&str> = self.statuses.iter().map(|status| status.as_str()).collect();
            query.push(" and status = any(").push_bind(statuses).push(")");
        }
        if let Some(kind) = &self.kind {
            query.push(" and kind = ").push_bind(kind.clone());
        }
        if let Some(schedule) = self.schedule_id {
            query.push(" and schedule_id = ").push_bind(schedule.to_string());
        }
        if let Some(ids) = &self.among {
            query.push(" and key = any(").push_bind(ids.clone()).push(")");
        }
        if let Some(from) = self.from {
            query.push(" and row->>'created_at' >= ").push_bind(time::text(from));
        }
        if let Some(to) = self.to {
            query.push(" and row->>'created_at' < ").push_bind(time::text(to));
        }
    }
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
}

/// A job that runs with a concurrency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub id: JobId,
    /// Whose it is.
    pub team_id: TeamId,
    /// The key.
    pub concurrency_key: String,
}

/// Who is before a job that waits for its concurrency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Jobs with the key that run.
    pub running: u32,
    /// Jobs with the key that wait and go before it.
    pub ahead: u32,
}

const ALONG_THE_INDEXES: &str = "begin; set local enable_seqscan = off; set local enable_bitmapscan = off; \
                                 set local enable_sort = off; set local enable_incremental_sort = off; \
                                 set local plan_cache_mode = force_generic_plan; set local jit = off";

/// Lanes are the triples of kind, team and priority that have pending jobs, found by skipping through the index, however many jobs wait in
/// each. Of many lanes only some are looked at, from a team ($3) on and round to it again; the next look goes on from there.
macro_rules! with_lanes {
    ($($rest:literal),+) => {
        concat!(
            r#"
with recursive lanes as (
    select k.kind collate "C" as kind, $3 collate "C" as team_id, -1 as priority, false as wrapped, 0 as lane
    from unnest($2) as k(kind)
    union all
    select next.kind, next.team_id, next.priority, next.wrapped, l.lane + 1 from lanes l cross join lateral (
        select * from (
            (select kind, team_id, priority, l.wrapped from {jobs}
             where status = 'pending' and (kind, team_id, priority) > (l.kind, l.team_id, l.priority)
             order by kind, team_id, priority limit 1)
            union all
            (select kind, team_id, priority, true from {jobs}
             where not l.wrapped and status = 'pending' and (kind, team_id) >= (l.kind, '')
             order by kind, team_id, priority limit 1)
        ) lane
        where lane.kind = l.kind and (not lane.wrapped or lane.team_id < $3) limit 1) next
    where l.lane < greatest(20, 400 / cardinality($2))
)"#,
            $($rest),+
        )
    };
}

/// What waits is found in constant time, whatever else waits that this worker does not take, is paused, not yet due, or waits for its
/// concurrency key.
///
/// Jobs without a concurrency key are never passed over: `free`. Of those with one the `few` first of each lane are looked at: `keyed`. If
/// these are all held back by their keys, the first of each of 200 other keys is looked for: `crowded`, `keys`, `others`. So a job may wait
/// for a later look only where 200 keys of its kind and team have nothing to start and as many of their jobs are before it.
const READY: &str = with_lanes!(
    r#", open as (
    select l.kind, l.team_id, l.priority from lanes l left join {teams} t on t.key = l.team_id
    where l.lane > 0 and not coalesce((t.row->>'jobs_paused')::boolean, false)
      and not coalesce(t.row->'paused_kinds', '[]') ? l.kind
), scale as (
    select least(200, greatest(20, 2000 / greatest(1, count(*)))) as few from open
), busy as (
    select team_id, count(*) as jobs from {jobs} where status = 'running' group by team_id
), turns as (
    select team_id, concurrency_key, count(*) as jobs from {jobs}
    where status = 'running' and concurrency_key is not null group by team_id, concurrency_key
), crowded as (
    select l.kind, l.team_id from open l
    where exists (select from turns t where t.team_id = l.team_id) and exists (
        select from {jobs}
        where status = 'pending' and kind = l.kind and team_id = l.team_id and priority = l.priority
          and num_nulls(concurrency_key) = 0 and due <= $1
        order by due, key offset (select few from scale) limit 1)
    limit 10
), keys as (
    select distinct c.kind, c.team_id, '' collate "C" as concurrency_key, 0 as place from crowded c
    union all
    select k.kind, k.team_id, next.concurrency_key, k.place + 1 from keys k cross join lateral (
        select concurrency_key from {jobs}
        where status = 'pending' and concurrency_key is not null and kind = k.kind and team_id = k.team_id
          and concurrency_key > k.concurrency_key
        order by concurrency_key limit 1) next
    where k.place < 200
), free as (
    select l.team_id, j.* from open l cross join lateral (
        select key, priority, due from {jobs}
        where status = 'pending' and kind = l.kind and team_id = l.team_id and priority = l.priority
          and num_nulls(concurrency_key) = 1 and due <= $1
        order by due, key limit $4) j
), keyed as (
    select l.team_id, j.* from open l cross join lateral (
        select c.key, c.priority, c.due from (
            select key, priority, due, concurrency_key, row from {jobs}
            where status = 'pending' and kind = l.kind and team_id = l.team_id and priority = l.priority
              and num_nulls(concurrency_key) = 0 and due <= $1
            order by due, key limit greatest($4, (select few from scale))) c
        left join turns t on t.team_id = l.team_id and t.concurrency_key = c.concurrency_key
        where t.jobs is null or t.jobs < (c.row->>'concurrency_limit')::bigint
        order by c.due, c.key limit $4) j
), others as (
    select k.team_id, j.key, j.priority, j.due from keys k
    left join turns t on t.team_id = k.team_id and t.concurrency_key = k.concurrency_key
    cross join generate_series(0, 9) as p(priority) cross join lateral (
        select key, priority, due, row from {jobs}
        where status = 'pending' and concurrency_key is not null and kind = k.kind and team_id = k.team_id
          and concurrency_key = k.concurrency_key and priority = p.priority and due <= $1
        order by due, key limit 1) j
    where k.place > 0 and (t.jobs is null or t.jobs < (j.row->>'concurrency_limit')::bigint)
), found as (
    select r.key, r.priority, r.due,
           row_number() over (partition by r.team_id order by r.priority desc, r.due, r.key) + coalesce(b.jobs, 0) as turn
    from (select * from free union select * from keyed union select * from others) r
    left join busy b on b.team_id = r.team_id
    order by turn, r.priority desc, r.due, r.key limit $4
), place as (
    select (select team_id from lanes where lane >= greatest(20, 400 / cardinality($2)) order by wrapped, team_id limit 1) as team_id
)
select f.key, (select (j.row - 'result')::text from {jobs} j where j.key = f.key), place.team_id
from place left join found f on true order by f.turn, f.priority desc, f.due, f.key"#
);

const NEXT_DUE: &str = with_lanes!(
    r"
select min(next.due)::timestamptz from lanes l cross join generate_series(0, 1) as without(key) cross join lateral (
    select due from {jobs}
    where status = 'pending' and kind = l.kind and team_id = l.team_id and priority = l.priority
      and num_nulls(concurrency_key) = without.key and due > $1
    order by due limit 1) next"
);

/// What a look at the queue found.
#[derive(Debug)]
pub struct Ready {
    /// The jobs, in the order in which they should be started, without what earlier attempts left.
    pub jobs: Vec<JobRow>,
    /// There may be more.
    pub more: bool,
    /// Where the next look is to begin.
    pub next: QueuePlace,
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
    ) -> Result<Listed<JobRow>, ReadError> {
        let mut query = QueryBuilder::new(sql("select key, row::text from {jobs} where team_id = "));
        query.push_bind(self.whose.setting());
        filter.push(&mut query);
        if let Some(before) = before {
            query.push(" and key < ").push_bind(before);
        }
        query.push(" order by key desc limit ").push_bind(limit.min(MOST_LISTED));
        self.listed(query.build_query_as()).await
    }

    /// The ids of the team's jobs that fit, newest first: at most `limit`.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn ids(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobId>, ReadError> {
        // One look, so that a job that changes meanwhile is neither seen twice nor missed; the index has the order of each status.
        let mut query = QueryBuilder::new("select key from (");
        let each =
            filter.statuses.iter().map(|status| JobFilter { statuses: vec![*status], ..filter.clone() });
        let each = if filter.statuses.is_empty() { vec![filter.clone()] } else { each.collect() };
        for (number, part) in each.iter().enumerate() {
            query.push(if number == 0 { "(" } else { " union all (" });
            query.push(sql("select key from {jobs} where team_id = ")).push_bind(self.whose.setting());
            part.push(&mut query);
            query.push(" order by key desc limit ").push_bind(limit as i64).push(")");
        }
        query.push(") found order by key desc limit ").push_bind(limit as i64);
        let mut connection = self.connection().await?;
        let keys: Vec<String> = query.build_query_scalar().fetch_all(&mut *connection).await?;
        keys.iter().map(|key| Ok(JobId(uuid(key, key)?))).collect()
    }

    /// Who is before a pending job that has a concurrency key, at `now`; nobody is before others. Who waits for its time is before nobody.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn line(&self, job: &JobRow, now: DateTime<Utc>) -> Result<Line, ReadError> {
        let (Some(key), Some(due)) = (&job.concurrency_key, job.next_attempt_at) else {
            return Ok(Line { running: 0, ahead: 0 });
        };
        let query = sqlx::query_as(sql(
            "select (select count(*) from {jobs} where status = 'running' and team_id = $1 and concurrency_key = $2), \
                    (select count(*) from {jobs} where status = 'pending' and team_id = $1 and concurrency_key = $2 \
                         and due <= $6 and (-priority, due, key) < (-$3::int, $4, $5))",
        ));
        let query = query.bind(self.whose.setting()).bind(key).bind(i32::from(job.priority));
        let mut connection = self.connection().await?;
        let (running, ahead): (i64, i64) = query
            .bind(if job.was_due { String::new() } else { time::text(due) })
            .bind(&job.id)
            .bind(time::text(now))
            .fetch_one(&mut *connection)
            .await?;
        let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Line { running: count(running), ahead: count(ahead) })
    }
}

impl Reader<'_, Jobs> {
    /// Pending jobs of these kinds, without what earlier attempts left, that are due at `now` and may be started, in the order in which they should be: at most `limit` (and
    /// 1,000).
    ///
    /// Teams take turns: whose jobs have the fewest workers comes first, so that a thousand jobs of one team do not delay one of another.
    /// Within a team the most urgent goes first (priority, then due time, then id). Left out are jobs that are paused, and those whose
    /// concurrency key is in use by as many as they allow.
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
    ) -> Result<Vec<JobRow>, ReadError> {
        Ok(self.ready_from(&QueuePlace::default(), now, limit, kinds).await?.jobs)
    }

    /// The same, from a place on where teams are many. Where jobs are large they are fewer.
    ///
    /// # Errors
    /// As [`Reader::ready`].
    pub async fn ready_from(
        &self,
        place: &QueuePlace,
        now: DateTime<Utc>,
        limit: i64,
        kinds: &[String],
    ) -> Result<Ready, ReadError> {
        let limit = limit.min(MOST_LISTED);
        let query =
            sqlx::query_as(sql(READY)).bind(time::text(now)).bind(kinds).bind(&place.team).bind(limit);
        let mut ready = Ready { jobs: vec![], more: false, next: QueuePlace::default() };
        if kinds.is_empty() {
            return Ok(ready);
        }
        let (mut transaction, mut bytes, mut reached) = (self.along_the_indexes().await?, 0, String::new());
        let mut found = query.fetch(&mut *transaction);
        while let Some(next) = found.try_next().await? {
            let (key, json, team): (Option<String>, Option<String>, Option<String>) = next;
            reached = team.unwrap_or_default();
            let (Some(key), Some(json)) = (key, json) else { continue };
            if bytes >= LIST_BYTES {
                ready.more = true;
                break;
            }
            let job: JobRow =
                serde_json::from_str(&json).map_err(|cause| Fault::at_row("jobs", &key, cause))?;
            bytes += weight(&job);
            ready.jobs.push(job);
        }
        let (next, is_more) = place.after(reached, !ready.jobs.is_empty());
        ready.more |= ready.jobs.len() as i64 >= limit || is_more;
        Ok(Ready { next, ..ready })
    }

    /// For queries that are asked all the time, of the head of a queue. The indexes have their order, and a scan along one marks what it
    /// finds dead, which is most of what lies at the head until the next vacuum; a bitmap would fetch it all every time. Their plan is the
    /// same whatever they are asked for, and making it takes longer than following it; so does compiling it, which the server thinks worth
    /// while where a long queue waits.
    async fn along_the_indexes(&self) -> Result<Transaction, ReadError> {
        // Nothing is written: it ends by being dropped.
        self.begin_with(ALONG_THE_INDEXES).await
    }

    /// When the next pending job of these kinds becomes due, of those that are not at `now`, as far as a look gets from this place on.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn next_due(
        &self,
        place: &QueuePlace,
        now: DateTime<Utc>,
        kinds: &[String],
    ) -> Result<Option<DateTime<Utc>>, ReadError> {
        if kinds.is_empty() {
            return Ok(None);
        }
        let query = sqlx::query_scalar(sql(NEXT_DUE)).bind(time::text(now)).bind(kinds).bind(&place.team);
        let mut transaction = self.along_the_indexes().await?;
        Ok(query.fetch_one(&mut *transaction).await?)
    }

    /// Those of `jobs` that somebody wants stopped, and that still run.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn cancel_requested(&self, jobs: &[JobId]) -> Result<Vec<JobId>, ReadError> {
        let query = sqlx::query_scalar(sql(
            "select key from {jobs} where key = any($1) and (row->>'cancel_requested')::boolean",
        ));
        let keys: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        let asked: Vec<String> = query.bind(keys).fetch_all(&mut *self.connection().await?).await?;
        asked.iter().map(|key| Ok(JobId(uuid(key, key)?))).collect()
    }

    /// Jobs that run with the concurrency keys of these.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn holders(&self, of: &[JobRow]) -> Result<Vec<Holder>, ReadError> {
        let keys: BTreeSet<(String, &str)> = of
            .iter()
            .filter_map(|row| Some((row.team_id.to_string(), row.concurrency_key.as_deref()?)))
            .collect();
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let (teams, keys): (Vec<String>, Vec<&str>) = keys.into_iter().unzip();
        let query = sqlx::query_as(sql(
            "select j.key, (j.row - 'result')::text from unnest($1, $2) held(team_id, concurrency_key) join {jobs} j \
             on j.team_id = held.team_id and j.concurrency_key = held.concurrency_key and j.status = 'running' \
                and j.concurrency_key is not null",
        ));
        let holder = |row: JobRow| {
            let id = JobId(uuid(&row.id, &row.id)?);
            Ok(Holder { id, team_id: row.team_id, concurrency_key: row.concurrency_key.unwrap_or_default() })
        };
        self.rows(query.bind(teams).bind(keys)).await?.into_iter().map(holder).collect()
    }

    /// Jobs that run, as far as the view has got, and whose worker is not among `live`, oldest first: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn running_without(&self, live: &[String], limit: i64) -> Result<Vec<RunningJob>, ReadError> {
        let query = sqlx::query_as(sql(
            "select key, (row - 'result')::text from {jobs} where status = 'running' and row->>'worker' <> all($1) \
             order by key limit $2",
        ));
        let running = |row: JobRow| {
            Ok(RunningJob {
                id: JobId(uuid(&row.id, &row.id)?),
                team_id: row.team_id,
                attempt: row.attempt,
                worker: row.worker,
                started_at: row.started_at,
            })
        };
        let rows = self.rows(query.bind(live).bind(limit.min(MOST_LISTED))).await?;
        rows.into_iter().map(running).collect()
    }
}

fn uuid(key: &str, text: &str) -> Result<Uuid, ReadError> {
    text.parse().map_err(|cause: uuid::Error| Fault::at_row("jobs", key, cause).into())
}
