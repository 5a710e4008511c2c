//! What commands do with the views before and after they write, and how an operator accepts a log that lost events.

use std::time::Duration;

use domain::AccessEvent;
use ledger::{Ledger, LedgerError};
use projections::Projections;
use tokio_util::sync::CancellationToken;

use crate::node::{Node, StartError, registrar};

/// How long a command waits for the views.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// A log that was accepted as it is.
pub struct Accepted {
    /// How it is not the one that was known.
    pub cause: String,
    /// Its last position.
    pub head: i64,
}

impl Node {
    /// Brings the views up to everything that is in the log, whether or not a node is there to do so.
    ///
    /// # Errors
    /// A view does not get there.
    pub async fn catch_up(&self) -> Result<i64, StartError> {
        let head = self.ledger.head().await?;
        let stop = CancellationToken::new();
        let follower = tokio::spawn(self.projections.clone().run(stop.clone()));
        let outcome = self.projections.wait(head, CATCH_UP_TIMEOUT).await;
        stop.cancel();
        // It ends with the token; a panic in it is logged.
        let _ = follower.await;
        outcome.map_err(|behind| StartError::Behind { position: head, behind })?;
        Ok(head)
    }

    /// To be called after a command has written something: returns once every live node shows it. The tables have it by then, and no node
    /// answers from what it knew of them longer than [`projections::FRESH_FOR`].
    ///
    /// # Errors
    /// A view does not show it. What was written is written: the error has its position.
    pub async fn show(&self) -> Result<(), StartError> {
        self.catch_up().await?;
        if !self.ledger.live_nodes().await?.is_empty() {
            tokio::time::sleep(projections::FRESH_FOR).await;
        }
        Ok(())
    }

    /// Accepts the log as it is, should it not be the one that was known: what remembers positions beyond it goes back, and every node goes
    /// on. Recorded. `None`: it is the one that was known.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn accept_log(&self) -> Result<Option<Accepted>, StartError> {
        let head = self.ledger.head().await?;
        let noted = self.ledger.noted_divergence().await?;
        let cause = match noted {
            Some(cause) => Some(cause),
            None => self.projections.divergence().await?.map(|divergence| divergence.to_string()),
        };
        let mut transaction = self.ledger.pool().begin().await.map_err(LedgerError::from)?;
        Projections::outdate_diverged(&mut transaction).await?;
        commands::reactor::go_back(&mut transaction, head).await.map_err(LedgerError::from)?;
        Ledger::accept_loss(&mut transaction).await.map_err(LedgerError::from)?;
        transaction.commit().await.map_err(LedgerError::from)?;
        self.ledger.check_log().await?;
        let Some(cause) = cause else { return Ok(None) };
        let record = AccessEvent::LogLossAccepted { head, cause: cause.clone() };
        self.commands.record(&registrar(), &record).await?;
        Ok(Some(Accepted { cause, head }))
    }
}
