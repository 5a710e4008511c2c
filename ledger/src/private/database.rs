//! The database in the cluster.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, Error};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect::timed_out;

use super::cluster::Cluster;
use super::{NAME, PrivateError, connect_options};

/// Present in every cluster.
const MAINTENANCE: &str = "postgres";
const NO_SUCH_DATABASE: &str = "3D000";
/// What `CREATE DATABASE` says when another process was faster.
const ALREADY_THERE: [&str; 2] = ["42P04", "23505"];
/// The template is in use by another process that makes the same database.
const TEMPLATE_IN_USE: &str = "55006";
/// Starting, stopping or recovering.
const NOT_NOW: &str = "57P";
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the database if it is missing, and so shows that the server really serves. What passes by itself is tried again.
pub(super) async fn ensure(cluster: &Cluster, deadline: Instant) -> Result<(), PrivateError> {
    loop {
        let outcome = timeout_at(deadline, open_or_create(cluster))
            .await
            .unwrap_or_else(|_| Err(timed_out("it did not serve in time")));
        match outcome {
            Err(error) if passes(&error) && Instant::now() < deadline => sleep(PAUSE).await,
            outcome => {
                return outcome.map_err(|e| PrivateError::Database {
                    socket: cluster.socket_dir().to_owned(),
                    source: e,
                });
            }
        }
    }
}

async fn open_or_create(cluster: &Cluster) -> Result<(), Error> {
    match connect_options(cluster, NAME).connect().await {
        Ok(connection) => connection.close().await,
        Err(error) if has_code(&error, |code| code == NO_SUCH_DATABASE) => create(cluster).await,
        Err(error) => Err(error),
    }
}

async fn create(cluster: &Cluster) -> Result<(), Error> {
    let mut connection = connect_options(cluster, MAINTENANCE).connect().await?;
    match sqlx::query(&format!("CREATE DATABASE {NAME}")).execute(&mut connection).await {
        Err(error) if !has_code(&error, |code| ALREADY_THERE.contains(&code)) => return Err(error),
        _ => {}
    }
    connection.close().await
}

fn passes(error: &Error) -> bool {
    matches!(error, Error::Io(_))
        || has_code(error, |code| code.starts_with(NOT_NOW) || code == TEMPLATE_IN_USE)
}

fn has_code(error: &Error, wanted: impl Fn(&str) -> bool) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|code| wanted(&code))
}
