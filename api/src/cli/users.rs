//! `daybook users`: what an operator does to accounts at the machine. Recorded with the operator's name.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use commands::{CommandError, ImportLine, ImportLines, LineProblem};
use domain::{Amendment, ClaimKind, Email, PersonName, User, UserCommand, UserId};
use indicatif::ProgressBar;
use projections::time::text as time;
use projections::{UserFilter, UserRow};
use serde_json::json;

use super::{Failure, Json, confirmed, progress, with_node};
use crate::node::{Node, registrar};

/// Accounts read at a time.
const PAGE: i64 = 200;

#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// List accounts
    List {
        /// Only addresses and names that contain this
        #[arg(long)]
        search: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Make accounts from a file with one JSON object a line: email, name, password_hash (bcrypt or argon2id), admin, email_verified, active
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Let somebody not sign in any more
    Deactivate(OnAccount),
    /// Switch somebody's second factor off
    #[command(name = "reset-2fa")]
    ResetTwoFactor(OnAccount),
}

/// Something done to one account.
#[derive(Debug, Args)]
pub(super) struct OnAccount {
    /// Whose: their e-mail address
    email: String,
    /// Who does it, for the record; the name at the machine if not given
    #[arg(long)]
    operator: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Users {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { search, json } => {
                with_node(async move |node| list(node, search, json.json).await).await
            }
            Self::Import { file, json } => {
                with_node(async move |node| import(node, &file, json.json).await).await
            }
            Self::Deactivate(on) => {
                let operator = operator(on.operator.as_deref())?;
                confirmed(on.yes, &format!("Let {} not sign in any more?", on.email))?;
                with_node(async move |node| deactivate(node, &on.email, operator).await).await
            }
            Self::ResetTwoFactor(on) => {
                let operator = operator(on.operator.as_deref())?;
                confirmed(on.yes, &format!("Switch off the second factor of {}?", on.email))?;
                with_node(async move |node| reset_two_factor(node, &on.email, operator).await).await
            }
        }
    }
}

/// Who sits at the machine, as far as it knows: behind `sudo`, whoever called it.
pub(super) fn operator(given: Option<&str>) -> Result<String, Failure> {
    let known = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name =
        given.map(str::to_owned).or(known).or_else(account_name).unwrap_or_else(|| "unknown".to_owned());
    match PersonName::parse(&name) {
        Ok(name) => Ok(name.to_string()),
        Err(invalid) => Err(Failure::Usage(format!("--operator {invalid}"))),
    }
}

/// Whose process this is, by passwd(5).
fn account_name() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries.find(|entry| entry.get(2) == Some(&uid.as_str())).map(|entry| entry[0].to_owned())
}

async fn list(node: &Node, search: Option<String>, json: bool) -> Result<(), Failure> {
    // A command looks at people as they are.
    node.catch_up().await?;
    let filter = UserFilter { q: search, ..UserFilter::default() };
    if !json {
        say!("{:<36}  {:<8}  {:<5}  {:<3}  {:<24}  e-mail, name", "id", "state", "admin", "2fa", "since");
    }
    let mut after: Option<String> = None;
    loop {
        let rows = node.projections.users().list(&filter, after.as_deref(), PAGE).await;
        let rows = rows.map_err(Failure::unreachable)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.id.clone());
        rows.iter().try_for_each(|row| show(row, json))?;
    }
}

fn show(row: &UserRow, json: bool) -> Result<(), Failure> {
    let state = match row {
        UserRow { erased: true, .. } => "erased",
        UserRow { active: true, .. } => "active",
        UserRow { .. } => "inactive",
    };
    if json {
        let line = json!({
            "id": row.id, "email": row.email, "name": row.name, "admin": row.admin, "active": row.active, "erased": row.erased,
            "email_verified": row.email_verified, "two_factor": row.two_factor, "created_at": time(row.created_at),
        });
        say!("{line}");
        return Ok(());
    }
    let word = |is: bool| if is { "yes" } else { "-" };
    say!(
        "{:<36}  {:<8}  {:<5}  {:<3}  {:<24}  {}, {}",
        row.id,
        state,
        word(row.admin),
        word(row.two_factor),
        time(row.created_at),
        row.email,
        row.name
    );
    Ok(())
}

/// What has become of a file so far.
#[derive(Default)]
struct Report {
    made: u64,
    refused: u64,
}

/// Each line is taken as a whole or not at all; a line whose address is taken is refused, so the same file may be given again.
async fn import(node: &Node, path: &Path, json: bool) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let bar = progress(json, "{bytes}/{total_bytes}");
    bar.iter().for_each(|bar| bar.set_length(length));
    let mut report = Report::default();
    for line in ImportLines::new(BufReader::new(file)) {
        let line = line.map_err(unreadable)?;
        if let Some(bar) = &bar {
            bar.set_position(line.read);
        }
        let number = line.number;
        match take(node, line).await? {
            Ok(()) => report.made += 1,
            Err(problems) => {
                report.refused += 1;
                tell(&bar, number, &problems, json)?;
            }
        }
    }
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let Report { made, refused } = report;
    if made > 0 {
        node.show().await?;
    }
    if json {
        say!("{}", json!({"done": true, "made": made, "refused": refused}));
    } else {
        say!("{made} accounts made, {refused} lines refused");
    }
    if refused == 0 { Ok(()) } else { Err(Failure::No(format!("{refused} lines were refused"))) }
}

/// Makes the account of one line, or says what is wrong with it. What is no fault of the line's ends the import: those before it are made.
async fn take(node: &Node, line: ImportLine) -> Result<Result<(), Vec<LineProblem>>, Failure> {
    let account = match line.account {
        Ok(account) => account,
        Err(problems) => return Ok(Err(problems)),
    };
    let taken = || LineProblem { field: "email".to_owned(), message: "has an account already".to_owned() };
    match node.commands.import(&registrar(), account).await {
        Ok(_) => Ok(Ok(())),
        Err(CommandError::Taken(ClaimKind::Email)) => Ok(Err(vec![taken()])),
        Err(error) => Err(Failure::Unreachable(format!("line {}: {error}", line.number))),
    }
}

fn tell(bar: &Option<ProgressBar>, number: u64, problems: &[LineProblem], json: bool) -> Result<(), Failure> {
    if json {
        let problems: Vec<_> =
            problems.iter().map(|it| json!({"field": it.field, "message": it.message})).collect();
        say!("{}", json!({"line": number, "errors": problems}));
        return Ok(());
    }
    let lines: Vec<String> = problems
        .iter()
        .map(|it| format!("line {number}: {} {}", it.field, it.message).replace("  ", " "))
        .collect();
    match bar {
        Some(bar) => lines.iter().for_each(|line| bar.println(line)),
        None => {
            for line in lines {
                say!("{line}");
            }
        }
    }
    Ok(())
}

async fn find(node: &Node, email: &str) -> Result<(UserId, UserRow), Failure> {
    let address = Email::parse(email).map_err(|invalid| Failure::Usage(format!("the address {invalid}")))?;
    // A command looks at people as they are.
    node.catch_up().await?;
    let row = node.projections.users().by_email(&address.canonical()).await.map_err(Failure::unreachable)?;
    let row = row.ok_or_else(|| Failure::No(format!("there is no account for {email}")))?;
    Ok((row.id.parse().map_err(Failure::unreachable)?, row))
}

async fn deactivate(node: &Node, email: &str, operator: String) -> Result<(), Failure> {
    let (id, row) = find(node, email).await?;
    let amendment = Amendment { active: Some(false), operator: Some(operator), ..Amendment::default() };
    let done = node.commands.amend_user(&registrar(), id, None, &amendment).await.map_err(refused)?;
    node.show().await?;
    match done.position {
        Some(_) => say!("{} may not sign in any more; their sessions have ended", row.email),
        None => say!("{} could not sign in before", row.email),
    }
    Ok(())
}

async fn reset_two_factor(node: &Node, email: &str, operator: String) -> Result<(), Failure> {
    let (id, row) = find(node, email).await?;
    let command = UserCommand::ResetTwoFactor { operator };
    node.commands.execute::<User>(&registrar(), id, None, command).await.map_err(refused)?;
    node.show().await?;
    say!("the second factor of {} is off; their sessions have ended", row.email);
    Ok(())
}

fn refused(error: CommandError) -> Failure {
    match error {
        CommandError::Refused(refusal) => Failure::No(refusal.to_string()),
        error => Failure::unreachable(error),
    }
}
