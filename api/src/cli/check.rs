//! `daybook check`.

use commands::{About, Password};
use domain::Email;

use super::Failure;
use crate::config::{Settings, Sources};
use crate::node::{Node, StartError, read_kinds};

/// Prints every problem at once: settings, job kinds, the first admin's fields, and whether the database can be used.
pub(super) async fn run() -> Result<(), Failure> {
    let (settings, found) = Settings::examine(&Sources::process());
    let mut problems: Vec<_> = found.into_iter().map(|problem| (problem.name, problem.message)).collect();
    problems.extend(fields(&settings));
    problems.extend(kinds(&settings));
    if problems.is_empty() {
        problems.extend(database(settings).await);
    }
    if problems.is_empty() {
        say!("the configuration is good");
        return Ok(());
    }
    for (name, message) in &problems {
        say!("{name}: {message}");
    }
    let count = problems.len();
    Err(Failure::No(format!("{count} problem{}", if count == 1 { "" } else { "s" })))
}

/// What only the rules of the domain can tell.
fn fields(settings: &Settings) -> Vec<(String, String)> {
    let mut problems = vec![];
    let email = settings.admin_email.as_deref().map(Email::parse);
    if let Some(Err(invalid)) = &email {
        problems.push(("ADMIN_EMAIL".to_owned(), invalid.0.clone()));
    }
    let person = About { email: email.as_ref().and_then(|email| email.as_ref().ok()), name: None };
    let choose = |text: &str| Password::choose(text.to_owned(), &person);
    let password = settings.admin_password.as_ref().map(|hidden| choose(hidden.expose()));
    if let Some(Err(invalid)) = password {
        problems.push(("ADMIN_PASSWORD".to_owned(), invalid.0));
    }
    problems
}

fn kinds(settings: &Settings) -> Vec<(String, String)> {
    match read_kinds(settings) {
        Ok(_) => vec![],
        Err(StartError::Kinds { file, problems }) => problems
            .into_iter()
            .map(|problem| (format!("{file} {}", problem.path), problem.message))
            .collect(),
        Err(error) => vec![("JOBS_FILE".to_owned(), error.to_string())],
    }
}

async fn database(settings: Settings) -> Vec<(String, String)> {
    let name = if settings.database_url.is_some() { "DATABASE_URL" } else { "DATA_DIR" };
    match Node::open(settings).await {
        Ok(node) => {
            node.close().await;
            vec![]
        }
        Err(error @ StartError::WrongKey(_)) => vec![("ENCRYPTION_KEY".to_owned(), error.to_string())],
        Err(error) => vec![(name.to_owned(), error.to_string())],
    }
}
