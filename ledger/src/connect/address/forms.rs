//! From a text to parameters: the two forms of libpq, and what is known of each parameter.

use std::net::IpAddr;

use super::{AddressError, Parameters, refuse};

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
pub(super) fn uri(rest: &str) -> Result<Parameters, AddressError> {
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
pub(super) fn key_values(text: &str) -> Result<Parameters, AddressError> {
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
