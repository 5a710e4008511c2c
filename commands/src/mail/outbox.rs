//! The outbox: which mails there are, and how far each is. Operational rows beside the log; the mails themselves are nowhere.
//!
//! A mail belongs to whoever took it up last: every statement names the attempt, and changes nothing when that is not the last one
//! any more. So a sender that was silent for too long cannot spoil what another one does.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

/// How long a sender may be silent before what it was at is taken up by others.
pub(super) const LEASE: Duration = Duration::from_secs(20);
/// The longest wait between two attempts, in seconds. The first is one second; each is twice the one before, or up to half less.
const LONGEST_WAIT: f64 = 3_600.0;
/// For how many days rows of mails that are done with are kept, for whoever looks into it.
const KEPT_DAYS: i32 = 30;
/// Rows of them removed at a time.
const MOST_REMOVED: i64 = 1_000;
/// Mails found in nobody's hands at a time.
const MOST_ABANDONED: i64 = 100;

/// A mail that was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Of its event.
    pub(super) position: i64,
    /// The how-manieth attempt this is.
    pub(super) attempt: i32,
}

/// A mail that was just taken up.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) claim: Claim,
    /// Why the attempt before did not succeed, if there was one that came to an end.
    pub(super) last_error: Option<String>,
}

/// How it ended with a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was accepted.
    Sent,
    /// It was refused for good, or given up.
    Failed,
    /// It is of no use any more.
    Skipped,
    /// Nobody knows whether it was accepted. It is not sent again.
    Uncertain,
}

impl End {
    /// The state's name, and the metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Uncertain => "uncertain",
        }
    }
}

/// The table `mails`.
#[derive(Clone)]
pub(super) struct Outbox {
    pool: PgPool,
}

impl Outbox {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Queues a mail for an event; if it is there already, it stays as it is.
    pub(super) async fn queue(connection: &mut PgConnection, position: i64) -> Result<(), sqlx::Error> {
        let query = sqlx::query("insert into mails (position) values ($1) on conflict do nothing");
        query.bind(position).execute(connection).await?;
        Ok(())
    }

    /// Takes up at most `most` mails that are due and in nobody's hands.
    pub(super) async fn claim(&self, most: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let claimed: Vec<(i64, i32, Option<String>)> = sqlx::query_as(
            "update mails set attempts = attempts + 1, claimed_until = now() + make_interval(secs => $2) \
             where position in ( \
                 select position from mails \
                 where state = 'queued' and next_at <= now() and (claimed_until is null or claimed_until < now()) \
                 order by next_at, position limit $1 for update skip locked) \
             returning position, attempts, last_error",
        )
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        let claimed = claimed.into_iter().map(|(position, attempt, last_error)| Claimed {
            claim: Claim { position, attempt },
            last_error,
        });
        Ok(claimed.collect())
    }

    /// Says that these are still being worked at.
    pub(super) async fn renew(&self, claims: &[Claim]) -> Result<(), sqlx::Error> {
        let positions: Vec<i64> = claims.iter().map(|claim| claim.position).collect();
        let attempts: Vec<i32> = claims.iter().map(|claim| claim.attempt).collect();
        sqlx::query(
            "update mails set claimed_until = now() + make_interval(secs => $3) \
             from unnest($1::bigint[], $2::int[]) as mine(position, attempts) \
             where mails.position = mine.position and mails.attempts = mine.attempts \
                 and state in ('queued', 'handing_over')",
        )
        .bind(positions)
        .bind(attempts)
        .bind(LEASE.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes, durably, that from now on nobody but the server can know whether it has the mail. `false`: somebody else has taken the mail
    /// up meanwhile, so it must not be handed over.
    pub(super) async fn hand_over(&self, claim: Claim) -> Result<bool, sqlx::Error> {
        let changed = sqlx::query(
            "update mails set state = 'handing_over', claimed_until = now() + make_interval(secs => $3) \
             where position = $1 and attempts = $2 and state = 'queued'",
        )
        .bind(claim.position)
        .bind(claim.attempt)
        .bind(LEASE.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Notes how it ended. `false`: that is not this attempt's to say any more. What was given up as uncertain may still turn out otherwise.
    pub(super) async fn settle(
        &self,
        claim: Claim,
        end: End,
        reason: Option<&str>,
    ) -> Result<bool, sqlx::Error> {
        let changed = sqlx::query(
            "update mails set state = $3, last_error = coalesce($4, last_error), settled_at = now(), claimed_until = null \
             where position = $1 and attempts = $2 and state in ('queued', 'handing_over', 'uncertain')",
        )
        .bind(claim.position)
        .bind(claim.attempt)
        .bind(end.as_str())
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Puts a mail that was not accepted back, to be tried again after a wait that grows with the attempts. `random()` keeps those that
    /// failed together from coming back together.
    pub(super) async fn retry(&self, claim: Claim, reason: &str) -> Result<bool, sqlx::Error> {
        let changed = sqlx::query(
            "update mails set state = 'queued', claimed_until = null, settled_at = null, last_error = $3, next_at = now() + make_interval( \
                 secs => least($4, power(2, least(attempts, 30) - 1)) * (0.5 + random() / 2)) \
             where position = $1 and attempts = $2 and state in ('queued', 'handing_over', 'uncertain')",
        )
        .bind(claim.position)
        .bind(claim.attempt)
        .bind(reason)
        .bind(LONGEST_WAIT)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Lets go of a mail that has not been handed over; anybody may take it up at once.
    pub(super) async fn release(&self, claim: Claim) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update mails set claimed_until = null where position = $1 and attempts = $2 and state = 'queued'",
        )
        .bind(claim.position)
        .bind(claim.attempt)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Settles the mails whose sender fell silent while handing them over as uncertain; says which.
    pub(super) async fn abandoned(&self) -> Result<Vec<i64>, sqlx::Error> {
        sqlx::query_scalar(
            "update mails set state = 'uncertain', settled_at = now(), claimed_until = null, \
                 last_error = 'Daybook was stopped before the server had answered' \
             where position in ( \
                 select position from mails where state = 'handing_over' and claimed_until < now() \
                 limit $1 for update skip locked) \
             returning position",
        )
        .bind(MOST_ABANDONED)
        .fetch_all(&self.pool)
        .await
    }

    /// How many are not settled.
    pub(super) async fn open(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("select count(*) from mails where state in ('queued', 'handing_over')")
            .fetch_one(&self.pool)
            .await
    }

    /// Removes rows of mails that have long been settled.
    pub(super) async fn tidy(&self) -> Result<(), sqlx::Error> {
        sqlx::query(
            "delete from mails where position in ( \
                 select position from mails where settled_at < now() - make_interval(days => $1) \
                 order by settled_at limit $2 for update skip locked)",
        )
        .bind(KEPT_DAYS)
        .bind(MOST_REMOVED)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
