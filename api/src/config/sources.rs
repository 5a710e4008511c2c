//! Where values come from, and in which order they win: environment, then `daybook.toml`, then the default.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat, Source, ValueKind};

use super::Problem;
use super::table::{SETTINGS, Setting, find};

/// What `Settings::load` reads. Holding the environment as a map keeps the process out of it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Environment variables. An empty value counts as not set.
    pub environment: BTreeMap<String, String>,
    /// The configuration file. It may be missing.
    pub file: PathBuf,
}

impl Sources {
    /// The process's environment and `daybook.toml` in the working directory.
    pub fn process() -> Self {
        let environment = std::env::vars_os()
            .map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
            .collect();
        Self { environment, file: PathBuf::from("daybook.toml") }
    }
}

/// The merged values, and the problems met so far.
pub(super) struct Reader {
    values: Config,
    set: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Merges the sources. Every problem found on the way is kept for the final report.
    pub(super) fn new(sources: &Sources) -> Self {
        let mut problems = Vec::new();
        let environment = environment_values(&sources.environment, &mut problems);
        let file = file_text(&sources.file, &mut problems);
        let in_file = file_keys(&file, &sources.file, &mut problems);
        let values = merge(&environment, in_file.as_ref().map(|_| file.as_str())).unwrap_or_else(|error| {
            problems.push(Problem::new(&sources.file.display().to_string(), without_excerpt(&error)));
            Config::default()
        });
        let set = environment.into_keys().chain(in_file.unwrap_or_default()).collect();
        Self { values, set, problems }
    }

    /// Whether the environment or the file names this setting, valid or not.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// Notes a problem.
    pub(super) fn problem(&mut self, name: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(name, message));
    }

    /// The parsed value, or nothing when it is not set or is wrong (which is noted).
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(name, message);
                None
            }
        }
    }

    /// As `optional`, for settings with a default. After a problem the value is of no use: loading fails.
    pub(super) fn required<T: Default>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(name, parse).unwrap_or_default()
    }

    /// All problems found, in the order they were found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let key = name.to_ascii_lowercase();
        let value = self.values.get::<config::Value>(&key).ok()?;
        let text = match value.kind {
            ValueKind::Array(items) => items
                .into_iter()
                .map(config::Value::into_string)
                .collect::<Result<Vec<_>, _>>()
                .map(|items| items.join(",")),
            _ => value.into_string(),
        };
        match text {
            Ok(text) => Some(text),
            Err(_) => {
                self.problem(name, "must be a single value or a list of texts");
                None
            }
        }
    }
}

/// Settings named by the environment; `None` where the value could not be had, which is noted already.
type Named = BTreeMap<&'static str, Option<String>>;

fn merge(environment: &Named, file: Option<&str>) -> Result<Config, config::ConfigError> {
    let mut builder = Config::builder();
    for setting in SETTINGS.iter().filter(|setting| setting.literal) {
        builder = builder.set_default(setting.key(), setting.default)?;
    }
    if let Some(text) = file {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    for (name, text) in environment {
        builder = builder.set_override_option(name.to_ascii_lowercase(), text.as_deref())?;
    }
    builder.build()
}

/// The settings named by the environment, directly or by `NAME_FILE`.
fn environment_values(environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Named {
    let present = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    let mut values = Named::new();
    for Setting { name, .. } in SETTINGS {
        let file_name = format!("{name}_FILE");
        let text = match (present(name), present(&file_name)) {
            (None, None) => continue,
            (Some(text), None) => Ok(text.clone()),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map(without_newline)
                .map_err(|error| Problem::new(&file_name, format!("cannot read {path}: {error}"))),
            (Some(_), Some(_)) => Err(Problem::new(name, format!("set {name} or {file_name}, not both"))),
        };
        values.insert(*name, text.map_err(|problem| problems.push(problem)).ok());
    }
    values
}

/// The message without the quoted line of the file, which may hold a secret.
fn without_excerpt(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let kept: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|')).collect();
    kept.join("; ")
}

fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn file_text(path: &Path, problems: &mut Vec<Problem>) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            problems.push(Problem::new(&path.display().to_string(), format!("cannot be read: {error}")));
            String::new()
        }
    }
}

/// The settings named by the file; nothing when the file is not TOML.
fn file_keys(text: &str, path: &Path, problems: &mut Vec<Problem>) -> Option<Vec<&'static str>> {
    let file = path.display().to_string();
    let keys = match File::from_str(text, FileFormat::Toml).collect() {
        Ok(map) => map.into_keys().collect::<BTreeSet<String>>(),
        Err(error) => {
            problems.push(Problem::new(&file, format!("is not valid TOML: {}", without_excerpt(&error))));
            return None;
        }
    };
    let mut known = Vec::new();
    for key in keys.iter().filter(|key| *key != "jobs") {
        match find(&key.to_ascii_uppercase()).filter(|setting| setting.key() == *key) {
            Some(setting) => known.push(setting.name),
            None => {
                problems.push(Problem::new(key, format!("is not a setting ({file}; keys are in lower case)")))
            }
        }
    }
    Some(known)
}
