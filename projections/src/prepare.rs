//! Making what the views need in the database.

use ledger::Divergence;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::Projections;
use crate::checkpoint;
use crate::error::ReadError;
use crate::protection;
use crate::table;
use crate::view::Spec;

/// The advisory lock under which tables are made: any constant that nothing else uses.
const PREPARING: i64 = 0x6461_7962_6f6f_6b02;
/// How long it waits for a table that somebody reads: behind it, all other readers wait.
const PATIENCE: &str = "set local lock_timeout = '5s'";

impl Projections {
    /// Makes the tables and checkpoints that are missing, and sees to it that teams' rows are their own's only; drops nothing. Several processes may do so at once. A view whose
    /// table was lost is marked `outdated`, and [`Projections::run`] rebuilds it. Tables of other versions stay as they are. To be called after
    /// [`Projections::make_role`] and the migrations.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn prepare(&self) -> Result<(), ReadError> {
        let mut connection = self.inner.ledger.maintenance().await?;
        let mut transaction = connection.begin().await?;
        let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(PREPARING);
        lock.execute(&mut *transaction).await?;
        transaction.execute(PATIENCE).await?;
        protection::admit(&mut transaction).await?;
        let specs: Vec<&Spec> = self.inner.registry.all.iter().map(|view| view.spec()).collect();
        protection::mend(&mut transaction, &specs).await?;
        for view in &self.inner.registry.all {
            prepare_view(&mut transaction, view.spec()).await?;
        }
        Ok(transaction.commit().await?)
    }
}

async fn prepare_view(connection: &mut PgConnection, spec: &Spec) -> Result<(), sqlx::Error> {
    let made = !table::exists(connection, &spec.table).await?;
    if made {
        table::create(connection, &spec.table, spec).await?;
        table::index(connection, &spec.table, spec).await?;
    }
    // Where a table's rows end is not known without its checkpoint.
    let query = sqlx::query(
        "insert into checkpoints (view, shape, state)
         values ($1, $2, case when $3 then 'live' else 'outdated' end) on conflict do nothing",
    );
    query.bind(&spec.table).bind(&spec.shape).bind(made).execute(&mut *connection).await?;
    // A new table is empty, whatever its checkpoint says.
    let query = sqlx::query(
        "update checkpoints set state = 'outdated', position = 0, digest = null where view = $1 and $2 and position > 0",
    );
    query.bind(&spec.table).bind(made).execute(connection).await.map(drop)
}

impl Projections {
    /// The tables that this process reads, one for each view.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        self.inner.registry.all.iter().map(|view| view.spec().table.clone()).collect()
    }

    /// How the log differs from what the tables' checkpoints know of it, if it does.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn divergence(&self) -> Result<Option<Divergence>, ReadError> {
        let head = self.inner.ledger.head().await?;
        let checkpoints = checkpoint::read(self.inner.ledger.pool()).await?;
        Ok(checkpoints.iter().find_map(|checkpoint| checkpoint.divergence(Some(head))))
    }

    /// Marks the tables that stand on events which the log does not have: they must be rebuilt. Part of accepting the log as it is.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn outdate_diverged(connection: &mut PgConnection) -> Result<(), ReadError> {
        Ok(checkpoint::outdate_diverged(connection).await?)
    }

    /// Drops tables of views that no node has needed for a while: those of other versions, after the last node of theirs has gone.
    pub(crate) async fn drop_unneeded_tables(&self) -> Result<(), ReadError> {
        let mut connection = self.inner.background.pool().acquire().await?;
        let mut transaction = connection.begin().await?;
        let lock = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(PREPARING);
        if !lock.fetch_one(&mut *transaction).await? {
            return Ok(());
        }
        let views = self.names();
        let needed = self.tables();
        // A node of a version that had one table a view, of the view's name, does not say what it needs.
        let marked = sqlx::query_scalar::<_, String>(
            "with needed as (
                select unnest(needs) as name from nodes
                union select unnest($1::text[])
                union select unnest($2::text[]) where exists (select from nodes where needs is null)
             ), marked as (
                update checkpoints set unneeded_since = case when view in (select name from needed) then null
                    else coalesce(unneeded_since, clock_timestamp()) end
                where (unneeded_since is null) <> (view in (select name from needed))
             )
             select view from checkpoints
             where unneeded_since < clock_timestamp() - make_interval(secs => $3)
               and view not in (select name from needed where name is not null)
             order by view",
        );
        let keep = self.inner.options.keep_unneeded_tables.as_secs_f64();
        let unneeded = marked.bind(&needed).bind(&views).bind(keep).fetch_all(&mut *transaction).await?;
        for table in unneeded {
            // Only what this program may have made.
            if !views.iter().any(|view| is_of(&table, view)) {
                continue;
            }
            transaction.execute(PATIENCE).await?;
            for leftover in table::leftovers(&mut transaction, &table).await? {
                table::drop_table(&mut transaction, &leftover).await?;
            }
            table::drop_table(&mut transaction, &table).await?;
            let forget = sqlx::query("delete from checkpoints where view = $1").bind(&table);
            forget.execute(&mut *transaction).await?;
            tracing::info!(table, "dropped the table of a view that no node needs any more");
        }
        Ok(transaction.commit().await?)
    }
}

/// Whether the table is, or was, the view's, in some version.
fn is_of(table: &str, view: &str) -> bool {
    let version = table.strip_prefix(view).map(|rest| rest.strip_prefix("_v"));
    match version {
        Some(None) => table == view,
        Some(Some(rest)) => rest.split_once('_').is_some_and(|(number, shape)| {
            number.bytes().all(|byte| byte.is_ascii_digit())
                && shape.len() == 8
                && shape.bytes().all(|byte| byte.is_ascii_hexdigit())
        }),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_a_view_are_known_by_their_names() {
        for table in ["jobs", "jobs_v12_0123abcd"] {
            assert!(is_of(table, "jobs"), "{table}");
        }
        for table in ["jobs_v1", "jobs_v1_0123", "jobs_of_mine", "job_reports", "jobs_v1_0123abcd__rebuild_0"]
        {
            assert!(!is_of(table, "jobs"), "{table}");
        }
    }
}
