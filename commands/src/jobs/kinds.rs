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

mod param;
mod read;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use param::Param;
pub use param::ParamInfo;
use template::Template;

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
pub struct Kinds(BTreeMap<String, Kind>);

impl Kinds {
    /// Reads the kinds from the text of the file. Other top-level keys are configuration and are not looked at.
    ///
    /// # Errors
    /// Every problem there is, in the file's order of names.
    pub fn parse(text: &str) -> Result<Self, Vec<KindProblem>> {
        read::kinds(text).map(Self)
    }

    /// Reads the kinds from a file; a missing file has none. Blocks.
    ///
    /// # Errors
    /// As [`Self::parse`], and one problem, whose path is the file's, when it cannot be read.
    pub fn load(file: &Path) -> Result<Self, Vec<KindProblem>> {
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text),
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
        self.0.get(name)
    }

    /// All kinds by name.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }

    /// There is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A command with parameters.
#[derive(Debug, Clone)]
pub struct Kind {
    name: String,
    description: String,
    command: Vec<Template>,
    params: BTreeMap<String, Param>,
    secrets: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    timeout_seconds: u32,
    max_attempts: Option<u32>,
}

impl Kind {
    /// 1 to 63 of `a-z`, `0-9` and `-`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which secret of the job's team each environment variable holds.
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

    /// The argument list for these arguments, the program first.
    ///
    /// # Errors
    /// Every problem there is: unknown, missing and unsuitable arguments.
    pub fn validate(&self, args: &Map<String, Value>) -> Result<Vec<String>, Vec<ArgProblem>> {
        let mut problems: Vec<ArgProblem> = args
            .keys()
            .filter(|name| !self.params.contains_key(*name))
            .map(|name| ArgProblem::new(name, format!("the kind `{}` has no such parameter", self.name)))
            .collect();
        let mut values = BTreeMap::new();
        for (name, param) in &self.params {
            match param.value(args.get(name)) {
                Ok(value) => values.extend(value.map(|value| (name.as_str(), value))),
                Err(message) => problems.push(ArgProblem::new(name, message)),
            }
        }
        problems.extend(self.options_in_disguise(args, &values));
        if problems.is_empty() {
            Ok(self.command.iter().filter_map(|template| template.fill(&values)).collect())
        } else {
            Err(problems)
        }
    }

    /// Given values that would be taken for options by the command.
    fn options_in_disguise(
        &self,
        args: &Map<String, Value>,
        values: &BTreeMap<&str, String>,
    ) -> Vec<ArgProblem> {
        let arguments = self
            .command
            .iter()
            .filter(|template| template.fill(values).is_some_and(|filled| filled.starts_with('-')));
        let mut names: Vec<&str> = arguments.filter_map(|template| template.first_shown(values)).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| {
            args.contains_key(*name) && self.params.get(*name).is_some_and(|param| !param.allow_leading_dash)
        });
        names.into_iter().map(|name| ArgProblem::new(name, "must not start with `-`")).collect()
    }

    /// What people need to know to run it.
    #[must_use]
    pub fn info(&self) -> KindInfo {
        KindInfo {
            name: self.name.clone(),
            description: self.description.clone(),
            params: self.params.iter().map(|(name, param)| param.info(name)).collect(),
            secrets: self.secrets.clone(),
            timeout_seconds: self.timeout_seconds,
            max_attempts: self.max_attempts,
        }
    }
}

impl ArgProblem {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { field: format!("args.{name}"), message: message.into() }
    }
}

/// A kind as `GET /api/jobs/kinds` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindInfo {
    /// Its name.
    pub name: String,
    /// What it does; may be empty.
    pub description: String,
    /// Its parameters, by name.
    pub params: Vec<ParamInfo>,
    /// Environment variable to the name of the secret it holds.
    pub secrets: BTreeMap<String, String>,
    /// How long an attempt may run.
    pub timeout_seconds: u32,
    /// How often it may be tried, if the kind says so.
    pub max_attempts: Option<u32>,
}

#[cfg(test)]
mod tests;
