//! How far each view's table has got: the table `checkpoints`.

use chrono::{DateTime, Utc};
use ledger::Divergence;
use sqlx::PgConnection;

use crate::error::Fault;

/// Where a view stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It follows the log.
    Live,
    /// It met something it cannot fold.
    Failed,
    /// Its rows are not what its position says: only a rebuild helps.
    Outdated,
}

impl State {
    fn parse(text: &str) -> Self {
        match text {
            "live" => Self::Live,
            "failed" => Self::Failed,
            _ => Self::Outdated,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Failed => "failed",
            Self::Outdated => "outdated",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// A view in one version.
    pub(crate) table: String,
    pub(crate) position: i64,
    /// Of the event it stands on, as it was when that was folded. `None`: not known.
    digest: Option<Vec<u8>>,
    /// Of the event that is at its position now.
    event: Option<Vec<u8>>,
    pub(crate) state: State,
    pub(crate) last_error: Option<String>,
    /// As of now.
    pub(crate) events_per_second: f64,
}

impl Checkpoint {
    /// Whether the log has another event, or none, where this checkpoint stands.
    pub(crate) fn divergence(&self, head: Option<i64>) -> Option<Divergence> {
        let known = self.digest.as_ref().filter(|_| self.position > 0)?;
        match &self.event {
            Some(event) if event == known => None,
            Some(_) => Some(Divergence::Replaced { position: self.position }),
            None => {
                Some(Divergence::Shorter { head: head.unwrap_or(self.position - 1), known: self.position })
            }
        }
    }
}

type Stored = (String, i64, Option<Vec<u8>>, Option<Vec<u8>>, String, Option<String>, f64, DateTime<Utc>);

impl From<(Stored, DateTime<Utc>)> for Checkpoint {
    fn from(
        ((table, position, digest, event, state, last_error, rate, updated), now): (Stored, DateTime<Utc>),
    ) -> Self {
        let age = (now - updated).as_seconds_f64().max(0.0);
        let state = State::parse(&state);
        Self {
            table,
            position,
            digest,
            event,
            state,
            last_error,
            events_per_second: rate * (-age / 10.0).exp(),
        }
    }
}

/// The checkpoints of `$mine`, each with the digest of the event it stands on. Most stand on one: it is looked at once.
macro_rules! select {
    ($mine:literal) => {
        concat!(
            "with mine as (select * from checkpoints ",
            $mine,
            "), stood as materialized (
                select position, event_digest(position) as event from (select distinct position from mine) positions
             ) select view, m.position, digest, event, state, last_error, events_per_second, updated_at
             from mine m join stood using (position) order by view"
        )
    };
}

/// All of them, those of other versions' tables included.
pub(crate) async fn read(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let stored: Vec<Stored> = sqlx::query_as(select!("")).fetch_all(executor).await?;
    let now = Utc::now();
    Ok(stored.into_iter().map(|row| (row, now).into()).collect())
}

/// Those of `tables`, locked until the transaction ends. The order prevents deadlocks between processes.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    tables: &[&str],
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let query = sqlx::query_as(select!("where view = any($1) order by view for update"));
    let stored: Vec<Stored> = query.bind(tables).fetch_all(connection).await?;
    let now = Utc::now();
    Ok(stored.into_iter().map(|row| (row, now).into()).collect())
}

/// The tables have got this far, and are well.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    tables: &[&str],
    position: i64,
) -> Result<(), sqlx::Error> {
    // Updated in the future: the database's clock was set back, and no time has passed as far as is known.
    let query = sqlx::query(
        "with n as materialized (select event_digest($2) as digest)
         update checkpoints c set position = $2, digest = n.digest, state = 'live', last_error = null,
            events_per_second = c.events_per_second
                * exp(least(0, greatest(-50, extract(epoch from c.updated_at - clock_timestamp())::float8 / 10)))
                + ($2 - c.position) / 10.0,
            updated_at = clock_timestamp()
         from n where c.view = any($1)",
    );
    query.bind(tables).bind(position).execute(connection).await.map(drop)
}

/// A rebuilt table is at `position` now.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    table: &str,
    position: i64,
    shape: &str,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update checkpoints set position = $2, shape = $3, digest = event_digest($2), state = 'live', last_error = null
         where view = $1",
    );
    query.bind(table).bind(position).bind(shape).execute(connection).await.map(drop)
}

/// The view cannot go on from `position`. Has no effect when somebody has got further meanwhile.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    table: &str,
    position: i64,
    fault: &Fault,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update checkpoints set state = 'failed', last_error = $3 where view = $1 and position <= $2 and state <> 'outdated'",
    );
    // PostgreSQL's text cannot hold U+0000 either.
    let cause = fault.to_string().replace('\0', "\u{fffd}");
    query.bind(table).bind(position).bind(cause).execute(connection).await.map(drop)
}

/// Every table whose checkpoint stands on an event that is not there any more must be rebuilt.
pub(crate) async fn outdate_diverged(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update checkpoints set state = 'outdated', position = 0, digest = null
         where position > 0 and digest is distinct from event_digest(position)",
    );
    query.execute(connection).await.map(drop)
}
