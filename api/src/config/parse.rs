//! One parser per kind of value. A parser's error says what is accepted; it never repeats a secret.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use axum::http::Uri;
use commands::jobs::S3Bucket;
use commands::mail::{MailFrom, SmtpServer};
use ledger::connect::DatabaseAddress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Environment, Hidden, LogFormat, Registration};
use crate::keys::decode_encryption_key;

/// Shortest accepted `JWT_SECRET`, in characters.
pub(crate) const MIN_JWT_SECRET_CHARS: usize = 32;

pub(super) fn environment(text: &str) -> Result<Environment, String> {
    match text {
        "development" => Ok(Environment::Development),
        "production" => Ok(Environment::Production),
        _ => Err(format!("must be development or production, not {text:?}")),
    }
}

pub(super) fn registration(text: &str) -> Result<Registration, String> {
    match text {
        "open" => Ok(Registration::Open),
        "invite" => Ok(Registration::Invite),
        "closed" => Ok(Registration::Closed),
        _ => Err(format!("must be open, invite or closed, not {text:?}")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be text or json, not {text:?}")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("must be true, false, 1 or 0, not {text:?}")),
    }
}

pub(super) fn number(range: RangeInclusive<u32>) -> impl FnOnce(&str) -> Result<u32, String> {
    move |text| {
        let accepted = text.parse().ok().filter(|number| range.contains(number));
        accepted.ok_or_else(|| {
            format!("must be a whole number from {} to {}, not {text:?}", range.start(), range.end())
        })
    }
}

/// A whole address, or `localhost:port` or `:port`, which both mean the loopback address.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let loopback = text.strip_prefix("localhost").unwrap_or(text).strip_prefix(':');
    let port = loopback.and_then(|port| port.parse().ok());
    if let Some(port) = port.filter(|_| !text.starts_with("::")) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse()
        .map_err(|_| format!("must be address:port, such as 127.0.0.1:8080 or [::]:8080, not {text:?}"))
}

pub(super) fn database_url(text: &str) -> Result<Hidden, String> {
    DatabaseAddress::parse(text).map(|_| Hidden::new(text)).map_err(|error| error.to_string())
}

pub(super) fn jwt_secret(text: &str) -> Result<Hidden, String> {
    let chars = text.chars().count();
    if chars < MIN_JWT_SECRET_CHARS {
        return Err(format!("must have {MIN_JWT_SECRET_CHARS} characters or more, has {chars}"));
    }
    Ok(Hidden::new(text))
}

pub(super) fn encryption_key(text: &str) -> Result<Hidden, String> {
    match decode_encryption_key(text) {
        Some(_) => Ok(Hidden::new(text)),
        None => Err("must be 32 bytes in base64; `daybook keys generate` prints one".into()),
    }
}

/// An `http` or `https` address without query; a trailing slash is dropped, so that paths can be appended.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let wrong =
        || format!("must be an http:// or https:// URL without user, query or fragment, not {text:?}");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let plain = !authority.as_str().contains('@') && uri.query().is_none() && !text.contains('#');
    match uri.scheme_str() {
        Some("http" | "https") if plain => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(wrong()),
    }
}

/// A comma-separated list of origins, each exactly as a browser sends it, or `*` alone.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let origins: Vec<String> =
        text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
    if origins == ["*"] {
        return Ok(origins);
    }
    match origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => Err(format!("{origin:?} must be scheme://host[:port]; * must stand alone")),
        None => Ok(origins),
    }
}

fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    // A browser sends neither path nor slash, lower case, and no default port: anything else would never match.
    let default_port = matches!((scheme, uri.port_u16()), ("http", Some(80)) | ("https", Some(443)));
    let exact = text == format!("{scheme}://{authority}") && text == text.to_ascii_lowercase();
    exact && !default_port && !text.contains(['*', '@']) && matches!(scheme, "http" | "https")
}

pub(super) fn email(text: &str) -> Result<String, String> {
    let (local, host) = text.split_once('@').unwrap_or_default();
    let clean = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if local.is_empty() || host.is_empty() || host.contains('@') || !clean || text.len() > 254 {
        return Err("must be an e-mail address".into());
    }
    Ok(text.to_owned())
}

/// `a@b` or `Name <a@b>`.
pub(super) fn mailbox(text: &str) -> Result<String, String> {
    MailFrom::parse(text).map(|_| text.to_owned())
}

/// Everything about it is checked, files that it names included.
pub(super) fn smtp_url(text: &str) -> Result<Hidden, String> {
    SmtpServer::parse(text).map(|_| Hidden::new(text))
}

/// A `tracing` filter. A bare word must be a level: `EnvFilter` would take a misspelt level for a module's name and log nothing.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let bare = |part: &&str| !part.contains(['=', '[', ':']) && part.parse::<LevelFilter>().is_err();
    if let Some(word) = text.split(',').map(str::trim).find(bare) {
        return Err(format!(
            "{word:?} is not a level (error, warn, info, debug, trace, off); write module=level for one module"
        ));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| format!("is not a log filter: {error}"))
}

/// Any text that is not blank.
pub(super) fn hidden(text: &str) -> Result<Hidden, String> {
    if text.trim().is_empty() { Err("must not be blank".into()) } else { Ok(Hidden::new(text)) }
}

/// Names of job kinds, separated by commas. Whether there are such kinds is known once `JOBS_FILE` is read.
pub(super) fn kind_names(text: &str) -> Result<Vec<String>, String> {
    let one = |name: &str| domain::KindName::parse(name.trim()).map(|name| name.to_string());
    text.split(',')
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(|invalid| format!("holds a name that {invalid}"))
}

/// The bucket of artifacts.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    S3Bucket::parse(text).map(|_| text.to_owned())
}

/// Letters and signs without blanks.
pub(super) fn word(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("must be one word".into())
    }
}

pub(super) fn path(text: &str) -> Result<std::path::PathBuf, String> {
    if text.is_empty() || text.contains('\0') { Err("must be a path".into()) } else { Ok(text.into()) }
}
