//! What can run: job kinds, from the `[jobs.<name>]` tables of `daybook.toml`.
//!
//! ```toml
//! [jobs.nightly-report]
//! description = "Builds the nightly report"
//! command = ["python3", "report.py", "--day", "{day}"]    # an argument list, never a shell line
//! params.day = { type = "string", pattern = '\d{4}-\d{2}-\d{2}' }
//! secrets = { DB_PASSWORD = "report-db" }                 # environment variable <- secret of the job's team
//! env = { MODE = "fast" }                                 # plain variables
//! timeout_seconds = 900                                   # 1 to 86400, default 3600
//! max_attempts = 3                                        # 1 to 100, default from the configuration
//! ```
//!
//! A parameter has a `type` (`string`, `integer`, `number`, `boolean`) and optionally `description`, `default`, `required` (true unless there
//! is a default), `enum`, for strings `pattern` (which must match the whole value) and `max_length` (characters, 1000), for numbers `min` and `max`,
//! and `allow_leading_dash`: without it a value may not be what makes an argument start with `-`, where it would be taken for an option.
//!
//! In an argument `{name}` stands for a parameter's value, `{{` and `}}` for braces. A value never becomes several arguments. An argument
//! that names an optional parameter which was not given, and has no default, is left out.
//!
//! What a kind does is its `type`: `command` unless it says otherwise, `http` (see [`super::action`] for these and for adding
//! one). Every kind may also have:
//!
//! ```toml
//! retry_delay_seconds = 60     # pause after the first failure, 1 to 86400, default from the configuration
//! retry_factor = 2             # each pause is so many times the one before, 1 to 10
//! retry_cap_seconds = 3600     # but no longer than this, 1 to 604800
//! retry_jitter = 0.1           # and longer or shorter by up to this share of itself, 0 to 1
//! concurrency_limit = 1        # jobs with the same concurrency key that run at once, 1 to 1000
//! unique = false               # of each team only one job with the same arguments waits at a time
//! output_kb = 4000             # output stored of an attempt, 1 to 1048576, default 2 for each line that may be stored
//! ```
//!
//! and a command:
//!
//! ```toml
//! final_exit_codes = [64, 65]  # not tried again after these, 1 to 255
//! artifacts_mb = 100           # files kept of an attempt, 0 to 10240
//! limits = { memory_mb = 512, cpu_seconds = 600, open_files = 256, file_mb = 1024, processes = 64 }   # none unless given
//! ```

mod live;
mod param;
mod read;
mod reading;
mod section;
mod settings;
pub(crate) mod template;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use domain::Backoff;
use serde::Serialize;
use serde_json::{Map, Value};

use super::action::{Action, Actions};
use super::circuits::Circuits;
pub use live::LiveKinds;
use param::Param;
pub use param::ParamInfo;
pub use reading::Reading;
pub use settings::KindSettings;
use values::Argument;
pub use values::Values;

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindProblem {
    /// Where, like `jobs.nightly-report.params.day.pattern`.
    pub path: String,
    /// What.
    pub message: String,
}

/// Something wrong in a job's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArgProblem {
    /// Which, like `args.day`.
    pub field: String,
    /// What. Never repeats the value.
    pub message: String,
}

/// All kinds, by name.
#[derive(Debug, Clone, Default)]
pub struct Kinds {
    by_name: BTreeMap<String, Kind>,
    circuits: Arc<Circuits>,
}

impl Kinds {
    /// Reads the kinds from the text of the file. Other top-level keys are configuration and are not looked at.
    ///
    /// # Errors
    /// Every problem there is, in the file's order of names.
    pub fn parse(text: &str, actions: &Actions) -> Result<Self, Vec<KindProblem>> {
        Ok(Self { by_name: read::kinds(text, actions)?, circuits: Arc::default() })
    }

    /// Reads the kinds again, from a file that is there. Blocks.
    ///
    /// # Errors
    /// As [`Self::load`]; also when the file is gone: then somebody is writing it, or has lost it.
    pub fn reload(file: &Path, actions: &Actions) -> Result<Self, Vec<KindProblem>> {
        let problem = |error: std::io::Error| {
            vec![KindProblem {
                path: file.display().to_string(),
                message: format!("cannot be read: {error}"),
            }]
        };
        Self::parse(&fs::read_to_string(file).map_err(problem)?, actions)
    }

    /// Reads the kinds from a file; a missing file has none. Blocks.
    ///
    /// # Errors
    /// As [`Self::parse`], and one problem, whose path is the file's, when it cannot be read.
    pub fn load(file: &Path, actions: &Actions) -> Result<Self, Vec<KindProblem>> {
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, actions),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(vec![KindProblem {
                path: file.display().to_string(),
                message: format!("cannot be read: {error}"),
            }]),
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.by_name.get(name)
    }

    /// All kinds by name.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.by_name.values()
    }

    /// The hosts that kinds of these ask, as this process finds them.
    #[must_use]
    pub fn circuits(&self) -> &Arc<Circuits> {
        &self.circuits
    }

    /// There is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// Something to do, with parameters.
#[derive(Debug, Clone)]
pub struct Kind {
    name: String,
    action_type: String,
    action: Arc<dyn Action>,
    description: String,
    params: BTreeMap<String, Param>,
    secrets: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    timeout_seconds: u32,
    max_attempts: Option<u32>,
    settings: KindSettings,
}

impl Kind {
    /// 1 to 63 of `a-z`, `0-9` and `-`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which secret of the job's team each environment variable holds (or name in the templates stands for).
    #[must_use]
    pub fn secrets(&self) -> &BTreeMap<String, String> {
        &self.secrets
    }

    /// Plain environment variables.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// How long an attempt may run, in seconds.
    #[must_use]
    pub fn timeout_seconds(&self) -> u32 {
        self.timeout_seconds
    }

    /// How often it may be tried, if the kind says so.
    #[must_use]
    pub fn max_attempts(&self) -> Option<u32> {
        self.max_attempts
    }

    /// What every kind may set.
    #[must_use]
    pub fn settings(&self) -> &KindSettings {
        &self.settings
    }

    /// The pause after a job's first failure, in seconds, if the kind says so.
    #[must_use]
    pub fn retry_delay_seconds(&self) -> Option<u32> {
        self.settings.retry_delay_seconds
    }

    /// How many jobs with the same concurrency key run at once.
    #[must_use]
    pub fn concurrency_limit(&self) -> u32 {
        self.settings.concurrency_limit
    }

    /// Of each team only one job with the same arguments waits at a time.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.settings.unique
    }

    /// How the pause between two attempts grows.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let KindSettings {
            retry_factor: factor, retry_cap_seconds: cap_seconds, retry_jitter: jitter, ..
        } = self.settings;
        Backoff { factor, cap_seconds, jitter }
    }

    /// What it does.
    #[must_use]
    pub fn action(&self) -> &Arc<dyn Action> {
        &self.action
    }

    /// The values that these arguments come to.
    ///
    /// # Errors
    /// Every problem there is: unknown, missing and unsuitable arguments.
    pub fn validate(&self, args: &Map<String, Value>) -> Result<Values, Vec<ArgProblem>> {
        let mut problems: Vec<ArgProblem> = args
            .keys()
            .filter(|name| !self.params.contains_key(*name))
            .map(|name| ArgProblem::new(name, format!("the kind `{}` has no such parameter", self.name)))
            .collect();
        let mut values = Values::default();
        for (name, param) in &self.params {
            let (given, allow_leading_dash) = (args.contains_key(name), param.allow_leading_dash);
            match param.value(args.get(name)) {
                Ok(Some(text)) => values.insert(name, Argument { text, given, allow_leading_dash }),
                Ok(None) => {}
                Err(message) => problems.push(ArgProblem::new(name, message)),
            }
        }
        problems.extend(self.action.check(&values));
        if problems.is_empty() { Ok(values) } else { Err(problems) }
    }

    /// What people need to know to run it.
    #[must_use]
    pub fn info(&self) -> KindInfo {
        KindInfo {
            name: self.name.clone(),
            action_type: self.action_type.clone(),
            description: self.description.clone(),
            params: self.params.iter().map(|(name, param)| param.info(name)).collect(),
            secrets: self.secrets.clone(),
            timeout_seconds: self.timeout_seconds,
            max_attempts: self.max_attempts,
            settings: self.settings.clone(),
        }
    }
}

impl ArgProblem {
    /// What is wrong with the argument `name`.
    #[must_use]
    pub fn new(name: &str, message: impl Into<String>) -> Self {
        Self { field: format!("args.{name}"), message: message.into() }
    }
}

/// A kind as `GET /api/jobs/kinds` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindInfo {
    /// Its name.
    pub name: String,
    /// What does it: `command`, `http` or one that was added.
    #[serde(rename = "type")]
    pub action_type: String,
    /// What it does; may be empty.
    pub description: String,
    /// Its parameters, by name.
    pub params: Vec<ParamInfo>,
    /// Environment variable, or name in the templates, to the name of the secret it holds.
    pub secrets: BTreeMap<String, String>,
    /// How long an attempt may run.
    pub timeout_seconds: u32,
    /// How often it may be tried, if the kind says so.
    pub max_attempts: Option<u32>,
    /// What every kind may set.
    #[serde(flatten)]
    pub settings: KindSettings,
}

#[cfg(test)]
mod tests;
