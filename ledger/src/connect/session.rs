//! What a session is set to, by its purpose.
//!
//! Settings are made with one batch of `SET` after connecting, and not with startup options: poolers refuse those. An owner's
//! `ALTER ROLE` or `ALTER DATABASE ... SET` is a default that this overrides, except where it is the owner's to decide:
//! `default_transaction_read_only` (a database that is to be left alone), `search_path` (where the tables are), `role`, memory and
//! the planner's costs.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::{Executor as _, PgConnection, Row as _};

use super::cause::{Cause, ReadOnlyHost, UnusableSession};

/// How much longer than the server's own limit an answer is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// A batch of settings may itself run into a `statement_timeout` of a millisecond.
const MOST_TRIES: usize = 5;
/// PostgreSQL 17 knows `transaction_timeout`.
const HAS_TRANSACTION_TIMEOUT: u32 = 170_000;

/// What a connection is for: decides its name, its limits and how durable its commits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Appending to the log.
    Append,
    /// Answering requests.
    Requests,
    /// Answering requests of a team, under the role that row-level security confines.
    Teams,
    /// Everything that goes on without a request.
    Background,
    /// Folding the log into views. Commits do not wait for the disk.
    Views,
    /// Hearing which views changed.
    ViewNews,
    /// Hearing which data keys were destroyed.
    KeyNews,
    /// Hearing of lines of logs.
    LogNews,
    /// Migrations and checks at the start.
    Maintenance,
    /// Wrapping data keys with another key.
    Rotation,
    /// Scrubbing what destroyed keys leave in files.
    Scrubbing,
}

/// How long the server lets things take, in milliseconds; 0 is without a limit.
struct Limits {
    statement: u64,
    lock: u64,
    idle_in_transaction: u64,
}

impl Purpose {
    fn limits(self) -> Limits {
        let limits = |statement, lock, idle_in_transaction| Limits { statement, lock, idle_in_transaction };
        match self {
            // The server gives up before the lane does, so that a batch that is called lost is not stored much later.
            Self::Append => limits(8_000, 8_000, 5_000),
            // Well below the limit of a request (45 s).
            Self::Requests | Self::Teams => limits(20_000, 10_000, 10_000),
            Self::Background => limits(60_000, 10_000, 20_000),
            // Holds the checkpoints' locks, which all nodes need.
            Self::Views => limits(60_000, 5_000, 3_000),
            Self::ViewNews | Self::KeyNews | Self::LogNews => limits(10_000, 5_000, 5_000),
            Self::Maintenance => limits(3_600_000, 600_000, 60_000),
            Self::Rotation => limits(300_000, 30_000, 20_000),
            Self::Scrubbing => limits(900_000, 300, 20_000),
        }
    }

    /// How long an answer is waited for: a little longer than the server lets a statement take.
    #[must_use]
    pub fn answer_timeout(self) -> Duration {
        Duration::from_millis(self.limits().statement) + GRACE
    }

    pub(super) fn application_name(self, base: &str) -> String {
        let suffix = match self {
            Self::Append => " appends",
            Self::Requests => "",
            Self::Teams => " teams",
            Self::Background => " background",
            Self::Views => " views",
            Self::ViewNews => " view news",
            Self::KeyNews => " keys",
            Self::LogNews => " logs",
            Self::Maintenance => " maintenance",
            Self::Rotation => " rotation",
            Self::Scrubbing => " scrubbing",
        };
        format!("{base}{suffix}")
    }

    fn settings(self) -> String {
        let Limits { statement, lock, idle_in_transaction } = self.limits();
        let mut sql = format!(
            "set statement_timeout = {statement}; set lock_timeout = {lock}; \
             set idle_in_transaction_session_timeout = {idle_in_transaction};"
        );
        sql.push_str(ALWAYS);
        let durable = match self {
            Self::Views => "set synchronous_commit = off;",
            _ => DURABLE,
        };
        let schemas = if self == Self::Teams { KEEP_SCHEMAS } else { "" };
        let _ = write!(sql, "{durable}{OPTIONAL}{schemas}{LOOK}");
        sql
    }
}

/// What the code relies on, on every connection.
const ALWAYS: &str = "set idle_session_timeout = 0; \
    set default_transaction_isolation = 'read committed'; set default_transaction_deferrable = off; \
    set row_security = on; set standard_conforming_strings = on; set client_min_messages = warning; \
    set bytea_output = hex; set intervalstyle = postgres; set datestyle = 'ISO, MDY'; set timezone = 'UTC'; \
    set extra_float_digits = 2; set plan_cache_mode = auto; set jit = off; set transform_null_equals = off; \
    set array_nulls = on; set gin_fuzzy_search_limit = 0; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; \
    set tcp_user_timeout = 20000;";

/// A commit that was answered survives a crash of the server. Stricter values are the owner's choice.
const DURABLE: &str = "select set_config('synchronous_commit', 'on', false) \
    where current_setting('synchronous_commit') = 'off';";

/// The schemas in which this database's user finds its tables, as they are now: under another role `"$user"` would be another schema.
const KEEP_SCHEMAS: &str = "select set_config('search_path', coalesce((select string_agg(quote_ident(schema), ', ' order by place) \
    from unnest(current_schemas(false)) with ordinality as s(schema, place)), ''), false);";

/// What not every server or user may set. The server ends a statement whose client has gone.
const OPTIONAL: &str = "do $$ begin \
        perform set_config('client_connection_check_interval', '1000', false); \
    exception when others then null; end $$; \
    do $$ begin \
        if current_setting('session_replication_role') <> 'origin' then \
            perform set_config('session_replication_role', 'origin', false); \
        end if; \
    exception when others then null; end $$;";

/// What has to be as it is found.
const LOOK: &str = "select current_setting('session_replication_role') = 'origin', current_schema() is not null, \
    pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean";

/// Sets up a session that was just begun.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    purpose: Purpose,
    must_write: bool,
) -> Result<(), sqlx::Error> {
    lift_limits(connection).await?;
    let settings = purpose.settings();
    let row = connection.fetch_all(sqlx::raw_sql(&settings)).await?.pop().ok_or(sqlx::Error::RowNotFound)?;
    let is = |column: usize| row.try_get::<bool, _>(column);
    let unusable = |why| Err(sqlx::Error::Configuration(Box::new(UnusableSession(why))));
    if !is(0)? {
        return unusable(
            "session_replication_role is not origin for this user, so that the log would not be append-only: \
             an administrator of the database has to reset it",
        );
    }
    if !is(1)? {
        return unusable("search_path names no schema that exists");
    }
    if must_write && is(2)? {
        return Err(sqlx::Error::Configuration(Box::new(ReadOnlyHost)));
    }
    Ok(())
}

/// First and alone, since the owner's default may be a millisecond, which is enough for this and not for a batch.
async fn lift_limits(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if connection.server_version_num().is_some_and(|version| version >= HAS_TRANSACTION_TIMEOUT) {
        lift(connection, "set transaction_timeout = 0").await?;
    }
    lift(connection, "set statement_timeout = 0").await
}

async fn lift(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    for _ in 1..MOST_TRIES {
        match connection.execute(sqlx::raw_sql(sql)).await {
            Err(error) if Cause::of(&error) == Cause::StatementTimeout => {}
            outcome => return outcome.map(drop),
        }
    }
    connection.execute(sqlx::raw_sql(sql)).await.map(drop)
}
