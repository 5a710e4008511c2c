//! A pool of connections in which nothing waits without an end.
//!
//! sqlx's own pool asks each connection that is given back whether it is well, without a limit of time: connections whose network
//! drops packets keep their places for a quarter of an hour. It also hides why no connection could be made, and what is left of a
//! query whose caller has gone runs on. Here:
//! - a connection that is taken out is tried, within [`TRY_TIMEOUT`]; if one does not answer, all that lie idle are given up;
//! - one that is given back in the middle of an answer has [`RECOVERY_TIMEOUT`] to end it, and is closed otherwise. The server
//!   notices (`client_connection_check_interval`) and ends the statement;
//! - a query through `&Pool` ends after a little more than the server's own limit;
//! - who gets no connection is told why.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTransactionManager, PgTypeInfo};
use sqlx::{
    Connection as _, Describe, Either, Execute, Executor, PgConnection, Postgres, Row as _,
    TransactionManager as _,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};

use super::cause::{Cause, timed_out};
use super::{Connector, Purpose, RETRY_DELAY_MAX, RETRY_DELAY_MIN, close};

/// How long a connection that lay idle may take to answer.
const TRY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a connection that was given back in the middle of an answer may take to end it.
const RECOVERY_TIMEOUT: Duration = Duration::from_millis(250);
/// A server's process remembers all it has seen: connections are replaced after this long.
const MAX_AGE: Duration = Duration::from_secs(1_800);
/// Connections that nobody needed for this long are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long closing waits for connections that are still in use, and how often it looks.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Connections of one purpose. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    purpose: Purpose,
    size: u32,
    patience: Duration,
    places: Arc<Semaphore>,
    /// The last one given back is taken first, so that those that are not needed grow old.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    made_at: Instant,
    since: Instant,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("purpose", &self.shared.purpose)
            .field("size", &self.shared.size)
            .finish()
    }
}

impl Pool {
    /// At most `size` connections, which are made when they are needed. Who needs one waits for at most `patience`.
    #[must_use]
    pub fn new(connector: Connector, purpose: Purpose, size: u32, patience: Duration) -> Self {
        let places = Arc::new(Semaphore::new(size as usize));
        let idle = Mutex::new(vec![]);
        Self { shared: Arc::new(Shared { connector, purpose, size, patience, places, idle }) }
    }

    /// Where its connections come from.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    /// How long somebody waits for a connection at most.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.shared.patience
    }

    /// A connection that has just answered.
    ///
    /// # Errors
    /// Why there is none: `PoolTimedOut` only if all are in use.
    pub async fn acquire(&self) -> Result<Pooled, sqlx::Error> {
        self.take(true).await
    }

    /// A connection that may have died while it lay idle, for callers who find that out by what they do with it first.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn acquire_untried(&self) -> Result<Pooled, sqlx::Error> {
        self.take(false).await
    }

    /// A transaction on a connection of its own. It is rolled back if it is dropped.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.begin_as(None).await
    }

    /// As [`Pool::begin`], with a statement that begins it.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn begin_with(
        &self,
        statement: impl Into<Cow<'static, str>>,
    ) -> Result<Transaction, sqlx::Error> {
        self.begin_as(Some(statement.into())).await
    }

    async fn begin_as(&self, statement: Option<Cow<'static, str>>) -> Result<Transaction, sqlx::Error> {
        let mut connection = self.acquire().await?;
        let limit = self.shared.purpose.answer_timeout();
        limited(limit, PgTransactionManager::begin(&mut connection, statement)).await?;
        Ok(Transaction { connection, limit })
    }

    /// Gives up the connections that lie idle, after one of them did not answer.
    pub fn discard_idle(&self) {
        drop(std::mem::take(&mut *self.shared.idle()));
    }

    /// Closes all connections that lie idle; nobody gets another one.
    pub async fn close(&self) {
        self.shared.places.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        for idle in idle {
            close(idle.connection).await;
        }
    }

    /// As [`Pool::close`], and waits until those in use were given back, for 5 seconds at most.
    pub async fn drain(&self) {
        self.close().await;
        let drained = async {
            while self.in_use() > 0 {
                sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!(connections = self.in_use(), "database connections were not given back in time");
        }
    }

    /// Connections that are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        (self.shared.size as usize).saturating_sub(self.shared.places.available_permits())
    }

    async fn take(&self, tried: bool) -> Result<Pooled, sqlx::Error> {
        let shared = &self.shared;
        let deadline = tokio::time::Instant::now() + shared.patience;
        let place = match timeout_at(deadline, Arc::clone(&shared.places).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(sqlx::Error::PoolClosed),
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        let (connection, made_at) = shared.connection(tried, deadline).await?;
        Ok(Pooled { connection: Some(connection), place: Some(place), made_at, shared: Arc::clone(shared) })
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that lies idle and is well, or a new one.
    async fn connection(
        &self,
        tried: bool,
        deadline: tokio::time::Instant,
    ) -> Result<(PgConnection, Instant), sqlx::Error> {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            while let Some(Idle { mut connection, made_at, .. }) = self.next_idle() {
                if !tried || self.answers(&mut connection).await {
                    return Ok((connection, made_at));
                }
            }
            let error = match timeout_at(deadline, self.connector.connect(self.purpose)).await {
                Ok(Ok(connection)) => return Ok((connection, Instant::now())),
                Ok(Err(error)) => error,
                Err(_) => return Err(timed_out("it could not be reached in time")),
            };
            if !Cause::of(&error).passes_soon() || tokio::time::Instant::now() + delay >= deadline {
                return Err(error);
            }
            // Meanwhile somebody may give one back: when the server has none left, that is what there is.
            sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    fn next_idle(&self) -> Option<Idle> {
        loop {
            let idle = self.idle().pop()?;
            if idle.made_at.elapsed() < MAX_AGE {
                return Some(idle);
            }
            spawn(close(idle.connection));
        }
    }

    async fn answers(&self, connection: &mut PgConnection) -> bool {
        match timeout(TRY_TIMEOUT, connection.ping()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection was lost while nobody used it");
                false
            }
            Err(_) => {
                // Whatever keeps this one from answering keeps the others too: nobody has to find out one by one.
                let idle = std::mem::take(&mut *self.idle());
                let connections = idle.len() + 1;
                tracing::warn!(connections, "idle database connections do not answer and are replaced");
                false
            }
        }
    }

    /// Takes back a connection that has nothing left to say.
    fn give_back(&self, connection: PgConnection, made_at: Instant) {
        if self.places.is_closed() {
            return spawn(close(connection));
        }
        let since = Instant::now();
        let mut idle = self.idle();
        idle.push(Idle { connection, made_at, since });
        // The first has not been needed for longest.
        let spare =
            idle.first().is_some_and(|first| first.since.elapsed() > IDLE_TIMEOUT).then(|| idle.remove(0));
        drop(idle);
        if let Some(spare) = spare {
            spawn(close(spare.connection));
        }
    }
}

/// Does something that nobody waits for, if the runtime is still there.
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

/// Whether a session can go on. It keeps the defaults that it began with, also when the owner has allowed writes again.
async fn is_useful(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let sql = "select not current_setting('default_transaction_read_only')::boolean";
    connection.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0)
}

async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(timed_out("the database did not answer in time")))
}

/// A connection that goes back to its pool when it is dropped.
pub struct Pooled {
    connection: Option<PgConnection>,
    /// Given back last.
    place: Option<OwnedSemaphorePermit>,
    made_at: Instant,
    shared: Arc<Shared>,
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("purpose", &self.shared.purpose).finish()
    }
}

impl Pooled {
    /// Closes the connection instead of giving it back.
    pub fn discard(mut self) {
        drop(self.connection.take());
    }
}

const TAKEN: &str = "a connection is there until it is dropped";

impl Deref for Pooled {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only dropping and discarding take it, and both consume this")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Pooled {
    #[expect(clippy::expect_used, reason = "only dropping and discarding take it, and both consume this")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(TAKEN)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let (Some(mut connection), place) = (self.connection.take(), self.place.take()) else { return };
        // Ready at once if nothing is to be sent and no answer is outstanding: no journey to the server.
        match connection.flush().now_or_never() {
            Some(Ok(())) => self.shared.give_back(connection, self.made_at),
            Some(Err(_)) => {}
            None => {
                let (shared, made_at) = (Arc::clone(&self.shared), self.made_at);
                spawn(async move {
                    // The rest of an answer, a rollback: or the caller has gone in the middle of a long statement.
                    if let Ok(Ok(true)) = timeout(RECOVERY_TIMEOUT, is_useful(&mut connection)).await {
                        shared.give_back(connection, made_at);
                    }
                    drop(place);
                });
            }
        }
    }
}

/// A connection of nobody's pool, which is closed when it is dropped.
pub struct Single(Option<PgConnection>);

impl Single {
    pub(crate) fn new(connection: PgConnection) -> Self {
        Self(Some(connection))
    }
}

impl fmt::Debug for Single {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Single")
    }
}

impl Deref for Single {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only dropping takes it")]
    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Single {
    #[expect(clippy::expect_used, reason = "only dropping takes it")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect(TAKEN)
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            spawn(close(connection));
        }
    }
}

/// A transaction on a connection of a pool. It is rolled back if it is dropped.
#[derive(Debug)]
pub struct Transaction {
    connection: Pooled,
    limit: Duration,
}

impl Transaction {
    /// Makes what was done durable. After an error it may have happened or not.
    ///
    /// # Errors
    /// The database did not answer as it should.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        limited(self.limit, PgTransactionManager::commit(&mut self.connection)).await
    }

    /// Undoes what was done.
    ///
    /// # Errors
    /// The database did not answer as it should. It is undone all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        limited(self.limit, PgTransactionManager::rollback(&mut self.connection)).await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Nothing after a commit or a rollback. Otherwise sent when the connection is given back.
        PgTransactionManager::start_rollback(&mut self.connection);
    }
}

/// A query on any connection of the pool. It ends after a little more than the server's own limit.
impl<'p> Executor<'p> for &'_ Pool {
    type Database = Postgres;

    /// All rows are read before the first is given out.
    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let all = async move {
            let mut connection = pool.acquire().await?;
            let found = (&mut *connection).fetch_many(query).try_collect::<Vec<_>>();
            let found = limited(pool.shared.purpose.answer_timeout(), found).await?;
            Ok::<_, sqlx::Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            limited(pool.shared.purpose.answer_timeout(), (&mut *connection).fetch_optional(query)).await
        })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            limited(pool.shared.purpose.answer_timeout(), (&mut *connection).prepare_with(sql, parameters))
                .await
        })
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            limited(pool.shared.purpose.answer_timeout(), (&mut *connection).describe(sql)).await
        })
    }
}
