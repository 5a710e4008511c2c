//! Scrubbing: what was deleted from `data_keys` is still in the table's file and in the write-ahead log, and a destroyed key must not
//! come back from there. So the table is written anew, and where the server is ours, the log begins anew as well.

mod copying;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, Executor as _, PgConnection, PgExecutor};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::Ledger;
use crate::connect::{Purpose, timed_out};
use crate::error::LedgerError;

/// The advisory lock (`dbks`) of whoever scrubs.
const SCRUBBING: i32 = 0x6462_6b73;
/// How often a node looks by itself.
const LOOK: Duration = Duration::from_secs(10);
/// The pauses between attempts while somebody holds it up grow from the first to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A scrubbing keeps readers waiting: of the time, at most one part in this many is given to it...
const SHARE: u32 = 20;
/// ...but no pause is longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Attempts in a row that come to nothing before somebody is told.
const MANY: u32 = 60;
/// Longer than any statement here may take.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// "Lock not available" and "deadlock detected": it is tried again.
const IN_THE_WAY: [&str; 2] = ["55P03", "40P01"];
const NOT_ALLOWED: &str = "42501";

/// Asks for a scrubbing, once the transaction is committed.
pub(crate) async fn request(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("select request_scrubbing()").await.map(drop)
}

/// Whether destroyed keys are still in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubbing {
    /// Something was destroyed that is still there.
    pub pending: bool,
    /// When it was last asked for.
    pub requested_at: Option<DateTime<Utc>>,
    /// When it was last done.
    pub done_at: Option<DateTime<Utc>>,
}

/// How one attempt ended.
enum Attempt {
    /// There was nothing to do.
    Nothing,
    /// Done, in this time.
    Done(Duration),
    /// Somebody is at it or in the way.
    Later(&'static str),
}

impl Ledger {
    /// Whether something is left to be scrubbed.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn scrubbing(&self) -> Result<Scrubbing, LedgerError> {
        let sql = "select requested > done as pending, requested_at, done_at from scrubbing";
        let (pending, requested_at, done_at) = sqlx::query_as(sql).fetch_one(self.pool()).await?;
        Ok(Scrubbing { pending, requested_at, done_at })
    }

    /// Scrubs what destroyed keys leave in files, whenever some were, until `stop`. Several nodes may do so; one of them does it. Many
    /// that are destroyed shortly after each other are scrubbed at once.
    ///
    /// Appends and reads of keys that are not remembered wait while a small table is written anew, up to a second for 100,000 keys; a larger
    /// one is copied while it is used. Where many are destroyed one after the other, the pauses between are twenty times as long as that.
    pub async fn scrub_destroyed_keys(&self, stop: CancellationToken) {
        let mut scrubber = Scrubber { ledger: self, in_vain: 0, told: false };
        while !stop.is_cancelled() {
            let Some(pause) = stop.run_until_cancelled(scrubber.turn()).await else { return };
            // What was destroyed during a pause is scrubbed after it; an idle node is woken.
            let idle = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => drop(timeout(LOOK, self.vault.destroyed.notified()).await),
                }
            };
            stop.run_until_cancelled(idle).await;
        }
    }
}

struct Scrubber<'a> {
    ledger: &'a Ledger,
    in_vain: u32,
    told: bool,
}

impl Scrubber<'_> {
    /// One attempt. Gives back how long to rest in any case.
    async fn turn(&mut self) -> Option<Duration> {
        let attempt = timeout(PATIENCE, self.attempt()).await;
        match attempt.unwrap_or_else(|_| Err(timed_out("it did not answer in time"))) {
            Ok(Attempt::Nothing) => {
                self.in_vain = 0;
                None
            }
            Ok(Attempt::Done(took)) => {
                self.in_vain = 0;
                metrics::histogram!("data_keys_scrubbed_seconds").record(took.as_secs_f64());
                Some((took * SHARE).min(LONGEST_PAUSE))
            }
            Ok(Attempt::Later(why)) => Some(self.later(&why)),
            Err(error) => Some(self.later(&error)),
        }
    }

    fn later(&mut self, why: &dyn std::fmt::Display) -> Duration {
        self.in_vain += 1;
        if self.in_vain.is_multiple_of(MANY) {
            tracing::warn!(%why, attempts = self.in_vain, "destroyed keys are still in the database's files");
        }
        (AGAIN.0 * 2_u32.saturating_pow(self.in_vain.min(10) - 1)).min(AGAIN.1)
    }

    async fn attempt(&mut self) -> Result<Attempt, sqlx::Error> {
        if requested(self.ledger.pool()).await?.is_none() {
            return Ok(Attempt::Nothing);
        }
        // A connection of its own: the lock goes with it, in whatever way this ends.
        let mut connection = self.ledger.connector().connect(Purpose::Scrubbing).await?;
        let outcome = self.scrub(&mut connection).await;
        // Politeness; an error of the work is the one to report.
        let _ = connection.close().await;
        match outcome {
            Err(error) if has_code(&error, &IN_THE_WAY) => Ok(Attempt::Later("the table of keys is in use")),
            outcome => outcome,
        }
    }

    async fn scrub(&mut self, connection: &mut PgConnection) -> Result<Attempt, sqlx::Error> {
        let locked = sqlx::query_scalar("select pg_try_advisory_lock($1, 0)").bind(SCRUBBING);
        if !locked.fetch_one(&mut *connection).await? {
            return Ok(Attempt::Later("another node is at it"));
        }
        // Everything that was destroyed up to this number is committed; what comes later has another one.
        let Some(number) = requested(&mut *connection).await? else { return Ok(Attempt::Nothing) };
        if somebody_sees_the_past(connection).await? {
            return Ok(Attempt::Later("a transaction from before they were destroyed is still open"));
        }
        let begun = Instant::now();
        let bytes: i64 =
            sqlx::query_scalar("select pg_table_size('data_keys')").fetch_one(&mut *connection).await?;
        if bytes > self.ledger.scrubbed_in_place {
            copying::replace(connection).await?;
        } else {
            // Without an explicit transaction, as the statement demands.
            connection.execute("vacuum (full) data_keys").await?;
        }
        let took = begun.elapsed();
        self.begin_log_anew(connection).await?;
        // If we crash before this, it is done once more.
        let sql = "update scrubbing set done = greatest(done, $1), done_at = clock_timestamp()";
        sqlx::query(sql).bind(number).execute(&mut *connection).await?;
        Ok(Attempt::Done(took))
    }

    /// The segment in which the keys were written is closed, and no longer needed after the checkpoint: the private server removes
    /// it. On others it is the administrator's to allow that, and to say what becomes of old segments.
    async fn begin_log_anew(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let done = async {
            connection.execute("select pg_switch_wal()").await?;
            connection.execute("checkpoint").await
        };
        match done.await {
            Err(error) if has_code(&error, &[NOT_ALLOWED]) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::info!(
                        "the database's user may not make checkpoints: destroyed keys are in its write-ahead log, still wrapped, \
                         until the server has removed or overwritten that"
                    );
                }
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }
}

/// The number of the last request, if it is not done.
async fn requested(on: impl PgExecutor<'_>) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("select requested from scrubbing where requested > done").fetch_optional(on).await
}

/// Whether some transaction, replica or prepared transaction still may see what was destroyed: as long as it may, the server copies that
/// too. What other users of a server do is not shown to everybody; then this is as much as can be known.
async fn somebody_sees_the_past(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let sql = "with last as (select age(requested_xid::xid) as destroyed from scrubbing) \
               select exists (select from last, pg_stat_activity where pid <> pg_backend_pid() \
                              and (datname = current_database() or datname is null) \
                              and backend_type is distinct from 'autovacuum worker' \
                              and greatest(age(backend_xmin), age(backend_xid)) >= destroyed) \
                   or exists (select from last, pg_replication_slots where age(xmin) >= destroyed) \
                   or exists (select from last, pg_prepared_xacts \
                              where database = current_database() and age(transaction) >= destroyed)";
    sqlx::query_scalar(sql).fetch_one(connection).await
}

fn has_code(error: &sqlx::Error, wanted: &[&str]) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| wanted.contains(&&*code))
}
