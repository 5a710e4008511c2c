//! An end for queries outside the append lane: a server that freezes neither answers nor hangs up.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::timeout;

/// How long a query may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What comes of a query within `patience`. One that is given up may still be carried out.
pub(super) async fn in_time<T>(
    patience: Duration,
    query: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(patience, query).await.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(io::Error::new(ErrorKind::TimedOut, "the database did not answer in time")))
    })
}
