//! The command line. Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 could not reach what it needs.

/// Prints a line of a command's answer, or leaves the function with why that could not be.
macro_rules! say {
    ($($line:tt)*) => { crate::cli::out(format_args!($($line)*))? };
}

mod admin;
mod check;
mod effects;
mod environment;
mod events;
mod keys;
mod projections;
mod run;
mod secrets;
mod serve;
mod signals;
mod state;
mod users;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use ::projections::RoleError;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Settings, Sources};
use crate::node::{Node, StartError};

/// Daybook: users, secrets and jobs on one event log.
#[derive(Debug, Parser)]
#[command(name = "daybook", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until stopped: HTTP, jobs and views
    Serve(serve::Serve),
    /// Check the configuration and print every problem at once
    Check,
    /// Bring the database's tables up to this version
    Migrate,
    /// Keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Instance admins
    #[command(subcommand)]
    Admin(admin::Admin),
    /// People's accounts
    #[command(subcommand)]
    Users(users::Users),
    /// A team's secrets
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    /// Start a program with a team's secrets in its environment, through the API
    Run(run::Run),
    /// Print the log
    Events(events::Events),
    /// Print a thing as it was
    State(state::State),
    /// Schedules, mail and jobs that are held on a copy of another database
    #[command(subcommand)]
    Effects(effects::Effects),
    /// See, rebuild and verify the views
    #[command(subcommand)]
    Projections(projections::Projections),
}

/// `aggregate_type/id`, such as `secret/0198…`.
#[derive(Clone, Debug)]
struct Thing(ledger::StreamId);

impl std::str::FromStr for Thing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, id) = text.split_once('/').ok_or("must be TYPE/ID, such as secret/0198c5a0-…")?;
        if name.is_empty() || id.is_empty() {
            return Err("must be TYPE/ID, such as secret/0198c5a0-…".to_owned());
        }
        Ok(Self(ledger::StreamId::new(name, id)))
    }
}

/// Machine-readable output where there would be a progress bar.
#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Jsonl,
    /// For people
    Pretty,
}

/// How a command that did not end well ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The answer is no.
    #[error("{0}")]
    No(String),
    /// The command was used wrongly.
    #[error("{0}")]
    Usage(String),
    /// Something it needs could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The program that was to take its place could not be started.
    #[error("{message}")]
    Program {
        /// Why.
        message: String,
        /// The exit code that shells have for it.
        code: u8,
    },
}

impl Failure {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::No(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Program { code, .. } => *code,
        })
    }

    fn unreachable(error: impl std::fmt::Display) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Keys(_)
            | StartError::Url(_)
            | StartError::Kinds { .. }
            | StartError::AdminField { .. }
            | StartError::MissingKeys(_)
            | StartError::WrongKey(_)
            | StartError::TooOld(_)
            | StartError::Role(
                RoleError::Missing { .. } | RoleError::NotGranted { .. } | RoleError::Unbound { .. },
            ) => Self::No(error.to_string()),
            _ => Self::unreachable(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::unreachable(error)
    }
}

/// Writes a line to standard output. A reader that has enough (`daybook events | head`) is no failure; a full disk is one.
fn out(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Asks before something that cannot be taken back lightly, unless told not to. Where nobody can be asked, the answer is no.
fn confirmed(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Nobody is there to answer; say --yes")));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::No("not done".to_owned())) }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    crate::panics::log_them();
    if let Err(error) = crate::core_dumps::forbid() {
        // A sandbox may refuse it; that is no reason not to serve.
        eprintln!("daybook: core dumps could not be switched off: {error}");
    }
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("daybook: {error}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("daybook: {failure}");
            failure.code()
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => serve.run().await,
        Command::Check => check::run().await,
        Command::Migrate => migrate().await,
        Command::Keys(keys) => keys.run().await,
        Command::Admin(admin) => admin.run().await,
        Command::Users(users) => users.run().await,
        Command::Secrets(secrets) => secrets.run().await,
        Command::Run(run) => run.run().await,
        Command::Events(events) => events.run().await,
        Command::State(state) => state.run().await,
        Command::Effects(effects) => effects.run().await,
        Command::Projections(command) => command.run().await,
    }
}

async fn migrate() -> Result<(), Failure> {
    with_node(async |_| {
        say!("the tables are up to date");
        Ok(())
    })
    .await
}

/// The configuration; every problem of it is told.
fn settings() -> Result<Settings, Failure> {
    Settings::load(&Sources::process()).map_err(|problems| {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("  {}: {}", problem.name, problem.message)).collect();
        Failure::No(format!("the configuration has problems:\n{}", lines.join("\n")))
    })
}

/// Opens a node for the time of one command. Warnings and worse are logged to standard error.
async fn with_node<T>(work: impl AsyncFnOnce(&Node) -> Result<T, Failure>) -> Result<T, Failure> {
    with_reached(async |node| {
        node.prepare().await?;
        work(node).await
    })
    .await
}

/// As [`with_node`], without having looked whether the keys are those that the database needs.
async fn with_reached<T>(work: impl AsyncFnOnce(&Node) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut settings = settings()?;
    if std::env::var_os("LOG_LEVEL").is_none() {
        "warn".clone_into(&mut settings.log_level);
    }
    crate::logging::init(&settings).map_err(Failure::unreachable)?;
    let node = Node::reach(settings).await?;
    // Ctrl-C ends the command, not the private server under it: that is let go of in order.
    let outcome = tokio::select! {
        outcome = work(&node) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    node.close().await;
    outcome
}

/// A progress bar for people who look at it; none beside JSON lines and in logs. `shown` is what it tells besides its length, in
/// indicatif's words.
fn progress(json: bool, shown: &str) -> Option<ProgressBar> {
    (!json && std::io::stderr().is_terminal()).then(|| {
        let style =
            ProgressStyle::with_template(&format!("{{bar:40}} {{percent:>3}}%  {shown}  {{eta}} left"));
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    })
}
