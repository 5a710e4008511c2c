//! Making a view anew while the old one goes on serving.
//!
//! The log is folded in memory and copied into a table of its own, which takes the live table's name in one transaction that
//! first brings it to where the live one is. Readers wait for that transaction's last few statements only, and it gives up
//! and tries again rather than keep them waiting for a lock.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::Projections;
use crate::batch;
use crate::checkpoint;
use crate::error::{Fault, ReadError, RebuildError, is_lock_timeout};
use crate::fact::{Page, read_stretch};
use crate::folding::{AnyFolding, Changes, fold_entries};
use crate::news::{News, ViewNews};
use crate::table::{self, CHUNK, TableError};
use crate::view::{Spec, fnv};

/// The first part of the advisory locks that keep two rebuilds of one view apart; the second is the view.
pub(crate) const REBUILDING: i32 = 0x6462_7265;
/// How many events may be left for the transaction that swaps.
const LAST_STRETCH: i64 = 200;
/// The pauses between attempts to swap grow from the first to the second.
const SWAP_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How far a rebuild or verification has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Position of the last event folded.
    pub folded: i64,
    /// Position it is heading for.
    pub head: i64,
}

pub(crate) fn lock_of(table: &str) -> i32 {
    let hash = fnv(table);
    (hash ^ (hash >> 32)) as i32
}

impl From<TableError> for ReadError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Fault(fault) => Self::Fault(fault),
            TableError::Database(error) => Self::Database(error),
        }
    }
}

/// A fold from the beginning of the log.
pub(crate) struct Replaying {
    projections: Projections,
    spec: Spec,
    folding: Option<Box<dyn AnyFolding>>,
    /// The next stretch, being read while the last one is folded.
    next: Option<Reading>,
    pub(crate) position: i64,
    /// Some rows are in the table only.
    spilled: bool,
    /// Bytes of events folded since the rows were last weighed.
    unweighed: usize,
}

impl Replaying {
    pub(crate) fn new(projections: &Projections, place: usize) -> Self {
        let view = &projections.inner.registry.all[place];
        Self {
            projections: projections.clone(),
            spec: view.spec().clone(),
            folding: Some(view.begin()),
            next: None,
            position: 0,
            spilled: false,
            unweighed: 0,
        }
    }

    fn folding(&mut self) -> Result<&mut dyn AnyFolding, Fault> {
        match &mut self.folding {
            Some(folding) => Ok(folding.as_mut()),
            None => Err(Fault::at_view(self.spec.name, "its fold was given up")),
        }
    }

    /// Whether rows are finished once they are made.
    pub(crate) fn once(&self) -> bool {
        self.spec.once
    }

    /// Rows that changed since the last call, at most `limit`.
    pub(crate) fn changes(&mut self, limit: usize) -> Result<Changes, Fault> {
        self.folding()?.changes(limit)
    }

    fn read(&self, after: i64, up_to: i64) -> Reading {
        let ledger = self.projections.inner.background.clone();
        let end = up_to.min(after + self.projections.inner.options.rebuild_page);
        let spec = self.spec.clone();
        Reading(tokio::spawn(async move { Ok(read_stretch(&ledger, after, end, &spec).await?) }))
    }

    /// Folds the next stretch, none of it beyond position `up_to` (at most the log's head), while the one after it is read.
    /// `false` when that is reached.
    pub(crate) async fn step(&mut self, up_to: i64) -> Result<bool, ReadError> {
        let Some(page) = self.next_page(up_to).await? else { return Ok(false) };
        self.fold(page).await?;
        Ok(true)
    }

    /// As [`Replaying::step`], for rows of which some are in `table` only: those that are needed are loaded.
    async fn step_into(
        &mut self,
        up_to: i64,
        connection: &mut PgConnection,
        table: &str,
    ) -> Result<bool, ReadError> {
        let Some(page) = self.next_page(up_to).await? else { return Ok(false) };
        if self.spilled {
            let place = self
                .projections
                .place(self.spec.name)
                .map_err(|_| Fault::at_view(self.spec.name, "it is gone"))?;
            let mut keys = self.projections.keys_of(place, &page.entries, self.position, i64::MAX);
            let spec = self.spec.clone();
            let folding = self.folding()?;
            keys.retain(|key, _| !folding.holds(key));
            let keys: Vec<String> = keys.into_keys().collect();
            table::load(connection, &spec, table, &keys, folding).await?;
        }
        self.unweighed += page.bytes;
        self.fold(page).await?;
        Ok(true)
    }

    /// Puts the rows into `table` where they take too much memory. Not within a transaction that may come to nothing: they are let go of.
    async fn spill_if_large(&mut self, connection: &mut PgConnection, table: &str) -> Result<(), ReadError> {
        let limit = self.projections.inner.options.rebuild_bytes;
        if self.spec.once || self.unweighed <= limit / 8 {
            return Ok(());
        }
        self.unweighed = 0;
        if self.folding()?.held() <= limit {
            return Ok(());
        }
        if !std::mem::replace(&mut self.spilled, true) {
            table::key(connection, table).await?;
        }
        let name = self.spec.name;
        let folding = self.folding()?;
        table::write_all(connection, name, table, folding).await?;
        folding.forget_stored();
        Ok(())
    }

    async fn next_page(&mut self, up_to: i64) -> Result<Option<Page>, ReadError> {
        if self.position >= up_to {
            return Ok(None);
        }
        let mut reading = match self.next.take() {
            Some(reading) => reading,
            None => self.read(self.position, up_to),
        };
        let page = joined((&mut reading.0).await)?;
        if page.last < up_to {
            self.next = Some(self.read(page.last, up_to));
        }
        Ok(Some(page))
    }

    /// Away from the threads that serve requests: a stretch may take many milliseconds.
    async fn fold(&mut self, page: Page) -> Result<(), ReadError> {
        let gone = || Fault::at_view(self.spec.name, "its fold was given up");
        let mut folding = self.folding.take().ok_or_else(gone)?;
        let (spec, after, last) = (self.spec.clone(), self.position, page.last);
        let work = tokio::task::spawn_blocking(move || {
            fold_entries(&spec, folding.as_mut(), &page.entries, after).map(|()| folding)
        });
        self.folding = Some(work.await.map_err(|error| Fault::at_view(self.spec.name, cut_short(&error)))??);
        self.position = last;
        Ok(())
    }
}

/// A stretch being read; given up when nobody waits for it any more.
struct Reading(JoinHandle<Result<Page, ReadError>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn joined<T>(outcome: Result<Result<T, ReadError>, tokio::task::JoinError>) -> Result<T, ReadError> {
    outcome.map_err(|error| ReadError::Fault(Fault::at_view("log", cut_short(&error))))?
}

/// How a task ended that did not come to its end. A panic's message is not repeated: it may be about what was folded.
fn cut_short(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() { "it panicked" } else { "it was given up" }
}

impl Projections {
    /// Makes the view `name` anew from the log, while the old rows serve reads, and puts it in the old one's place. Works
    /// beside followers in any process. Tells `progress` after every stretch.
    ///
    /// Dropping the future leaves the live view as it was; what was half made is dropped by the next rebuild.
    ///
    /// # Errors
    /// See [`RebuildError`]; the live view is then as it was.
    pub async fn rebuild(
        &self,
        name: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<(), RebuildError> {
        let place = self.place(name)?;
        let live = self.inner.registry.all[place].spec().table.clone();
        self.prepare().await?;
        let mut connection = batch::connect(&self.inner.ledger).await?;
        connection.execute("set statement_timeout = 0; set lock_timeout = '10s'").await?;
        let lock = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)");
        if !lock.bind(REBUILDING).bind(lock_of(&live)).fetch_one(&mut connection).await? {
            return Err(RebuildError::AlreadyRunning(name.to_owned()));
        }
        for leftover in table::leftovers(&mut connection, &live).await? {
            table::drop_table(&mut connection, &leftover).await?;
        }
        let table = format!("{live}__rebuild_{:016x}", Uuid::now_v7().as_u64_pair().1);
        let mut rebuild = Rebuild { connection, replaying: Replaying::new(self, place), table };
        let outcome = rebuild.run(&progress).await;
        rebuild.end(outcome.is_err()).await;
        outcome
    }
}

struct Rebuild {
    /// Holds the advisory lock; the end of the connection frees it.
    connection: PgConnection,
    replaying: Replaying,
    table: String,
}

impl Rebuild {
    async fn run(&mut self, progress: &(impl Fn(Progress) + Send + Sync)) -> Result<(), RebuildError> {
        table::create(&mut self.connection, &self.table, &self.replaying.spec).await?;
        self.fill(progress).await?;
        table::index(&mut self.connection, &self.table, &self.replaying.spec).await?;
        self.swap_in().await
    }

    async fn end(mut self, failed: bool) {
        if failed {
            // At best: the next rebuild of this view drops it otherwise.
            let _ = table::drop_table(&mut self.connection, &self.table).await;
        }
        let _ = self.connection.close().await;
    }

    /// Folds all of the log as it is now, and copies the rows.
    async fn fill(&mut self, progress: &(impl Fn(Progress) + Send + Sync)) -> Result<(), ReadError> {
        let head = self.replaying.projections.inner.background.head().await?;
        let Self { connection, replaying, table } = self;
        while replaying.step_into(head, connection, table).await? {
            progress(Progress { folded: replaying.position, head });
            replaying.spill_if_large(connection, table).await?;
            if replaying.once() {
                copy_all(connection, table, replaying).await?;
            }
        }
        if replaying.spilled {
            table::write_all(connection, replaying.spec.name, table, replaying.folding()?).await?;
        } else {
            copy_all(connection, table, replaying).await?;
        }
        progress(Progress { folded: replaying.position, head });
        Ok(())
    }

    /// Catches up with the live table and takes its name.
    async fn swap_in(&mut self) -> Result<(), RebuildError> {
        let end = Instant::now() + self.replaying.projections.inner.options.swap_patience;
        let mut pause = SWAP_PAUSES.0;
        while Instant::now() < end {
            self.catch_up().await?;
            match self.try_swap().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(ReadError::Database(error)) if is_lock_timeout(&error) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(SWAP_PAUSES.1);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(RebuildError::Blocked(self.replaying.spec.name.to_owned()))
    }

    /// Folds and stores what was appended meanwhile, until only a little is left.
    async fn catch_up(&mut self) -> Result<(), ReadError> {
        let Self { connection, replaying, table } = self;
        loop {
            let head = replaying.projections.inner.background.head().await?;
            if head - replaying.position <= LAST_STRETCH {
                return Ok(());
            }
            while replaying.step_into(head, connection, table).await? {
                replaying.spill_if_large(connection, table).await?;
            }
            let name = replaying.spec.name;
            table::write_all(connection, name, table, replaying.folding()?).await?;
        }
    }

    /// One attempt. `false`: the live view has got too far ahead meanwhile.
    ///
    /// If we crash before the commit, the live view is as it was; after it, the new one is live.
    async fn try_swap(&mut self) -> Result<bool, ReadError> {
        let Self { connection, replaying, table } = self;
        let (name, live_table) = (replaying.spec.name, replaying.spec.table.clone());
        let mut transaction = connection.begin().await?;
        let locked = checkpoint::lock(&mut transaction, &[&live_table]).await?;
        let live = locked.first().map_or(0, |checkpoint| checkpoint.position);
        if live - replaying.position > LAST_STRETCH {
            return Ok(false);
        }
        while replaying.step_into(live, &mut transaction, table).await? {}
        let changes = replaying.changes(usize::MAX)?;
        let position = replaying.position.max(live);
        let swapped = async {
            table::write(&mut transaction, name, table, &changes).await?;
            checkpoint::renew(&mut transaction, &live_table, position, &replaying.spec.shape).await?;
            news_of(&replaying.projections, &live_table, position).send(&mut transaction).await?;
            // Last, since from here on readers wait.
            take_name(&mut transaction, &live_table, table).await?;
            Ok::<_, ReadError>(transaction.commit().await?)
        };
        match swapped.await {
            Ok(()) => {
                let inner = &replaying.projections.inner;
                inner.registry.place(name).into_iter().for_each(|place| inner.registry.all[place].flush());
                Ok(true)
            }
            Err(error) => {
                replaying.folding()?.not_stored(changes);
                Err(error)
            }
        }
    }
}

/// The other processes are to drop what they hold of the view.
fn news_of(projections: &Projections, table: &str, position: i64) -> News {
    let news = ViewNews { from: position, to: position, keys: None };
    News { node: projections.inner.node, views: [(table.to_owned(), news)].into() }
}

/// Readers that hold the live table delay this, and those that come meanwhile wait behind it: hence the short limit. Who
/// waited finds the new table under the name; prepared statements are planned again, their results have the same types.
async fn take_name(connection: &mut PgConnection, live: &str, table: &str) -> Result<(), sqlx::Error> {
    let sql = format!(
        "set local lock_timeout = '40ms'; lock table {live} in access exclusive mode; \
         drop table {live}; alter table {table} rename to {live}"
    );
    connection.execute(sql.as_str()).await.map(drop)
}

async fn copy_all(
    connection: &mut PgConnection,
    table: &str,
    replaying: &mut Replaying,
) -> Result<(), ReadError> {
    loop {
        let changes = replaying.changes(CHUNK)?;
        if changes.is_empty() {
            return Ok(());
        }
        table::copy(connection, table, &changes).await?;
    }
}
