//! `DATABASE_URL`: the forms that libpq takes, or a refusal that names the part.
//!
//! Messages name parameters and never repeat a value that may hold a secret.

use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::passfile;

/// How long reaching one host may take unless `connect_timeout` says otherwise; that is no longer than the longest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT_MAX: u64 = 60;
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_NAME: &str = "daybook";
/// More hosts than anybody has.
const MOST_HOSTS: usize = 32;

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

/// Other spellings, which earlier versions took.
const ALIASES: &[(&str, &str)] = &[
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
];

/// Parameters that change nothing here at these values.
const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    ("fallback_application_name", &[]),
    ("client_encoding", &["auto", "UTF8", "utf8", "UTF-8", "utf-8"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    ("sslnegotiation", &["postgres"]),
    ("sslcertmode", &["allow"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("channel_binding", &["disable", "prefer"]),
    ("gssencmode", &["disable", "prefer"]),
    ("gssdelegation", &["0"]),
    ("load_balance_hosts", &["disable"]),
    ("keepalives", &["1"]),
    ("requiressl", &["0"]),
    ("replication", &["false", "off", "no", "0"]),
    ("min_protocol_version", &["3.0"]),
    ("max_protocol_version", &["3.0", "3.2", "latest"]),
];

/// Parameters of libpq that are refused, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("service", "connection service files are not read: write its parameters out"),
    ("servicefile", "connection service files are not read: write its parameters out"),
    ("sslpassword", "is not supported: give a key without a passphrase"),
    ("sslcrl", "is not supported"),
    ("sslcrldir", "is not supported"),
    ("sslkeylogfile", "is not supported"),
    ("ssl_max_protocol_version", "is not supported"),
    ("require_auth", "is not supported"),
    ("requirepeer", "is not supported"),
    ("krbsrvname", "is not supported"),
    ("gsslib", "is not supported"),
    ("scram_client_key", "is not supported"),
    ("scram_server_key", "is not supported"),
    ("keepalives_idle", "is not supported: Daybook tries its connections by itself; leave it out"),
    ("keepalives_interval", "is not supported: Daybook tries its connections by itself; leave it out"),
    ("keepalives_count", "is not supported: Daybook tries its connections by itself; leave it out"),
    ("tcp_user_timeout", "is not supported: Daybook tries its connections by itself; leave it out"),
];

/// Parameters that are used.
const USED: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "options",
    "application_name",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "connect_timeout",
    "statement-cache-capacity",
];

/// Takes a parameter in; a later one replaces an earlier one.
fn insert(given: &mut Parameters, key: &str, value: String) -> Result<(), AddressError> {
    let key = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name);
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == key) {
        return refuse(format!("{key} {why}"));
    }
    if let Some((_, values)) = WITHOUT_EFFECT.iter().find(|(name, _)| *name == key) {
        return match values.is_empty() || value.is_empty() || values.contains(&value.as_str()) {
            true => Ok(()),
            false => refuse(format!("{key} can only be {}", values.join(", "))),
        };
    }
    // `options[search_path]=x`, which earlier versions took.
    if let Some(option) = key.strip_prefix("options[").and_then(|rest| rest.strip_suffix(']')) {
        let options = given.entry("options".to_owned()).or_default();
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.push_str(&format!(" -c {option}={value}"));
        return Ok(());
    }
    if !USED.contains(&key) {
        return refuse(format!("{key:?} is not a parameter that is known here"));
    }
    given.insert(key.to_owned(), value);
    Ok(())
}

/// `[user[:password]@][host[:port]][,...][/dbname][?key=value&...]`.
fn uri(rest: &str) -> Result<Parameters, AddressError> {
    let mut given = Parameters::new();
    if rest.contains('#') {
        return refuse("holds a #, which has to be written %23");
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(host, name)| (host, Some(name)));
    let (account, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(account, hosts)| (Some(account), hosts));
    if database.is_some_and(|name| name.contains(['/', '@'])) {
        return refuse(
            "holds a / or an @ in the database's name, the user or the password: write %2F and %40",
        );
    }
    if let Some(account) = account {
        let (user, password) =
            account.split_once(':').map_or((account, None), |(user, password)| (user, Some(password)));
        if !user.is_empty() {
            given.insert("user".to_owned(), decoded("user", user)?);
        }
        if let Some(password) = password {
            given.insert("password".to_owned(), decoded("password", password)?);
        }
    }
    let (names, ports): (Vec<_>, Vec<_>) =
        hosts.split(',').map(host_and_port).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    if names.iter().any(|name| !name.is_empty()) {
        given.insert("host".to_owned(), names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        given.insert("port".to_owned(), ports.join(","));
    }
    if let Some(name) = database.filter(|name| !name.is_empty()) {
        given.insert("dbname".to_owned(), decoded("dbname", name)?);
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return refuse("holds a parameter without a value after the ?");
        };
        let key = decoded("the name of a parameter", key)?;
        let value = decoded(&key, value)?;
        // As JDBC writes it.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => insert(&mut given, "sslmode", "require".to_owned())?,
            _ => insert(&mut given, &key, value)?,
        }
    }
    Ok(given)
}

fn host_and_port(text: &str) -> Result<(String, String), AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else {
                return refuse("host begins with [ and has no ]");
            };
            if address.parse::<IpAddr>().is_err() && !address.contains('%') {
                return refuse("host in [] is not an IPv6 address");
            }
            match rest.strip_prefix(':') {
                Some(port) => (address, port),
                None if rest.is_empty() => (address, ""),
                None => return refuse("host has something after its ] that is not a port"),
            }
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    if port.contains(':') {
        return refuse(
            "host is an IPv6 address, which has to stand in []; or the password holds an @, which has to be written %40",
        );
    }
    Ok((decoded("host", host)?, decoded("port", port)?))
}

fn decoded(part: &str, text: &str) -> Result<String, AddressError> {
    let wrong = || {
        AddressError(format!("{part} holds a % that is not followed by two hexadecimal digits: write %25"))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit =
                    |byte: Option<u8>| char::from(byte.unwrap_or_default()).to_digit(16).ok_or_else(wrong);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                (high * 16 + low) as u8
            }
            byte => byte,
        };
        if byte == 0 {
            return refuse(format!("{part} holds a zero byte"));
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| AddressError(format!("{part} is not UTF-8")))
}

/// `key = value key='a value'`, with backslashes before quotes and backslashes.
fn key_values(text: &str) -> Result<Parameters, AddressError> {
    let mut given = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return refuse("ends with something that is not key=value");
        };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return refuse("holds something that is not key=value");
        }
        let (value, after) = value(key, after.trim_start())?;
        if value.contains('\0') {
            return refuse(format!("{key} holds a zero byte"));
        }
        insert(&mut given, key, value)?;
        rest = after.trim_start();
    }
    Ok(given)
}

/// The value that `text` begins with, and what comes after it.
fn value<'t>(key: &str, text: &'t str) -> Result<(String, &'t str), AddressError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, &text[place + 1..])),
            blank if blank.is_whitespace() && !quoted => return Ok((value, &text[place..])),
            other => value.push(other),
        }
    }
    if quoted { refuse(format!("{key} has no closing quote")) } else { Ok((value, "")) }
}

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

fn hosts(
    names: Option<&str>,
    addresses: Option<&str>,
    ports: Option<&str>,
    ssl: PgSslMode,
) -> Result<Vec<Host>, AddressError> {
    let list = |text: Option<&str>| text.map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>());
    let (names, addresses) = (list(names), list(addresses));
    if let (Some(names), Some(addresses)) = (&names, &addresses) {
        if names.len() != addresses.len() {
            return refuse(format!("hostaddr has {} entries and host has {}", addresses.len(), names.len()));
        }
        if matches!(ssl, PgSslMode::VerifyFull) {
            return refuse("hostaddr cannot be combined with host and sslmode=verify-full: give one of them");
        }
    }
    if let Some(wrong) = addresses.iter().flatten().position(|text| text.parse::<IpAddr>().is_err()) {
        return refuse(format!("hostaddr is not a list of IP addresses (entry {})", wrong + 1));
    }
    let places = addresses.or(names).unwrap_or_else(|| vec![String::new()]);
    if places.len() > MOST_HOSTS {
        return refuse(format!("host has more than {MOST_HOSTS} entries"));
    }
    let ports = list(ports).unwrap_or_else(|| vec![String::new()]);
    if ports.len() != 1 && ports.len() != places.len() {
        return refuse(format!("port has {} entries and host has {}", ports.len(), places.len()));
    }
    let entry = |(number, place): (usize, String)| {
        let port = ports.get(number).unwrap_or(&ports[0]);
        Ok(Host { place: self::place(place)?, port: self::port(port)?, password: None })
    };
    places.into_iter().enumerate().map(entry).collect()
}

fn place(text: String) -> Result<Place, AddressError> {
    match text.chars().next() {
        None => Ok(Place::Usual),
        Some('/') => Ok(Place::Socket(text.into())),
        Some('@') => refuse("host is an abstract Unix socket, which is not supported"),
        Some(_) if text.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?".contains(c)) => {
            refuse("host holds a character that no host's name has")
        }
        Some(_) => Ok(Place::Network(text)),
    }
}

fn port(text: &str) -> Result<u16, AddressError> {
    match text {
        "" => Ok(DEFAULT_PORT),
        text => match text.trim().parse() {
            Ok(port) if port > 0 => Ok(port),
            // Where a password holds an unescaped sign, this is a piece of it.
            _ => refuse("port is not a number from 1 to 65535"),
        },
    }
}

fn encryption<'g>(
    mut base: PgConnectOptions,
    get: &impl Fn(&str) -> Option<&'g str>,
) -> Result<(PgConnectOptions, PgSslMode), AddressError> {
    let mut mode = match get("sslmode") {
        None => PgSslMode::Prefer,
        Some("disable") => PgSslMode::Disable,
        Some("allow") => PgSslMode::Allow,
        Some("prefer") => PgSslMode::Prefer,
        Some("require") => PgSslMode::Require,
        Some("verify-ca") => PgSslMode::VerifyCa,
        Some("verify-full") => PgSslMode::VerifyFull,
        Some(_) => {
            return refuse("sslmode must be disable, allow, prefer, require, verify-ca or verify-full");
        }
    };
    match get("sslrootcert") {
        // Public authorities vouch for names and for nothing else.
        Some("system") => match mode {
            PgSslMode::VerifyFull => {}
            _ if get("sslmode").is_none() => mode = PgSslMode::VerifyFull,
            _ => return refuse("sslmode must be verify-full with sslrootcert=system"),
        },
        Some(path) => {
            base = base.ssl_root_cert(file("sslrootcert", path)?);
            // As with libpq: who names an authority wants it to be asked.
            if matches!(mode, PgSslMode::Require) {
                mode = PgSslMode::VerifyCa;
            }
        }
        None => {}
    }
    match (get("sslcert"), get("sslkey")) {
        (Some(certificate), Some(key)) => {
            base = base.ssl_client_cert(file("sslcert", certificate)?).ssl_client_key(file("sslkey", key)?);
        }
        (None, None) => {}
        (Some(_), None) => return refuse("sslkey must be given with sslcert"),
        (None, Some(_)) => return refuse("sslcert must be given with sslkey"),
    }
    Ok((base, mode))
}

fn file<'t>(key: &str, path: &'t str) -> Result<&'t str, AddressError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => refuse(format!("{key} {path} is not a plain file")),
        Err(error) => refuse(format!("{key} {path} cannot be read: {}", error.kind())),
    }
}

/// The lines of the file that is named, or of the one in the home folder if libpq would use that.
fn password_file(
    named: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, AddressError> {
    if let Some(path) = named {
        return passfile::read(path.as_ref()).map(Some).or_else(|why| refuse(format!("passfile {why}")));
    }
    let usual = || Some(PathBuf::from(variable("HOME")?).join(".pgpass"));
    let Some(path) = variable("PGPASSFILE").map(PathBuf::from).or_else(usual) else { return Ok(None) };
    match passfile::read(&path) {
        Ok(lines) => Ok(Some(lines)),
        Err(why) => {
            if path.exists() {
                tracing::warn!(%why, "the password file is not used");
            }
            Ok(None)
        }
    }
}

/// With several hosts the one that can be written to is looked for, unless something else is asked for.
fn must_write(text: Option<&str>, hosts: usize) -> Result<bool, AddressError> {
    match text {
        None => Ok(hosts > 1),
        Some("any") => Ok(false),
        Some("read-write" | "primary") => Ok(true),
        Some("read-only" | "standby" | "prefer-standby") => {
            refuse("target_session_attrs must be any, read-write or primary: Daybook writes")
        }
        Some(_) => refuse("target_session_attrs must be any, read-write or primary"),
    }
}

fn connect_timeout(text: Option<&str>) -> Result<Duration, AddressError> {
    let Some(text) = text else { return Ok(CONNECT_TIMEOUT) };
    match text.trim().parse::<i64>() {
        // Without a limit, as libpq has it: every wait has an end here.
        Ok(seconds) if seconds <= 0 => Ok(CONNECT_TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(seconds.unsigned_abs().clamp(2, CONNECT_TIMEOUT_MAX))),
        Err(_) => refuse("connect_timeout is not a number of seconds"),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`; a backslash takes the next character as it is.
fn server_options(text: &str) -> Result<Vec<(String, String)>, AddressError> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    let mut words = words.into_iter();
    let mut options = vec![];
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => {
                return refuse("options holds something other than -c name=value and --name=value");
            }
        };
        let Some((name, value)) = setting.split_once('=') else {
            return refuse("options holds a setting without a value");
        };
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.push((name.replace('-', "_"), value));
    }
    Ok(options)
}

#[cfg(test)]
mod tests;
