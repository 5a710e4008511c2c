//! Hearing of keys that other processes destroyed, so that they are forgotten here as well, and of rotations.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Ledger;
use crate::connect::Purpose;
use crate::destroy::{CHANNEL, Notice};

/// How long after [`Ledger::destroy_keys`] has answered a process may still open something that was sealed with the key. Who makes
/// something from the log that must not hold what was erased waits this long before: then it is erased on every node.
pub const FORGOTTEN_WITHIN: Duration = Duration::from_secs(1);
/// How long keys are used after the last moment at which the server was known to tell us of everything. This and no more is
/// how long a destroyed key may still open something here.
const TRUST: Duration = Duration::from_millis(900);
const _: () = assert!(TRUST.as_millis() < FORGOTTEN_WITHIN.as_millis());
/// How often the server is asked whether it is still there. Three times within [`TRUST`], so that one slow answer costs nothing.
const PROBE: Duration = Duration::from_millis(300);
/// How long its answer, and that to the first words, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first and the longest pause between two attempts to listen.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the server has fallen silent")]
    Silent,
}

impl Ledger {
    /// Hears which keys any process destroys, and forgets them, until `stop`. Without it, and whenever it is interrupted, this
    /// process remembers no keys and reads them from the database each time, which is slower and just as right. One per
    /// process is enough.
    pub async fn hear_destroyed_keys(&self, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        while !stop.is_cancelled() {
            let outcome = stop.run_until_cancelled(self.hear(&mut pause)).await;
            // At once: what is remembered would be used for the rest of the time it was trusted.
            self.vault.memory.deaf();
            if let Some(Err(error)) = outcome {
                tracing::warn!(%error, "destroyed keys are not heard of; keys are read each time they are needed");
                metrics::counter!("data_keys_deaf_total").increment(1);
                let _ = timeout(pause, stop.cancelled()).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Listens until the connection is lost.
    async fn hear(&self, pause: &mut Duration) -> Result<Infallible, Interrupted> {
        let mut asked = Instant::now();
        // A connection of its own, so that nobody who uses up a pool makes us deaf.
        let listening = self.connector().listen(Purpose::KeyNews, CHANNEL);
        let mut listener = timeout(PATIENCE, listening).await.map_err(|_| Interrupted::Silent)??;
        // Only what is read from here on may be remembered: all that is destroyed after it will be heard of.
        self.vault.memory.forget_all();
        // It may have changed before we listened.
        self.vault.rewrapped.notify_one();
        *pause = PAUSES.0;
        loop {
            // Everything destroyed before it was asked has been heard of by now.
            self.vault.memory.use_until(asked + TRUST);
            self.heed_until(&mut listener, asked + PROBE).await?;
            asked = Instant::now();
            let answer = sqlx::query("select 1").execute(&mut listener);
            timeout(PATIENCE, answer).await.map_err(|_| Interrupted::Silent)??;
            while let Some(notice) = listener.next_buffered() {
                self.heed(notice.payload());
            }
        }
    }

    async fn heed_until(&self, listener: &mut PgListener, moment: Instant) -> Result<(), Interrupted> {
        while let Ok(notice) = timeout_at(moment.into(), listener.try_recv()).await {
            self.heed(notice?.ok_or(Interrupted::Closed)?.payload());
            // Whoever is told without a pause must look up all the same.
            if Instant::now() >= moment {
                break;
            }
        }
        Ok(())
    }

    fn heed(&self, payload: &str) {
        match Notice::read(payload) {
            Notice::Destroyed(names) => self.vault.memory.forget(names.iter().map(String::as_str)),
            Notice::ForgetAll => self.vault.memory.forget_all(),
            Notice::WrappingKey => return self.vault.rewrapped.notify_one(),
        }
        self.vault.destroyed.notify_one();
    }
}
