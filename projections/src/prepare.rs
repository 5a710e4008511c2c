//! Making what the views need in the database.

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::Projections;
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
    /// table is there in another shape, or was lost, is marked `outdated`, and [`Projections::run`] rebuilds it. To be called after
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
    let made = !table::exists(connection, spec.name).await?;
    if made {
        table::create(connection, spec.name, spec).await?;
        table::index(connection, spec.name, spec).await?;
    }
    // Where a table's rows end is not known without its checkpoint.
    let query = sqlx::query(
        "insert into checkpoints (view, shape, state)
         values ($1, $2, case when $3 then 'live' else 'outdated' end) on conflict do nothing",
    );
    query.bind(spec.name).bind(&spec.shape).bind(made).execute(&mut *connection).await?;
    // A table made anew is empty, whatever its checkpoint says.
    let query = sqlx::query(
        "update checkpoints set state = 'outdated', position = case when $3 then 0 else position end
         where view = $1 and (shape <> $2 or ($3 and position > 0))",
    );
    query.bind(spec.name).bind(&spec.shape).bind(made).execute(connection).await.map(drop)
}
