//! Sends what is in the outbox.
//!
//! A mail must not be sent twice, and nobody can promise that it is sent exactly once: between a server's taking it and our hearing so
//! there is a moment in which only the server knows. So that moment is made as short as can be, and what happens in it is decided:
//!
//! 1. *claimed*: the mail is ours for a while. If we crash, somebody takes it up again when that while is over: it was not sent.
//! 2. The server is asked whether it takes the mail: connection, TLS, sign-in, `MAIL`, `RCPT`, `DATA`. It has got nothing of the mail; if
//!    we crash, it forgets the question.
//! 3. *handing over*, committed. From here on the server may have it.
//! 4. The mail is written and the answer awaited. If we crash or lose the connection, nobody knows: it becomes *uncertain*, and is
//!    not sent again. People can ask for another mail; a second one that nobody asked for looks like an attack.
//! 5. *sent*, committed. If we crash between the answer and this, it is uncertain too, though it was sent: never the other way round.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::display;

use super::drafts::{Draft, Drafts, NoLetter, PATIENCE};
use super::files::MailFolder;
use super::form::{Mail, Sender as From, form};
use super::letters::Kind;
use super::outbox::{Claim, Claimed, End, MailId, Outbox};
use super::smtp::{NotHandedOver, Offered, Refused, SmtpPatience, SmtpServer};

/// How often a sender says that it lives: five times within a lease.
const BEAT: Duration = Duration::from_secs(4);
/// How often it looks by itself, besides being told: this finds what has become due, and what others left behind.
const POLL: Duration = Duration::from_secs(1);
/// How long the commit of what was queued may take to be seen at once; what takes longer is found by the next look.
const COMMIT: Duration = Duration::from_millis(30);
/// How often, in polls, old rows are removed.
const TIDY: u32 = 600;
/// How long, once Daybook is being stopped, a server may take to answer what it was handed over.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// How long an outcome that cannot be written down is kept trying to be; then the row tells others that nobody knows.
const WRITING: Duration = Duration::from_secs(60);

const MAILS: &str = "mails_total";
const QUEUED: &str = "mails_queued";

pub(super) fn describe_metrics() {
    metrics::describe_counter!(MAILS, "Mails that are done with, by outcome");
    metrics::describe_gauge!(QUEUED, "Mails that are not done with");
}

/// Where mails go.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    Smtp(SmtpServer, SmtpPatience),
    Folder(MailFolder),
}

/// The sender of one process.
pub(super) struct Sender {
    pub(super) outbox: Outbox,
    pub(super) drafts: Drafts,
    pub(super) from: From,
    pub(super) delivery: Delivery,
    /// Mails at a time.
    pub(super) at_once: usize,
    /// Told when something was queued, or an attempt has ended.
    pub(super) wake: Arc<Notify>,
    /// What is being worked at.
    pub(super) held: Mutex<HashMap<MailId, Claim>>,
}

/// A mail in its form, and somebody who takes it.
struct Ready {
    kind: Kind,
    /// When what it tells of happened.
    at: DateTime<Utc>,
    mail: Mail,
    /// None: it becomes a file.
    offered: Option<Offered>,
}

/// What came of an attempt.
enum Outcome {
    Ended(End, Option<String>),
    Retry(String),
    /// Nothing was tried.
    LetGo,
    /// It is somebody else's by now.
    Lost,
}

/// A mail that is being worked at, for as long as this lives.
struct Holding<'a>(&'a Sender, MailId);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.held(|held| held.remove(&self.1));
    }
}

impl Sender {
    fn now(&self) -> DateTime<Utc> {
        self.drafts.ledger.clock().now()
    }

    /// Sends until `shutdown`; what is being handed over then may still end.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut attempts = JoinSet::new();
        let beats = Arc::clone(&self);
        let mut beating = AbortOnDropHandle::new(tokio::spawn(async move { beats.beat().await }));
        let mut round = 0u32;
        while !shutdown.is_cancelled() {
            // Interest is registered before looking, so that nothing is slept over.
            let wake = self.wake.notified();
            while attempts.try_join_next().is_some() {}
            let free = self.at_once.saturating_sub(attempts.len());
            let claimed = self.look(free, round).await;
            round = round.wrapping_add(1);
            if !claimed.is_empty() {
                for claimed in claimed {
                    let (sender, shutdown) = (Arc::clone(&self), shutdown.clone());
                    attempts.spawn(async move { sender.take_up(claimed, &shutdown).await });
                }
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                // Others would take up what is being sent: whoever watches this task starts it again.
                _ended = &mut beating => return,
                // What was queued is there a moment later, with the commit of the transaction that it is part of.
                () = wake => sleep(COMMIT).await,
                () = sleep(POLL) => {}
            }
        }
        while attempts.join_next().await.is_some() {}
    }

    /// Looks after what others left behind, and takes up what is due.
    async fn look(&self, free: usize, round: u32) -> Vec<Claimed> {
        let looked = async {
            for mail in self.outbox.abandoned().await? {
                self.tell_uncertain(mail, "its sender fell silent");
            }
            if round.is_multiple_of(TIDY) {
                self.outbox.tidy().await?;
            }
            let claimed = if free == 0 { vec![] } else { self.outbox.claim(free).await? };
            metrics::gauge!(QUEUED).set(self.outbox.open().await? as f64);
            Ok::<_, sqlx::Error>(claimed)
        };
        looked.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "looking for mails failed");
            vec![]
        })
    }

    async fn beat(&self) {
        let mut ticks = interval(BEAT);
        loop {
            ticks.tick().await;
            let held: Vec<Claim> = self.held(|held| held.values().copied().collect());
            if !held.is_empty()
                && let Err(error) = self.outbox.renew(&held).await
            {
                tracing::warn!(%error, "no heartbeat got through for mails being sent");
            }
        }
    }

    fn held<T>(&self, look: impl FnOnce(&mut HashMap<MailId, Claim>) -> T) -> T {
        look(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn take_up(&self, claimed: Claimed, shutdown: &CancellationToken) {
        let claim = claimed.claim;
        self.held(|held| held.insert(claim.mail, claim));
        // Whatever happens, it is held no longer than it is worked at.
        let holding = Holding(self, claim.mail);
        let (outcome, offered) = self.attempt(claimed, shutdown).await;
        self.write_down(claim, outcome).await;
        drop(holding);
        self.wake.notify_one();
        // Only now: how the server takes our leave must not stand between its answer and the writing down.
        if let Some(offered) = offered {
            offered.part().await;
        }
    }

    async fn attempt(&self, claimed: Claimed, shutdown: &CancellationToken) -> (Outcome, Option<Offered>) {
        let claim = claimed.claim;
        let ready = tokio::select! {
            ready = AssertUnwindSafe(self.prepare(claimed)).catch_unwind() => ready.unwrap_or_else(|_| {
                tracing::error!(position = claim.mail.position, "preparing a mail panicked");
                Err(Outcome::Retry("preparing it panicked".to_owned()))
            }),
            () = shutdown.cancelled() => return (Outcome::LetGo, None),
        };
        match ready {
            Ok(Ready { offered: Some(offered), at, mail, .. }) => {
                self.hand_over(claim, offered, (at, &mail), shutdown).await
            }
            Ok(ready) => (self.put(claim, ready).await, None),
            Err(outcome) => (outcome, None),
        }
    }

    /// Everything that can be done before anybody has the mail.
    async fn prepare(&self, claimed: Claimed) -> Result<Ready, Outcome> {
        let Claimed { claim, last_error } = claimed;
        let draft =
            self.drafts.of(claim.mail, self.now()).await.map_err(|none| no_letter(none, last_error))?;
        let (kind, at, mail) = (draft.letter.kind, draft.at, self.form(claim.mail, &draft).await?);
        let offered = match &self.delivery {
            Delivery::Smtp(server, patience) => Some(
                server
                    .offer(&mail, *patience)
                    .await
                    .map_err(|refused| of_refusal(refused, at, self.now()))?,
            ),
            Delivery::Folder(_) => None,
        };
        Ok(Ready { kind, at, mail, offered })
    }

    async fn form(&self, id: MailId, draft: &Draft) -> Result<Mail, Outcome> {
        let parts = [Some(id.position.to_string()), id.recipient.map(|user| user.to_string())];
        let parts = ["mail"].into_iter().chain(parts.iter().flatten().map(String::as_str));
        let hash = self.drafts.ledger.keyed_hash(&parts.collect::<Vec<_>>()).await;
        let hash = hash.map_err(|error| Outcome::Retry(error.to_string()))?;
        let unique = hash.get(..32).unwrap_or(&hash);
        form(&draft.letter, &self.from, draft.at, unique)
            .map_err(|reason| Outcome::Ended(End::Failed, Some(reason.to_owned())))
    }

    async fn hand_over(
        &self,
        claim: Claim,
        mut offered: Offered,
        (at, mail): (DateTime<Utc>, &Mail),
        shutdown: &CancellationToken,
    ) -> (Outcome, Option<Offered>) {
        // If we crash before this is committed, the mail is taken up again, and the server has nothing of it.
        match self.outbox.hand_over(claim).await {
            Ok(true) => {}
            Ok(false) => return (Outcome::Lost, None),
            // Whether it is committed or not: the server gets nothing, so the mail may be sent again.
            Err(error) => {
                return (Outcome::Retry(format!("the handing over could not be noted: {error}")), None);
            }
        }
        // If we crash from here on, the mail is uncertain: nobody sends it again.
        let stopped = async {
            shutdown.cancelled().await;
            sleep(LAST_GRACE).await;
        };
        let handed_over = tokio::select! {
            handed_over = offered.hand_over(mail) => handed_over,
            () = stopped => Err(NotHandedOver::Unanswered("Daybook was stopped before the server had answered".into())),
        };
        match handed_over {
            Ok(()) => (Outcome::Ended(End::Sent, None), Some(offered)),
            // A plain no: the server has not got it.
            Err(NotHandedOver::Refused(refused)) => (of_refusal(refused, at, self.now()), Some(offered)),
            Err(NotHandedOver::Unanswered(reason)) => (Outcome::Ended(End::Uncertain, Some(reason)), None),
        }
    }

    /// A file needs no handing over: writing it once more, after a crash say, makes the same file.
    async fn put(&self, claim: Claim, ready: Ready) -> Outcome {
        let Delivery::Folder(folder) = &self.delivery else { return Outcome::LetGo };
        match folder.put(claim.mail, ready.kind, ready.mail).await {
            Ok(path) => {
                tracing::info!(path = %path.display(), "without SMTP_URL mail is written to a file");
                Outcome::Ended(End::Sent, None)
            }
            Err(error) => of_refusal(
                Refused::ForNow(format!("the file could not be written: {error}")),
                ready.at,
                self.now(),
            ),
        }
    }

    /// Writes down what came of an attempt. While the database is away, so is every other sender.
    async fn write_down(&self, claim: Claim, outcome: Outcome) {
        let begun = Instant::now();
        loop {
            let Err(error) = self.try_to_write(claim, &outcome).await else { return };
            if begun.elapsed() > WRITING {
                let MailId { position, recipient } = claim.mail;
                let recipient = recipient.map(display);
                tracing::error!(position, recipient, %error, "what came of a mail could not be written down");
                return;
            }
            sleep(POLL).await;
        }
    }

    async fn try_to_write(&self, claim: Claim, outcome: &Outcome) -> Result<(), sqlx::Error> {
        let Claim { mail: MailId { position, recipient }, attempt } = claim;
        let recipient = recipient.map(display);
        match outcome {
            Outcome::Ended(end, reason) => {
                if self.outbox.settle(claim, *end, reason.as_deref()).await? {
                    self.tell(claim.mail, *end, reason.as_deref().unwrap_or_default());
                }
            }
            Outcome::Retry(reason) => {
                if self.outbox.retry(claim, reason).await? {
                    tracing::warn!(
                        position,
                        recipient,
                        attempt,
                        reason,
                        "a mail could not be sent; it is tried again"
                    );
                }
            }
            Outcome::LetGo => self.outbox.release(claim).await?,
            Outcome::Lost => {
                tracing::warn!(position, recipient, attempt, "another sender has taken a mail over")
            }
        }
        Ok(())
    }

    fn tell(&self, mail: MailId, end: End, reason: &str) {
        let MailId { position, recipient } = mail;
        let recipient = recipient.map(display);
        match end {
            End::Sent => tracing::info!(position, recipient, "mail sent"),
            End::Skipped => {
                tracing::info!(position, recipient, reason, "mail not sent: it is of no use any more")
            }
            End::Failed => tracing::error!(position, recipient, reason, "mail not sent, and not tried again"),
            End::Uncertain => return self.tell_uncertain(mail, reason),
        }
        metrics::counter!(MAILS, "outcome" => end.as_str()).increment(1);
    }

    fn tell_uncertain(&self, mail: MailId, reason: &str) {
        let MailId { position, recipient } = mail;
        let recipient = recipient.map(display);
        tracing::warn!(
            position,
            recipient,
            reason,
            "nobody knows whether a mail was sent; it is not sent again"
        );
        metrics::counter!(MAILS, "outcome" => End::Uncertain.as_str()).increment(1);
    }
}

fn no_letter(none: NoLetter, last_error: Option<String>) -> Outcome {
    match (none, last_error) {
        (NoLetter::Useless(reason), _) => Outcome::Ended(End::Skipped, Some(reason.to_owned())),
        (none @ NoLetter::Expired, None) => Outcome::Ended(End::Skipped, Some(none.to_string())),
        // It was tried, and did not get through in time.
        (none @ NoLetter::Expired, Some(last)) => {
            Outcome::Ended(End::Failed, Some(format!("{none}; before: {last}")))
        }
        (NoLetter::Impossible(reason), _) => Outcome::Ended(End::Failed, Some(reason.to_owned())),
        (NoLetter::Unloaded(error), _) if error.is_passing() => Outcome::Retry(error.to_string()),
        // What the error says may quote what is stored.
        (NoLetter::Unloaded(_), _) => {
            Outcome::Ended(End::Failed, Some("the secret or its team cannot be read".to_owned()))
        }
        (NoLetter::Ledger(error), _) => Outcome::Retry(error.to_string()),
    }
}

fn of_refusal(refused: Refused, at: DateTime<Utc>, now: DateTime<Utc>) -> Outcome {
    match refused {
        Refused::ForGood(reason) => Outcome::Ended(End::Failed, Some(reason)),
        Refused::ForNow(reason) if now >= at + PATIENCE => {
            Outcome::Ended(End::Failed, Some(format!("given up; at last: {reason}")))
        }
        Refused::ForNow(reason) => Outcome::Retry(reason),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_did_not_get_through_for_three_days_is_given_up() {
        let refused = || Refused::ForNow("RCPT was answered with 451".to_owned());
        let now = Utc::now();
        let recently = of_refusal(refused(), now - TimeDelta::days(2), now);
        assert!(matches!(recently, Outcome::Retry(reason) if reason.contains("451")));
        let long_ago = of_refusal(refused(), now - TimeDelta::days(4), now);
        assert!(matches!(long_ago, Outcome::Ended(End::Failed, Some(reason)) if reason.contains("451")));
    }
}
