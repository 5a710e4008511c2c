//! One view with what the machine keeps for it, and the same without its type.

use std::sync::Arc;

use futures::TryStreamExt as _;
use ledger::connect::{Pooled, Transaction};
use sqlx::PgExecutor;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;

use crate::Inner;
use crate::cache::RowCache;
use crate::error::{Fault, ReadError, sqlstate};
use crate::fact::Fact;
use crate::folding::{AnyFolding, Folding};
use crate::view::{Spec, View};
use crate::weight::weight;

/// Rows of one list at most, whatever is asked for.
pub(crate) const MOST_LISTED: i64 = 1_000;

/// A list ends with the row that reaches so many bytes of memory, roughly.
pub(crate) const LIST_BYTES: usize = 4 * 1024 * 1024;

/// The rows of a list, in its order.
#[derive(Debug, PartialEq)]
pub struct Listed<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// More were asked for and are there. They were left out, since these take memory enough.
    pub is_cut: bool,
}

impl<R> From<Vec<R>> for Listed<R> {
    fn from(rows: Vec<R>) -> Self {
        Self { rows, is_cut: false }
    }
}

impl<R: PartialEq> PartialEq<[R]> for Listed<R> {
    fn eq(&self, other: &[R]) -> bool {
        self.rows == other
    }
}

impl<R: PartialEq, const N: usize> PartialEq<[R; N]> for Listed<R> {
    fn eq(&self, other: &[R; N]) -> bool {
        self.rows == other
    }
}

impl<R> std::ops::Deref for Listed<R> {
    type Target = [R];

    fn deref(&self) -> &[R] {
        &self.rows
    }
}

impl<R> IntoIterator for Listed<R> {
    type Item = R;
    type IntoIter = std::vec::IntoIter<R>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

/// A view without its type.
pub(crate) trait AnyView: Send + Sync {
    fn spec(&self) -> &Spec;
    /// A fold that holds no rows yet.
    fn begin(&self) -> Box<dyn AnyFolding>;
    /// The keys that a fact touches.
    fn keys(&self, fact: &Fact) -> Vec<String>;
    fn epoch(&self) -> u64;
    fn flush(&self);
    fn trust(&self, trusted: bool);
    fn touch(&self, key: &str, position: i64);
}

/// A view with its cache.
pub(crate) struct Machine<V: View> {
    spec: Spec,
    /// Its place in the registry.
    pub(crate) place: usize,
    cache: Arc<RowCache<V::Row>>,
}

impl<V: View> Machine<V> {
    pub(crate) fn new(place: usize, cache_bytes: u64) -> Self {
        Self { spec: Spec::of::<V>(), place, cache: Arc::new(RowCache::new(cache_bytes)) }
    }

    /// Returns once the view may be read.
    pub(crate) async fn readable(&self, inner: &Inner) -> Result<(), ReadError> {
        inner.readable(self.place).await
    }
}

impl<V: View> Machine<V> {
    /// The row `key` if it is in memory.
    pub(crate) fn cached(&self, key: &str) -> Option<Arc<V::Row>> {
        if !V::CACHED {
            return None;
        }
        let row = self.cache.get(key);
        let counter = if row.is_some() { "cache_hits_total" } else { "cache_misses_total" };
        metrics::counter!(counter, "view" => V::NAME).increment(1);
        row
    }

    /// To be called before the database is asked for what [`Machine::read`] then keeps.
    pub(crate) fn begin_read(&self) -> u64 {
        self.cache.epoch()
    }

    /// The row `key` as the executor sees it, kept in memory where rows of the view are.
    pub(crate) async fn read(
        &self,
        key: &str,
        epoch: u64,
        executor: impl PgExecutor<'_>,
    ) -> Result<Option<Arc<V::Row>>, ReadError> {
        // `key` cannot hold U+0000, and PostgreSQL would not take it.
        if key.contains('\0') {
            return Ok(None);
        }
        // The view's position is that of the same snapshot.
        let sql = format!(
            "select v.row::text, (select c.position from checkpoints c where c.view = '{0}') from {0} v where v.key = $1",
            self.spec.table
        );
        let found: Option<(String, Option<i64>)> =
            sqlx::query_as(&sql).bind(key).fetch_optional(executor).await?;
        let Some((json, as_of)) = found else { return Ok(None) };
        let row = serde_json::from_str(&json).map_err(|cause| Fault::at_row(V::NAME, key, cause))?;
        let row = Arc::new(row);
        if V::CACHED {
            self.cache.put(key, Arc::clone(&row), as_of.unwrap_or(0), epoch, weight(row.as_ref()));
        }
        Ok(Some(row))
    }
}

impl<V: View> AnyView for Machine<V> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn begin(&self) -> Box<dyn AnyFolding> {
        Box::new(Folding::<V>::new(Arc::clone(&self.cache)))
    }

    fn keys(&self, fact: &Fact) -> Vec<String> {
        V::keys(fact)
    }

    fn epoch(&self) -> u64 {
        self.cache.epoch()
    }

    fn flush(&self) {
        self.cache.flush();
    }

    fn trust(&self, trusted: bool) {
        self.cache.trust(trusted);
    }

    fn touch(&self, key: &str, position: i64) {
        if V::CACHED {
            self.cache.touch(key, position);
        }
    }
}

/// Reads one view. Those whose rows are teams' are read through [`crate::ByTeam`]. Views with more ways of reading than by key say so in their own file.
pub struct Reader<'a, V: View> {
    machine: &'a Machine<V>,
    inner: &'a Inner,
    pub(crate) ledger: &'a ledger::Ledger,
}

impl<'a, V: View> Reader<'a, V> {
    pub(crate) fn new(machine: &'a Machine<V>, inner: &'a Inner, ledger: &'a ledger::Ledger) -> Self {
        Self { machine, inner, ledger }
    }

    /// A connection to read with, once the view may be read.
    pub(crate) async fn connection(&self) -> Result<Pooled, ReadError> {
        self.inner.connection(self.machine.place, self.ledger).await
    }

    /// A transaction to read in, which begins with `statement`, once the view may be read.
    pub(crate) async fn begin_with(&self, statement: &'static str) -> Result<Transaction, ReadError> {
        self.machine.readable(self.inner).await?;
        let mut transaction = self.ledger.pool().begin_with(statement).await?;
        self.inner.check_connection(self.machine.place, &mut transaction).await?;
        Ok(transaction)
    }

    /// The row `key`, from the cache if it is there.
    ///
    /// # Errors
    /// The database is out of reach, the view is not up to date, or the row is not what this version expects.
    pub async fn get(&self, key: impl ToString) -> Result<Option<Arc<V::Row>>, ReadError> {
        let key = key.to_string();
        self.machine.readable(self.inner).await?;
        match self.machine.cached(&key) {
            Some(row) => Ok(Some(row)),
            None => self.get_uncached(&key).await,
        }
    }

    /// The row `key` as this process has it, also while the view stands still: for callers that can tell whether it is the one they want.
    pub(crate) async fn held(&self, key: &str) -> Result<Option<Arc<V::Row>>, ReadError> {
        match self.machine.cached(key) {
            Some(row) => Ok(Some(row)),
            None => {
                let epoch = self.machine.begin_read();
                self.machine.read(key, epoch, &mut *self.ledger.pool().acquire().await?).await
            }
        }
    }

    /// The row `key` as it is in the table, whatever the cache says; it is cached. For what a client knows to be there since another
    /// node has told them, while that node's word may still be under way to this one.
    ///
    /// # Errors
    /// The database is out of reach, the view is not up to date, or the row is not what this version expects.
    pub async fn get_uncached(&self, key: impl ToString) -> Result<Option<Arc<V::Row>>, ReadError> {
        // Before the connection is waited for: what happens meanwhile must not be lost on the row.
        let epoch = self.machine.begin_read();
        let mut connection = self.connection().await?;
        self.machine.read(&key.to_string(), epoch, &mut *connection).await
    }

    /// Runs a query that selects `key, row::text`.
    pub(crate) async fn rows(
        &self,
        query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    ) -> Result<Vec<V::Row>, ReadError> {
        rows::<V>(query, &mut *self.connection().await?).await
    }

    /// The same, where at most one row can be meant.
    pub(crate) async fn row(
        &self,
        query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    ) -> Result<Option<V::Row>, ReadError> {
        Ok(self.rows(query).await?.into_iter().next())
    }
}

/// Runs a query that selects `key, row::text` of `V`, for a list that people read.
pub(crate) async fn listed<V: View>(
    query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    executor: impl PgExecutor<'_>,
) -> Result<Listed<V::Row>, ReadError> {
    let (mut found, mut rows, mut bytes) = (query.fetch(executor), vec![], 0);
    loop {
        let next = match found.try_next().await {
            Ok(next) => next,
            Err(error) if names_nothing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        let Some((key, json)) = next else { return Ok(rows.into()) };
        if bytes >= LIST_BYTES {
            return Ok(Listed { rows, is_cut: true });
        }
        let row: V::Row = serde_json::from_str(&json).map_err(|cause| Fault::at_row(V::NAME, &key, cause))?;
        bytes += weight(&row);
        rows.push(row);
    }
}

/// U+0000 was asked for, which PostgreSQL's text cannot hold: nothing is named so.
fn names_nothing(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code == "22021")
}

/// Runs a query that selects `key, row::text` of `V`.
pub(crate) async fn rows<V: View>(
    query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    executor: impl PgExecutor<'_>,
) -> Result<Vec<V::Row>, ReadError> {
    let read = |(key, json): (String, String)| {
        serde_json::from_str(&json).map_err(|cause| Fault::at_row(V::NAME, &key, cause).into())
    };
    match query.fetch_all(executor).await {
        Ok(found) => found.into_iter().map(read).collect(),
        Err(error) if names_nothing(&error) => Ok(vec![]),
        Err(error) => Err(error.into()),
    }
}
