//! How many connections a server allows.

use crate::{Ledger, LedgerError};

/// What a server allows the user of a ledger.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// For all users together; less what is kept for others.
    pub server: i32,
    /// For this user, where that is limited.
    pub user: Option<i32>,
    /// For this database, where that is limited.
    pub database: Option<i32>,
    /// Connections to the server that are there now.
    pub present: i64,
}

const LIMITS: &str = "select current_setting('max_connections')::int \
        - case when r.rolsuper then 0 else current_setting('superuser_reserved_connections')::int \
            + coalesce(current_setting('reserved_connections', true)::int, 0) end, \
    case when r.rolsuper or r.rolconnlimit < 0 then null else r.rolconnlimit end, \
    case when r.rolsuper or d.datconnlimit < 0 then null else d.datconnlimit end, \
    (select count(*) from pg_stat_activity where backend_type = 'client backend') \
    from pg_roles r, pg_database d where r.rolname = session_user and d.datname = current_database()";

impl Ledger {
    /// How many connections the server allows.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn connection_limits(&self) -> Result<ConnectionLimits, LedgerError> {
        let (server, user, database, present) = sqlx::query_as(LIMITS).fetch_one(self.pool()).await?;
        Ok(ConnectionLimits { server, user, database, present })
    }
}
