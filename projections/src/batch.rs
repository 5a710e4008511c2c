//! One batch of the follower: a stretch of the log folded into all views that have not got that far, in one transaction.

use std::collections::{BTreeMap, HashSet};

use ledger::connect::Purpose;
use ledger::{Divergence, Ledger};
use sqlx::{Connection as _, PgConnection};

use crate::Projections;
use crate::checkpoint::{self, Checkpoint, State};
use crate::error::Fault;
use crate::fact::{Entry, Page};
use crate::folding::{AnyFolding, fold_entries};
use crate::news::{News, ViewNews};
use crate::table::{self, TableError};

/// What the follower knows of a view before the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// The cache of this process has been told of everything up to here.
    pub(crate) applied: i64,
    /// Whether the view takes part.
    pub(crate) active: bool,
    /// Whether it takes part although it has failed before.
    pub(crate) retrying: bool,
}

/// Events whose rows are loaded together.
const PART_EVENTS: usize = 200;
/// Between such parts rows are let go of where they take more memory than this.
const ROWS_BYTES: usize = 32 * 1024 * 1024;

/// How a batch ended.
pub(crate) enum Outcome {
    /// Everybody is where the page ends; by place, how far the cache has now been told.
    Done(Vec<i64>),
    /// A view cannot go on. Nothing of the batch is stored but this.
    Failed(usize, Fault),
    /// The checkpoints are not what the follower thought: it must look at them again.
    Surprised,
    /// A checkpoint stands on an event that the log does not have. Nothing is stored.
    Diverged(Divergence),
}

/// A view that has something to fold.
struct Work {
    place: usize,
    /// Where its rows are.
    from: i64,
    epoch: u64,
    folding: Box<dyn AnyFolding>,
}

/// Where the views are, as the locked checkpoints have it: by place, for those that take part.
type Positions = BTreeMap<usize, i64>;

impl Projections {
    /// Folds `page` into all active views.
    ///
    /// If we crash here at any point, either nothing of the batch is stored or all of it, checkpoints included. The
    /// transaction does not wait for the disk (`synchronous_commit` is off on this connection): should the server lose it,
    /// rows and checkpoints are lost together and are folded again from the log, whose own commits do wait.
    pub(crate) async fn batch(
        &self,
        connection: &mut PgConnection,
        page: &Page,
        standings: &[Standing],
    ) -> Result<Outcome, sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let tables = self.tables_where(|place| standings[place].active);
        let checkpoints = checkpoint::lock(&mut transaction, &tables).await?;
        if let Some(divergence) = checkpoints.iter().find_map(|checkpoint| checkpoint.divergence(None)) {
            transaction.rollback().await?;
            return Ok(Outcome::Diverged(divergence));
        }
        let Some(positions) = self.positions(&checkpoints, standings, page) else {
            return Ok(Outcome::Surprised);
        };
        let mut works = self.works(&positions, page);
        for work in &mut works {
            match self.fold(&mut transaction, work, page).await {
                Ok(()) => {}
                Err(TableError::Database(error)) => return Err(error),
                Err(TableError::Fault(fault)) => {
                    let place = work.place;
                    transaction.rollback().await?;
                    let table = &self.inner.registry.all[place].spec().table;
                    checkpoint::fail(connection, table, positions[&place], &fault).await?;
                    return Ok(Outcome::Failed(place, fault));
                }
            }
        }
        if works.is_empty() {
            transaction.rollback().await?;
        } else {
            self.advance(&mut transaction, &works, &positions, page).await?;
            transaction.commit().await?;
            metrics::histogram!("view_batch_events").record(page.looked_at as f64);
        }
        Ok(Outcome::Done(self.tell_cache(&works, &positions, page, standings)))
    }

    fn tables_where(&self, wanted: impl Fn(usize) -> bool) -> Vec<&str> {
        let views = self.inner.registry.all.iter().enumerate();
        views.filter(|(place, _)| wanted(*place)).map(|(_, view)| view.spec().table.as_str()).collect()
    }

    /// `None` when a view is not where the page can be folded into it.
    fn positions(
        &self,
        checkpoints: &[Checkpoint],
        standings: &[Standing],
        page: &Page,
    ) -> Option<Positions> {
        let mut positions = Positions::new();
        for (place, standing) in standings.iter().enumerate().filter(|(_, standing)| standing.active) {
            let spec = self.inner.registry.all[place].spec();
            let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.table == spec.table)?;
            let well =
                checkpoint.state == State::Live || (standing.retrying && checkpoint.state == State::Failed);
            // The page begins after the smallest position known, so one further back has lost what was not yet on disk.
            let contiguous = checkpoint.position >= standing.applied;
            if !well || !contiguous {
                tracing::debug!(view = spec.name, page = page.last, "a checkpoint is not where it was");
                return None;
            }
            positions.insert(place, checkpoint.position);
        }
        Some(positions)
    }

    fn works(&self, positions: &Positions, page: &Page) -> Vec<Work> {
        let behind = positions.iter().filter(|(_, position)| **position < page.last);
        behind
            .map(|(place, position)| {
                let view = &self.inner.registry.all[*place];
                // The epoch is taken before rows are read: what is learnt of a flush later must not be lost on them.
                Work { place: *place, from: *position, epoch: view.epoch(), folding: view.begin() }
            })
            .collect()
    }

    async fn fold(
        &self,
        connection: &mut PgConnection,
        work: &mut Work,
        page: &Page,
    ) -> Result<(), TableError> {
        let view = &self.inner.registry.all[work.place];
        let spec = view.spec();
        // A row that one event makes is not there before it.
        if !spec.once {
            return self.fold_in_parts(connection, work, page).await;
        }
        fold_entries(spec, work.folding.as_mut(), &page.entries, work.from)?;
        table::write_all(connection, spec.name, &spec.table, work.folding.as_mut()).await
    }

    /// Loads and folds some events at a time, so that the rows that are in memory together are bounded however large they are.
    async fn fold_in_parts(
        &self,
        connection: &mut PgConnection,
        work: &mut Work,
        page: &Page,
    ) -> Result<(), TableError> {
        let spec = self.inner.registry.all[work.place].spec();
        let mut parts = page.entries.chunks(PART_EVENTS).peekable();
        while let Some(entries) = parts.next() {
            let mut keys = self.keys_of(work.place, entries, work.from, i64::MAX);
            keys.retain(|key, _| !work.folding.holds(key));
            let keys: Vec<String> = keys.into_keys().collect();
            table::load(connection, spec, &spec.table, &keys, work.folding.as_mut()).await?;
            fold_entries(spec, work.folding.as_mut(), entries, work.from)?;
            if parts.peek().is_some() && work.folding.held() > ROWS_BYTES {
                table::write_all(connection, spec.name, &spec.table, work.folding.as_mut()).await?;
                work.folding.forget_stored();
            }
        }
        table::write_all(connection, spec.name, &spec.table, work.folding.as_mut()).await
    }

    /// The keys that events of the page after `after` and up to `up_to` touch in a view, each with the last position that does.
    fn keys(&self, place: usize, page: &Page, after: i64, up_to: i64) -> BTreeMap<String, i64> {
        self.keys_of(place, &page.entries, after, up_to)
    }

    /// The same of some entries.
    pub(crate) fn keys_of(
        &self,
        place: usize,
        entries: &[Entry],
        after: i64,
        up_to: i64,
    ) -> BTreeMap<String, i64> {
        let view = &self.inner.registry.all[place];
        let mut touched = BTreeMap::new();
        for entry in entries {
            let inside = entry.position > after && entry.position <= up_to;
            if let (true, true, Ok(fact)) = (inside, view.spec().needs(&entry.aggregate_type), &entry.fact) {
                touched.extend(view.keys(fact).into_iter().map(|key| (key, entry.position)));
            }
        }
        touched
    }

    async fn advance(
        &self,
        connection: &mut PgConnection,
        works: &[Work],
        positions: &Positions,
        page: &Page,
    ) -> Result<(), sqlx::Error> {
        let worked: HashSet<usize> = works.iter().map(|work| work.place).collect();
        let tables = self.tables_where(|place| worked.contains(&place));
        checkpoint::advance(&mut *connection, &tables, page.last).await?;
        let news = positions.iter().filter(|(place, _)| worked.contains(place)).map(|(place, from)| {
            let spec = self.inner.registry.all[*place].spec();
            let keys = match spec.cached {
                true => self.keys(*place, page, *from, i64::MAX).into_keys().collect(),
                false => vec![],
            };
            (spec.table.clone(), ViewNews { from: *from, to: page.last, keys: Some(keys) })
        });
        News { node: self.inner.node, views: news.collect() }.send(connection).await
    }

    /// Puts what was folded into the cache, and touches what others have folded, so that afterwards it knows of everything
    /// up to the page's end.
    fn tell_cache(
        &self,
        works: &[Work],
        positions: &Positions,
        page: &Page,
        standings: &[Standing],
    ) -> Vec<i64> {
        let mut applied: Vec<i64> = standings.iter().map(|standing| standing.applied).collect();
        for (place, position) in positions {
            let view = &self.inner.registry.all[*place];
            if view.spec().cached && *position > applied[*place] {
                for (key, at) in self.keys(*place, page, applied[*place], *position) {
                    view.touch(&key, at);
                }
            }
            applied[*place] = applied[*place].max(page.last);
        }
        for work in works {
            work.folding.publish(page.last, work.epoch);
        }
        applied
    }
}

/// A connection of its own, outside the pool: the follower is never kept waiting by readers.
pub(crate) async fn connect(ledger: &Ledger) -> Result<PgConnection, sqlx::Error> {
    ledger.connector().connect(Purpose::Views).await
}
