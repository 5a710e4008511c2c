//! Failures that can be caused without end: the first of a burst are recorded one by one, the others are counted, and the sum is recorded.
//!
//! | of | at most one by one | then |
//! |---|---|---|
//! | one source: a network at sign-in; otherwise a person, or a caller with what they ask for | 5 a minute; 20 where they have signed in | a sum for the source |
//! | all sources together, of one kind of failure | 100 in ten minutes, 300 where they have signed in | a sum for all others |
//!
//! A sum follows about a minute after the first failure that it counts. The count is a row that is durable before the caller gets an
//! answer: no failure is without a trace, also after a crash. It goes by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent as _;
use domain::AccessEvent;
use ledger::{Append, AppendError, LedgerError, Metadata};
use sqlx::PgConnection;
use sqlx::types::Json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{CommandError, Commands, Context};

/// How many of one source are recorded one by one, within how long: of strangers, and of people who have signed in.
const OF_A_NETWORK: Limit = Limit { most: 5, window: Duration::from_secs(60) };
const OF_A_PERSON: Limit = Limit { most: 20, window: Duration::from_secs(60) };
/// How many of all sources.
const OF_ALL_STRANGERS: Limit = Limit { most: 100, window: ALL_WINDOW };
const OF_ALL_PEOPLE: Limit = Limit { most: 300, window: ALL_WINDOW };
const ALL_WINDOW: Duration = Duration::from_secs(600);
/// How long failures are counted before their sum is recorded.
const SUM_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked for counts that are to be recorded.
const POLL_INTERVAL: Duration = Duration::from_secs(15);
/// How long the last look takes at most when the node stops.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// Sums recorded, and rows removed, by one statement.
const BATCH: i64 = 100;

/// What only those who have not signed in can cause.
const SIGN_IN_FAILED: &str = "SignInFailed";

struct Limit {
    most: i32,
    window: Duration,
}

/// Counts one failure. Whether it is among those that are recorded one by one is for the row to decide.
const COUNT: &str = "
insert into failure_counts as f (kind, source, began_at, recorded) values ($1, $2, clock_timestamp(), 1)
on conflict (kind, source) do update set (began_at, recorded, was_counted, counted, counted_from, counted_to, metadata) = (
    select case when is_new then clock_timestamp() else f.began_at end,
           case when is_new then 1 else least(f.recorded + 1, $3) end,
           is_counted,
           f.counted + is_counted::integer,
           case when is_counted then coalesce(f.counted_from, clock_timestamp()) else f.counted_from end,
           case when is_counted then clock_timestamp() else f.counted_to end,
           case when is_counted then $5 else f.metadata end
    from (select w.is_new, not w.is_new and f.recorded >= $3 as is_counted from (
        select f.began_at <= clock_timestamp() - make_interval(secs => $4)
            or f.began_at > clock_timestamp() + make_interval(secs => $4) as is_new) w) judged)
returning was_counted";

/// Of counts that are old enough the sums are taken out, to be recorded.
const TAKE_SUMS: &str = "
update failure_counts set sum_id = gen_random_uuid(), sum_count = counted, sum_from = counted_from, sum_to = counted_to,
    counted = 0, counted_from = null, counted_to = null
where (kind, source) in (
    select kind, source from failure_counts
    where counted > 0 and sum_id is null and counted_from <= clock_timestamp() - make_interval(secs => $1)
    order by counted_from limit $2 for update skip locked)";

const SUMS: &str = "
select sum_id, kind, source, sum_count, sum_from, sum_to, metadata from failure_counts where sum_id is not null limit $1";

const RECORDED: &str = "
update failure_counts set sum_id = null, sum_count = null, sum_from = null, sum_to = null where sum_id = $1";

const REMOVE: &str = "
delete from failure_counts where (kind, source) in (
    select kind, source from failure_counts
    where counted = 0 and sum_id is null and began_at < clock_timestamp() - make_interval(secs => $1)
    limit $2 for update skip locked)";

type Sum = (Uuid, String, String, i64, DateTime<Utc>, DateTime<Utc>, Option<Json<Metadata>>);

impl Commands {
    /// Records that somebody failed or was refused, `source` being who or what may do so again and again: as an event of its own, or as one
    /// more of those whose sum is recorded. Durable when this answers.
    ///
    /// # Errors
    /// It could be neither recorded nor counted; then nothing may be told.
    pub async fn record_failure(
        &self,
        context: &Context,
        event: &AccessEvent,
        source: &[&str],
    ) -> Result<(), CommandError> {
        let kind = event.event_type();
        let parts: Vec<&str> = ["failures_of", &kind].into_iter().chain(source.iter().copied()).collect();
        let source = self.ledger.keyed_hash(&parts).await?;
        if self.is_counted(&kind, &source, &context.metadata()).await.map_err(LedgerError::from)? {
            return Ok(());
        }
        self.record(context, event).await.map(drop)
    }

    /// Always the source's row first, so that nobody waits for somebody who waits for them.
    async fn is_counted(&self, kind: &str, source: &str, metadata: &Metadata) -> Result<bool, sqlx::Error> {
        let mut transaction = self.ledger.pool().begin().await?;
        // Whose program it was is not told of sums.
        let metadata = Metadata { user_agent: None, request_id: None, trace_id: None, ..metadata.clone() };
        let (of_one, of_all) = match kind {
            SIGN_IN_FAILED => (OF_A_NETWORK, OF_ALL_STRANGERS),
            _ => (OF_A_PERSON, OF_ALL_PEOPLE),
        };
        let is_counted = count(&mut transaction, kind, source, &of_one, Some(&metadata)).await?
            || count(&mut transaction, kind, "", &of_all, None).await?;
        transaction.commit().await?;
        Ok(is_counted)
    }

    /// Records the sums of failures as they become due, until `shutdown`; and then what is left, if there is time.
    pub async fn record_failure_sums_until(self, shutdown: CancellationToken) {
        loop {
            let stops = shutdown.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_none();
            let age = if stops { Duration::ZERO } else { SUM_AFTER };
            let limit = if stops { LAST_LOOK } else { POLL_INTERVAL };
            match tokio::time::timeout(limit, self.record_failure_sums(age)).await {
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => tracing::warn!(%error, "sums of failures are recorded later"),
            }
            if stops {
                return;
            }
        }
    }

    /// Records the sums of failures of which the first was counted at least `age` ago. How many sums there were.
    ///
    /// If we crash anywhere in here, the counts are there, or the sums under the ids of the streams they go to: recorded once, by whoever
    /// looks next.
    ///
    /// # Errors
    /// The database is out of reach. What is not recorded is recorded by the next call.
    pub async fn record_failure_sums(&self, age: Duration) -> Result<u64, CommandError> {
        let mut recorded = 0;
        loop {
            let pool = self.ledger.pool();
            let taken = sqlx::query(TAKE_SUMS).bind(age.as_secs_f64()).bind(BATCH).execute(pool).await;
            taken.map_err(LedgerError::from)?;
            let sums: Vec<Sum> =
                sqlx::query_as(SUMS).bind(BATCH).fetch_all(pool).await.map_err(LedgerError::from)?;
            if sums.is_empty() {
                break;
            }
            for sum in sums {
                recorded += u64::from(self.record_sum(sum).await?);
            }
        }
        // A row is needed for as long as its window.
        let query = sqlx::query(REMOVE).bind(ALL_WINDOW.as_secs_f64()).bind(BATCH * 10);
        query.execute(self.ledger.pool()).await.map_err(LedgerError::from)?;
        Ok(recorded)
    }

    /// Whether it was we who recorded it.
    async fn record_sum(&self, sum: Sum) -> Result<bool, CommandError> {
        let (id, kind, source, count, from, to, metadata) = sum;
        let counted =
            AccessEvent::FailuresCounted { event: kind, source, count: count.cast_unsigned(), from, to };
        let metadata = metadata.map_or_else(
            || Metadata { actor: "system".to_owned(), ..Metadata::default() },
            |metadata| metadata.0,
        );
        let append =
            Append { events: vec![Self::access_event(id, 1, &counted)?], metadata, data_keys: vec![] };
        let is_ours = match self.ledger.append(append).await {
            Ok(_) => true,
            // Another node was faster, or we were and did not hear of it.
            Err(AppendError::Conflict) if self.first_record(id).await?.is_some() => false,
            Err(error) => return Err(error.into()),
        };
        sqlx::query(RECORDED).bind(id).execute(self.ledger.pool()).await.map_err(LedgerError::from)?;
        Ok(is_ours)
    }
}

async fn count(
    connection: &mut PgConnection,
    kind: &str,
    source: &str,
    limit: &Limit,
    metadata: Option<&Metadata>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query_scalar(COUNT).bind(kind).bind(source).bind(limit.most);
    query.bind(limit.window.as_secs_f64()).bind(metadata.map(Json)).fetch_one(connection).await
}
