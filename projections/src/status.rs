//! How the views are doing.

use std::sync::PoisonError;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Row as _;

use crate::Projections;
use crate::checkpoint::{self, Checkpoint};
use crate::error::ReadError;
use crate::rebuild::{REBUILDING, lock_of};

/// Beyond this many rows the number is the planner's estimate.
const COUNTED: i64 = 100_000;

/// A view that has not been up to date for so long does not follow.
const LIVE_WITHIN: Duration = Duration::from_secs(2);

/// Where a view stands, as `/api/projections` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ViewStatus {
    /// Its name.
    pub name: String,
    /// The position of the last event it contains.
    pub position: i64,
    /// Events of the log after that.
    pub behind_events: i64,
    /// Age of the first of those; 0 when there is none.
    pub behind_seconds: f64,
    /// `live`, `rebuilding`, `failed` or `outdated`; `missing` before [`Projections::prepare`].
    pub state: String,
    /// How many rows it has; an estimate beyond 100,000.
    pub rows: i64,
    /// Events it has passed per second, over about the last 10 seconds.
    pub events_per_second: f64,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
}

/// What this process knows of a view at this moment, without asking the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Its name.
    pub name: &'static str,
    /// The position up to which it was folded.
    pub position: i64,
    /// How long ago it was known to have everything that was in the log; `None` when it does not follow.
    pub age: Option<Duration>,
    /// Whether it does not go on by itself at the moment: it has failed, or waits for a rebuild.
    pub stopped: bool,
}

impl Pulse {
    /// Whether it answers.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.stopped && self.age.is_some_and(|age| age < LIVE_WITHIN)
    }
}

impl Projections {
    /// What this process knows of every view, in the order of the registry.
    #[must_use]
    pub fn pulse(&self) -> Vec<Pulse> {
        let reached = self.inner.reached.borrow().clone();
        let views = self.inner.registry.all.iter().enumerate();
        views
            .map(|(place, view)| Pulse {
                name: view.spec().name,
                position: reached.positions[place],
                age: self.inner.proofs.age(place),
                stopped: reached.stopped[place],
            })
            .collect()
    }

    /// Why a follower of this process could not go on, the last time that one could not.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.inner.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How every view is doing, in the order of the registry.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn status(&self) -> Result<Vec<ViewStatus>, ReadError> {
        let pool = self.inner.ledger.pool();
        let checkpoints = checkpoint::read(pool).await?;
        let head = self.inner.ledger.head().await?;
        let next: Vec<i64> = checkpoints.iter().map(|checkpoint| checkpoint.position + 1).collect();
        let waiting = self.inner.ledger.read_at(&next).await?;
        let rebuilding = self.rebuilding().await?;
        let (mut all, now) = (vec![], self.inner.ledger.clock().now());
        for name in self.names() {
            let table =
                &self.inner.registry.all[self.inner.registry.place(name).unwrap_or_default()].spec().table;
            let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.table == *table);
            let position = checkpoint.map_or(0, |checkpoint| checkpoint.position);
            let first = waiting.iter().find(|event| event.position == position + 1);
            all.push(ViewStatus {
                name: name.to_owned(),
                position,
                behind_events: (head - position).max(0),
                behind_seconds: first.map_or(0.0, |event| age(event.at, now)),
                state: state(checkpoint, rebuilding.contains(&lock_of(table))).to_owned(),
                rows: if checkpoint.is_some() { self.count(table).await? } else { 0 },
                events_per_second: checkpoint.map_or(0.0, rate),
                last_error: checkpoint.and_then(|checkpoint| checkpoint.last_error.clone()),
            });
        }
        Ok(all)
    }

    /// The views that some process is rebuilding, as [`lock_of`] names them.
    async fn rebuilding(&self) -> Result<Vec<i32>, sqlx::Error> {
        let query = sqlx::query(
            "select objid::bigint from pg_locks where locktype = 'advisory' and objsubid = 2 and granted
                and classid::bigint = $1 and database = (select oid from pg_database where datname = current_database())",
        );
        let rows = query.bind(i64::from(REBUILDING)).fetch_all(self.inner.ledger.pool()).await?;
        rows.iter().map(|row| row.try_get::<i64, _>(0).map(|lock| lock as u32 as i32)).collect()
    }

    async fn count(&self, table: &str) -> Result<i64, sqlx::Error> {
        let sql = format!(
            "select case when n <= $1 then n else greatest(n, (select reltuples::bigint from pg_class where oid = to_regclass('{table}'))) end
             from (select count(*) as n from (select from {table} limit $1 + 1) found) counted"
        );
        sqlx::query_scalar(&sql).bind(COUNTED).fetch_one(self.inner.ledger.pool()).await
    }
}

fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    (now - at).as_seconds_f64().max(0.0)
}

fn rate(checkpoint: &Checkpoint) -> f64 {
    (checkpoint.events_per_second * 100.0).round() / 100.0
}

fn state(checkpoint: Option<&Checkpoint>, rebuilding: bool) -> &'static str {
    match checkpoint {
        _ if rebuilding => "rebuilding",
        Some(checkpoint) => checkpoint.state.as_str(),
        None => "missing",
    }
}
