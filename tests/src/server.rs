//! PostgreSQL servers: one that all tests of a run share, and ones of a test's own.

use std::path::{Path, PathBuf};

use ledger::private::PrivateServer;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::OnceCell;

use crate::{Database, folder, within};

/// The migrated database that all others are copies of.
pub(crate) const TEMPLATE: &str = "daybook_template";

/// A private PostgreSQL of this run, with durable settings as in production.
#[derive(Debug)]
pub struct Server {
    private: PrivateServer,
    folder: PathBuf,
}

impl Server {
    /// The server that all tests share. It ends with the process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Server> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start("shared")).await
    }

    /// A server of a test's own, for those that break it. `name` is part of its folder's name. End it with [`Server::stop`];
    /// after a failed test it ends with the process.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine, or it does not start.
    pub async fn start(name: &str) -> Self {
        let server = Self::start_again(folder::fresh(name)).await;
        let template = Database::named(&server, TEMPLATE);
        server.command(&format!("create database {TEMPLATE}")).await;
        let ledger = template.ledger();
        ledger.migrate().await.unwrap_or_else(|error| panic!("{error}"));
        // A database that somebody is connected to cannot be copied.
        ledger.close().await;
        server
    }

    /// The server whose data lies in this folder.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(folder: PathBuf) -> Self {
        let private = PrivateServer::start_or_join(&folder).await.unwrap_or_else(|error| panic!("{error}"));
        Self { private, folder }
    }

    /// A migrated database of its own on this server.
    pub async fn database(&self) -> Database {
        Database::create(self, &format!("template {TEMPLATE}")).await
    }

    /// A database without tables on this server, which belongs to this user and is used by them.
    pub async fn empty_database(&self, user: &str) -> Database {
        Database::create(self, &format!("owner \"{user}\"")).await.used_by(user)
    }

    /// The process id of the server's first process; `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.private.pid()
    }

    /// Stops the server, and says where its data lies: see [`Server::start_again`].
    pub async fn stop(self) -> PathBuf {
        self.private.stop().await;
        self.folder
    }

    /// The folder of the running server's cluster, which the account that runs it may enter.
    #[must_use]
    pub fn cluster(&self) -> &Path {
        self.private.directory()
    }

    /// Connects to the server's own database, which is no test's.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn connect(&self) -> PgConnection {
        within("a connection", self.maintenance().connect()).await.expect("the tests' server")
    }

    pub(crate) fn maintenance(&self) -> PgConnectOptions {
        self.private.connect_options()
    }

    /// The address of one of its databases, as the programs of PostgreSQL and `DATABASE_URL` know it.
    pub(crate) fn url_of(&self, database: &str) -> String {
        self.private.url().replacen(":///daybook?", &format!(":///{database}?"), 1)
    }

    pub(crate) async fn command(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        // Closing is only politeness.
        let _ = connection.close().await;
    }
}
