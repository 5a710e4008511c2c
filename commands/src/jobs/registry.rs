//! The list of workers: what each says of itself, whether it still does, and whether it is to take no more jobs.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{AccessEvent, Permission};
use ledger::LedgerError;
use ledger::connect::Pool;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::in_time::{PATIENCE, in_time};
use crate::{CommandError, Commands, Context};

/// How long a worker may be silent before it is given up and its jobs go to others.
pub(super) const LEASE: Duration = Duration::from_secs(20);
/// How long a worker that was given up stays on the list, in minutes.
const SHOWN_MINUTES: f64 = 10.0;
/// Workers listed at most.
const MOST_LISTED: i64 = 1_000;

/// A worker as it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedWorker {
    /// Its own, made when it started.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// Daybook's version there.
    pub version: String,
    /// The kinds it runs.
    pub kinds: Vec<String>,
    /// Jobs it runs at a time at most.
    pub concurrency: i32,
    /// Jobs it runs, as of its last beat.
    pub running: i32,
    /// Somebody wants it to take no more.
    pub draining: bool,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it last said that it runs.
    pub beat_at: DateTime<Utc>,
    /// It fell silent, and its jobs were given to others.
    pub lost: bool,
}

impl FromRow<'_, PgRow> for ListedWorker {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
            version: row.try_get("version")?,
            kinds: row.try_get("kinds")?,
            concurrency: row.try_get("concurrency")?,
            running: row.try_get("running")?,
            draining: row.try_get("draining")?,
            started_at: row.try_get("started_at")?,
            beat_at: row.try_get("beat_at")?,
            lost: row.try_get("lost")?,
        })
    }
}

/// What a worker is told when it says that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It goes on; whether it is to take no more jobs, and the time by the database's clock.
    Known { draining: bool, at: DateTime<Utc> },
    /// It was given up: what it runs belongs to others by now.
    GivenUp,
}

/// The list.
#[derive(Clone)]
pub(super) struct Registry {
    pool: Pool,
}

impl Registry {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Enters a worker under a name of its own.
    pub(super) async fn enter(
        &self,
        kinds: &[String],
        concurrency: usize,
        draining: bool,
    ) -> Result<String, sqlx::Error> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let pid = std::process::id();
        // Host, process and a few random digits: unique also where every container has process 1.
        let random = Uuid::now_v7().simple().to_string();
        let name = format!("{host}-{pid}-{}", &random[random.len() - 6..]);
        let query = sqlx::query(
            "insert into workers (name, host, pid, version, kinds, concurrency, draining) \
             values ($1, $2, $3, $4, $5, $6, $7)",
        );
        let query = query.bind(&name).bind(host).bind(pid.cast_signed()).bind(env!("CARGO_PKG_VERSION"));
        let concurrency = i32::try_from(concurrency).unwrap_or(i32::MAX);
        query.bind(kinds).bind(concurrency).bind(draining).execute(&self.pool).await?;
        Ok(name)
    }

    /// Says that `worker` runs these kinds, in bounded time.
    pub(super) async fn set_kinds(&self, worker: &str, kinds: &[String]) -> Result<(), sqlx::Error> {
        let query = sqlx::query("update workers set kinds = $2 where name = $1").bind(worker).bind(kinds);
        in_time(PATIENCE, query.execute(&self.pool)).await.map(drop)
    }

    /// Says that `worker` runs this many jobs.
    pub(super) async fn beat(&self, worker: &str, running: usize) -> Result<Pulse, sqlx::Error> {
        let known: Option<(bool, DateTime<Utc>)> = sqlx::query_as(
            "update workers set beats = beats + 1, beat_at = clock_timestamp(), running = $2 \
             where name = $1 and not lost returning draining, clock_timestamp()",
        )
        .bind(worker)
        .bind(i32::try_from(running).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await?;
        Ok(known.map_or(Pulse::GivenUp, |(draining, at)| Pulse::Known { draining, at }))
    }

    /// Takes a worker off the list that stops in order.
    pub(super) async fn leave(&self, worker: &str) -> Result<(), sqlx::Error> {
        sqlx::query("delete from workers where name = $1 and not lost")
            .bind(worker)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Workers that were not given up, and how often each has beaten.
    pub(super) async fn live(&self) -> Result<HashMap<String, i64>, sqlx::Error> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select name, beats from workers where not lost").fetch_all(&self.pool).await?;
        Ok(rows.into_iter().collect())
    }

    /// Workers that were given up.
    pub(super) async fn lost(&self) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar("select name from workers where lost").fetch_all(&self.pool).await
    }

    /// Gives a worker up, unless it has beaten meanwhile. From now on its beats are refused.
    pub(super) async fn give_up(&self, worker: &str, beats: i64) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("update workers set lost = true where name = $1 and beats = $2 and not lost");
        Ok(query.bind(worker).bind(beats).execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Forgets those that were given up long ago.
    pub(super) async fn tidy(&self) -> Result<(), sqlx::Error> {
        let sql =
            "delete from workers where lost and beat_at < clock_timestamp() - make_interval(mins => $1::int)";
        sqlx::query(sql).bind(SHOWN_MINUTES).execute(&self.pool).await?;
        Ok(())
    }
}

/// Tells silence by this process' own clock, which never jumps: a database whose clock is set forward loses nobody. Nor does one that was
/// away, for then nobody could beat.
#[derive(Default)]
pub(super) struct Silence {
    since: HashMap<String, (i64, Instant)>,
    looked: Option<Instant>,
}

impl Silence {
    /// Those of `live` whose beats have not changed for a whole [`LEASE`].
    pub(super) fn broken_off(&mut self, live: &HashMap<String, i64>, now: Instant) -> Vec<(String, i64)> {
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now.duration_since(looked) > LEASE / 2) {
            self.since.clear();
        }
        self.since.retain(|name, (beats, _)| live.get(name) == Some(beats));
        let mut silent = vec![];
        for (name, beats) in live {
            let (_, since) = self.since.entry(name.clone()).or_insert((*beats, now));
            if now.duration_since(*since) >= LEASE {
                silent.push((name.clone(), *beats));
            }
        }
        silent
    }
}

impl Commands {
    /// The workers there are, by name; those that were given up stay on the list for some minutes.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn workers(&self) -> Result<Vec<ListedWorker>, CommandError> {
        let sql = "select name, host, pid, version, kinds, concurrency, running, draining, started_at, beat_at, lost \
                   from workers order by name limit $1";
        let query = sqlx::query_as(sql).bind(MOST_LISTED);
        Ok(query.fetch_all(self.ledger.pool()).await.map_err(LedgerError::from)?)
    }

    /// Tells a worker to take no more jobs, or to take some again; recorded. It hears of it with its next beat, within some seconds.
    /// `false`: there is no such worker.
    ///
    /// # Errors
    /// The caller may not, or the database is out of reach.
    pub async fn drain_worker(
        &self,
        context: &Context,
        name: &str,
        draining: bool,
    ) -> Result<bool, CommandError> {
        context.caller.require(Permission::WorkersManage)?;
        let known = "select exists (select from workers where name = $1 and not lost)";
        let known: bool = sqlx::query_scalar(known)
            .bind(name)
            .fetch_one(self.ledger.pool())
            .await
            .map_err(LedgerError::from)?;
        if !known {
            return Ok(false);
        }
        self.record(context, &AccessEvent::WorkerDrained { worker: name.to_owned(), draining }).await?;
        // If we die here, it was said and not done: whoever asked got no answer and asks again.
        let query = sqlx::query("update workers set draining = $2 where name = $1").bind(name).bind(draining);
        query.execute(self.ledger.pool()).await.map_err(LedgerError::from)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_by_beats_that_do_not_change_and_by_our_own_clock() {
        let mut silence = Silence::default();
        let begin = Instant::now();
        let live = |beats: &[(&str, i64)]| beats.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        assert_eq!(silence.broken_off(&live(&[("a", 1), ("b", 1)]), begin), []);
        assert_eq!(silence.broken_off(&live(&[("a", 1), ("b", 2)]), begin + LEASE / 2), []);
        let lost = silence.broken_off(&live(&[("a", 1), ("b", 2)]), begin + LEASE);
        assert_eq!(lost, [("a".to_owned(), 1)]);
        assert_eq!(silence.broken_off(&live(&[("a", 2), ("b", 3)]), begin + LEASE * 2), []);
    }

    #[test]
    fn while_nobody_could_look_nobody_was_silent() {
        let mut silence = Silence::default();
        let begin = Instant::now();
        let live = HashMap::from([("a".to_owned(), 1)]);
        assert_eq!(silence.broken_off(&live, begin), []);
        // The database was away.
        assert_eq!(silence.broken_off(&live, begin + LEASE), []);
        assert_eq!(silence.broken_off(&live, begin + LEASE * 3 / 2), []);
        assert_eq!(silence.broken_off(&live, begin + LEASE * 2), [("a".to_owned(), 1)]);
    }
}
