//! The outbox: which mails there are, and how far each is. Operational rows beside the log; the mails themselves are nowhere.
//!
//! A mail belongs to whoever took it up last: every statement names the attempt, and changes nothing when that is not the last one
//! any more. So a sender that was silent for too long cannot spoil what another one does.

use std::time::Duration;

use domain::UserId;
use ledger::connect::Pool;
use sqlx::PgConnection;
use uuid::Uuid;

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

/// Which mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MailId {
    /// Of its event.
    pub(super) position: i64,
    /// Which of the people who are told of it. `None`: there is one mail, and whom it goes to stands in the event.
    pub(super) recipient: Option<UserId>,
}

impl MailId {
    fn stored(position: i64, recipient: Uuid) -> Self {
        Self { position, recipient: (!recipient.is_nil()).then_some(UserId(recipient)) }
    }

    /// As it is in the table, where the key has no nulls.
    fn recipient(self) -> Uuid {
        recipient(self.recipient)
    }
}

fn recipient(user: Option<UserId>) -> Uuid {
    user.map_or(Uuid::nil(), |user| user.0)
}

/// A mail that was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Which.
    pub(super) mail: MailId,
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
    pool: Pool,
}

impl Outbox {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Queues the mails of an event; what is there already stays as it is.
    pub(super) async fn queue(
        connection: &mut PgConnection,
        position: i64,
        recipients: &[Option<UserId>],
    ) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "insert into mails (position, recipient) select $1, unnest($2::uuid[]) on conflict do nothing",
        );
        let recipients: Vec<Uuid> = recipients.iter().copied().map(recipient).collect();
        query.bind(position).bind(recipients).execute(connection).await?;
        Ok(())
    }

    /// Takes up at most `most` mails that are due and in nobody's hands. Times that are further ahead than any wait or lease are from before
    /// the database's clock was set back: they do not count.
    pub(super) async fn claim(&self, most: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let claimed: Vec<(i64, Uuid, i32, Option<String>)> = sqlx::query_as(
            "update mails set attempts = attempts + 1, claimed_until = now() + make_interval(secs => $2) \
             where (position, recipient) in ( \
                 select position, recipient from mails \
                 where state = 'queued' \
                     and (attempts = 0 or next_at <= now() or next_at > now() + make_interval(secs => $3)) \
                     and (claimed_until is null or claimed_until < now() or claimed_until > now() + 2 * make_interval(secs => $2)) \
                 order by next_at, position, recipient limit $1 for update skip locked) \
             returning position, recipient, attempts, last_error",
        )
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .bind(LEASE.as_secs_f64())
        .bind(LONGEST_WAIT)
        .fetch_all(&self.pool)
        .await?;
        let claimed = claimed.into_iter().map(|(position, recipient, attempt, last_error)| Claimed {
            claim: Claim { mail: MailId::stored(position, recipient), attempt },
            last_error,
        });
        Ok(claimed.collect())
    }

    /// Says that these are still being worked at.
    pub(super) async fn renew(&self, claims: &[Claim]) -> Result<(), sqlx::Error> {
        let positions: Vec<i64> = claims.iter().map(|claim| claim.mail.position).collect();
        let recipients: Vec<Uuid> = claims.iter().map(|claim| claim.mail.recipient()).collect();
        let attempts: Vec<i32> = claims.iter().map(|claim| claim.attempt).collect();
        sqlx::query(
            "update mails set claimed_until = now() + make_interval(secs => $4) \
             from unnest($1::bigint[], $2::uuid[], $3::int[]) as mine(position, recipient, attempts) \
             where mails.position = mine.position and mails.recipient = mine.recipient and mails.attempts = mine.attempts \
                 and state in ('queued', 'handing_over')",
        )
        .bind(positions)
        .bind(recipients)
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
            "update mails set state = 'handing_over', claimed_until = now() + make_interval(secs => $4) \
             where position = $1 and recipient = $2 and attempts = $3 and state = 'queued'",
        )
        .bind(claim.mail.position)
        .bind(claim.mail.recipient())
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
            "update mails set state = $4, last_error = coalesce($5, last_error), settled_at = now(), claimed_until = null \
             where position = $1 and recipient = $2 and attempts = $3 and state in ('queued', 'handing_over', 'uncertain')",
        )
        .bind(claim.mail.position)
        .bind(claim.mail.recipient())
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
            "update mails set state = 'queued', claimed_until = null, settled_at = null, last_error = $4, next_at = now() + make_interval( \
                 secs => least($5, power(2, least(attempts, 30) - 1)) * (0.5 + random() / 2)) \
             where position = $1 and recipient = $2 and attempts = $3 and state in ('queued', 'handing_over', 'uncertain')",
        )
        .bind(claim.mail.position)
        .bind(claim.mail.recipient())
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
            "update mails set claimed_until = null where position = $1 and recipient = $2 and attempts = $3 and state = 'queued'",
        )
        .bind(claim.mail.position)
        .bind(claim.mail.recipient())
        .bind(claim.attempt)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Settles the mails whose sender fell silent while handing them over as uncertain; says which.
    pub(super) async fn abandoned(&self) -> Result<Vec<MailId>, sqlx::Error> {
        let abandoned: Vec<(i64, Uuid)> = sqlx::query_as(
            "update mails set state = 'uncertain', settled_at = now(), claimed_until = null, \
                 last_error = 'Daybook was stopped before the server had answered' \
             where (position, recipient) in ( \
                 select position, recipient from mails where state = 'handing_over' \
                     and (claimed_until < now() or claimed_until > now() + 2 * make_interval(secs => $2)) \
                 limit $1 for update skip locked) \
             returning position, recipient",
        )
        .bind(MOST_ABANDONED)
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        Ok(abandoned.into_iter().map(|(position, recipient)| MailId::stored(position, recipient)).collect())
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
            "delete from mails where (position, recipient) in ( \
                 select position, recipient from mails where settled_at < now() - make_interval(days => $1) \
                 order by settled_at limit $2 for update skip locked)",
        )
        .bind(KEPT_DAYS)
        .bind(MOST_REMOVED)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
