//! Where something that must not be seen could be seen.

use std::fs;
use std::path::Path;

use ::ledger::private::PrivateServer;
use sqlx::{ConnectOptions as _, Connection as _};
use tests::Reply;

use super::super::home::Home;

/// Bytes that somebody can read, and where.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Place {
    pub(crate) fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }

    /// All that came back, the headers included.
    pub(crate) fn answer(name: &str, reply: &Reply) -> Self {
        Self::new(name, format!("{:?}\n{}", reply.headers, reply.text))
    }
}

/// All files below the folder, with what links lead to.
pub(crate) fn files(folder: &Path) -> Vec<Place> {
    let mut places = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            places.extend(files(&path));
        } else if kind.is_file() {
            places.push(Place::new(path.to_str().unwrap(), fs::read(&path).unwrap()));
        }
    }
    places
}

/// All rows of all tables, the system's own with their samples of values included, and what the server knows of its connections; after
/// all of it was written to the files.
pub(crate) async fn tables(home: &Home) -> Vec<Place> {
    let server = PrivateServer::start_or_join(&home.data()).await.unwrap();
    let mut connection = server.connect_options().connect().await.unwrap();
    for statement in ["analyze", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    let names =
        "select format('%I.%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
                 where relkind in ('r', 'm', 'p') and nspname <> 'pg_toast'
                 union all select 'pg_stat_activity' order by 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut connection).await.unwrap();
    let mut places = vec![];
    for name in names {
        let rows = format!("select t::text from {name} t");
        let rows: Vec<String> = sqlx::query_scalar(&rows).fetch_all(&mut connection).await.unwrap();
        places.push(Place::new(format!("table {name}"), rows.join("\n")));
    }
    connection.close().await.unwrap();
    server.stop().await;
    places
}
