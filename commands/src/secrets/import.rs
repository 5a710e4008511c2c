//! Secrets from files of other systems: read and checked as a whole, then stored in one append, or not at all.
//!
//! | format | what |
//! |---|---|
//! | [`ImportFormat::Env`] | `NAME=value` a line, see [`env`] |
//! | [`ImportFormat::Json`] | an object of names and values, nested or not, or a list of secrets, see [`json`] |
//! | [`ImportFormat::Fernet`] | either of them with Fernet tokens for values, see [`FernetKeys`] |
//!
//! What is wrong is told by line or path; a value is never repeated.

mod env;
mod fernet;
mod json;
mod storing;

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, SubsecRound as _, Utc};
use domain::{Description, Invalid, MOST_TAGS, SecretName, Tag, check_value};
use zeroize::Zeroizing;

use super::{NewSecret, SecretFolder};
pub use fernet::{FernetKeyError, FernetKeys};
pub use storing::{ImportError, Imported};

/// Bytes a file may have: what is stored of it, sealed and encoded, must fit into one append.
pub const LARGEST_IMPORT: usize = 8 * 1024 * 1024;
/// Secrets a file may have: each is two events, and they must fit into one append.
pub const MOST_IMPORTED: usize = 2_000;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFormat {
    /// `NAME=value` lines.
    Env,
    /// JSON.
    Json,
    /// Either of the two, with Fernet tokens for values.
    Fernet,
}

/// Where something stands in a file: a line, or a path into JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What comes first in the file has the smaller one.
    order: u64,
    text: String,
}

impl Place {
    fn line(number: u64) -> Self {
        Self { order: number, text: format!("line {number}") }
    }

    /// The file as a whole.
    fn file() -> Self {
        Self { order: 0, text: "the file".to_owned() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Something that keeps a file from being imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImportProblem {
    /// Where.
    pub place: Place,
    /// What is wrong, for people. Never repeats a value.
    pub message: String,
}

impl fmt::Display for ImportProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A secret of a file, checked: what can be stored if its name is free.
pub struct ImportedSecret {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub new: NewSecret,
    /// Its value.
    pub value: Zeroizing<Vec<u8>>,
}

/// What a file says.
#[derive(Default)]
pub struct ImportFile {
    /// The secrets that are in order.
    pub secrets: Vec<ImportedSecret>,
    /// What is wrong with the others.
    pub problems: Vec<ImportProblem>,
}

/// A secret as it stands in a file.
struct Entry {
    place: Place,
    name: String,
    value: Zeroizing<Vec<u8>>,
    description: Option<String>,
    tags: Vec<String>,
    expires_at: Option<String>,
}

impl Entry {
    fn plain(place: Place, name: String, value: Zeroizing<Vec<u8>>) -> Self {
        Self { place, name, value, description: None, tags: vec![], expires_at: None }
    }
}

/// The secrets as they stand in a file, and what cannot be read.
#[derive(Default)]
struct Entries {
    entries: Vec<Entry>,
    problems: Vec<ImportProblem>,
}

impl Entries {
    fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(ImportProblem { place, message: message.into() });
    }
}

impl ImportFile {
    /// Reads a file. Names get `folder` in front; `keys` open the values where they are Fernet tokens.
    #[must_use]
    pub fn read(bytes: &[u8], format: ImportFormat, folder: &SecretFolder, keys: &FernetKeys) -> Self {
        let mut read = entries(bytes, format);
        if format == ImportFormat::Fernet {
            open_tokens(&mut read, keys);
        }
        let mut file = Self { secrets: vec![], problems: read.problems };
        if read.entries.len() > MOST_IMPORTED {
            let message = format!("must have at most {MOST_IMPORTED} secrets, has {}", read.entries.len());
            file.problems.push(ImportProblem { place: Place::file(), message });
            read.entries.truncate(MOST_IMPORTED);
        }
        let mut names = HashMap::new();
        for entry in read.entries {
            file.take(entry, folder, &mut names);
        }
        file.problems.sort();
        file
    }

    /// Checks one secret; `names` are those that came before it.
    fn take(&mut self, entry: Entry, folder: &SecretFolder, names: &mut HashMap<String, Place>) {
        let mut checks = Checks { place: &entry.place, problems: &mut self.problems };
        let name = checks.check("the name", SecretName::parse(&format!("{}{}", folder.as_str(), entry.name)));
        let description = entry.description.as_deref().unwrap_or_default();
        let description = checks.check("description", Description::parse(description));
        let tags = checks.tags(&entry.tags);
        let expires_at = entry.expires_at.as_deref().map(|text| checks.check("expires_at", moment(text)));
        let value = checks.check("the value", check_value(&entry.value));
        if let Some(name) = &name
            && let Some(first) = names.get(name.as_str())
        {
            checks.refuse(format!("{name} is there twice: see {first}"));
            return;
        }
        names.extend(name.as_ref().map(|name| (name.to_string(), entry.place.clone())));
        if let (Some(name), Some(description), Some(tags), Some(())) = (name, description, tags, value)
            && expires_at != Some(None)
        {
            let new =
                NewSecret { name, description, tags, expires_at: expires_at.flatten(), max_versions: None };
            self.secrets.push(ImportedSecret { place: entry.place, new, value: entry.value });
        }
    }
}

/// Tries all checks of one secret, so that everything wrong with it is told at once.
struct Checks<'a> {
    place: &'a Place,
    problems: &'a mut Vec<ImportProblem>,
}

impl Checks<'_> {
    fn refuse(&mut self, message: String) {
        self.problems.push(ImportProblem { place: self.place.clone(), message });
    }

    fn check<T>(&mut self, what: &str, outcome: Result<T, Invalid>) -> Option<T> {
        outcome.map_err(|invalid| self.refuse(format!("{what} {invalid}"))).ok()
    }

    fn tags(&mut self, texts: &[String]) -> Option<Vec<Tag>> {
        if texts.len() > MOST_TAGS {
            self.refuse(format!("tags must be at most {MOST_TAGS}"));
            return None;
        }
        let tags: Vec<_> = texts
            .iter()
            .enumerate()
            .filter_map(|(index, tag)| self.check(&format!("tags[{index}]"), Tag::parse(tag)))
            .collect();
        (tags.len() == texts.len()).then_some(tags)
    }
}

fn moment(text: &str) -> Result<DateTime<Utc>, Invalid> {
    let at = DateTime::parse_from_rfc3339(text)
        .map_err(|_| Invalid("must be a time such as 2027-01-01T00:00:00Z".to_owned()))?;
    Ok(at.to_utc().trunc_subsecs(3))
}

/// What stands in a file, before anything is checked that does not depend on how it is written.
fn entries(bytes: &[u8], format: ImportFormat) -> Entries {
    let mut refused = Entries::default();
    if bytes.len() > LARGEST_IMPORT {
        refused
            .problem(Place::file(), format!("must be at most {LARGEST_IMPORT} bytes, has {}", bytes.len()));
        return refused;
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
            refused.problem(Place::line(line), "is not UTF-8");
            return refused;
        }
    };
    let is_json = match format {
        ImportFormat::Env => false,
        ImportFormat::Json => true,
        ImportFormat::Fernet => text.trim_start().starts_with(['{', '[']),
    };
    if is_json { json::entries(text) } else { env::entries(text) }
}

/// Replaces tokens by what they hold.
fn open_tokens(read: &mut Entries, keys: &FernetKeys) {
    let entries = std::mem::take(&mut read.entries);
    for mut entry in entries {
        match keys.open(&entry.value) {
            Ok(value) => {
                entry.value = value;
                read.entries.push(entry);
            }
            Err(error) => read.problem(entry.place, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
