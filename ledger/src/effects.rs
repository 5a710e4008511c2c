//! Whether effects outside of the database are held: on a copy of another database, until an operator releases them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Executor as _, PgExecutor, Row as _};
use uuid::Uuid;

use crate::Ledger;
use crate::error::LedgerError;
use crate::place::Place;

/// Nodes of another place that are named.
const MOST_NAMED: usize = 5;
/// How long a node that runs is given to say so once more. More than the interval of its heartbeats.
const HEARTBEAT_WAIT: Duration = Duration::from_secs(7);
/// How long another node may be deciding the same.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Schedules, mail and jobs are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, in a sentence.
    pub because: String,
}

/// A node that was not seen leaving.
struct Left {
    id: Uuid,
    host: String,
    seen_at: DateTime<Utc>,
    /// Whether it was seen a moment ago, so that it may be running.
    recent: bool,
}

/// The nodes on the list of which the database in use is no database of theirs, and why; those last seen first.
async fn strangers(here: &Place, on: impl PgExecutor<'_>) -> Result<Vec<(Left, &'static str)>, sqlx::Error> {
    let sql = "select n.id, n.host as named, n.seen_at, n.seen_at > clock_timestamp() - interval '20 seconds' as recent, p.* \
               from nodes n join node_places p on p.node = n.id order by n.seen_at desc";
    let mut strangers = vec![];
    for row in sqlx::query(sql).fetch_all(on).await? {
        if let Some(because) = here.copied_from(&Place::of(&row)?) {
            let left = Left {
                id: row.try_get("id")?,
                host: row.try_get("named")?,
                seen_at: row.try_get("seen_at")?,
                recent: row.try_get("recent")?,
            };
            strangers.push((left, because));
        }
    }
    Ok(strangers)
}

impl Ledger {
    /// Whether effects are held.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn effects_held(&self) -> Result<Option<Held>, LedgerError> {
        let sql = "select held_since, held_because from effects where held_since is not null";
        let held: Option<(DateTime<Utc>, String)> = sqlx::query_as(sql).fetch_optional(self.pool()).await?;
        Ok(held.map(|(since, because)| Held { since, because }))
    }

    /// Looks, before a node is entered into the list, whether this database is a copy of one that nodes elsewhere use, or used when it was
    /// copied, and holds effects if so; also where it is said to be `restored`. What is held already stays so.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn hold_effects_of_a_copy(&self, restored: bool) -> Result<Option<Held>, LedgerError> {
        let here = Place::here(self).await?;
        // A node that goes on saying that it runs does so in this database: it is ours, whatever it was that it noted of its server.
        let before = strangers(&here, self.pool()).await?;
        if before.iter().any(|(left, _)| left.recent) {
            tokio::time::sleep(HEARTBEAT_WAIT).await;
        }
        let mut transaction = self.pool().begin().await?;
        let timeout = format!("set local lock_timeout = {}", LOCK_TIMEOUT.as_millis());
        transaction.execute(&*timeout).await?;
        // Of several nodes that start one decides, and the others find it done.
        transaction.execute("select from effects for update").await?;
        let mut copied = strangers(&here, &mut *transaction).await?;
        copied.retain(|(left, _)| {
            before.iter().all(|(was, _)| was.id != left.id || was.seen_at == left.seen_at)
        });
        let because = match (restored, copied.as_slice()) {
            (true, _) => Some("it was started as restored".to_owned()),
            (false, []) => None,
            (false, copied) => Some(told(copied)),
        };
        if let Some(because) = because {
            let sql = "update effects set held_since = clock_timestamp(), held_because = $1, released_at = null \
                       where held_since is null";
            sqlx::query(sql).bind(because).execute(&mut *transaction).await?;
            // They are no nodes of this database, and have been told of.
            let strangers: Vec<Uuid> = copied.iter().map(|(left, _)| left.id).collect();
            sqlx::query("delete from nodes where id = any($1)")
                .bind(strangers)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        self.effects_held().await
    }

    /// Says where a node runs, for a copy of this database to know; and forgets nodes that fell silent long ago.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn tell_place(&self, node: Uuid) -> Result<(), LedgerError> {
        let place = Place::here(self).await?;
        // Where the node is not on the list (any more), it says so at its next heartbeat.
        let sql = "insert into node_places (node, host, machine, system_identifier, timeline, database, folder, address, server_started_at) \
                   select n.id, $2, $3, $4, $5, $6, $7, $8, $9 from nodes n where n.id = $1 \
                   on conflict (node) do update set system_identifier = excluded.system_identifier, timeline = excluded.timeline, \
                       database = excluded.database, folder = excluded.folder, server_started_at = excluded.server_started_at \
                   where (node_places.timeline, node_places.server_started_at, node_places.folder) \
                       is distinct from (excluded.timeline, excluded.server_started_at, excluded.folder)";
        sqlx::query(sql)
            .bind(node)
            .bind(&place.host)
            .bind(&place.machine)
            .bind(&place.system_identifier)
            .bind(place.timeline)
            .bind(place.database)
            .bind(&place.folder)
            .bind(&place.address)
            .bind(place.server_started_at)
            .execute(self.pool())
            .await?;
        for silent in [
            "delete from nodes where seen_at < clock_timestamp() - interval '1 hour'",
            "delete from node_places p where not exists (select from nodes n where n.id = p.node)",
        ] {
            sqlx::query(silent).execute(self.pool()).await?;
        }
        Ok(())
    }

    /// Effects go on. `false`: they were not held.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn release_effects(&self) -> Result<bool, LedgerError> {
        let sql = "update effects set held_since = null, held_because = null, released_at = clock_timestamp() \
                   where held_since is not null";
        Ok(sqlx::query(sql).execute(self.pool()).await?.rows_affected() > 0)
    }
}

fn told(copied: &[(Left, &'static str)]) -> String {
    let one = |(left, because): &(Left, &'static str)| {
        let seen = left.seen_at.format("%Y-%m-%d %H:%M:%S UTC");
        format!("the node on {}, last seen {seen} and not seen leaving: {because}", left.host)
    };
    let named: Vec<_> = copied.iter().take(MOST_NAMED).map(one).collect();
    format!("this database is a copy of one that is or was in use elsewhere ({})", named.join("; "))
}
