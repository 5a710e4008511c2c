//! `daybook check`.

use commands::{About, Password};
use domain::Email;
use indicatif::ProgressBar;
use ledger::Found;

use super::Failure;
use super::keys::lines;
use super::progress;
use crate::config::{Settings, Sources};
use crate::keys::KeysError;
use crate::node::{Node, StartError, actions, read_kinds};

/// The event after which a person's key is gone.
const ERASED_BY: &str = "UserErased";

/// What is wrong.
struct Problem {
    /// The setting that is to be looked at, or what of the database.
    name: String,
    message: String,
    /// How many problems the message speaks of.
    count: u64,
}

impl Problem {
    fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), message: message.into(), count: 1 }
    }
}

/// Prints every problem at once: settings, job kinds, the first admin's fields, whether the database can be used, which of its data
/// keys the configured keys do not open, and which invariants of the log do not hold. Changes nothing.
pub(super) async fn run() -> Result<(), Failure> {
    let (settings, found) = Settings::examine(&Sources::process());
    let mut problems: Vec<_> =
        found.into_iter().map(|problem| Problem::new(problem.name, problem.message)).collect();
    problems.extend(fields(&settings));
    problems.extend(kinds(&settings));
    if problems.is_empty() {
        problems.extend(database(settings).await);
    }
    if problems.is_empty() {
        say!("the configuration is good");
        return Ok(());
    }
    for Problem { name, message, .. } in &problems {
        say!("{name}: {message}");
    }
    let count: u64 = problems.iter().map(|problem| problem.count).sum();
    Err(Failure::No(format!("{count} problem{}", if count == 1 { "" } else { "s" })))
}

/// What only the rules of the domain can tell.
fn fields(settings: &Settings) -> Vec<Problem> {
    let mut problems = vec![];
    let email = settings.admin_email.as_deref().map(Email::parse);
    if let Some(Err(invalid)) = &email {
        problems.push(Problem::new("ADMIN_EMAIL", invalid.0.as_str()));
    }
    let person = About { email: email.as_ref().and_then(|email| email.as_ref().ok()), name: None };
    let choose = |text: &str| Password::choose(text.to_owned(), &person);
    let password = settings.admin_password.as_ref().map(|hidden| choose(hidden.expose()));
    if let Some(Err(invalid)) = password {
        problems.push(Problem::new("ADMIN_PASSWORD", invalid.0));
    }
    problems
}

fn kinds(settings: &Settings) -> Vec<Problem> {
    match read_kinds(settings, &actions()) {
        Ok(_) => vec![],
        Err(StartError::Kinds { file, problems }) => problems
            .into_iter()
            .map(|problem| Problem::new(format!("{file} {}", problem.path), problem.message))
            .collect(),
        Err(error) => vec![Problem::new("JOBS_FILE", error.to_string())],
    }
}

/// Looks, and changes nothing: what a start would make is not made.
async fn database(settings: Settings) -> Vec<Problem> {
    let name = if settings.database_url.is_some() { "DATABASE_URL" } else { "DATA_DIR" };
    let node = match Node::look(settings).await {
        Ok(Some(node)) => node,
        Ok(None) => {
            note("there is no database yet: daybook serve, or daybook migrate, makes it");
            return vec![];
        }
        Err(error) => return vec![problem(name, &error)],
    };
    let problems = match node.ledger.find().await {
        Ok(Found::Empty) => {
            note("the database is empty: daybook serve, or daybook migrate, makes the tables");
            role(&node, name).await
        }
        Ok(Found::Log { writable }) => log(&node, name, writable).await,
        Err(error) => vec![Problem::new(name, error.to_string())],
    };
    node.close().await;
    problems
}

/// What is no problem. Beside the answer, which stays a line that programs know.
fn note(text: &str) {
    eprintln!("daybook: {text}");
}

/// The role that a start makes where it may.
async fn role(node: &Node, database: &str) -> Vec<Problem> {
    let error = node.projections.check_role().await.err();
    error.into_iter().map(|error| problem(database, &error.into())).collect()
}

async fn log(node: &Node, database: &str, writable: bool) -> Vec<Problem> {
    let mut problems = vec![];
    if writable {
        problems.extend(role(node, database).await);
    } else {
        note("this database user may only read: whether serve may do what it needs was not looked at");
    }
    let keys = node.ledger.check_keys().await.map_err(StartError::from);
    problems.extend(keys.err().iter().map(|error| problem(database, error)));
    let unopened = unopened(node, database).await;
    let keys_open = problems.is_empty() && unopened.is_empty();
    problems.extend(unopened);
    problems.extend(divergence(node, database).await);
    problems.extend(integrity(node, database).await);
    // What seals the values opens; now they themselves.
    if keys_open {
        problems.extend(unopened_values(node, database).await);
    }
    problems
}

/// What a node has found, and nobody has accepted yet.
async fn divergence(node: &Node, database: &str) -> Vec<Problem> {
    let advice = "every write is refused until it is accepted: daybook projections rebuild --all";
    match node.ledger.noted_divergence().await {
        Ok(None) => vec![],
        Ok(Some(cause)) => {
            vec![Problem::new("log", format!("it is not the one that was known: {cause}; {advice}"))]
        }
        Err(error) => vec![Problem::new(database, error.to_string())],
    }
}

/// What must hold of the log, and of the views on it.
async fn integrity(node: &Node, database: &str) -> Vec<Problem> {
    let bar = progress(false, "{pos}/{len} events read  {per_sec}");
    if let (Some(bar), Ok(head)) = (&bar, node.ledger.head().await) {
        bar.set_length(head.unsigned_abs());
    }
    let show = |position: i64| bar.iter().for_each(|bar| bar.set_position(position.unsigned_abs()));
    let unreadable = async |events| node.projections.unreadable(events).await;
    let findings = node.ledger.examine(ERASED_BY, unreadable, show).await;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    match findings {
        Ok(findings) => {
            findings.lines().map(|(line, count)| Problem { count, ..Problem::new("log", line) }).collect()
        }
        Err(error) => vec![Problem::new(database, format!("the log could not be looked at: {error}"))],
    }
}

fn problem(database: &str, error: &StartError) -> Problem {
    let name = match error {
        StartError::MissingKeys(_) | StartError::WrongKey(_) => "ENCRYPTION_KEY",
        StartError::Keys(KeysError::Missing { .. }) => "ENCRYPTION_KEY",
        StartError::Connections(lacking) => return Problem::new("DATABASE_CONNECTIONS", lacking),
        _ => database,
    };
    Problem::new(name, error.to_string())
}

/// Whatever else is wrong with the keys: what they do not open has a name.
async fn unopened(node: &Node, database: &str) -> Vec<Problem> {
    let bar = progress(false, "{pos}/{len} data keys opened  {per_sec}");
    if let (Some(bar), Ok(count)) = (&bar, node.ledger.count_keys().await) {
        bar.set_length(count);
    }
    let show = |keys| bar.iter().for_each(|bar| bar.set_position(keys));
    let proved = node.ledger.prove_keys(show).await;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    match proved {
        Ok(proved) => lines(&proved.unopened)
            .map(|(line, count)| Problem { count, ..Problem::new("ENCRYPTION_KEY", line) })
            .collect(),
        Err(error) => vec![Problem::new(database, error.to_string())],
    }
}

async fn unopened_values(node: &Node, database: &str) -> Vec<Problem> {
    let bar = progress(false, "{pos} values opened  {per_sec}");
    let proved =
        node.commands.prove_secrets(|values| bar.iter().for_each(|bar| bar.set_position(values))).await;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    match proved {
        Ok(proved) => {
            let more = proved.unopened - proved.named.len() as u64;
            let text = format!("and {more} more values that cannot be opened");
            let more = (more > 0).then(|| Problem { count: more, ..Problem::new("secrets", text) });
            proved.named.into_iter().map(|named| Problem::new("secrets", named)).chain(more).collect()
        }
        Err(error) => vec![Problem::new(database, error.to_string())],
    }
}
