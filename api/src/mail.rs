//! Mail, as it is configured.

use std::net::{Ipv4Addr, SocketAddr};

use commands::mail::{MailFrom, MailTarget, Mailer, MailerOptions, SmtpServer};
use ledger::Ledger;

use crate::config::{Hidden, Settings};

/// A setting that cannot be used after all.
#[derive(Debug, thiserror::Error)]
#[error("{name} {message}")]
pub struct MailError {
    name: &'static str,
    message: String,
}

/// The mailer of a node that listens on `address`.
///
/// # Errors
/// `SMTP_URL` or `MAIL_FROM` cannot be used: a file that the former names is gone, say.
pub(crate) fn mailer(settings: &Settings, ledger: &Ledger, address: SocketAddr) -> Result<Mailer, MailError> {
    let target = match settings.smtp_url.as_ref().map(Hidden::expose) {
        Some(url) => MailTarget::Smtp(SmtpServer::parse(url).map_err(of("SMTP_URL"))?),
        None => MailTarget::Folder(settings.data_dir.join("mail")),
    };
    let from = settings.mail_from.as_deref().unwrap_or(MailFrom::USUAL);
    let from = MailFrom::parse(from).map_err(of("MAIL_FROM"))?;
    if settings.smtp_url.is_some() && settings.public_url.is_none() {
        tracing::warn!("PUBLIC_URL is not set: links in mails lead to this machine");
    }
    let public_url = settings.public_url.clone().unwrap_or_else(|| usual_url(address));
    Ok(Mailer::new(ledger, MailerOptions::new(target, from, public_url)))
}

fn of(name: &'static str) -> impl Fn(String) -> MailError {
    move |message| MailError { name, message }
}

/// Where this machine reaches it. Nobody elsewhere does, so with a mail server `PUBLIC_URL` had better be set.
fn usual_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{address}")
}
