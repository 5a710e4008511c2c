//! `daybook run`: a program with a team's secrets in its environment, fetched with an API key. It needs no database and no
//! configuration of a server.

mod client;
mod refused;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use clap::Args;
use commands::SecretFolder;
use domain::Reason;
use futures::{StreamExt as _, TryStreamExt as _};
use zeroize::Zeroizing;

use self::client::{Client, Listed};
use super::Failure;
use super::environment::{secret_setting, setting};

/// The address that `LISTEN` has by default.
const USUAL_URL: &str = "http://127.0.0.1:8080";
/// What this command itself is told by the environment; the program is not.
const OURS: [&str; 4] = ["DAYBOOK_API_KEY", "DAYBOOK_API_KEY_FILE", "DAYBOOK_TEAM", "DAYBOOK_URL"];
/// Secrets a program may get.
const MOST_SECRETS: usize = 1_000;
/// Values that are asked for at a time.
const AT_ONCE: usize = 4;
/// As shells have it: the program cannot be started, or there is none.
const CANNOT_START: u8 = 126;
const NOT_FOUND: u8 = 127;

const HELP: &str = "\
The API key is in DAYBOOK_API_KEY or in the file that DAYBOOK_API_KEY_FILE names; it needs secrets:list and
secrets:reveal. The program gets neither these nor DAYBOOK_URL and DAYBOOK_TEAM. Every value that is read is recorded.

The key goes over https, to this machine also over http. Proxies (HTTPS_PROXY, ALL_PROXY, NO_PROXY) are used for https
to other machines and for nothing else. --insecure allows http to other machines: whoever is on the way reads the key
and the values.

payments/stripe/api-key under payments/ becomes STRIPE_API_KEY: letters in upper case, `_` for everything else but
digits, and `_` before a digit at the beginning. A variable of that name that is set already is an error; with
--override the secret takes its place.

No secret becomes a variable that decides what code runs, where programs and their settings are, or whom they believe:
PATH, HOME, LD_*, BASH_*, ENV, IFS, PYTHON*, PERL*, RUBY*, NODE_OPTIONS, JAVA_TOOL_OPTIONS, GIT_*, HTTPS_PROXY,
SSL_CERT_FILE, DAYBOOK_* and others like them. Such a secret needs another name; no value is read. What a program
does with other variables is its own: store only what you trust in folders that it gets.

Daybook is replaced by the program: signals and the exit code are the program's own. Before that: 1 refused, 2 wrong
usage, 3 Daybook could not be reached, 126 the program cannot be started, 127 there is no such program.";

/// Arguments of `daybook run`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Run {
    /// A folder of secrets, such as payments/, or / for all of the team's; may be given several times
    #[arg(long = "secrets", value_name = "FOLDER/", required = true)]
    folders: Vec<SecretFolder>,
    /// Why they are read, for the record; if not given, the program's name
    #[arg(long)]
    reason: Option<String>,
    /// Start the program even if a folder has no secrets
    #[arg(long)]
    allow_none: bool,
    /// Let secrets take the place of variables that are set already
    #[arg(long = "override")]
    replace: bool,
    /// Send the API key over http to another machine
    #[arg(long)]
    insecure: bool,
    /// Where Daybook is; DAYBOOK_URL if not given, and otherwise http://127.0.0.1:8080
    #[arg(long)]
    url: Option<String>,
    /// The team's slug or id; DAYBOOK_TEAM if not given, and otherwise the key's team
    #[arg(long)]
    team: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Variables to be, by name, and which secret each is.
type Variables = BTreeMap<String, Listed>;

impl Run {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::Usage("say which program to start".to_owned()));
        };
        let reason = reason(self.reason.as_deref(), program)?;
        let client = self.client()?;
        let variables = self.variables(&client).await?;
        let values = futures::stream::iter(variables)
            .map(|(variable, secret)| value(&client, variable, secret, &reason))
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        let mut command = Command::new(program);
        command.args(arguments);
        for name in OURS {
            command.env_remove(name);
        }
        command.envs(values.iter().map(|(variable, value)| (variable, OsStr::from_bytes(value))));
        Err(not_started(program, &command.exec()))
    }

    fn client(&self) -> Result<Client, Failure> {
        let url = setting(self.url.as_deref(), "DAYBOOK_URL");
        let key = secret_setting("DAYBOOK_API_KEY")?.ok_or_else(|| {
            Failure::Usage("the API key is missing: set DAYBOOK_API_KEY or DAYBOOK_API_KEY_FILE".to_owned())
        })?;
        let team = setting(self.team.as_deref(), "DAYBOOK_TEAM");
        Client::new(url.as_deref().unwrap_or(USUAL_URL), &key, team.as_deref(), self.insecure)
    }

    /// Which secrets become which variables. Nothing is read before this is clear.
    async fn variables(&self, client: &Client) -> Result<Variables, Failure> {
        let mut variables = Variables::new();
        for folder in self.folders.iter().collect::<BTreeSet<_>>() {
            let secrets = client.list(folder).await?;
            if secrets.is_empty() && !self.allow_none {
                let message =
                    format!("there are no secrets under {folder} (--allow-none to go on all the same)");
                return Err(Failure::No(message));
            }
            for secret in secrets {
                let variable = self.variable(folder, &secret)?;
                if let Some(first) = variables.get(&variable) {
                    let message = format!("{} and {} would both be {variable}", first.name, secret.name);
                    return Err(Failure::No(message));
                }
                variables.insert(variable, secret);
            }
        }
        if variables.len() > MOST_SECRETS {
            let message =
                format!("a program gets at most {MOST_SECRETS} secrets, these are {}", variables.len());
            return Err(Failure::No(message));
        }
        Ok(variables)
    }

    fn variable(&self, folder: &SecretFolder, secret: &Listed) -> Result<String, Failure> {
        let variable = variables::name(folder, &secret.name).map_err(Failure::No)?;
        if !self.replace && std::env::var_os(&variable).is_some() {
            let message = format!(
                "{} would be {variable}, which is set already (--override to replace it)",
                secret.name
            );
            return Err(Failure::No(message));
        }
        Ok(variable)
    }
}

async fn value(
    client: &Client,
    variable: String,
    secret: Listed,
    reason: &Reason,
) -> Result<(String, Zeroizing<Vec<u8>>), Failure> {
    let value = client.value(&secret, reason).await?;
    if value.contains(&0) {
        let message = format!("{} holds a NUL byte, which no environment can", secret.name);
        return Err(Failure::No(message));
    }
    Ok((variable, value))
}

fn reason(given: Option<&str>, program: &OsStr) -> Result<Reason, Failure> {
    if let Some(given) = given {
        return Reason::parse(given).map_err(|invalid| Failure::Usage(format!("--reason {invalid}")));
    }
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    // A name that cannot be shown is not worth refusing to start it.
    let reason = Reason::parse(&format!("daybook run: {name}")).or_else(|_| Reason::parse("daybook run"));
    reason.map_err(|invalid| Failure::Usage(invalid.to_string()))
}

fn not_started(program: &OsStr, error: &std::io::Error) -> Failure {
    let program = program.to_string_lossy();
    let (message, code) = match error.kind() {
        ErrorKind::NotFound => (format!("{program}: there is no such program"), NOT_FOUND),
        ErrorKind::ArgumentListTooLong => {
            (format!("{program}: the secrets and arguments are more than an environment holds"), CANNOT_START)
        }
        _ => (format!("{program}: {error}"), CANNOT_START),
    };
    Failure::Program { message, code }
}
