//! The views' tables. Names in SQL here come from [`Spec::table`], never from outside.

use futures::TryStreamExt as _;
use sqlx::{Executor as _, PgConnection};

use crate::error::{Fault, is_refusal};
use crate::folding::{AnyFolding, Changes};
use crate::protection;
use crate::view::Spec;

/// Rows of one statement at most.
pub(crate) const CHUNK: usize = 5_000;

/// Why a view's statement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The view itself is at fault; the database is well.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The database is not.
    #[error(transparent)]
    Database(sqlx::Error),
}

fn of_view(view: &str) -> impl Fn(sqlx::Error) -> TableError {
    move |error| match is_refusal(&error) {
        true => TableError::Fault(Fault::at_view(view, error)),
        false => TableError::Database(error),
    }
}

/// Whether the table is there.
pub(crate) async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(table).fetch_one(connection).await
}

/// Makes an empty table without key and indexes, which nobody sees more of than they may.
pub(crate) async fn create(
    connection: &mut PgConnection,
    table: &str,
    spec: &Spec,
) -> Result<(), sqlx::Error> {
    let comma = if spec.columns.is_empty() { "" } else { ", " };
    let sql = format!(
        r#"create table {table} (key text collate "C" not null, position bigint not null, row jsonb not null{comma}{})"#,
        spec.columns
    );
    connection.execute(sql.as_str()).await?;
    // Nobody searches by whole rows: statistics of them would be most of what `analyze` does.
    let sql = format!("alter table {table} alter column row set statistics 0");
    connection.execute(sql.as_str()).await?;
    protection::protect(connection, table, spec).await
}

/// Makes the key, unless it is there.
pub(crate) async fn key(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    let query = sqlx::query_scalar(
        "select exists (select from pg_index where indrelid = to_regclass($1) and indisprimary)",
    );
    if query.bind(table).fetch_one(&mut *connection).await? {
        return Ok(());
    }
    connection.execute(format!("alter table {table} add primary key (key)").as_str()).await.map(drop)
}

/// Makes key and indexes; cheaper after loading than before.
pub(crate) async fn index(
    connection: &mut PgConnection,
    table: &str,
    spec: &Spec,
) -> Result<(), sqlx::Error> {
    key(connection, table).await?;
    for on in spec.indexes {
        connection.execute(format!("create index on {table} {on}").as_str()).await?;
    }
    connection.execute(format!("analyze {table}").as_str()).await.map(drop)
}

/// Loads the rows `keys` of `table` into `folding`, one after the other.
pub(crate) async fn load(
    connection: &mut PgConnection,
    spec: &Spec,
    table: &str,
    keys: &[String],
    folding: &mut dyn AnyFolding,
) -> Result<(), TableError> {
    if keys.is_empty() {
        return Ok(());
    }
    let sql = format!("select key, position, row::text from {table} where key = any($1)");
    let mut rows = sqlx::query_as(&sql).bind(keys).fetch(connection);
    while let Some((key, position, row)) = rows.try_next().await.map_err(of_view(spec.name))? {
        let (key, position, row): (String, i64, String) = (key, position, row);
        folding.load(key, position, &row)?;
    }
    Ok(())
}

/// Writes `changes` into `table`.
pub(crate) async fn write(
    connection: &mut PgConnection,
    view: &str,
    table: &str,
    changes: &Changes,
) -> Result<(), TableError> {
    if !changes.keys.is_empty() {
        let sql = format!(
            "insert into {table} (key, position, row)
             select n.key, n.position, n.row::jsonb from unnest($1::text[], $2::bigint[], $3::text[]) as n(key, position, row)
             on conflict (key) do update set position = excluded.position, row = excluded.row"
        );
        let query = sqlx::query(&sql).bind(&changes.keys).bind(&changes.positions).bind(&changes.rows);
        query.execute(&mut *connection).await.map_err(of_view(view))?;
    }
    if !changes.deleted.is_empty() {
        let sql = format!("delete from {table} where key = any($1)");
        let query = sqlx::query(&sql).bind(&changes.deleted);
        query.execute(&mut *connection).await.map_err(of_view(view))?;
    }
    Ok(())
}

/// Writes what `folding` holds into `table`, by chunks.
pub(crate) async fn write_all(
    connection: &mut PgConnection,
    view: &str,
    table: &str,
    folding: &mut dyn AnyFolding,
) -> Result<(), TableError> {
    loop {
        let changes = folding.changes(CHUNK)?;
        if changes.is_empty() {
            return Ok(());
        }
        write(connection, view, table, &changes).await?;
    }
}

/// Adds rows to a table that holds none of them, by COPY (text format).
pub(crate) async fn copy(
    connection: &mut PgConnection,
    table: &str,
    changes: &Changes,
) -> Result<(), sqlx::Error> {
    if changes.keys.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::with_capacity(changes.rows.iter().map(|row| row.len() + 80).sum());
    for ((key, position), row) in changes.keys.iter().zip(&changes.positions).zip(&changes.rows) {
        escape(&mut lines, key);
        lines.push(b'\t');
        lines.extend_from_slice(position.to_string().as_bytes());
        lines.push(b'\t');
        escape(&mut lines, row);
        lines.push(b'\n');
    }
    let mut copying =
        connection.copy_in_raw(&format!("copy {table} (key, position, row) from stdin")).await?;
    copying.send(lines).await?;
    copying.finish().await.map(drop)
}

fn escape(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(other),
        }
    }
}

/// Tables that a rebuild of `table` which came to no end has left behind.
pub(crate) async fn leftovers(
    connection: &mut PgConnection,
    table: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let query = sqlx::query_scalar(
        "select relname::text from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace
            and starts_with(relname, $1)",
    );
    query.bind(format!("{table}__rebuild_")).fetch_all(connection).await
}

pub(crate) async fn drop_table(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    connection.execute(format!("drop table if exists {table}").as_str()).await.map(drop)
}
