//! A reactor's row: its cursor, which process works, and the events put aside.
//!
//! Whoever works holds the row by a lease. The transaction that moves the cursor asks for the row under the holder's name, so one
//! that was thought dead and is not can store nothing any more.

use std::time::Duration;

use ledger::connect::Pool;
use ledger::{Ledger, LedgerError};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{ReactorError, Start};

/// What is stored of an error, in characters.
const LONGEST_ERROR: usize = 1_000;

/// Why a process does not work for a reactor any more. Whatever it was doing is as after a crash.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("another process has taken over, or the reactor's row was changed by hand")]
    Taken,
    #[error("the database did not answer in time")]
    Silent,
}

impl From<sqlx::Error> for Interrupted {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

pub(super) async fn enlist(ledger: &Ledger, name: &str, start: Start) -> Result<(), LedgerError> {
    let position = match start {
        Start::Beginning => 0,
        Start::Head => ledger.head().await?,
    };
    let query = sqlx::query("insert into reactors (name, position) values ($1, $2) on conflict do nothing");
    query.bind(name).bind(position).execute(ledger.pool()).await?;
    Ok(())
}

/// One process's claim to one reactor.
pub(super) struct Seat {
    pool: Pool,
    name: &'static str,
    holder: Uuid,
    lease: Duration,
}

impl Seat {
    pub(super) fn new(pool: Pool, name: &'static str, lease: Duration) -> Self {
        Self { pool, name, holder: Uuid::now_v7(), lease }
    }

    /// How long storing an effect may take. Less than a lease, which cannot be renewed meanwhile.
    pub(super) fn storing(&self) -> Duration {
        self.lease * 2 / 3
    }

    /// Takes the seat if it is free, or its holder has fallen silent. Says where the cursor is. A lease that seems to last longer than any
    /// does is from before the database's clock was set back: a holder that lives makes it right with its next renewal.
    pub(super) async fn take(&self) -> Result<Option<i64>, sqlx::Error> {
        // Locked: its holder is just storing something, and alive.
        sqlx::query_scalar(
            "update reactors set holder = $2, held_until = clock_timestamp() + make_interval(secs => $3) \
             where name = (select name from reactors where name = $1 \
                           and (holder is null or holder = $2 or held_until < clock_timestamp() \
                                or held_until > clock_timestamp() + 2 * make_interval(secs => $3)) \
                           for update skip locked) \
             returning position",
        )
        .bind(self.name)
        .bind(self.holder)
        .bind(self.lease.as_secs_f64())
        .fetch_optional(&self.pool)
        .await
    }

    /// Keeps the seat that was asked for at `asked`. Ends when it is not certain any more that it is ours: before the lease does,
    /// so that whatever is dropped then ends before anybody else begins.
    pub(super) async fn keep(&self, asked: Instant) -> Interrupted {
        let mut certain_until = asked + self.lease;
        loop {
            sleep(self.lease / 4).await;
            let asked = Instant::now();
            match timeout_at(certain_until, self.renew()).await {
                Ok(Ok(true)) => certain_until = asked + self.lease,
                Ok(Ok(false)) => return Interrupted::Taken,
                // A connection may be lost and the next one good.
                Ok(Err(error)) if asked < certain_until => {
                    tracing::debug!(reactor = self.name, %error, "a lease could not be renewed");
                }
                Ok(Err(error)) => return error.into(),
                Err(_) => return Interrupted::Silent,
            }
        }
    }

    async fn renew(&self) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(
            "update reactors set held_until = clock_timestamp() + make_interval(secs => $3) \
             where name = $1 and holder = $2",
        );
        let query = query.bind(self.name).bind(self.holder).bind(self.lease.as_secs_f64());
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Gives the seat up, so that the next need not wait for the lease to end.
    pub(super) async fn release(&self) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "update reactors set holder = null, held_until = null where name = $1 and holder = $2",
        );
        query.bind(self.name).bind(self.holder).execute(&self.pool).await?;
        Ok(())
    }

    /// Moves the cursor past events that led to nothing.
    pub(super) async fn pass(&self, position: i64) -> Result<(), Interrupted> {
        let mut connection = self.pool.acquire().await?;
        self.advance(&mut connection, position).await
    }

    /// Moves the cursor, in a transaction or by itself.
    pub(super) async fn advance(
        &self,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<(), Interrupted> {
        let query = sqlx::query(
            "update reactors set position = $3 where name = $1 and holder = $2 and position < $3",
        );
        let query = query.bind(self.name).bind(self.holder).bind(position);
        if query.execute(connection).await?.rows_affected() == 1 { Ok(()) } else { Err(Interrupted::Taken) }
    }

    /// Makes sure that the seat is ours until the transaction's end.
    async fn hold(&self, connection: &mut PgConnection) -> Result<(), Interrupted> {
        let query = sqlx::query("select from reactors where name = $1 and holder = $2 for update");
        let found = query.bind(self.name).bind(self.holder).fetch_optional(connection).await?;
        found.map(drop).ok_or(Interrupted::Taken)
    }

    /// Goes on without an event, and remembers it: both or neither. `false`: too many are put aside already.
    pub(super) async fn put_aside(
        &self,
        position: i64,
        tries: u32,
        error: &ReactorError,
        most: i64,
    ) -> Result<bool, Interrupted> {
        let mut transaction = self.pool.begin().await?;
        self.advance(&mut transaction, position).await?;
        let query = sqlx::query(
            "insert into reactor_failures (reactor, position, tries, error) select $1, $2, $3, $4 \
             where (select count(*) from reactor_failures where reactor = $1) < $5",
        );
        let query = query.bind(self.name).bind(position).bind(tries.cast_signed()).bind(told(error));
        if query.bind(most).execute(&mut *transaction).await?.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// The positions of the events put aside, in order.
    pub(super) async fn aside(&self) -> Result<Vec<i64>, sqlx::Error> {
        let query =
            sqlx::query_scalar("select position from reactor_failures where reactor = $1 order by position");
        query.bind(self.name).fetch_all(&self.pool).await
    }

    /// An event that was put aside has been dealt with after all.
    pub(super) async fn settle(
        &self,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<(), Interrupted> {
        self.hold(&mut *connection).await?;
        let query = sqlx::query("delete from reactor_failures where reactor = $1 and position = $2");
        query.bind(self.name).bind(position).execute(connection).await?;
        Ok(())
    }

    /// An event that was put aside has failed again.
    pub(super) async fn failed_again(&self, position: i64, error: &ReactorError) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "update reactor_failures set tries = tries + 1, error = $3, failed_at = clock_timestamp() \
             where reactor = $1 and position = $2",
        );
        query.bind(self.name).bind(position).bind(told(error)).execute(&self.pool).await?;
        Ok(())
    }
}

/// The error as it is stored: bounded, and without what PostgreSQL cannot store in a text.
fn told(error: &ReactorError) -> String {
    error.to_string().chars().filter(|c| *c != '\0').take(LONGEST_ERROR).collect()
}
