//! Accounts from older systems, read from a file with one JSON object a line.
//!
//! | field | what |
//! |---|---|
//! | `email`, `name` | as anybody's |
//! | `password_hash` | bcrypt or argon2, see [`StoredHash::parse`] |
//! | `admin` | whether they administer the instance; without it no |
//! | `email_verified` | whether the address is known to be theirs; without it no |
//! | `active` | whether they may sign in; without it yes |
//!
//! A line is taken as a whole or not at all. Empty lines are passed over, and so is a byte-order mark before the first.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read as _};

use domain::{Email, Invalid, PersonName};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::StoredHash;

/// Bytes a line may have. What it needs is less than two thousand.
const LONGEST_LINE: usize = 8_192;
const FIELDS: [&str; 6] = ["email", "name", "password_hash", "admin", "email_verified", "active"];

/// An account as another system had it, checked: what can be written as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedAccount {
    /// What the person signs in with.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
    /// The hash of the password they have. It is replaced when they sign in.
    pub password_hash: StoredHash,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Whether the address is known to be theirs.
    pub email_verified: bool,
    /// Whether they may sign in.
    pub active: bool,
}

/// Something wrong in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineProblem {
    /// The field; empty for the line as a whole.
    pub field: String,
    /// What is wrong, for people. Never repeats the value.
    pub message: String,
}

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportLine {
    /// Its number, from 1.
    pub number: u64,
    /// Bytes of the file up to its end.
    pub read: u64,
    /// What it says, or all that is wrong with it.
    pub account: Result<ImportedAccount, Vec<LineProblem>>,
}

/// The lines of a file, one after the other. Keeps one of them in memory at a time, and of a line that is too long only its beginning.
#[derive(Debug)]
pub struct ImportLines<R> {
    reader: R,
    number: u64,
    read: u64,
}

impl<R: BufRead> ImportLines<R> {
    /// Reads from the beginning of a file.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0, read: 0 }
    }

    /// The next line without its end, and whether it was cut; `None` at the end of the file.
    fn line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = vec![];
        // One byte more than allowed, and the line's end.
        let mut some = self.reader.by_ref().take(LONGEST_LINE as u64 + 2);
        let mut read = some.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let whole = line.pop_if(|byte| *byte == b'\n').is_some();
        line.pop_if(|byte| *byte == b'\r');
        let cut = line.len() > LONGEST_LINE;
        if !whole && cut {
            read += self.reader.skip_until(b'\n')? as u64;
        }
        self.read += read;
        Ok(Some((line, cut)))
    }
}

impl<R: BufRead> Iterator for ImportLines<R> {
    type Item = io::Result<ImportLine>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, cut) = match self.line().transpose()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let line =
                if self.number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
            if line.trim_ascii().is_empty() && !cut {
                continue;
            }
            let account = if cut {
                of_line("is too long: 8192 bytes are allowed")
            } else {
                ImportedAccount::parse(line)
            };
            return Some(Ok(ImportLine { number: self.number, read: self.read, account }));
        }
    }
}

impl ImportedAccount {
    /// Reads one line.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of the fields.
    pub fn parse(line: &[u8]) -> Result<Self, Vec<LineProblem>> {
        if line.len() > LONGEST_LINE {
            return of_line("is too long: 8192 bytes are allowed");
        }
        let members: Members = match serde_json::from_slice(line) {
            Ok(members) => members,
            Err(error) => return of_line(format!("is not a JSON object: see column {}", error.column())),
        };
        let mut fields = Fields::of(members);
        let email = fields.text("email", Email::parse);
        let name = fields.text("name", PersonName::parse);
        let password_hash = fields.text("password_hash", StoredHash::parse);
        let admin = fields.flag("admin", false);
        let email_verified = fields.flag("email_verified", false);
        let active = fields.flag("active", true);
        match (email, name, password_hash) {
            (Some(email), Some(name), Some(password_hash)) if fields.problems.is_empty() => {
                Ok(Self { email, name, password_hash, admin, email_verified, active })
            }
            _ => Err(fields.problems),
        }
    }
}

fn of_line<T>(message: impl Into<String>) -> Result<T, Vec<LineProblem>> {
    Err(vec![LineProblem { field: String::new(), message: message.into() }])
}

/// The members of an object as they stand there: serde_json's own map would keep the last of two with one name.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = vec![];
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The fields that are known, and what is wrong so far.
struct Fields {
    values: BTreeMap<&'static str, Value>,
    problems: Vec<LineProblem>,
}

impl Fields {
    fn of(members: Members) -> Self {
        let mut fields = Self { values: BTreeMap::new(), problems: vec![] };
        for (name, value) in members.0 {
            match FIELDS.iter().find(|field| **field == name) {
                None => fields.problem(&name.escape_debug().to_string(), "is not a field of an account"),
                Some(field) => {
                    if fields.values.insert(field, value).is_some() {
                        fields.problem(field, "is there twice");
                    }
                }
            }
        }
        fields
    }

    fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(LineProblem { field: field.to_owned(), message: message.into() });
    }

    fn text<T>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        let parsed = match self.values.remove(field) {
            None => Err(Invalid("is missing".to_owned())),
            Some(Value::String(text)) => parse(&text),
            Some(_) => Err(Invalid("must be a string".to_owned())),
        };
        parsed.map_err(|invalid| self.problem(field, invalid.0)).ok()
    }

    fn flag(&mut self, field: &str, otherwise: bool) -> bool {
        match self.values.remove(field) {
            None => otherwise,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.problem(field, "must be true or false");
                otherwise
            }
        }
    }
}

#[cfg(test)]
mod tests;
