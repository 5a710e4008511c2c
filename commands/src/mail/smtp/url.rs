//! `SMTP_URL`: which server, how it is talked to, and as whom.

use std::net::IpAddr;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use percent_encoding::percent_decode_str;
use url::Url;

/// Ports: of submission with STARTTLS, of submission within TLS, and of relaying in clear (RFC 6409, RFC 8314, RFC 5321).
const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;
const RELAY: u16 = 25;

/// How the way to the server is kept private.
#[derive(Clone)]
pub(super) enum Privacy {
    /// TLS from the first byte.
    Tls(TlsParameters),
    /// TLS after `STARTTLS`; without it nothing is sent.
    StartTls(TlsParameters),
    /// None: the server is on this machine, or the operator said so.
    None,
}

/// A mail server.
#[derive(Clone)]
pub struct SmtpServer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) privacy: Privacy,
    pub(super) credentials: Option<Credentials>,
}

/// Shows no credentials.
impl std::fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SmtpServer({})", self.name())
    }
}

/// What may stand behind the `?`.
#[derive(Default)]
struct Parameters {
    tls: Option<String>,
    ca: Option<String>,
}

impl SmtpServer {
    /// Reads `smtp://user:password@host:port` or `smtps://...`; user and password are percent-encoded. Parameters:
    ///
    /// - `tls=required`: STARTTLS also on this machine; `tls=none`: no TLS, though the server is not on this machine;
    /// - `ca=/path/of.pem`: trust the certificates in this file, and no others.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It has nothing of the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "must be smtp://host[:port] or smtps://host[:port], with user:password@ (percent-encoded) if needed";
        // The parser would leave them out.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(SHAPE.into());
        }
        let url = Url::parse(text).map_err(|_| SHAPE)?;
        let host = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
        let host = host.filter(|host| !host.is_empty() && !host.contains('%')).ok_or(SHAPE)?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(SHAPE.into());
        }
        let parameters = parameters(&url)?;
        let credentials = credentials(&url)?;
        let (privacy, usual_port) = match (url.scheme(), parameters.tls.as_deref()) {
            ("smtps", None | Some("required")) => (Privacy::Tls(tls(&host, &parameters)?), SUBMISSIONS),
            ("smtps", Some(_)) => return Err("with smtps:// there is TLS: tls=none contradicts it".into()),
            ("smtp", None) if is_this_machine(&host) => (Privacy::None, RELAY),
            ("smtp", None | Some("required")) => (Privacy::StartTls(tls(&host, &parameters)?), SUBMISSION),
            ("smtp", Some("none")) => (Privacy::None, RELAY),
            ("smtp", Some(_)) => return Err("tls must be none or required".into()),
            _ => return Err(SHAPE.into()),
        };
        let is_open = matches!(privacy, Privacy::None);
        if is_open && parameters.ca.is_some() {
            return Err("ca is of no use without TLS; add tls=required or use smtps://".into());
        }
        if is_open && credentials.is_some() && !is_this_machine(&host) {
            return Err("must not send a password to another machine without TLS".into());
        }
        Ok(Self { host, port: url.port().unwrap_or(usual_port), privacy, credentials })
    }

    /// For logs: where it is.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn parameters(url: &Url) -> Result<Parameters, String> {
    let mut parameters = Parameters::default();
    for (name, value) in url.query_pairs() {
        let place = match &*name {
            "tls" => &mut parameters.tls,
            "ca" => &mut parameters.ca,
            _ => return Err("knows the parameters tls and ca only".into()),
        };
        *place = Some(value.into_owned());
    }
    Ok(parameters)
}

fn credentials(url: &Url) -> Result<Option<Credentials>, String> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| "must have user and password in UTF-8".to_owned())
    };
    let (user, password) = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
    match (user.is_empty(), password.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(Credentials::new(user, password))),
        _ => Err("must have a user and a password, or neither".into()),
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls(host: &str, parameters: &Parameters) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = &parameters.ca {
        let authorities = authorities(path).map_err(|what| format!("ca={path}: {what}"))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authorities);
    }
    builder.build().map_err(|error| format!("cannot be used with TLS: {error}"))
}

/// All certificates of a file.
fn authorities(path: &str) -> Result<Certificate, String> {
    let pem = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err("has no certificate in PEM".into());
    }
    Certificate::from_pem(pem.as_bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Port and way.
    fn read(text: &str) -> (u16, &'static str, bool) {
        let server = SmtpServer::parse(text).unwrap();
        let way = match server.privacy {
            Privacy::Tls(_) => "tls",
            Privacy::StartTls(_) => "starttls",
            Privacy::None => "clear",
        };
        (server.port, way, server.credentials.is_some())
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_clear_unless_told_so() {
        assert_eq!(read("smtps://mail.example.org"), (465, "tls", false));
        assert_eq!(read("smtps://u:p@mail.example.org:1465/"), (1465, "tls", true));
        assert_eq!(read("smtp://u:p@mail.example.org"), (587, "starttls", true));
        assert_eq!(read("smtp://mail.example.org?tls=none"), (25, "clear", false));
        for here in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert_eq!(read(&format!("smtp://{here}:2525")), (2525, "clear", false), "{here}");
            assert_eq!(read(&format!("smtp://u:p@{here}")), (25, "clear", true), "{here}");
            assert_eq!(read(&format!("smtp://u:p@{here}?tls=required")), (587, "starttls", true), "{here}");
        }
    }

    #[test]
    fn user_and_password_may_have_any_character() {
        let server = SmtpServer::parse("smtps://ada%40example.org:p%3A%2F%40%20%C3%A9@mail").unwrap();
        let expected = Credentials::new("ada@example.org".into(), "p:/@ é".into());
        assert_eq!(server.credentials, Some(expected));
        assert_eq!(format!("{server:?}"), "SmtpServer(mail:465)");
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_repeating_it() {
        for wrong in [
            "",
            "mail",
            "mail:25",
            "http://hunter2@mail",
            "smtp://",
            "smtp://:25",
            "smtp://mail:99999",
            "smtp://u:hunter2@",
            "smtp://u:hunter2@mail?tls=none",
            "smtp://u@mail",
            "smtp://:hunter2@mail",
            "smtp://u:%ff@mail",
            "smtp://mail/hunter2",
            "smtp://mail#hunter2",
            "smtp://mail?tls=maybe",
            "smtps://mail?tls=none",
            "smtp://mail?starttls=hunter2",
            "smtps://mail?ca=/nowhere/at/all.pem",
            "smtps://mail?ca=/dev/null",
            "smtp://localhost?ca=/dev/null",
            "smtp://ma%20il",
            "smtp://mail\r\nhunter2",
        ] {
            let message = SmtpServer::parse(wrong).unwrap_err();
            assert!(!message.contains("hunter2"), "{wrong}: {message}");
        }
    }
}
