//! How far each view has got: the table `checkpoints`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::error::Fault;

/// Where a view stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It follows the log.
    Live,
    /// It met something it cannot fold.
    Failed,
    /// Its table has another shape than this program wants.
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
    pub(crate) view: String,
    pub(crate) position: i64,
    pub(crate) shape: String,
    pub(crate) state: State,
    pub(crate) last_error: Option<String>,
    /// As of now.
    pub(crate) events_per_second: f64,
}

type Stored = (String, i64, String, String, Option<String>, f64, DateTime<Utc>);

impl From<(Stored, DateTime<Utc>)> for Checkpoint {
    fn from(
        ((view, position, shape, state, last_error, rate, updated), now): (Stored, DateTime<Utc>),
    ) -> Self {
        let age = (now - updated).as_seconds_f64().max(0.0);
        let state = State::parse(&state);
        Self { view, position, shape, state, last_error, events_per_second: rate * (-age / 10.0).exp() }
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select view, position, shape, state, last_error, events_per_second, updated_at from checkpoints ",
            $rest
        )
    };
}

/// All of them.
pub(crate) async fn read(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let stored: Vec<Stored> = sqlx::query_as(select!("order by view")).fetch_all(executor).await?;
    let now = Utc::now();
    Ok(stored.into_iter().map(|row| (row, now).into()).collect())
}

/// Those of `views`, locked until the transaction ends. The order prevents deadlocks between processes.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    views: &[&str],
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let query = sqlx::query_as(select!("where view = any($1) order by view for update"));
    let stored: Vec<Stored> = query.bind(views).fetch_all(connection).await?;
    let now = Utc::now();
    Ok(stored.into_iter().map(|row| (row, now).into()).collect())
}

/// The views have got this far, and are well.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    views: &[&str],
    positions: &[i64],
) -> Result<(), sqlx::Error> {
    // Updated in the future: the database's clock was set back, and no time has passed as far as is known.
    let query = sqlx::query(
        "update checkpoints c set position = n.position, state = 'live', last_error = null,
            events_per_second = c.events_per_second
                * exp(least(0, greatest(-50, extract(epoch from c.updated_at - clock_timestamp())::float8 / 10)))
                + (n.position - c.position) / 10.0,
            updated_at = clock_timestamp()
         from unnest($1::text[], $2::bigint[]) as n(view, position) where c.view = n.view",
    );
    query.bind(views).bind(positions).execute(connection).await.map(drop)
}

/// A rebuilt view is at `position` now.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    view: &str,
    position: i64,
    shape: &str,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update checkpoints set position = $2, shape = $3, state = 'live', last_error = null where view = $1",
    );
    query.bind(view).bind(position).bind(shape).execute(connection).await.map(drop)
}

/// The view cannot go on from `position`. Has no effect when somebody has got further meanwhile.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    view: &str,
    position: i64,
    fault: &Fault,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "update checkpoints set state = 'failed', last_error = $3 where view = $1 and position <= $2 and state <> 'outdated'",
    );
    // PostgreSQL's text cannot hold U+0000 either.
    let cause = fault.to_string().replace('\0', "\u{fffd}");
    query.bind(view).bind(position).bind(cause).execute(connection).await.map(drop)
}
