//! The rows of `sign_in_attempts`: locked, looked at and changed in one transaction, whichever node does it.

use chrono::{DateTime, Utc};
use ledger::LedgerError;
use ledger::connect::Pool;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::policy::{Tallies, Tally};

/// A count that is lost when the database server dies was worth milliseconds, and waiting for the disk would make everybody behind
/// one address wait for each other. No lock is waited for without an end, and none outlives a node that hangs.
const BEGIN: &str = "begin; set local synchronous_commit = off; set local lock_timeout = '5s'; \
                     set local idle_in_transaction_session_timeout = '5s'";

/// Locks the rows, always in this order, so that no two wait for each other. Those that are not there are made.
const LOCK: &str = "\
    insert into sign_in_attempts as tally (key, failures, updated_at) \
    select key, 0, clock_timestamp() from unnest($1::text[]) with ordinality as wanted (key, place) order by place \
    on conflict (key) do update set failures = tally.failures \
    returning key, failures, blocked_until, updated_at, known_until, clock_timestamp() as now";

const SAVE: &str = "\
    update sign_in_attempts as tally \
    set failures = new.failures, blocked_until = new.blocked_until, updated_at = new.updated_at, known_until = new.known_until \
    from unnest($1::text[], $2::integer[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[]) \
        as new (key, failures, blocked_until, updated_at, known_until) \
    where tally.key = new.key";

/// What nobody needs any more: failures that are forgotten, of pairs that are not known.
const CLEAN: &str = "\
    delete from sign_in_attempts where key in ( \
        select key from sign_in_attempts where greatest(updated_at, known_until) < now() - interval '1 hour' \
        order by greatest(updated_at, known_until) limit $1 for update skip locked)";
/// Rows removed at a time.
const MOST_CLEANED: i64 = 1_000;

/// The keys of an attempt: of the pair, the network and the account.
#[derive(Clone, Debug)]
pub(super) struct Keys([String; 3]);

impl Keys {
    pub(super) fn new(pair: String, network: String, account: String) -> Self {
        Self([pair, network, account])
    }
}

/// Gives the rows, and the database's time, to `change`, and stores what it makes of them; nothing if it says no.
pub(super) async fn change<T, E>(
    pool: &Pool,
    keys: &Keys,
    change: impl FnOnce(&mut Tallies, DateTime<Utc>) -> Result<T, E>,
) -> Result<Result<T, E>, LedgerError> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    let rows = sqlx::query(LOCK).bind(keys.0.as_slice()).fetch_all(&mut *transaction).await?;
    let (mut tallies, now) = read(keys, &rows)?;
    let outcome = change(&mut tallies, now);
    if outcome.is_ok() {
        save(&mut transaction, keys, &tallies).await?;
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(outcome)
}

/// Removes old rows, a bounded number.
pub(super) async fn clean(pool: &Pool) -> Result<u64, LedgerError> {
    Ok(sqlx::query(CLEAN).bind(MOST_CLEANED).execute(pool).await?.rows_affected())
}

fn read(keys: &Keys, rows: &[PgRow]) -> Result<(Tallies, DateTime<Utc>), sqlx::Error> {
    let mut now = DateTime::UNIX_EPOCH;
    for row in rows {
        now = now.max(row.try_get("now")?);
    }
    let tally = |key: &String| {
        let found = rows.iter().find(|row| row.try_get::<&str, _>("key").is_ok_and(|found| found == key));
        let row = found.ok_or(sqlx::Error::RowNotFound)?;
        Ok::<_, sqlx::Error>(Tally {
            failures: row.try_get("failures")?,
            blocked_until: row.try_get("blocked_until")?,
            updated_at: row.try_get("updated_at")?,
            known_until: row.try_get("known_until")?,
        })
    };
    let [pair, network, account] = &keys.0;
    Ok((Tallies { pair: tally(pair)?, network: tally(network)?, account: tally(account)? }, now))
}

async fn save(transaction: &mut PgConnection, keys: &Keys, tallies: &Tallies) -> Result<(), sqlx::Error> {
    let all = [&tallies.pair, &tallies.network, &tallies.account];
    sqlx::query(SAVE)
        .bind(keys.0.as_slice())
        .bind(all.map(|tally| tally.failures).as_slice())
        .bind(all.map(|tally| tally.blocked_until).as_slice())
        .bind(all.map(|tally| tally.updated_at).as_slice())
        .bind(all.map(|tally| tally.known_until).as_slice())
        .execute(transaction)
        .await?;
    Ok(())
}
