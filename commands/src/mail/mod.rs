//! Mail to people: by SMTP, or without a mail server as files (D9).
//!
//! Events lead to mails. A reactor with a cursor of its own puts their positions, and who is told where that is several people, into the outbox,
//! in the transaction that moves the cursor: each once, whoever crashes, and never because a view is made anew. Senders, one in each process that works, take them from there;
//! see [`sender`] for how "sent once" is held across crashes. Neither addresses nor contents nor tokens are stored: what a mail says is
//! made from its event when it is sent.

mod drafts;
mod files;
mod form;
mod grants;
mod letters;
mod outbox;
mod queueing;
mod sender;
mod smtp;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ledger::Ledger;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reactor::{self, ReactorOptions, Start};
use drafts::Drafts;
use files::MailFolder;
use letters::Letters;
use outbox::Outbox;
use queueing::Queueing;
use sender::Delivery;

pub use form::Sender as MailFrom;
pub use smtp::{SmtpPatience, SmtpServer};

/// Mails that one process sends at a time, unless told otherwise.
const AT_ONCE: usize = 4;

/// Where mails go.
#[derive(Clone, Debug)]
pub enum MailTarget {
    /// To a server.
    Smtp(SmtpServer),
    /// Into this folder, which is made when there is something to put into it.
    Folder(PathBuf),
}

/// How an instance sends mail.
#[derive(Clone, Debug)]
pub struct MailerOptions {
    /// Where to.
    pub target: MailTarget,
    /// Who from.
    pub from: MailFrom,
    /// Where people reach the instance, without a trailing slash: links begin with it.
    pub public_url: String,
    /// Mails at a time.
    pub at_once: usize,
    /// How long a server is waited for.
    pub patience: SmtpPatience,
}

impl MailerOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(target: MailTarget, from: MailFrom, public_url: String) -> Self {
        Self { target, from, public_url, at_once: AT_ONCE, patience: SmtpPatience::default() }
    }
}

/// One process' share in sending mail.
#[derive(Clone)]
pub struct Mailer {
    ledger: Ledger,
    sender: Arc<sender::Sender>,
    wake: Arc<Notify>,
}

impl Mailer {
    /// A mailer on this ledger. Nothing is sent before [`Mailer::run`].
    #[must_use]
    pub fn new(ledger: &Ledger, options: MailerOptions) -> Self {
        let wake = Arc::new(Notify::new());
        let letters = Letters { public_url: options.public_url };
        let delivery = match options.target {
            MailTarget::Smtp(server) => Delivery::Smtp(server, options.patience),
            MailTarget::Folder(folder) => Delivery::Folder(MailFolder(folder)),
        };
        let sender = sender::Sender {
            outbox: Outbox::new(ledger.pool().clone()),
            drafts: Drafts { ledger: ledger.clone(), letters },
            from: options.from,
            delivery,
            at_once: options.at_once.max(1),
            wake: Arc::clone(&wake),
            held: Mutex::new(HashMap::new()),
        };
        Self { ledger: ledger.clone(), sender: Arc::new(sender), wake }
    }

    /// Queues and sends mails until `shutdown`; then what is just being handed over may still end, for ten seconds.
    pub async fn run(self, shutdown: CancellationToken) {
        sender::describe_metrics();
        match &self.sender.delivery {
            Delivery::Smtp(server, _) => tracing::info!(server = server.name(), "mail goes to a server"),
            Delivery::Folder(folder) => {
                tracing::info!(folder = %folder.0.display(), "there is no SMTP_URL: mail goes into files");
            }
        }
        let queueing = Queueing { ledger: self.ledger.clone(), wake: self.wake };
        let queueing = reactor::run(
            self.ledger.clone(),
            queueing,
            Start::Beginning,
            ReactorOptions::default(),
            shutdown.clone(),
        );
        tokio::join!(queueing, self.sender.run(shutdown));
    }
}
