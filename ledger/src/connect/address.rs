//! `DATABASE_URL`: the forms that libpq takes, or a refusal that names the part.
//!
//! Messages name parameters and never repeat a value that may hold a secret.

mod forms;
mod values;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use self::forms::{key_values, uri};
use self::values::{connect_timeout, encryption, hosts, must_write, password_file, server_options};
use super::passfile;

/// How long reaching one host may take unless `connect_timeout` says otherwise; that is no longer than the longest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_NAME: &str = "daybook";

/// What is wrong with an address. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

fn refuse<T>(message: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError(message.into()))
}

/// Where the database is and how to get in.
#[derive(Clone)]
pub struct DatabaseAddress {
    hosts: Vec<Host>,
    base: PgConnectOptions,
    ssl: PgSslMode,
    name: String,
    must_write: bool,
    connect_timeout: Duration,
}

/// One server.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Host {
    place: Place,
    port: u16,
    password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Where sqlx looks: the usual folder of sockets, else this machine.
    Usual,
    /// A name or an address.
    Network(String),
    /// The folder of a Unix socket.
    Socket(PathBuf),
    /// As the options have it already.
    Given,
}

impl std::fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(|host| (&host.place, host.port)).collect();
        f.debug_struct("DatabaseAddress").field("hosts", &hosts).finish_non_exhaustive()
    }
}

impl From<PgConnectOptions> for DatabaseAddress {
    fn from(base: PgConnectOptions) -> Self {
        let host = Host { place: Place::Given, port: base.get_port(), password: None };
        let (ssl, connect_timeout) = (base.get_ssl_mode(), CONNECT_TIMEOUT);
        Self {
            hosts: vec![host],
            base,
            ssl,
            name: DEFAULT_NAME.to_owned(),
            must_write: false,
            connect_timeout,
        }
    }
}

impl Host {
    pub(super) fn options(&self, address: &DatabaseAddress) -> PgConnectOptions {
        let mut options = match &self.place {
            Place::Given => return address.base.clone(),
            Place::Usual => address.base.clone().ssl_mode(address.ssl),
            Place::Network(host) => address.base.clone().host(host).ssl_mode(address.ssl),
            // As with libpq: nobody listens in between.
            Place::Socket(folder) => address.base.clone().socket(folder).ssl_mode(PgSslMode::Disable),
        };
        options = options.port(self.port);
        match &self.password {
            Some(password) => options.password(password),
            None => options,
        }
    }
}

impl DatabaseAddress {
    /// Reads a URI (`postgresql://...`) or a string of `key=value`, as libpq does, and the environment variables that libpq
    /// takes for what it leaves out.
    ///
    /// # Errors
    /// What is wrong, with the name of the part.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_with(text, &|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn parse_with(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, AddressError> {
        let mut given = match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
        {
            Some(rest) => uri(rest)?,
            None if text.contains("://") => {
                return refuse("must begin with postgres:// or postgresql://");
            }
            None if text.contains('=') => key_values(text)?,
            None => {
                return refuse(
                    "must be a postgres:// URL or key=value pairs such as host=/run/postgresql dbname=daybook",
                );
            }
        };
        let mut from_environment = vec![];
        for (name, key) in VARIABLES {
            if let (false, Some(value)) = (given.contains_key(*key), variable(name)) {
                from_environment.push(*name);
                given.insert((*key).to_owned(), value);
            }
        }
        read(&given, variable).map_err(|AddressError(message)| {
            // What a variable holds is not looked for in DATABASE_URL.
            let blamed = VARIABLES.iter().find(|(name, key)| {
                from_environment.contains(name) && message.starts_with(&format!("{key} "))
            });
            match blamed {
                Some((name, _)) => AddressError(format!("{message} (from the environment variable {name})")),
                None => AddressError(message),
            }
        })
    }

    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(super) fn must_write(&self) -> bool {
        self.must_write
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn application_name(&self) -> &str {
        &self.name
    }
}

type Parameters = BTreeMap<String, String>;

/// The environment variables of libpq that are heeded.
const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
];

fn read(
    given: &Parameters,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<DatabaseAddress, AddressError> {
    let get = |key: &str| given.get(key).map(String::as_str).filter(|value| !value.is_empty());
    // Takes the variables of libpq in as well; all that is decided here replaces that.
    let mut base = PgConnectOptions::new_without_pgpass();
    if let Some(user) = get("user") {
        base = base.username(user);
    }
    // As with libpq: the database has the user's name unless another is given.
    let user = base.get_username().to_owned();
    let database = get("dbname").unwrap_or(&user).to_owned();
    base = base.database(&database);
    if let Some(options) = get("options").filter(|options| base.get_options() != Some(options)) {
        base = base.options(server_options(options)?);
    }
    if let Some(capacity) = get("statement-cache-capacity") {
        let Ok(capacity) = capacity.parse() else {
            return refuse("statement-cache-capacity is not a number");
        };
        base = base.statement_cache_capacity(capacity);
    }
    let (base, ssl) = encryption(base, &get)?;
    let mut hosts = hosts(get("host"), get("hostaddr"), get("port"), ssl)?;
    let fixed = get("password").map(str::to_owned);
    let lines = if fixed.is_none() { password_file(get("passfile"), variable)? } else { None };
    for host in &mut hosts {
        let name = host.place.name_in_passfile();
        let found =
            lines.as_deref().and_then(|lines| passfile::password(lines, &name, host.port, &database, &user));
        host.password = fixed.clone().or(found);
    }
    Ok(DatabaseAddress {
        must_write: must_write(get("target_session_attrs"), hosts.len())?,
        connect_timeout: connect_timeout(get("connect_timeout"))?,
        name: get("application_name").unwrap_or(DEFAULT_NAME).to_owned(),
        hosts,
        base,
        ssl,
    })
}

impl Place {
    fn name_in_passfile(&self) -> String {
        match self {
            Self::Network(host) => host.clone(),
            // Of the usual folder libpq looks for this name too.
            Self::Socket(_) | Self::Usual | Self::Given => "localhost".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
