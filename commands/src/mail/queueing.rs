//! The reactor: what leads to a mail is put into the outbox.

use std::sync::Arc;

use domain::UserId;
use ledger::{Ledger, Recorded};
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::drafts::{Addressed, addressed};
use super::grants::told_of_grant;
use super::outbox::Outbox;
use crate::reactor::{Reactor, ReactorError, decode};

/// Puts mails into the outbox.
pub(super) struct Queueing {
    pub(super) ledger: Ledger,
    /// Told when there is one.
    pub(super) wake: Arc<Notify>,
}

impl Reactor for Queueing {
    const NAME: &'static str = "mail";
    const AGGREGATES: &'static [&'static str] = &["access", "secret", "team", "user"];
    /// One mail each.
    type Effect = Vec<Option<UserId>>;

    /// Who is told of something is decided now: whoever loses their place in the team a moment later is told all the same.
    async fn react(&self, event: &Recorded) -> Result<Option<Self::Effect>, ReactorError> {
        Ok(match addressed(&decode(event)?) {
            Addressed::Nobody => None,
            Addressed::InEvent => Some(vec![None]),
            Addressed::GranteeAndOwners(grantee) => {
                let told = told_of_grant(&self.ledger, event, grantee).await?;
                Some(told.into_iter().map(Some).collect())
            }
        })
    }

    /// In the transaction that moves the cursor: either both are there after a crash or neither, so that each mail is queued once.
    async fn store(
        &self,
        event: &Recorded,
        recipients: Self::Effect,
        transaction: &mut PgConnection,
    ) -> Result<(), ReactorError> {
        Outbox::queue(transaction, event.position, &recipients).await?;
        self.wake.notify_one();
        Ok(())
    }
}
