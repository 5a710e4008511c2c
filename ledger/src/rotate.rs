//! Rotation: every data key is wrapped with the new `ENCRYPTION_KEY`, while everything goes on.
//!
//! First the new key becomes the one that wraps new data keys, which no node may lack. Then the stored ones follow, batch by batch, each in
//! a transaction of its own; which are left is seen from their rows, so a rotation that was killed goes on when it is begun again. In the
//! end nothing else wraps a data key, and from then on the database refuses those that an older key wraps (`append_events`).
//!
//! Data keys themselves do not change: whoever remembers one, and all that is sealed, is not concerned.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::Ledger;
use crate::connect::Purpose;
use crate::destroy::{CHANNEL, Notice};
use crate::error::LedgerError;
use crate::nodes::{LiveNode, live_nodes};
use crate::proving::{Unopened, WrappedRow};
use crate::scrub;
use crate::seal::{KeyId, hex};
use crate::wrapping::{KeyCheckError, MissingKeys, wrapping_key};

/// The advisory lock (`dbkr`) that keeps rotations apart.
const ROTATING: i32 = 0x6462_6b72;
/// Data keys wrapped anew at a time.
const BATCH: i64 = 1_000;
/// How long nodes may take to wrap with the new key. One that died is off the list after 15 seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
/// How often what came in meanwhile is looked for before giving up.
const PASSES: usize = 20;
/// Nobody waits for ever. A batch that is lost with the server is done again, so it need not wait for the disk.
const SETTINGS: &str =
    "set statement_timeout = '30s'; set lock_timeout = '10s'; set synchronous_commit = off";

/// Data keys after this place, of ids below that of the new key and above it.
const BELOW: &str = "select id, key_id, wrapped from data_keys \
    where (key_id, id) > ($1, $2) and key_id < $3 order by key_id, id limit $4";
const ABOVE: &str = "select id, key_id, wrapped from data_keys \
    where (key_id, id) > ($1, $2) and key_id <> $3 order by key_id, id limit $4";

/// The key before becomes a former one. Rotating to the key that is the present one already changes nothing.
const FORMER: &str = "insert into former_wrapping_keys (key_id) \
    select key_id from wrapping_key where key_id <> $1 on conflict do nothing";
const PRESENT: &str = "insert into wrapping_key as w (key_id, settled) values ($1, false) \
    on conflict (one) do update set key_id = $1, settled = false, changed_at = clock_timestamp() \
    where w.key_id <> $1";
const NEEDED_NO_MORE: &str = "delete from former_wrapping_keys f \
    where f.key_id = any($1) or not exists (select from data_keys d where d.key_id = f.key_id)";

/// What a rotation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationProgress {
    /// Data keys are wrapped with the new key.
    Wrapping {
        /// How many are done.
        done: u64,
        /// How many there are to do, as far as known.
        total: u64,
    },
    /// Some nodes do not wrap with the new key yet.
    Waiting {
        /// How many.
        nodes: usize,
    },
}

/// What a rotation has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// The id of the key that wraps everything now, in hex.
    pub key_id: String,
    /// Data keys it has wrapped anew. 0 if there was nothing to do.
    pub keys: u64,
    /// Those that no configured key opens: they are as they were.
    pub unopened: Unopened,
}

/// Why a rotation did not come to its end. It may be begun again, and goes on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is one already.
    #[error("a rotation is running already")]
    AlreadyRunning,
    /// There is nothing to rotate to.
    #[error(
        "ENCRYPTION_KEY and ENCRYPTION_KEY_PREVIOUS are the same key (key id {0}): there is nothing to rotate to"
    )]
    SameKey(String),
    /// A key that wraps data keys, of this database's own, is not configured.
    #[error("{0}")]
    Missing(MissingKeys),
    /// Some nodes would be left without a key. Nothing has changed.
    #[error("{}", lacking(.0, .1))]
    NodesLack(String, Vec<LiveNode>),
    /// Some nodes have not said in time that they wrap with the new key.
    #[error("{}", silent(.0))]
    NodesSilent(Vec<LiveNode>),
    /// Data keys wrapped with the old key kept coming in.
    #[error("data keys wrapped with another key keep coming in; run it again")]
    Unsettled,
    /// The database is out of reach, or failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn list(nodes: &[LiveNode]) -> String {
    let mut names: Vec<String> = nodes.iter().take(10).map(ToString::to_string).collect();
    if nodes.len() > names.len() {
        names.push(format!("{} more", nodes.len() - names.len()));
    }
    names.join(", ")
}

fn lacking(key_id: &str, nodes: &[LiveNode]) -> String {
    format!(
        "these nodes do not have the new ENCRYPTION_KEY (key id {key_id}): {}. Restart them with it, and with the present key as \
         ENCRYPTION_KEY_PREVIOUS; then run this again",
        list(nodes)
    )
}

fn silent(nodes: &[LiveNode]) -> String {
    format!(
        "these nodes have not said within {} s that they wrap with the new key: {}. Stop them or look what holds them up; then run this again",
        PATIENCE.as_secs(),
        list(nodes)
    )
}

impl From<sqlx::Error> for RotationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<KeyCheckError> for RotationError {
    fn from(error: KeyCheckError) -> Self {
        match error {
            KeyCheckError::Missing(missing) => Self::Missing(missing),
            KeyCheckError::Ledger(error) => Self::Ledger(error),
        }
    }
}

impl Ledger {
    /// Wraps every data key with `ENCRYPTION_KEY`, and new ones from now on. Reads and appends go on meanwhile. Data keys that no
    /// configured key opens stay as they are and are told.
    ///
    /// # Errors
    /// See [`RotationError`]. Whatever happens, every data key is wrapped with one of the two keys, and doing it again goes on.
    pub async fn rotate_keys(
        &self,
        mut progress: impl FnMut(RotationProgress),
    ) -> Result<Rotated, RotationError> {
        if self.vault.keyring.is_twice_the_same() {
            return Err(RotationError::SameKey(hex(&self.vault.keyring.current())));
        }
        // A connection of its own: the lock goes with it, in whatever way this ends.
        let connection = self.connector().connect(Purpose::Rotation).await?;
        let mut rotation =
            Rotation { ledger: self, connection, to: self.vault.keyring.current(), total: 0, done: 0 };
        let outcome = rotation.run(&mut progress).await;
        // Politeness: it ends with this process anyway.
        let _ = rotation.connection.close().await;
        outcome
    }
}

/// How far the data keys of other keys were read: by key id, then by name.
#[derive(Default)]
struct Place {
    key_id: Vec<u8>,
    name: String,
    /// The ids below that of the new key are through.
    above: bool,
}

impl Place {
    /// The next data keys that are not wrapped with the key `to`; none if there are no more. Two ranges of an index: what the key `to`
    /// wraps already, which may be a great many, lies between them and is not looked at.
    async fn next(
        &mut self,
        connection: &mut PgConnection,
        to: &KeyId,
    ) -> Result<Vec<WrappedRow>, sqlx::Error> {
        loop {
            let sql = match self.above {
                false => BELOW,
                true => ABOVE,
            };
            let query = sqlx::query_as(sql).bind(&self.key_id).bind(&self.name).bind(&to[..]).bind(BATCH);
            let rows = query.fetch_all(&mut *connection).await?;
            let rows: Vec<_> = rows.into_iter().map(WrappedRow::of).collect();
            match rows.last() {
                Some(last) => {
                    self.key_id.clone_from(&last.key_id);
                    self.name.clone_from(&last.name);
                }
                None if !self.above => {
                    self.above = true;
                    self.key_id = [&to[..], &[0]].concat();
                    self.name.clear();
                    continue;
                }
                None => {}
            }
            return Ok(rows);
        }
    }
}

struct Rotation<'a> {
    ledger: &'a Ledger,
    connection: PgConnection,
    to: KeyId,
    total: u64,
    done: u64,
}

impl Rotation<'_> {
    async fn run(&mut self, progress: &mut impl FnMut(RotationProgress)) -> Result<Rotated, RotationError> {
        let taken = sqlx::query_scalar("select pg_try_advisory_lock($1, 0)").bind(ROTATING);
        if !taken.fetch_one(&mut self.connection).await? {
            return Err(RotationError::AlreadyRunning);
        }
        self.connection.execute(SETTINGS).await?;
        self.ledger.check_known_keys().await?;
        self.total = self.left().await?;
        let present = wrapping_key(&mut self.connection).await?;
        if self.total == 0 && present.is_some_and(|(id, settled)| settled && id == self.to) {
            return Ok(self.outcome(Unopened::default()));
        }
        self.switch().await?;
        for _ in 0..PASSES {
            let unopened = self.pass(progress).await?;
            self.wait_for_nodes(progress).await?;
            if self.settle().await? {
                return Ok(self.outcome(unopened));
            }
        }
        Err(RotationError::Unsettled)
    }

    fn outcome(&self, unopened: Unopened) -> Rotated {
        Rotated { key_id: hex(&self.to), keys: self.done, unopened }
    }

    /// How many data keys other keys wrap.
    async fn left(&mut self) -> Result<u64, sqlx::Error> {
        let sql = "select count(*) from data_keys where key_id <> $1";
        let count: i64 = sqlx::query_scalar(sql).bind(&self.to[..]).fetch_one(&mut self.connection).await?;
        Ok(count.unsigned_abs())
    }

    /// From here on new data keys are wrapped with the new key, by each node as soon as it has heard of it. A node that starts either is
    /// on the list when we look at it, or finds the new key when it looks: the lock orders the two.
    async fn switch(&mut self) -> Result<(), RotationError> {
        let mut transaction = self.connection.begin().await?;
        transaction
            .execute("set local synchronous_commit = on; lock table nodes in share row exclusive mode")
            .await?;
        let mut nodes = live_nodes(&mut *transaction).await?;
        nodes.retain(|node| !node.key_ids.iter().any(|id| id[..] == self.to));
        if !nodes.is_empty() {
            return Err(RotationError::NodesLack(hex(&self.to), nodes));
        }
        for sql in [FORMER, PRESENT] {
            sqlx::query(sql).bind(&self.to[..]).execute(&mut *transaction).await?;
        }
        let payload = Notice::WrappingKey.payload();
        sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(payload)
            .execute(&mut *transaction)
            .await?;
        // If we crash here, either nothing has happened, or both keys are in use until somebody rotates again.
        transaction.commit().await?;
        self.ledger.vault.wrap_with(self.to);
        Ok(())
    }

    /// All data keys that other keys wrap, once. Gives back those that do not open.
    async fn pass(&mut self, progress: &mut impl FnMut(RotationProgress)) -> Result<Unopened, RotationError> {
        let mut unopened = Unopened::default();
        let mut place = Place::default();
        loop {
            let rows = place.next(&mut self.connection, &self.to).await?;
            if rows.is_empty() {
                return Ok(unopened);
            }
            self.wrap(&rows, &mut unopened).await?;
            self.total = self.total.max(self.done + unopened.count);
            progress(RotationProgress::Wrapping { done: self.done, total: self.total });
        }
    }

    /// Wraps these data keys with the new key.
    async fn wrap(&mut self, rows: &[WrappedRow], unopened: &mut Unopened) -> Result<(), RotationError> {
        let (mut names, mut before, mut anew) = (vec![], vec![], vec![]);
        for row in rows {
            match self.ledger.vault.keyring.rewrap_row(row, &self.to) {
                Ok(wrapped) => {
                    names.push(row.name.as_str());
                    before.push(row.wrapped.as_slice());
                    anew.push(wrapped);
                }
                Err(cause) => unopened.add(row, cause),
            }
        }
        // One statement, one transaction. A row that was destroyed meanwhile, or made again under its name, is not the one we have read.
        // Rows are locked in the order of their names, as by those who destroy some.
        let sql = "with present as ( \
                   select d.id, n.anew from unnest($1::text[], $2::bytea[], $3::bytea[]) as n(id, before, anew) \
                   join data_keys d on d.id = n.id and d.wrapped = n.before order by d.id for update of d) \
                   update data_keys d set key_id = $4, wrapped = p.anew from present p where d.id = p.id";
        let query = sqlx::query(sql).bind(names).bind(before).bind(anew).bind(&self.to[..]);
        self.done += query.execute(&mut self.connection).await?.rows_affected();
        Ok(())
    }

    async fn wait_for_nodes(
        &mut self,
        progress: &mut impl FnMut(RotationProgress),
    ) -> Result<(), RotationError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut nodes = live_nodes(&mut self.connection).await?;
            nodes.retain(|node| node.wraps_with.as_deref() != Some(&self.to[..]));
            if nodes.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(RotationError::NodesSilent(nodes));
            }
            progress(RotationProgress::Waiting { nodes: nodes.len() });
            sleep(POLL).await;
        }
    }

    /// Says that no other key wraps a data key, if that is so but for those that do not open: each that is left is tried again. After
    /// this transaction no append brings one in: it holds the lock that orders appends. What the old key has wrapped is then scrubbed
    /// from the table's file. Nobody needs the old key any more; one that is not configured here (it came in with an append in the last
    /// moment) stays needed.
    async fn settle(&mut self) -> Result<bool, RotationError> {
        let mut transaction = self.connection.begin().await?;
        transaction.execute("set local synchronous_commit = on").await?;
        sqlx::query("select pg_advisory_xact_lock(7310868735422851431)").execute(&mut *transaction).await?;
        let keyring = &self.ledger.vault.keyring;
        let mut place = Place::default();
        loop {
            let rows = place.next(&mut transaction, &self.to).await?;
            if rows.is_empty() {
                break;
            }
            if rows.iter().any(|row| keyring.rewrap_row(row, &self.to).is_ok()) {
                return Ok(false);
            }
        }
        transaction.execute("update wrapping_key set settled = true").await?;
        let configured: Vec<Vec<u8>> = keyring.ids().iter().map(|id| id.to_vec()).collect();
        sqlx::query(NEEDED_NO_MORE).bind(configured).execute(&mut *transaction).await?;
        scrub::request(&mut transaction).await?;
        transaction.commit().await?;
        self.ledger.vault.destroyed.notify_one();
        Ok(true)
    }
}
