//! Nodes with keys that are rotated.

use std::collections::BTreeMap;

use ::ledger::{Keyring, Ledger, Options};
use tests::{Database, eventually};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The key that databases of tests are rotated to; the old one is [`Database::encryption_key`].
pub(crate) const NEW: [u8; 32] = [0xAB; 32];

/// As configured after a restart for a rotation: the new key, and the one before it.
pub(crate) fn keyring(database: &Database) -> Keyring {
    Keyring::new(&NEW, Some(database.encryption_key()))
}

/// How many data keys each key wraps, by key ids in hex.
pub(crate) async fn wrapped_by(database: &Database) -> BTreeMap<String, i64> {
    let sql = "select encode(key_id, 'hex'), count(*) from data_keys group by 1";
    let rows = sqlx::query_as(sql).fetch_all(&mut database.connect().await).await.unwrap();
    rows.into_iter().collect()
}

/// A node as `daybook serve` has it, as far as keys go. It is gone without a word when this is dropped.
pub(crate) struct Node {
    pub(crate) ledger: Ledger,
    stop: CancellationToken,
    _stopped: DropGuard,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    pub(crate) async fn start(database: &Database, keyring: Keyring) -> Self {
        Self::start_with(database, keyring, &Options::default()).await
    }

    pub(crate) async fn start_with(database: &Database, keyring: Keyring, options: &Options) -> Self {
        let ledger = database.ledger_with(keyring, options);
        ledger.claim_wrapping_key().await.unwrap();
        let presence = ledger.register_node(vec![]).await.unwrap();
        let (stop, node) = (CancellationToken::new(), ledger.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            tokio::join!(
                node.hear_destroyed_keys(stopped.clone()),
                node.stay_registered(presence, stopped.clone()),
                node.scrub_destroyed_keys(stopped),
            );
        });
        Self { ledger, _stopped: stop.clone().drop_guard(), stop, task }
    }

    /// Stops in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tests::within("the node's end", self.task).await.unwrap();
    }

    /// Waits until nothing is left to be scrubbed.
    pub(crate) async fn scrubbed(&self) {
        eventually("it is scrubbed", async || {
            (!self.ledger.scrubbing().await.unwrap().pending).then_some(())
        })
        .await;
    }
}
