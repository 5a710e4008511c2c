//! `daybook secrets`: what an operator does to secrets at the machine with the database.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use commands::{
    CommandError, Context, FernetKeys, ImportError, ImportFile, ImportFormat, ImportProblem, Imported,
    LARGEST_IMPORT, SecretFolder,
};
use domain::{Actor, Caller, Permission, TeamId};
use serde_json::json;

use super::environment::{read, secret_setting, text_of};
use super::{Failure, Json, progress, with_node};
use crate::node::Node;

/// Problems of a file that are printed.
const MOST_TOLD: usize = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Secrets {
    /// Store the secrets of a file for a team: all of them, or none and say why
    #[command(after_help = FORMATS)]
    Import(Import),
}

const FORMATS: &str = r#"Formats (of .env and .json files by themselves, otherwise --format):
  env     NAME=value lines, with or without `export`; # comments; 'single quotes' as they stand; "double quotes" with \n \r \t \\ \" \' \$ \`;
          quoted values may have several lines. Nothing is interpolated: $X stays as it is
  json    {"name": "value"}, nested objects being paths: {"payments": {"stripe": "…"}} is payments/stripe;
          or [{"name", "value" or "value_base64", "description", "tags", "expires_at"}]
  fernet  either of the two with Fernet tokens for values. The key is in --fernet-key-file, FERNET_KEY or FERNET_KEY_FILE;
          several keys are separated by commas

A value has 1 to 65,536 bytes, a file at most 2,000 secrets and 8 MiB. Remove the file when it is no longer needed."#;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file
    file: PathBuf,
    /// Whose secrets they become: a slug or an id
    #[arg(long)]
    team: String,
    /// How the file is written; by its ending if not given
    #[arg(long)]
    format: Option<Format>,
    /// What names get in front, such as payments/
    #[arg(long, value_name = "FOLDER/", default_value = "/")]
    prefix: SecretFolder,
    /// Give secrets that exist their value as the next version; their description, tags and expiry stay
    #[arg(long)]
    replace: bool,
    /// Check everything, say what would be stored, and store nothing
    #[arg(long)]
    dry_run: bool,
    /// A file with the key of the tokens, or several with commas between them
    #[arg(long, value_name = "FILE")]
    fernet_key_file: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// NAME=value lines
    Env,
    /// JSON
    Json,
    /// Either with Fernet tokens for values
    Fernet,
}

impl From<Format> for ImportFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Env => Self::Env,
            Format::Json => Self::Json,
            Format::Fernet => Self::Fernet,
        }
    }
}

impl Secrets {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Import(import) => import.run().await,
        }
    }
}

impl Import {
    async fn run(self) -> Result<(), Failure> {
        let format = self.format()?;
        let keys = self.keys(format)?;
        let bytes = read(&self.file, LARGEST_IMPORT)?;
        let file = ImportFile::read(&bytes, format, &self.prefix, &keys);
        drop((bytes, keys));
        with_node(async move |node| self.store(node, file).await).await
    }

    fn format(&self) -> Result<ImportFormat, Failure> {
        let by_ending = || {
            let name = self.file.file_name()?.to_str()?.to_ascii_lowercase();
            let is_env = name.ends_with(".env") || name.starts_with(".env.");
            let is_json = name.ends_with(".json");
            is_env.then_some(ImportFormat::Env).or(is_json.then_some(ImportFormat::Json))
        };
        let unknown = || {
            let file = self.file.display();
            Failure::Usage(format!("{file}: say how it is written: --format env, json or fernet"))
        };
        self.format.map(ImportFormat::from).or_else(by_ending).ok_or_else(unknown)
    }

    fn keys(&self, format: ImportFormat) -> Result<FernetKeys, Failure> {
        if format != ImportFormat::Fernet {
            return match &self.fernet_key_file {
                Some(_) => Err(Failure::Usage("--fernet-key-file is for --format fernet".to_owned())),
                None => Ok(FernetKeys::default()),
            };
        }
        let text = match &self.fernet_key_file {
            Some(path) => Some(text_of(path)?),
            None => secret_setting("FERNET_KEY")?,
        };
        let text = text.ok_or_else(|| {
            Failure::Usage("the key is missing: --fernet-key-file, FERNET_KEY or FERNET_KEY_FILE".to_owned())
        })?;
        FernetKeys::parse(&text).map_err(|error| Failure::Usage(format!("the Fernet key: {error}")))
    }

    async fn store(&self, node: &Node, mut file: ImportFile) -> Result<(), Failure> {
        let team = node.commands.team_named(&self.team).await.map_err(Failure::unreachable)?;
        let team = team.ok_or_else(|| Failure::No(format!("there is no team {}", self.team)))?;
        if file.secrets.is_empty() && file.problems.is_empty() {
            return Err(Failure::No(format!("{} has no secrets", self.file.display())));
        }
        // What cannot be read keeps the rest from being stored, and not from being looked at.
        let trial = self.dry_run || !file.problems.is_empty();
        match self.import(node, team, &file, trial).await {
            Ok(imported) if file.problems.is_empty() => {
                if imported.position.is_some() {
                    node.show().await?;
                }
                self.tell_done(&imported)
            }
            Ok(_) => self.tell_refused(file.problems),
            Err(ImportError::Refused(taken)) => {
                file.problems.extend(taken);
                self.tell_refused(file.problems)
            }
            Err(ImportError::Command(CommandError::Refused(refusal))) => {
                Err(Failure::No(refusal.to_string()))
            }
            Err(error) => Err(Failure::unreachable(error)),
        }
    }

    async fn import(
        &self,
        node: &Node,
        team: TeamId,
        file: &ImportFile,
        trial: bool,
    ) -> Result<Imported, ImportError> {
        let bar = progress(self.json.json, "{pos}/{len} secrets");
        bar.iter().for_each(|bar| bar.set_length(file.secrets.len() as u64));
        let told = bar.clone();
        let step = move |done: usize| {
            if let Some(bar) = &told {
                bar.set_position(done as u64);
            }
        };
        let context = writer(team);
        let outcome = node.commands.import_secrets(&context, &file.secrets, self.replace, trial, &step).await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        outcome
    }

    fn tell_done(&self, imported: &Imported) -> Result<(), Failure> {
        let Imported { made, replaced, position } = imported;
        if self.dry_run {
            self.tell_each("store", made)?;
            self.tell_each("replace", replaced)?;
        }
        let (stored, replaced) = (made.len(), replaced.len());
        if self.json.json {
            let line = json!({
                "done": true, "dry_run": self.dry_run, "stored": stored, "replaced": replaced, "refused": 0, "position": position,
            });
            say!("{line}");
        } else if self.dry_run {
            say!("{stored} secrets would be stored, {replaced} replaced; nothing was changed");
        } else {
            say!("{stored} secrets stored, {replaced} replaced");
        }
        Ok(())
    }

    fn tell_each(&self, what: &str, names: &[domain::SecretName]) -> Result<(), Failure> {
        for name in names {
            if self.json.json {
                say!("{}", json!({"name": name, "would": what}));
            } else {
                say!("would {what} {name}");
            }
        }
        Ok(())
    }

    /// Says what is wrong: all of it up to a limit, then how much more there is.
    fn tell_refused(&self, mut problems: Vec<ImportProblem>) -> Result<(), Failure> {
        problems.sort();
        for problem in problems.iter().take(MOST_TOLD) {
            if self.json.json {
                say!("{}", json!({"place": problem.place.to_string(), "message": problem.message}));
            } else {
                say!("{problem}");
            }
        }
        let refused = problems.len();
        if self.json.json {
            let dry_run = self.dry_run;
            let line = json!({
                "done": true, "dry_run": dry_run, "stored": 0, "replaced": 0, "refused": refused, "position": null,
            });
            say!("{line}");
        } else if refused > MOST_TOLD {
            say!("… and {} more", refused - MOST_TOLD);
        }
        let problems = if refused == 1 { "1 problem".to_owned() } else { format!("{refused} problems") };
        Err(Failure::No(format!("{}: {problems}; nothing was stored", self.file.display())))
    }
}

/// The system, writing secrets of one team and nothing else.
fn writer(team: TeamId) -> Context {
    let permissions = [Permission::SecretsWrite].into_iter().collect();
    Context::of(Caller { actor: Actor::System, team: Some(team), permissions })
}
