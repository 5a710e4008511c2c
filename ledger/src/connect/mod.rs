//! The one place that makes connections to the database ([why](../../../docs/adr/0012-connections.md)).
//!
//! Every connection gets the session settings that the code relies on, whatever the owner of the database or of the role has set
//! as defaults, and an `application_name` that says what it is for.

mod address;
mod cause;
mod limits;
mod passfile;
mod pool;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};

pub use address::{AddressError, DatabaseAddress};
pub use cause::Cause;
pub use limits::ConnectionLimits;
pub use pool::{Pool, Pooled, Single, Transaction};
pub use session::Purpose;

use address::Host;
pub(crate) use cause::timed_out;

/// The first pause between two attempts to connect, and the longest.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(500);
/// How long closing a connection politely may take.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections to one database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    shared: Arc<Shared>,
    /// Whether its connections change nothing.
    read_only: bool,
}

#[derive(Debug)]
struct Shared {
    address: DatabaseAddress,
    /// The host that answered last: it is tried first.
    preferred: AtomicUsize,
    /// Connections made so far.
    generation: AtomicU64,
}

impl From<DatabaseAddress> for Connector {
    fn from(address: DatabaseAddress) -> Self {
        let (preferred, generation) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { address, preferred, generation }), read_only: false }
    }
}

impl From<PgConnectOptions> for Connector {
    fn from(options: PgConnectOptions) -> Self {
        DatabaseAddress::from(options).into()
    }
}

impl Connector {
    /// Grows with every connection that is made.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// Connections that change nothing: the server refuses it.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// How the host that answered last is reached.
    pub(crate) fn present_options(&self) -> PgConnectOptions {
        let hosts = self.shared.address.hosts();
        let place = self.shared.preferred.load(Ordering::Relaxed).min(hosts.len().saturating_sub(1));
        self.options(&hosts[place], Purpose::Maintenance)
    }

    /// Connects once, to the first host that will do, and prepares the session.
    ///
    /// # Errors
    /// Why the last host that was tried will not do.
    pub async fn connect(&self, purpose: Purpose) -> Result<PgConnection, sqlx::Error> {
        self.connect_to_any(purpose).await.map(|(connection, _)| connection)
    }

    /// As [`Connector::connect`], again and again within `patience` while the reason is one that passes by itself.
    ///
    /// # Errors
    /// The last reason.
    pub async fn connect_within(
        &self,
        purpose: Purpose,
        patience: Duration,
    ) -> Result<PgConnection, sqlx::Error> {
        let deadline = Instant::now() + patience;
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match timeout(left, self.connect(purpose)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => return Err(timed_out("it could not be reached in time")),
            };
            if !Cause::of(&error).passes_soon() || Instant::now() + delay >= deadline {
                return Err(error);
            }
            sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// A listener with a connection of its own, which listens to `channel` already. It does not reconnect by itself.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn listen(&self, purpose: Purpose, channel: &str) -> Result<PgListener, sqlx::Error> {
        let limit = purpose.answer_timeout();
        let address = &self.shared.address;
        // sqlx's listener takes a pool and nothing else. With one host there is nothing to find out beforehand.
        let host = match address.hosts() {
            [host] => host,
            _ => {
                let (connection, host) = self.connect_to_any(purpose).await?;
                close(connection).await;
                host
            }
        };
        let must_write = address.must_write();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(address.connect_timeout() + limit)
            .test_before_acquire(false)
            .after_connect(move |connection, _| Box::pin(session::prepare(connection, purpose, must_write)))
            .connect_lazy_with(self.options(host, purpose));
        let begin = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok(listener)
        };
        timeout(address.connect_timeout() + limit, begin)
            .await
            .unwrap_or_else(|_| Err(timed_out("it could not be reached in time")))
    }

    async fn connect_to_any(&self, purpose: Purpose) -> Result<(PgConnection, &Host), sqlx::Error> {
        let hosts = self.shared.address.hosts();
        let first = self.shared.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for place in (0..hosts.len()).map(|n| (first + n) % hosts.len()) {
            match self.connect_to(&hosts[place], purpose).await {
                Ok(connection) => {
                    self.shared.preferred.store(place, Ordering::Relaxed);
                    return Ok((connection, &hosts[place]));
                }
                // What every host would say too.
                Err(error) if Cause::of(&error) == Cause::Authentication => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| timed_out("no host is configured")))
    }

    async fn connect_to(&self, host: &Host, purpose: Purpose) -> Result<PgConnection, sqlx::Error> {
        let address = &self.shared.address;
        let attempt = async {
            let mut connection = self.options(host, purpose).connect().await?;
            session::prepare(&mut connection, purpose, address.must_write()).await?;
            if self.read_only {
                connection.execute("set default_transaction_read_only = on").await?;
            }
            // Before anything is read with it.
            self.shared.generation.fetch_add(1, Ordering::SeqCst);
            Ok(connection)
        };
        let limit = address.connect_timeout();
        timeout(limit, attempt).await.unwrap_or_else(|_| Err(timed_out("it could not be reached in time")))
    }

    fn options(&self, host: &Host, purpose: Purpose) -> PgConnectOptions {
        let name = purpose.application_name(self.shared.address.application_name());
        host.options(&self.shared.address).application_name(&name)
    }
}

/// Closes politely, if the server cooperates.
pub(crate) async fn close(connection: PgConnection) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
}
