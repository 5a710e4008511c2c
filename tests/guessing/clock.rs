//! A database whose clock stands still unless the test moves it.

use ::commands::{Commands, Guessing};
use tests::Database;

/// `pg_catalog` comes first unless it is named: here it comes after our own clock, for all that connects from now on.
const STAND_STILL: &str = "
    create schema still;
    create table still.time (at timestamptz not null);
    insert into still.time values (clock_timestamp());
    create function still.clock_timestamp() returns timestamptz language sql as 'select at from still.time';
    create function still.now() returns timestamptz language sql as 'select at from still.time';
    do $$ begin execute format('alter database %I set search_path = still, pg_catalog, public', current_database()); end $$;
";

pub(super) struct Clock {
    database: Database,
}

impl Clock {
    pub(super) async fn new() -> Self {
        let database = Database::new().await;
        sqlx::raw_sql(STAND_STILL).execute(&mut database.connect().await).await.unwrap();
        Self { database }
    }

    /// A node's door on the database.
    pub(super) fn node(&self) -> Guessing {
        Commands::new(&self.database.ledger()).guessing().clone()
    }

    /// Lets time go by.
    pub(super) async fn pass(&self, seconds: u64) {
        let sql = "update still.time set at = at + make_interval(secs => $1)";
        sqlx::query(sql).bind(seconds as f64).execute(&mut self.database.connect().await).await.unwrap();
    }

    /// How many rows there are.
    pub(super) async fn rows(&self) -> i64 {
        let sql = "select count(*) from sign_in_attempts";
        sqlx::query_scalar(sql).fetch_one(&mut self.database.connect().await).await.unwrap()
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }
}
