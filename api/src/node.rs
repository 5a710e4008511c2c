//! A node: one process' share of Daybook, opened from its configuration. `serve` and every other command open one.

mod up_to_date;

use commands::jobs::{Actions, KindProblem, Kinds, LiveKinds};
use commands::{About, CommandError, Commands, Context, FirstTeam, NewAccount, NewPassword, Password};
use domain::{Caller, Email, Invalid, PersonName, TeamName, TeamSlug};
use ledger::connect::{AddressError, Connector, DatabaseAddress};
use ledger::private::{PrivateError, PrivateServer};
use ledger::{KeyCheckError, Keyring, Ledger, LedgerError, MissingKeys};
use projections::{Behind, Projections, ReadError, RoleError};

use crate::config::Settings;
use crate::connections::{self, Shares};
use crate::key_uses::KeyUses;
use crate::keys::{self, Keys, KeysError};

pub use up_to_date::Accepted;

/// The oldest PostgreSQL that has what the log needs.
const OLDEST_POSTGRESQL: i32 = 150_000;
/// Events read at a time while looking for a user.
const PAGE: i64 = 100;
/// Ids of keys that are told of in one line of the log.
const MOST_TOLD: usize = 10;
/// The first admin's address when none is configured.
const USUAL_ADMIN: &str = "admin@localhost";

/// Why a node did not come up. Each is a sentence for whoever started it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// There is no private server.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// `DATABASE_URL` is not one.
    #[error("DATABASE_URL {0}")]
    Url(AddressError),
    /// The server has not enough connections.
    #[error("DATABASE_CONNECTIONS {0}")]
    Connections(String),
    /// The database cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The server is too old.
    #[error("the database server is PostgreSQL {0}; Daybook needs 15 or newer")]
    TooOld(String),
    /// The role that keeps teams apart cannot be used.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// Keys that the database needs are not configured.
    #[error("{0}")]
    MissingKeys(MissingKeys),
    /// The instance's own data key does not open, though the key that wraps it is configured.
    #[error("ENCRYPTION_KEY (or ENCRYPTION_KEY_PREVIOUS) does not open what this database holds: {0}")]
    WrongKey(LedgerError),
    /// The views cannot be used.
    #[error(transparent)]
    Views(#[from] ReadError),
    /// What was written is not shown yet.
    #[error(
        "it is recorded at position {position}, but {behind}: it takes effect once the view has got there"
    )]
    Behind {
        /// The last position.
        position: i64,
        /// Which view, and how far it is.
        behind: Behind,
    },
    /// `JOBS_FILE` is wrong; all of it is told.
    #[error("{file} has problems:\n{}", list(.problems))]
    Kinds {
        /// The file.
        file: String,
        /// What is wrong.
        problems: Vec<KindProblem>,
    },
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The first admin could not be made.
    #[error("the first admin could not be made: {0}")]
    Admin(#[from] CommandError),
    /// The first admin's address or password is not acceptable.
    #[error("{name} {invalid}")]
    AdminField {
        /// Which setting.
        name: &'static str,
        /// What is wrong with it.
        invalid: Invalid,
    },
}

impl From<KeyCheckError> for StartError {
    fn from(error: KeyCheckError) -> Self {
        match error {
            KeyCheckError::Missing(missing) => Self::MissingKeys(missing),
            KeyCheckError::Ledger(error) => Self::Ledger(error),
        }
    }
}

fn list(problems: &[KindProblem]) -> String {
    problems
        .iter()
        .map(|problem| format!("  {}: {}", problem.path, problem.message))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The parts of a node, migrated and ready.
pub struct Node {
    /// The configuration it was opened with.
    pub settings: Settings,
    /// Its keys.
    pub keys: Keys,
    /// The log.
    pub ledger: Ledger,
    /// The write side.
    pub commands: Commands,
    /// The read side.
    pub projections: Projections,
    /// What jobs can run.
    pub kinds: LiveKinds,
    /// The private server, if it uses one.
    pub private: Option<PrivateServer>,
}

impl Node {
    /// Opens a node: finds its keys, reaches (or starts) its database and brings the tables up to date.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(settings: Settings) -> Result<Self, StartError> {
        Self::open_with(settings, &actions()).await
    }

    /// The same with other types of actions for jobs.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open_with(settings: Settings, actions: &Actions) -> Result<Self, StartError> {
        let node = Self::reach_with(settings, actions).await?;
        match node.prepare().await {
            Ok(()) => Ok(node),
            Err(error) => {
                node.close().await;
                Err(error)
            }
        }
    }

    /// Reaches (or starts) the database and finds the keys. Nothing in the database has been looked at but its version, and nothing is
    /// changed: most commands want [`Node::open`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn reach(settings: Settings) -> Result<Self, StartError> {
        Self::reach_with(settings, &actions()).await
    }

    async fn reach_with(settings: Settings, actions: &Actions) -> Result<Self, StartError> {
        let kinds = LiveKinds::new(read_kinds(&settings, actions)?);
        make_data_dir(&settings)?;
        // The private server first: it makes DATA_DIR with the modes it needs.
        let (connect, private) = database(&settings).await?;
        match find_keys(&settings, &connect).await {
            Ok(keys) => Self::of(settings, keys, kinds, connect, private).of_known_version().await,
            Err(error) => {
                if let Some(private) = private {
                    private.stop().await;
                }
                Err(error)
            }
        }
    }

    /// A node to look with: its keys are found but not made, its database is reached but nothing is made in it, and its connections may
    /// only read. `None`: there is no private server yet.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn look(settings: Settings) -> Result<Option<Self>, StartError> {
        let kinds = LiveKinds::new(read_kinds(&settings, &actions())?);
        if settings.database_url.is_none() && !PrivateServer::exists(&settings.data_dir) {
            keys::load(&settings.data_dir, &settings, false)?;
            return Ok(None);
        }
        let (connect, private) = database(&settings).await?;
        let connect = connect.read_only();
        let keys = async {
            let sealed = settings.encryption_key.is_none() && ledger::holds_data_keys(&connect).await?;
            Ok(keys::load(&settings.data_dir, &settings, sealed)?)
        };
        match keys.await {
            Ok(keys) => Self::of(settings, keys, kinds, connect, private).of_known_version().await.map(Some),
            Err(error) => {
                if let Some(private) = private {
                    private.stop().await;
                }
                Err(error)
            }
        }
    }

    /// The node, unless its server is too old; then it is closed.
    async fn of_known_version(self) -> Result<Self, StartError> {
        match check_version(&self.ledger).await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.close().await;
                Err(error)
            }
        }
    }

    fn of(
        settings: Settings,
        keys: Keys,
        kinds: LiveKinds,
        connect: Connector,
        private: Option<PrivateServer>,
    ) -> Self {
        let previous = keys.encryption_key_previous.as_ref().map(keys::EncryptionKey::expose);
        let keyring = Keyring::new(keys.encryption_key.expose(), previous);
        let Shares { requests, teams, background } = Shares::of(settings.database_connections);
        let options = ledger::Options { connections: requests, background, ..ledger::Options::default() };
        let ledger = Ledger::new(connect, keyring, &options);
        let projections = Projections::new(
            ledger.clone(),
            projections::Options { team_connections: teams, ..projections::Options::default() },
        );
        let commands = Commands::new(&ledger);
        Self { settings, keys, ledger, commands, projections, kinds, private }
    }

    /// Makes sure that the keys are those the database needs, and brings the tables up to date. What may be refused comes first: a node
    /// that cannot start has changed nothing.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn prepare(&self) -> Result<(), StartError> {
        if let Some(lacking) = connections::lacking(&self.ledger, self.settings.database_connections).await? {
            return Err(StartError::Connections(lacking));
        }
        self.ledger.check_keys().await?;
        self.projections.make_role().await?;
        self.ledger.migrate().await?;
        self.ledger.claim_wrapping_key().await?;
        // Whatever is hashed here does not matter: the key behind it opens, or it does not.
        self.ledger.keyed_hash(&["start"]).await.map_err(|error| match error {
            LedgerError::Seal(_) => StartError::WrongKey(error),
            other => StartError::Ledger(other),
        })?;
        self.warn_of_stray_keys().await?;
        Ok(self.projections.prepare().await?)
    }

    /// One secret that nobody can open is no reason to keep everybody from the others.
    async fn warn_of_stray_keys(&self) -> Result<(), LedgerError> {
        let stray = self.ledger.stray_keys().await?;
        if !stray.is_empty() {
            let data_keys: u64 = stray.iter().map(|(_, count)| count).sum();
            let named: Vec<_> =
                stray.iter().take(MOST_TOLD).map(|(id, count)| format!("{id} ({count})")).collect();
            tracing::warn!(
                data_keys,
                key_ids = named.join(", "),
                "some data keys name a key that is not configured and is none of this database's, so what they sealed may not open: \
                 daybook check names them"
            );
        }
        Ok(())
    }

    /// When API keys were last used.
    #[must_use]
    pub fn key_uses(&self) -> KeyUses {
        KeyUses::new(self.ledger.pool().clone())
    }

    /// Lets go of everything: connections first, then the private server (which stops when nobody else uses it).
    pub async fn close(self) {
        tokio::join!(self.ledger.close(), self.projections.close());
        drop((self.ledger, self.commands, self.projections));
        if let Some(private) = self.private {
            private.stop().await;
        }
    }
}

fn make_data_dir(settings: &Settings) -> Result<(), StartError> {
    // Only a configured server leaves the folder to us; the private one makes it itself.
    if settings.database_url.is_none() {
        return Ok(());
    }
    std::fs::create_dir_all(&settings.data_dir)
        .map_err(|cause| StartError::File { path: settings.data_dir.display().to_string(), cause })
}

async fn database(settings: &Settings) -> Result<(Connector, Option<PrivateServer>), StartError> {
    match &settings.database_url {
        Some(url) => Ok((DatabaseAddress::parse(url.expose()).map_err(StartError::Url)?.into(), None)),
        None => {
            let private = PrivateServer::start_or_join(&settings.data_dir).await?;
            Ok((private.connect_options().into(), Some(private)))
        }
    }
}

/// Keys are not generated for a database that was begun with others.
async fn find_keys(settings: &Settings, connect: &Connector) -> Result<Keys, StartError> {
    let sealed = settings.encryption_key.is_none() && ledger::holds_data_keys(connect).await?;
    Ok(keys::load_or_generate(&settings.data_dir, settings, sealed)?)
}

async fn check_version(ledger: &Ledger) -> Result<(), StartError> {
    let query = "select current_setting('server_version_num')::int, current_setting('server_version')";
    let (number, text): (i32, String) =
        sqlx::query_as(query).fetch_one(ledger.pool()).await.map_err(LedgerError::from)?;
    // From here on "now" is the database's.
    ledger.measure_clock().await?;
    if number < OLDEST_POSTGRESQL { Err(StartError::TooOld(text)) } else { Ok(()) }
}

/// What jobs can do. A team's own type of action is one more line here: `.with("name", its_file::read)`.
#[must_use]
pub fn actions() -> Actions {
    Actions::built_in()
}

/// The kinds of `JOBS_FILE`; none when there is no such file.
///
/// # Errors
/// The file cannot be read, or something in it is wrong.
pub fn read_kinds(settings: &Settings, actions: &Actions) -> Result<Kinds, StartError> {
    checked_kinds(settings, Kinds::load(&settings.jobs_file, actions))
}

/// The kinds of `JOBS_FILE`, read again while a node runs.
///
/// # Errors
/// As [`read_kinds`]; also when there is no such file any more.
pub fn reread_kinds(settings: &Settings, actions: &Actions) -> Result<Kinds, StartError> {
    checked_kinds(settings, Kinds::reload(&settings.jobs_file, actions))
}

fn checked_kinds(settings: &Settings, kinds: Result<Kinds, Vec<KindProblem>>) -> Result<Kinds, StartError> {
    let file = settings.jobs_file.display().to_string();
    let refuse = |problems| StartError::Kinds { file: file.clone(), problems };
    let kinds = kinds.map_err(refuse)?;
    let unknown = settings.worker_kinds.iter().flatten().filter(|name| kinds.get(name).is_none());
    let problem = |name: &String| KindProblem {
        path: "WORKER_KINDS".to_owned(),
        message: format!("names `{name}`, which is no kind of this file"),
    };
    let unknown: Vec<KindProblem> = unknown.map(problem).collect();
    if unknown.is_empty() { Ok(kinds) } else { Err(refuse(unknown)) }
}

/// The first admin, as made at the first start.
pub struct FirstAdmin {
    /// What they sign in with.
    pub email: String,
    /// Their password, if Daybook made it: to be shown once.
    pub password: Option<String>,
}

/// Makes the first instance admin, who owns the team `main`, unless there is a user already. When two processes try at once,
/// one of them makes it.
///
/// # Errors
/// See [`StartError`].
pub async fn first_admin(node: &Node) -> Result<Option<FirstAdmin>, StartError> {
    if has_user(&node.ledger).await? {
        return Ok(None);
    }
    let email_text = node.settings.admin_email.clone().unwrap_or_else(|| USUAL_ADMIN.to_owned());
    let field = |name| move |invalid| StartError::AdminField { name, invalid };
    let email = Email::parse(&email_text).map_err(field("ADMIN_EMAIL"))?;
    let generated = match &node.settings.admin_password {
        Some(_) => None,
        None => Some(one_time_password()?),
    };
    let person = About { email: Some(&email), name: None };
    let chosen = node.settings.admin_password.as_ref();
    let chosen = chosen.map(|hidden| Password::choose(hidden.expose().to_owned(), &person));
    let password = chosen.unwrap_or_else(|| Ok(Password::typed(generated.clone().unwrap_or_default())));
    let password = password.map_err(field("ADMIN_PASSWORD"))?;
    match node.commands.register(&registrar(), admin_account(email, password)?).await {
        Ok(_) => Ok(Some(FirstAdmin { email: email_text, password: generated })),
        Err(CommandError::Taken(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether anybody has ever registered. The first user stands at the log's beginning; only what commands recorded before
/// the first start can come before.
async fn has_user(ledger: &Ledger) -> Result<bool, LedgerError> {
    let mut after = 0;
    loop {
        let page = ledger.read(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(false) };
        if page.iter().any(|event| event.stream.aggregate_type == "user") {
            return Ok(true);
        }
        after = last.position;
    }
}

fn admin_account(email: Email, password: Password) -> Result<NewAccount, StartError> {
    let field = |invalid| StartError::AdminField { name: "ADMIN_EMAIL", invalid };
    let name = PersonName::parse("Admin").map_err(field)?;
    let team =
        FirstTeam::Named(TeamName::parse("Main").map_err(field)?, TeamSlug::parse("main").map_err(field)?);
    Ok(known_account(email, name, password, true, team))
}

/// An account for somebody whose address is not in doubt, since an operator gives it.
#[must_use]
pub fn known_account(
    email: Email,
    name: PersonName,
    password: Password,
    admin: bool,
    team: FirstTeam,
) -> NewAccount {
    let password = NewPassword::Chosen(password);
    NewAccount { email, name, password, admin, email_verified: true, active: true, team }
}

/// The system, making an account.
#[must_use]
pub fn registrar() -> Context {
    Context::of(Caller::system(None))
}

/// 24 random characters of base64url: 144 bits.
///
/// # Errors
/// Only when the system gives no randomness.
pub fn one_time_password() -> Result<String, StartError> {
    let mut text = ledger::random_token().map_err(|error| StartError::Ledger(error.into()))?;
    text.truncate(24);
    Ok(text)
}
