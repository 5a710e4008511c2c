//! Sending by SMTP (RFC 5321), in two steps, so that what happens between them is decided: a server first says that it would take a
//! mail ([`SmtpServer::offer`]), and is then given it ([`Offered::hand_over`]).

mod clear;
mod url;

use std::net::Ipv4Addr;
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::form::Mail;
use clear::Clear;
use url::Privacy;

pub use url::SmtpServer;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct SmtpPatience {
    /// Until it can be reached at all.
    pub connect: Duration,
    /// For each answer but the last; RFC 5321 asks for five minutes at most.
    pub answer: Duration,
    /// For the answer to the whole mail, which servers give after they have looked at it; RFC 5321 asks for ten minutes.
    pub last_answer: Duration,
}

impl Default for SmtpPatience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(120),
            last_answer: Duration::from_secs(600),
        }
    }
}

/// How long a server may take to say goodbye, which changes nothing any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// Answers that speak of how we sign in rather than of the mail (RFC 4954): an operator can mend that, so they are never the end.
const ABOUT_SIGNING_IN: [&str; 4] = ["530", "534", "535", "538"];

/// Why a server did not take a mail. What is said has nothing personal in it: servers like to repeat addresses, so of
/// their answers only the codes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It may take it another time.
    ForNow(String),
    /// It never will.
    ForGood(String),
}

/// Why it is not known whether a server has taken a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotHandedOver {
    /// It has not.
    Refused(Refused),
    /// It was given the mail and did not say.
    Unanswered(String),
}

/// A server that waits for the content of a mail. When it is dropped, the connection ends, and the server forgets the mail.
pub(super) struct Offered {
    connection: AsyncSmtpConnection,
    patience: SmtpPatience,
}

/// Where in a conversation something went wrong.
#[derive(Clone, Copy)]
enum Stage {
    /// Before the server has heard of the mail: whatever it says is not about the mail.
    Before(&'static str),
    /// About the mail.
    Mail(&'static str),
}

impl SmtpServer {
    /// Asks the server whether it would take this mail. So far it has got nothing of it but the addresses.
    pub(super) async fn offer(&self, mail: &Mail, patience: SmtpPatience) -> Result<Offered, Refused> {
        let mut offered = Offered { connection: self.connect(patience).await?, patience };
        match offered.ask(mail).await {
            Ok(()) => Ok(offered),
            Err(refused) => {
                offered.part().await;
                Err(refused)
            }
        }
    }

    /// A connection as private as it has to be, signed in if there is a password.
    async fn connect(&self, patience: SmtpPatience) -> Result<AsyncSmtpConnection, Refused> {
        let hello = hello();
        let mut connection = match &self.privacy {
            Privacy::Tls(tls) => {
                let (place, tls) = ((self.host.as_str(), self.port), Some(tls.clone()));
                let connecting = AsyncSmtpConnection::connect_tokio1(place, None, &hello, tls, None);
                answer(Stage::Before("connecting with TLS"), patience.connect, connecting).await?
            }
            Privacy::StartTls(_) | Privacy::None => {
                let way = Clear::new(self.reach(patience).await?);
                let greeting = AsyncSmtpConnection::connect_with_transport(Box::new(way), &hello);
                answer(Stage::Before("greeting"), patience.answer, greeting).await?
            }
        };
        if let Privacy::StartTls(tls) = &self.privacy {
            if !connection.can_starttls() {
                return Err(Refused::ForNow("the server offers no STARTTLS, so nothing was sent".into()));
            }
            let starting = connection.starttls(tls.clone(), &hello);
            answer(Stage::Before("STARTTLS"), patience.answer, starting).await?;
        }
        if let Some(credentials) = &self.credentials {
            let signing_in = connection.auth(DEFAULT_MECHANISMS, credentials);
            answer(Stage::Before("AUTH"), patience.answer, signing_in).await?;
        }
        Ok(connection)
    }

    async fn reach(&self, patience: SmtpPatience) -> Result<TcpStream, Refused> {
        match timeout(patience.connect, TcpStream::connect((self.host.as_str(), self.port))).await {
            Ok(Ok(tcp)) => Ok(tcp),
            Ok(Err(error)) => Err(Refused::ForNow(format!("connecting: {error}"))),
            Err(_) => Err(Refused::ForNow("connecting: no answer in time".into())),
        }
    }
}

impl Offered {
    async fn ask(&mut self, mail: &Mail) -> Result<(), Refused> {
        let (connection, patience) = (&mut self.connection, self.patience.answer);
        let from = MailFrom::new(mail.envelope.from().cloned(), parameters(connection, mail)?);
        answer(Stage::Mail("MAIL"), patience, connection.command(from)).await?;
        for to in mail.envelope.to() {
            answer(Stage::Mail("RCPT"), patience, connection.command(Rcpt::new(to.clone(), vec![]))).await?;
        }
        answer(Stage::Mail("DATA"), patience, connection.command(Data)).await?;
        Ok(())
    }

    /// Gives the server the mail. Once this has begun, only the server's answer tells whether it has it.
    pub(super) async fn hand_over(&mut self, mail: &Mail) -> Result<(), NotHandedOver> {
        let handing_over = self.connection.message(&mail.bytes);
        match timeout(self.patience.last_answer, handing_over).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.status().is_some() => {
                Err(NotHandedOver::Refused(refused(Stage::Mail("the mail"), &error)))
            }
            Ok(Err(_)) => {
                Err(NotHandedOver::Unanswered("the connection was lost before the last answer".into()))
            }
            Err(_) => Err(NotHandedOver::Unanswered("the server did not answer in time".into())),
        }
    }

    /// Ends the connection as one should. Whatever comes of it changes nothing.
    pub(super) async fn part(mut self) {
        let _ = timeout(GOODBYE, self.connection.quit()).await;
    }
}

fn parameters(connection: &AsyncSmtpConnection, mail: &Mail) -> Result<Vec<MailParameter>, Refused> {
    if !mail.international {
        return Ok(vec![]);
    }
    let offered = |extension| connection.server_info().supports_feature(extension);
    // Internationalised mail has UTF-8 in its headers, so the one rests on the other (RFC 6531, section 3.1).
    if !offered(Extension::SmtpUtfEight) || !offered(Extension::EightBitMime) {
        return Err(Refused::ForGood(
            "the address has characters beyond ASCII, and the server does not offer SMTPUTF8".into(),
        ));
    }
    Ok(vec![MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)])
}

/// What we call ourselves: the machine's name where that could be one in the DNS, else the literal that means "no name".
fn hello() -> ClientId {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let is_name = letters && name.contains('.') && !name.starts_with(['-', '.']);
    if is_name { ClientId::Domain(name) } else { ClientId::Ipv4(Ipv4Addr::LOCALHOST) }
}

async fn answer<T>(
    stage: Stage,
    patience: Duration,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Refused> {
    match timeout(patience, asking).await {
        Ok(answered) => answered.map_err(|error| refused(stage, &error)),
        Err(_) => Err(Refused::ForNow(format!("{}: no answer in time", stage.name()))),
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Before(name) | Self::Mail(name) => name,
        }
    }
}

fn refused(stage: Stage, error: &Error) -> Refused {
    let name = stage.name();
    let Some(code) = error.status().map(|code| code.to_string()) else {
        return Refused::ForNow(format!("{name}: {}", without_answer(error)));
    };
    let text = format!("{name} was answered with {code}{}", enhanced_code(error));
    let is_about_the_mail = matches!(stage, Stage::Mail(_)) && !ABOUT_SIGNING_IN.contains(&code.as_str());
    if error.is_permanent() && is_about_the_mail { Refused::ForGood(text) } else { Refused::ForNow(text) }
}

/// What went wrong, unless the text may quote the server.
fn without_answer(error: &Error) -> String {
    if error.is_response() {
        "the connection was lost, or the server does not speak SMTP".to_owned()
    } else {
        error.to_string()
    }
}

/// The code that says more exactly what is wrong (RFC 3463), where the answer begins with one.
fn enhanced_code(error: &Error) -> String {
    let answer = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let first = answer.split_whitespace().next().unwrap_or_default();
    let parts: Vec<&str> = first.split('.').collect();
    let is_number = |part: &&str| (1..=3).contains(&part.len()) && part.chars().all(|c| c.is_ascii_digit());
    if parts.len() == 3 && parts.iter().all(is_number) { format!(" {first}") } else { String::new() }
}
