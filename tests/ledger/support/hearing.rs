//! Nodes that remember keys, because they hear which are destroyed.

use ::ledger::{Append, Ledger};
use tests::{Database, eventually};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::append;

/// A node that hears of destroyed keys and so remembers keys. Ends with this value.
pub(crate) struct Hearing {
    pub(crate) ledger: Ledger,
    _stop: DropGuard,
}

impl Hearing {
    pub(crate) async fn start(database: &Database) -> Self {
        let (ledger, stop) = (database.ledger(), CancellationToken::new());
        let (hearing, token) = (ledger.clone(), stop.clone());
        tokio::spawn(async move { hearing.hear_destroyed_keys(token).await });
        remembers(&ledger, database).await;
        Self { ledger, _stop: stop.drop_guard() }
    }
}

/// Stores data keys of these names.
pub(crate) async fn store_keys(ledger: &Ledger, names: &[String]) {
    let data_keys = names.iter().map(|name| ledger.new_data_key(name).unwrap().1).collect();
    let keyed = Append { data_keys, ..append(&[(&Uuid::now_v7().to_string(), 1)]) };
    ledger.append(keyed).await.unwrap();
}

/// Removes a key's row behind everybody's back.
pub(crate) async fn remove_row(database: &Database, name: &str) {
    let query = sqlx::query("delete from data_keys where id = $1").bind(name);
    assert_eq!(query.execute(&mut database.connect().await).await.unwrap().rows_affected(), 1);
}

/// Waits until this node remembers keys: it has one whose row is gone.
pub(crate) async fn remembers(node: &Ledger, database: &Database) {
    eventually("the node remembers keys", async || {
        let name = format!("canary/{}", Uuid::now_v7());
        store_keys(node, std::slice::from_ref(&name)).await;
        node.data_key(&name).await.unwrap().unwrap();
        remove_row(database, &name).await;
        node.data_key(&name).await.unwrap().map(drop)
    })
    .await;
}
