//! What lets a request of a team see the team's rows in the database, and nothing else: policies and grants.

use sqlx::{Executor as _, PgConnection};

use crate::checkpoint;
use crate::role::ROLE;
use crate::view::Spec;

/// The policy's name on every table that has one.
const POLICY: &str = "own_team";

/// Lets [`ROLE`] read `table`, which nobody has protected before, as far as the view's rows are the team's it reads for.
pub(crate) async fn protect(
    connection: &mut PgConnection,
    table: &str,
    spec: &Spec,
) -> Result<(), sqlx::Error> {
    let Some(visible) = spec.owner.visible() else { return Ok(()) };
    let sql = format!(
        "alter table {table} enable row level security; \
         create policy {POLICY} on {table} for select to {ROLE} using ({visible}); \
         grant select on {table} to {ROLE}"
    );
    connection.execute(sql.as_str()).await.map(drop)
}

/// Lets [`ROLE`] reach what all its reads need: the schema, and how far the views are.
pub(crate) async fn admit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = format!(
        "select quote_ident(current_schema()), has_schema_privilege('{ROLE}', current_schema(), 'usage'),
             has_column_privilege('{ROLE}', 'checkpoints', 'view', 'select')
             and has_column_privilege('{ROLE}', 'checkpoints', 'position', 'select')"
    );
    let (schema, enters, sees): (String, bool, bool) =
        sqlx::query_as(&sql).fetch_one(&mut *connection).await?;
    if !enters {
        connection.execute(format!("grant usage on schema {schema} to {ROLE}").as_str()).await?;
    }
    if !sees {
        let grant = format!("grant select (view, position) on checkpoints to {ROLE}");
        connection.execute(grant.as_str()).await?;
    }
    Ok(())
}

/// Protects the live tables that are not protected: an older version made them, or they come from a dump that was restored
/// where there was no such role. Reads go on while those of another shape wait for their rebuild.
pub(crate) async fn mend(connection: &mut PgConnection, specs: &[&Spec]) -> Result<(), sqlx::Error> {
    let owned: Vec<&str> =
        specs.iter().filter(|spec| spec.owner.visible().is_some()).map(|spec| spec.table.as_str()).collect();
    let open = unprotected(connection, &owned).await?;
    let names: Vec<&str> = owned.into_iter().filter(|name| open.iter().any(|open| open == name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    // As followers do: checkpoints first, then tables. The other way round the two could wait for each other.
    checkpoint::lock(connection, &names).await?;
    for spec in specs.iter().filter(|spec| names.contains(&spec.table.as_str())) {
        if has_policy(connection, &spec.table).await? {
            connection.execute(format!("drop policy {POLICY} on {}", spec.table).as_str()).await?;
        }
        protect(connection, &spec.table, spec).await?;
    }
    Ok(())
}

/// Those of `tables` that are there and not as [`protect`] leaves them. One that has no `team_id`, from before the view's rows
/// were a team's, can only be rebuilt.
async fn unprotected(connection: &mut PgConnection, tables: &[&str]) -> Result<Vec<String>, sqlx::Error> {
    let sql = format!(
        "select c.relname::text from unnest($1::text[]) as t(name) join pg_class c on c.oid = to_regclass(t.name)
         where exists (select from pg_attribute a
                 where a.attrelid = c.oid and a.attname = 'team_id' and not a.attisdropped)
             and not (c.relrowsecurity and has_table_privilege('{ROLE}', c.oid, 'select')
                 and exists (select from pg_policy p where p.polrelid = c.oid and p.polname = '{POLICY}'
                     and p.polroles = array['{ROLE}'::regrole::oid]))"
    );
    sqlx::query_scalar(&sql).bind(tables).fetch_all(connection).await
}

async fn has_policy(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    let sql = format!(
        "select exists (select from pg_policy where polrelid = to_regclass($1) and polname = '{POLICY}')"
    );
    sqlx::query_scalar(&sql).bind(table).fetch_one(connection).await
}
