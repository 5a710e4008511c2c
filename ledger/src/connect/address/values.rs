//! From parameters to what they mean.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{AddressError, CONNECT_TIMEOUT, Host, Place, passfile, refuse};

const CONNECT_TIMEOUT_MAX: u64 = 60;
const DEFAULT_PORT: u16 = 5432;
/// More hosts than anybody has.
const MOST_HOSTS: usize = 32;

pub(super) fn hosts(
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

pub(super) fn encryption<'g>(
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
pub(super) fn password_file(
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
pub(super) fn must_write(text: Option<&str>, hosts: usize) -> Result<bool, AddressError> {
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

pub(super) fn connect_timeout(text: Option<&str>) -> Result<Duration, AddressError> {
    let Some(text) = text else { return Ok(CONNECT_TIMEOUT) };
    match text.trim().parse::<i64>() {
        // Without a limit, as libpq has it: every wait has an end here.
        Ok(seconds) if seconds <= 0 => Ok(CONNECT_TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(seconds.unsigned_abs().clamp(2, CONNECT_TIMEOUT_MAX))),
        Err(_) => refuse("connect_timeout is not a number of seconds"),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`; a backslash takes the next character as it is.
pub(super) fn server_options(text: &str) -> Result<Vec<(String, String)>, AddressError> {
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
