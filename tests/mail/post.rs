//! An instance that sends mail: a database, people, and mailers that are started and stopped.

use std::time::Duration;

use commands::mail::{MailFrom, MailTarget, Mailer, MailerOptions, SmtpServer};
use commands::{About, Commands, Context, FirstTeam, NewAccount, NewPassword, Password};
use domain::{Actor, Email, PersonName, TeamId, TeamName, TeamSlug, UserId};
use ledger::Ledger;
use tests::{Database, PASSWORD, eventually, within};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const PUBLIC_URL: &str = "https://daybook.example.org";

/// An instance, with nobody who sends yet.
pub(crate) struct Post {
    pub(crate) database: Database,
    pub(crate) ledger: Ledger,
    pub(crate) commands: Commands,
}

/// A mailer at work.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// How far a mail is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) position: i64,
    /// Nil where the event says who.
    pub(crate) recipient: Uuid,
    pub(crate) state: String,
    pub(crate) attempts: i32,
    pub(crate) last_error: Option<String>,
    pub(crate) claimed: bool,
}

impl State {
    pub(crate) fn reason(&self) -> &str {
        self.last_error.as_deref().unwrap_or_default()
    }
}

/// The usual mailer for a server at this address.
pub(crate) fn to(url: &str) -> MailerOptions {
    options(MailTarget::Smtp(SmtpServer::parse(url).unwrap()))
}

pub(crate) fn options(target: MailTarget) -> MailerOptions {
    let from = MailFrom::parse("Daybook <daybook@example.org>").unwrap();
    MailerOptions::new(target, from, PUBLIC_URL.to_owned())
}

/// The usual mailer, with less patience for the last answer.
pub(crate) fn impatient(url: &str) -> MailerOptions {
    let mut options = to(url);
    options.patience.last_answer = Duration::from_millis(200);
    options
}

impl Post {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let ledger = database.ledger();
        let commands = Commands::new(&ledger);
        Self { database, ledger, commands }
    }

    /// A mailer as of one process of its own.
    pub(crate) fn start(&self, options: MailerOptions) -> Running {
        let (mailer, stop) = (Mailer::new(&self.database.ledger(), options), CancellationToken::new());
        Running { task: tokio::spawn(mailer.run(stop.clone())), stop }
    }

    /// Somebody whose address is known to be theirs, so that no mail comes of it.
    pub(crate) async fn person(&self, email: &str) -> UserId {
        self.register(email, true).await
    }

    pub(crate) async fn register(&self, email: &str, email_verified: bool) -> UserId {
        let account = NewAccount {
            email: Email::parse(email).unwrap(),
            name: PersonName::parse("Somebody").unwrap(),
            password: NewPassword::Chosen(Password::choose(PASSWORD.to_owned(), &About::default()).unwrap()),
            admin: false,
            email_verified,
            active: true,
            team: FirstTeam::None,
        };
        let made = self.commands.register(&Context::system(None), account).await.unwrap();
        made.id.parse().unwrap()
    }

    /// Somebody new asks for a new password; says at which position.
    pub(crate) async fn ask(&self, email: &str) -> i64 {
        let user = self.person(email).await;
        self.ask_again(user, email).await
    }

    pub(crate) async fn ask_again(&self, user: UserId, email: &str) -> i64 {
        let email = Email::parse(email).unwrap();
        self.commands.request_password_reset(&acting(user), user, &email).await.unwrap()
    }

    /// A team, whose owner is the person.
    pub(crate) async fn team(&self, name: &str, owner: UserId) -> TeamId {
        let (name, slug) = (TeamName::parse(name).unwrap(), TeamSlug::parse("crew").unwrap());
        let made = self.commands.make_team(&Context::system(None), name, slug, owner).await.unwrap();
        made.id.parse().unwrap()
    }

    /// All mails there are.
    pub(crate) async fn states(&self) -> Vec<State> {
        let rows: Vec<(i64, Uuid, String, i32, Option<String>, bool)> = sqlx::query_as(
            "select position, recipient, state, attempts, last_error, claimed_until is not null from mails \
             order by position, recipient",
        )
        .fetch_all(&mut self.database.connect().await)
        .await
        .unwrap();
        let state = |(position, recipient, state, attempts, last_error, claimed)| State {
            position,
            recipient,
            state,
            attempts,
            last_error,
            claimed,
        };
        rows.into_iter().map(state).collect()
    }

    /// Waits until the mail of the event at `position` is in this state.
    pub(crate) async fn becomes(&self, position: i64, state: &str) -> State {
        self.until(position, &format!("mail {position} is {state}"), |mail| mail.state == state).await
    }

    /// Waits until the mail that tells this person of the event at `position` is in this state.
    pub(crate) async fn becomes_for(&self, position: i64, user: UserId, state: &str) -> State {
        let what = format!("mail {position} to {user} is {state}");
        self.until(position, &what, |mail| mail.recipient == user.0 && mail.state == state).await
    }

    /// Waits until a mail was tried and could not be sent.
    pub(crate) async fn is_put_off(&self, position: i64) -> State {
        self.until(position, &format!("mail {position} is put off"), |mail| mail.last_error.is_some()).await
    }

    async fn until(&self, position: i64, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        eventually(what, async || {
            self.states().await.into_iter().find(|mail| mail.position == position && wanted(mail))
        })
        .await
    }
}

/// This person, doing something.
pub(crate) fn acting(user: UserId) -> Context {
    Context::system(None).acting_as(Actor::User(user))
}

impl Running {
    /// As a signal would.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within("the mailer's end", self.task).await.unwrap();
    }

    /// Tells it to stop, without waiting for its end.
    pub(crate) fn told_to_stop(self) -> JoinHandle<()> {
        self.stop.cancel();
        self.task
    }
}
