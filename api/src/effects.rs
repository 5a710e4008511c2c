//! What has effects outside of the database waits while it is held: schedules, mail, jobs, and the removal of files. It is on a copy of
//! another database, until an operator says that the copy is to do what the original did.

use std::time::Duration;

use commands::{CommandError, Commands, Context};
use domain::AccessEvent;
use ledger::{Held, Ledger, LedgerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a node looks whether effects were released elsewhere.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often a node says where it runs.
const PLACE_INTERVAL: Duration = Duration::from_secs(15);
/// 1 while effects are held.
pub(crate) const GAUGE: &str = "effects_held";

/// Whether effects are held, as this node knows it. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    ledger: Ledger,
    held: watch::Sender<Option<Held>>,
}

impl Effects {
    /// As the database says.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn load(ledger: &Ledger) -> Result<Self, LedgerError> {
        let held = watch::Sender::new(ledger.effects_held().await?);
        let effects = Self { ledger: ledger.clone(), held };
        effects.publish();
        if let Some(held) = effects.held() {
            tracing::warn!(
                because = held.because,
                "schedules, mail and jobs are held until they are released: daybook effects release"
            );
        }
        Ok(effects)
    }

    /// Why and since when effects are held, if they are.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        self.held.borrow().clone()
    }

    /// Does `work` once effects are not held; nothing if the node stops before.
    pub async fn then(self, stop: CancellationToken, work: impl Future<Output = ()>) {
        let mut held = self.held.subscribe();
        tokio::select! {
            biased;
            released = held.wait_for(Option::is_none) => if released.is_err() { return },
            () = stop.cancelled() => return,
        }
        work.await;
    }

    /// Says where `node` runs, and follows what is released elsewhere, until `stop`. The place is told before anything else, so that also a
    /// copy made a moment later knows.
    pub async fn follow(self, node: Uuid, stop: CancellationToken) {
        tokio::join!(self.tell_place(node, &stop), self.follow_release(&stop));
    }

    async fn tell_place(&self, node: Uuid, stop: &CancellationToken) {
        loop {
            let pause = match self.ledger.tell_place(node).await {
                Ok(()) => PLACE_INTERVAL,
                Err(error) => {
                    tracing::debug!(%error, "the node could not say where it runs");
                    POLL_INTERVAL
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn follow_release(&self, stop: &CancellationToken) {
        while self.held.borrow().is_some() {
            if stop.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_none() {
                return;
            }
            match self.ledger.effects_held().await {
                Ok(held) => self.held.send_replace(held),
                Err(error) => {
                    tracing::debug!(%error, "whether effects are still held is not known");
                    continue;
                }
            };
            self.publish();
        }
        tracing::debug!("effects are not held");
    }

    /// Lets effects go on, and records who did. `None`: they were not held, and nothing was recorded.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn release(
        &self,
        commands: &Commands,
        context: &Context,
        operator: Option<String>,
    ) -> Result<Option<Held>, CommandError> {
        let Some(held) = self.ledger.effects_held().await? else { return Ok(None) };
        let (held_since, because) = (held.since, held.because.clone());
        // If we crash after this, it is recorded and still held: then it is to be done again.
        commands.record(context, &AccessEvent::EffectsReleased { held_since, because, operator }).await?;
        self.ledger.release_effects().await?;
        self.held.send_replace(None);
        self.publish();
        tracing::info!("schedules, mail and jobs were released");
        Ok(Some(held))
    }

    fn publish(&self) {
        metrics::gauge!(GAUGE).set(if self.held.borrow().is_some() { 1.0 } else { 0.0 });
    }
}
