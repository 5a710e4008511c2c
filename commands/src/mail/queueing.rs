//! The reactor: what leads to a mail is put into the outbox.

use std::sync::Arc;

use ledger::Recorded;
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::drafts::leads_to_mail;
use super::outbox::Outbox;
use crate::reactor::{Reactor, ReactorError, decode};

/// Puts mails into the outbox.
pub(super) struct Queueing {
    /// Told when there is one.
    pub(super) wake: Arc<Notify>,
}

impl Reactor for Queueing {
    const NAME: &'static str = "mail";
    const AGGREGATES: &'static [&'static str] = &["access", "team", "user"];
    type Effect = ();

    async fn react(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        Ok(leads_to_mail(&decode(event)?).then_some(()))
    }

    /// In the transaction that moves the cursor: either both are there after a crash or neither, so that each mail is queued once.
    async fn store(
        &self,
        event: &Recorded,
        (): (),
        transaction: &mut PgConnection,
    ) -> Result<(), ReactorError> {
        Outbox::queue(transaction, event.position).await?;
        self.wake.notify_one();
        Ok(())
    }
}
