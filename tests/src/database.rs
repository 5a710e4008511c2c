//! A database for each test.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ledger::{Keyring, Ledger, Options};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::{Server, within};

/// Where a process that a test starts finds the test's database, and its key in base64url.
const URL: &str = "DAYBOOK_TESTS_DATABASE_URL";
const KEY: &str = "DAYBOOK_TESTS_ENCRYPTION_KEY";

/// A database of one test's own. It is dropped with this value, whoever is still connected.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    connect: PgConnectOptions,
    maintenance: PgConnectOptions,
    key: [u8; 32],
}

impl Database {
    /// A migrated database on the shared server.
    pub async fn new() -> Self {
        Server::shared().await.database().await
    }

    /// A database on the shared server that has no tables yet.
    pub async fn empty() -> Self {
        Self::create(Server::shared().await, "").await
    }

    pub(crate) async fn create(server: &Server, how: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.command(&format!("create database {name} {how}")).await;
        Self::named(server, &name)
    }

    pub(crate) fn named(server: &Server, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: server.url_of(name),
            connect: server.maintenance().database(name),
            maintenance: server.maintenance(),
            key: fresh_key(),
        }
    }

    /// Whoever connects to it from now on is this user of the server.
    pub(crate) fn used_by(mut self, user: &str) -> Self {
        self.url = self.url.replacen("&user=daybook", &format!("&user={user}"), 1);
        self.connect = self.connect.clone().username(user);
        self
    }

    /// How to connect to it.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.connect.clone()
    }

    /// Its address, as for `DATABASE_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The `ENCRYPTION_KEY` of this database's ledgers: random, and the same for all of them.
    #[must_use]
    pub fn encryption_key(&self) -> &[u8; 32] {
        &self.key
    }

    /// A ledger on it with its own small pool: one node of Daybook.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger_with(Keyring::new(&self.key, None), &small())
    }

    /// As [`Database::ledger`], with keys and options of the test's own.
    #[must_use]
    pub fn ledger_with(&self, keyring: Keyring, options: &Options) -> Ledger {
        Ledger::new(self.connect_options(), keyring, options)
    }

    /// A connection of its own, for looking behind the ledger's back.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn connect(&self) -> PgConnection {
        within("a connection", self.connect.connect()).await.expect("the test's database")
    }

    /// What a process of this test's own needs to find this database by [`connect_from_environment`].
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [(URL, self.url.clone()), (KEY, URL_SAFE_NO_PAD.encode(self.key))]
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.name == crate::server::TEMPLATE {
            return;
        }
        let (maintenance, name) = (self.maintenance.clone(), self.name.clone());
        // Whoever drops this may be in a runtime, where blocking on another is not allowed. Best effort: the server may be
        // gone, and the folder goes in any case.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(drop_database(&maintenance, &name))
        });
        let _ = dropper.join();
    }
}

async fn drop_database(maintenance: &PgConnectOptions, name: &str) -> Result<(), std::io::Error> {
    let work = async {
        let mut connection = maintenance.connect().await?;
        sqlx::raw_sql(&format!("drop database {name} with (force)")).execute(&mut connection).await?;
        connection.close().await
    };
    match tokio::time::timeout(Duration::from_secs(10), work).await {
        Ok(outcome) => outcome.map_err(std::io::Error::other),
        Err(elapsed) => Err(elapsed.into()),
    }
}

/// The ledger that the process which started this one named by [`Database::environment`]; `None` when nobody did.
///
/// # Panics
/// When what was named makes no sense.
#[must_use]
pub fn connect_from_environment() -> Option<Ledger> {
    let connect = env::var(URL).ok()?.parse::<PgConnectOptions>().expect(URL);
    let key = URL_SAFE_NO_PAD.decode(env::var(KEY).expect(KEY)).expect(KEY);
    let key: [u8; 32] = key.try_into().expect(KEY);
    Some(Ledger::new(connect, Keyring::new(&key, None), &small()))
}

/// Many ledgers share one server with 200 connections, and a loaded machine must not look like a refusal.
fn small() -> Options {
    Options { connections: 6, background: 4, patience: Duration::from_secs(20), ..Options::default() }
}

fn fresh_key() -> [u8; 32] {
    let token = ledger::random_token().expect("randomness");
    URL_SAFE_NO_PAD.decode(token).expect("base64url").try_into().expect("32 bytes")
}

/// `sql` about views, by name (`select row from users`, `where view = 'users'`), as it is about their tables in this version.
#[must_use]
pub fn on_tables(sql: &str) -> String {
    const BEFORE: &str = r"(?i)\b(from|join|update|into|table|on|class|view =|relation =) ('?)";
    let views =
        ["users", "teams", "memberships", "credentials", "secrets", "secret_versions", "secret_reads"];
    let more = ["secret_access", "jobs", "job_reports", "schedules", "last_access", "audit"];
    let names = [views.as_slice(), more.as_slice()].concat().join("|");
    let pattern = regex::Regex::new(&format!(r"{BEFORE}({names})\b")).expect("the pattern is right");
    projections::with_tables(&pattern.replace_all(sql, "$1 $2{$3}"))
}
