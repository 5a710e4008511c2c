//! The place where jobs are measured: a private PostgreSQL, a team, and nodes on it one after another.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use api::config::{Settings, Sources};
use api::node::{Node, known_account, registrar};
use api::server::{self, Roles};
use api::tokens::{Claims, TokenKeys};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::Utc;
use commands::jobs::action::{Action, BoxFuture, Run};
use commands::jobs::process::{Ending, Finished};
use commands::jobs::{Actions, JobDefaults, JobRequest, Kinds, MOST_QUEUED, Values};
use commands::{About, Commands, Context, FirstTeam, Password};
use domain::{Actor, Email, PersonName, TeamId, TeamName, TeamSlug, UserId};
use ledger::Ledger;
use ledger::private::PrivateServer;
use projections::Projections;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const JWT_SECRET: &str = "the benchmark's own secret, of more than 32 characters";
/// What an access token is good for; longer than any run.
const TOKEN_SECONDS: i64 = 86_400;
/// How long views may take to have what the log has: with a long history they are rebuilt.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1_800);

const WORKER: Roles = Roles::ALL;
const NO_WORKER: Roles = Roles { worker: false, ..Roles::ALL };

/// Ends at once, in the worker's own process.
#[derive(Debug)]
struct NoOp;

impl Action for NoOp {
    fn outline(&self, _values: &Values) -> Vec<String> {
        vec![]
    }

    fn run<'a>(&'a self, _run: Run<'a>) -> BoxFuture<'a, Finished> {
        Box::pin(async { Finished::without_process(Ending::Exited { code: 0 }) })
    }
}

pub(super) struct Site {
    folder: TempDir,
    server: PrivateServer,
    pub(super) team: TeamId,
    /// A header.
    pub(super) bearer: String,
    pub(super) token: String,
}

/// A node at work.
pub(super) struct Running {
    pub(super) address: String,
    pub(super) ledger: Ledger,
    pub(super) commands: Commands,
    pub(super) projections: Projections,
    kinds: Arc<Kinds>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Site {
    pub(super) async fn start() -> Self {
        let folder =
            tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let server = PrivateServer::start_or_join(&folder.path().join(".daybook")).await.unwrap();
        let mut site = Self {
            folder,
            server,
            team: TeamId(uuid::Uuid::nil()),
            bearer: String::new(),
            token: String::new(),
        };
        let node = site.node(1).await;
        let account = known_account(
            Email::parse("bench@example.org").unwrap(),
            PersonName::parse("bench").unwrap(),
            Password::choose("correct horse battery".to_owned(), &About::default()).unwrap(),
            false,
            FirstTeam::Own,
        );
        let user: UserId = node.commands.register(&registrar(), account).await.unwrap().id.parse().unwrap();
        let mut context = registrar().acting_as(Actor::User(user));
        context.subject = Some(user.to_string());
        let (name, slug) = (TeamName::parse("bench").unwrap(), TeamSlug::parse("bench-jobs").unwrap());
        let team = node.commands.make_team(&Context::system(None), name, slug, user).await.unwrap();
        site.team = team.id.parse().unwrap();
        let session = node.commands.start_session(&context, user, vec![], 7).await.unwrap().session_id;
        let now = Utc::now().timestamp();
        let claims = Claims { sub: user.0, sid: session.0, iat: now, exp: now + TOKEN_SECONDS, jti: None };
        site.token = TokenKeys::new(JWT_SECRET, None).unwrap().issue(&claims).unwrap();
        site.bearer = format!("authorization: Bearer {}\r\ndaybook-team: {}\r\n", site.token, site.team);
        node.close().await;
        site
    }

    /// Where to connect to Daybook's database.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        self.server.connect_options()
    }

    /// Where to connect to a new database beside Daybook's.
    pub(super) async fn another_database(&self, name: &str) -> PgConnectOptions {
        use sqlx::Connection as _;
        let options = self.server.connect_options();
        let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(&format!("create database {name}")).execute(&mut connection).await.unwrap();
        options.database(name)
    }

    /// The same as a URL, of the database `name`.
    pub(super) fn url(&self, name: &str) -> String {
        self.server.url().replacen("/daybook?", &format!("/{name}?"), 1)
    }

    async fn node(&self, concurrency: usize) -> Node {
        let jobs_file = self.folder.path().join("daybook.toml");
        let program = std::env::current_exe().unwrap();
        let kinds = format!(
            "[jobs.noop]\ntype = 'noop'\n\
             [jobs.process]\ncommand = ['true']\n\
             [jobs.chatty]\ncommand = ['seq', '{}']\n\
             [jobs.steady]\ncommand = ['{}', '--print-lines', '{}']\n",
            super::log_lines::MANY,
            program.display(),
            super::log_lines::STEADY,
        );
        std::fs::write(&jobs_file, kinds).unwrap();
        let environment = [
            ("DATABASE_URL", self.server.url()),
            ("DATA_DIR", self.folder.path().join("data").display().to_string()),
            ("JOBS_FILE", jobs_file.display().to_string()),
            ("JWT_SECRET", JWT_SECRET.to_owned()),
            ("ENCRYPTION_KEY", BASE64.encode([7; 32])),
            ("RATE_LIMIT_ENABLED", "false".to_owned()),
            ("MAX_LOG_LINES", "1000000".to_owned()),
            ("WORKER_CONCURRENCY", concurrency.to_string()),
            ("LOG_LEVEL", "warn".to_owned()),
        ];
        let environment: BTreeMap<String, String> =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let file = self.folder.path().join("none.toml");
        let settings = Settings::load(&Sources { environment, file }).unwrap();
        let actions = Actions::built_in().with("noop", |_| Some(Arc::new(NoOp)));
        Node::open_with(settings, &actions).await.unwrap()
    }

    /// A node that runs no jobs.
    pub(super) async fn without_worker(&self) -> Running {
        self.run(1, NO_WORKER).await
    }

    /// A node that runs so many jobs at a time.
    pub(super) async fn with_worker(&self, concurrency: usize) -> Running {
        self.run(concurrency, WORKER).await
    }

    async fn run(&self, concurrency: usize, roles: Roles) -> Running {
        let node = self.node(concurrency).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ledger, commands) = (node.ledger.clone(), node.commands.clone());
        let (projections, kinds) = (node.projections.clone(), node.kinds.now());
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { server::run(node, roles, listener, stop).await.unwrap() });
        let running = Running { address, ledger, commands, projections, kinds, shutdown, task };
        running.caught_up().await;
        running
    }

    pub(super) async fn stop(self) {
        self.server.stop().await;
    }
}

impl Running {
    /// Waits until the views have what the log has.
    pub(super) async fn caught_up(&self) -> i64 {
        let head = self.ledger.head().await.unwrap();
        self.projections.wait(head, PATIENCE).await.unwrap();
        head
    }

    /// Queues jobs as a batch request does.
    pub(super) async fn queue(&self, team: TeamId, kind: &str, jobs: usize) {
        let defaults = JobDefaults { max_attempts: 3, retry_delay_seconds: 60 };
        let one = || {
            let request = JobRequest { kind: kind.to_owned(), ..JobRequest::default() };
            request.checked(&self.kinds, defaults, team, Utc::now()).unwrap()
        };
        let mut left = jobs;
        while left > 0 {
            let batch = left.min(MOST_QUEUED);
            let jobs = (0..batch).map(|_| one()).collect();
            self.commands.queue_jobs(&Context::system(Some(team)), jobs).await.unwrap();
            left -= batch;
        }
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}
