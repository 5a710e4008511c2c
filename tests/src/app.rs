//! A whole Daybook for one test: the real router on a port of its own, follower and worker running, on a database of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use api::config::{Settings, Sources};
use api::node::{Node, known_account};
use api::server::{self, Roles};
use api::tokens::{Claims, TokenKeys};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::Utc;
use commands::jobs::Actions;
use commands::{About, Commands, Context, FirstTeam, Password};
use domain::{
    Actor, Caller, Email, Permissions, PersonName, Role, SessionId, Team, TeamCommand, TeamId, TeamName,
    TeamSlug, UserId,
};
use ledger::Ledger;
use projections::Projections;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::Client;
use crate::{Database, within};

/// The password of everybody whom the harness makes.
pub const PASSWORD: &str = "correct horse battery";
/// The secret behind the access tokens of everybody whom the harness makes.
pub const JWT_SECRET: &str = "the tests' own secret, of more than 32 characters";

/// How a [`TestApp`] differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Settings by name, as in the environment.
    pub settings: BTreeMap<&'static str, String>,
    /// Job kinds, as in `daybook.toml`.
    pub kinds: String,
    /// What the node does; everything if not given.
    pub roles: Option<Roles>,
    /// What jobs can do; what comes with Daybook if not given.
    pub actions: Option<Actions>,
}

impl Setup {
    /// One more setting.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.insert(name, value.to_string());
        self
    }

    /// Job kinds.
    #[must_use]
    pub fn kinds(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.kinds);
        self
    }

    /// Other types of actions for jobs.
    #[must_use]
    pub fn actions(mut self, actions: Actions) -> Self {
        self.actions = Some(actions);
        self
    }

    /// Other roles.
    #[must_use]
    pub fn roles(mut self, roles: Roles) -> Self {
        self.roles = Some(roles);
        self
    }
}

/// Everybody a test may need. `main` is the team of all but the stranger, who owns a team of their own.
#[derive(Clone, Copy, Debug)]
pub struct People {
    /// The team of owner, operator, viewer and auditor.
    pub team: TeamId,
    /// The team of the stranger.
    pub other_team: TeamId,
    /// Instance admin, in no team but their own.
    pub admin: UserId,
    /// Owns the team.
    pub owner: UserId,
    /// Secrets and jobs.
    pub operator: UserId,
    /// Metadata and logs.
    pub viewer: UserId,
    /// The audit trail.
    pub auditor: UserId,
    /// Owns another team.
    pub stranger: UserId,
}

/// One running node and everybody who uses it.
pub struct TestApp {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its database.
    pub database: std::sync::Arc<Database>,
    /// Its log.
    pub ledger: Ledger,
    /// Its write side.
    pub commands: Commands,
    /// Its read side.
    pub projections: Projections,
    /// Everybody.
    pub people: People,
    sessions: BTreeMap<UserId, SessionId>,
    tokens: TokenKeys,
    shutdown: CancellationToken,
    server: Option<JoinHandle<()>>,
    folder: std::sync::Arc<TempDir>,
}

impl TestApp {
    /// The usual one.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// One that differs.
    pub async fn with(setup: Setup) -> Self {
        let database = std::sync::Arc::new(Database::new().await);
        let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
        Self::on(database, folder, setup, None).await
    }

    /// The usual one, on a database of the test's own.
    pub async fn on_database(database: Database) -> Self {
        Self::with_database(database, Setup::default()).await
    }

    /// One that differs, on a database of the test's own.
    pub async fn with_database(database: Database, setup: Setup) -> Self {
        let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
        Self::on(std::sync::Arc::new(database), folder, setup, None).await
    }

    /// One more node on the same database and data folder.
    pub async fn another_node(&self, setup: Setup) -> Self {
        let known = (self.people, self.sessions.clone());
        Self::on(self.database.clone(), self.folder.clone(), setup, Some(known)).await
    }

    /// One more node on the same database and data folder, whether or not its views get anywhere.
    pub async fn another_node_at_once(&self) -> Self {
        let known = (self.people, self.sessions.clone());
        Self::listening_on(self.database.clone(), self.folder.clone(), Setup::default(), Some(known)).await
    }

    /// Stops, and starts again after `meanwhile`, whether or not its views get anywhere.
    pub async fn restarted_after(mut self, meanwhile: impl AsyncFnOnce(&Database)) -> Self {
        self.end().await;
        meanwhile(&self.database).await;
        self.another_node_at_once().await
    }

    /// The parts of a node on the same database that serves nobody, as a command has them. To be closed.
    pub async fn node(&self) -> Node {
        let settings = settings(&self.database, self.folder.path(), &Setup::default());
        within("a node", Node::open_with(settings, &api::node::actions())).await.unwrap()
    }

    async fn on(
        database: std::sync::Arc<Database>,
        folder: std::sync::Arc<TempDir>,
        setup: Setup,
        known: Option<(People, BTreeMap<UserId, SessionId>)>,
    ) -> Self {
        let app = Self::listening_on(database, folder, setup, known).await;
        let head = app.ledger.head().await.unwrap();
        app.projections.wait(head, crate::LIMIT).await.unwrap();
        app
    }

    async fn listening_on(
        database: std::sync::Arc<Database>,
        folder: std::sync::Arc<TempDir>,
        setup: Setup,
        known: Option<(People, BTreeMap<UserId, SessionId>)>,
    ) -> Self {
        let settings = settings(&database, folder.path(), &setup);
        let actions = setup.actions.clone().unwrap_or_else(api::node::actions);
        let node = within("a node", Node::open_with(settings, &actions)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ledger, commands, projections) =
            (node.ledger.clone(), node.commands.clone(), node.projections.clone());
        let shutdown = CancellationToken::new();
        let (roles, stop) = (setup.roles.unwrap_or(Roles::ALL), shutdown.clone());
        let server = tokio::spawn(async move { server::run(node, roles, listener, stop).await.unwrap() });
        let (people, sessions) = match known {
            Some(known) => known,
            None => {
                let people = populate(&commands).await;
                (people, sign_in(&commands, &people).await)
            }
        };
        let tokens = TokenKeys::new(JWT_SECRET, None).unwrap();
        let server = Some(server);
        Self {
            address,
            database,
            ledger,
            commands,
            projections,
            people,
            sessions,
            tokens,
            shutdown,
            server,
            folder,
        }
    }

    /// Its data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its keys for access tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenKeys {
        &self.tokens
    }

    /// A client that does not say who it is.
    #[must_use]
    pub fn anon(&self) -> Client {
        Client::new(self.address, None)
    }

    /// A client signed in as this person, who speaks for the first team they are in: their own.
    #[must_use]
    pub fn as_user(&self, user: UserId) -> Client {
        Client::new(self.address, Some(self.token(user, 3_600)))
    }

    fn member(&self, user: UserId) -> Client {
        self.as_user(user).with_header("daybook-team", self.people.team)
    }

    /// An access token of this person, good for so many seconds from now.
    #[must_use]
    pub fn token(&self, user: UserId, seconds: i64) -> String {
        let now = Utc::now().timestamp();
        let claims = Claims {
            sub: user.0,
            sid: self.sessions.get(&user).map_or_else(Uuid::now_v7, |session| session.0),
            iat: now.min(now + seconds),
            exp: now + seconds,
            jti: None,
        };
        self.tokens.issue(&claims).unwrap()
    }

    /// The instance admin.
    #[must_use]
    pub fn admin(&self) -> Client {
        self.as_user(self.people.admin)
    }

    /// The team's owner.
    #[must_use]
    pub fn owner(&self) -> Client {
        self.member(self.people.owner)
    }

    /// The team's operator.
    #[must_use]
    pub fn operator(&self) -> Client {
        self.member(self.people.operator)
    }

    /// The team's viewer.
    #[must_use]
    pub fn viewer(&self) -> Client {
        self.member(self.people.viewer)
    }

    /// The team's auditor.
    #[must_use]
    pub fn auditor(&self) -> Client {
        self.member(self.people.auditor)
    }

    /// The owner of another team, speaking for it.
    #[must_use]
    pub fn other_team(&self) -> Client {
        self.as_user(self.people.stranger).with_header("daybook-team", self.people.other_team)
    }

    /// Stops the node as a signal would, and waits for its end.
    pub async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            within("the node's end", server).await.unwrap();
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn settings(database: &Database, folder: &Path, setup: &Setup) -> Settings {
    let jobs_file = folder.join("daybook.toml");
    std::fs::write(&jobs_file, &setup.kinds).unwrap();
    let mut environment: BTreeMap<String, String> = [
        ("DATABASE_URL", database.url().to_owned()),
        ("DATA_DIR", folder.join("data").display().to_string()),
        ("JOBS_FILE", jobs_file.display().to_string()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
        ("ENCRYPTION_KEY", BASE64.encode(database.encryption_key())),
        ("RATE_LIMIT_ENABLED", "false".to_owned()),
        ("JOB_RETRY_DELAY_SECONDS", "1".to_owned()),
        ("WORKER_DRAIN_SECONDS", "0".to_owned()),
        ("LOG_LEVEL", "warn".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    environment.extend(setup.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Settings::load(&Sources { environment, file: folder.join("none.toml") }).unwrap()
}

async fn populate(commands: &Commands) -> People {
    let (owner, operator, viewer, auditor, admin, stranger) = tokio::join!(
        account(commands, "owner", false),
        account(commands, "operator", false),
        account(commands, "viewer", false),
        account(commands, "auditor", false),
        account(commands, "admin", true),
        account(commands, "stranger", false),
    );
    let system =
        |permissions: Permissions| Context::of(Caller { actor: Actor::System, team: None, permissions });
    let make = async |slug: &str, owner| -> TeamId {
        let (name, slug) = (TeamName::parse(slug).unwrap(), TeamSlug::parse(slug).unwrap());
        let made = commands.make_team(&system(Permissions::system()), name, slug, owner).await.unwrap();
        made.id.parse().unwrap()
    };
    let (team, other_team) = (make("main", owner).await, make("other", stranger).await);
    let mut context = system(Role::Owner.permissions());
    context.caller.team = Some(team);
    for (user_id, role) in [(operator, Role::Operator), (viewer, Role::Viewer), (auditor, Role::Auditor)] {
        let command = TeamCommand::AddMember { user_id, role };
        commands.execute::<Team>(&context, team, None, command).await.unwrap();
    }
    People { team, other_team, admin, owner, operator, viewer, auditor, stranger }
}

/// A session of everybody.
async fn sign_in(commands: &Commands, people: &People) -> BTreeMap<UserId, SessionId> {
    let People { admin, owner, operator, viewer, auditor, stranger, .. } = *people;
    let mut sessions = BTreeMap::new();
    for user in [admin, owner, operator, viewer, auditor, stranger] {
        let mut context = api::node::registrar().acting_as(Actor::User(user));
        context.subject = Some(user.to_string());
        let signed_in = commands.start_session(&context, user, vec![], 7).await.unwrap();
        sessions.insert(user, signed_in.session_id);
    }
    sessions
}

async fn account(commands: &Commands, name: &str, admin: bool) -> UserId {
    let account = known_account(
        Email::parse(&format!("{name}@example.org")).unwrap(),
        PersonName::parse(name).unwrap(),
        Password::choose(PASSWORD.to_owned(), &About::default()).unwrap(),
        admin,
        FirstTeam::Own,
    );
    let made = commands.register(&api::node::registrar(), account).await.unwrap();
    made.id.parse().unwrap()
}
