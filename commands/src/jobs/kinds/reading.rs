//! What the reader of an action type sees of a kind's table.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use toml::Value;

use super::KindProblem;
use super::param::{Param, ParamType};
use super::section::Section;
use super::template::Template;

/// A kind's table, with what all kinds have in common read already. What an action asks for is known there; any other key is a problem.
/// A value that is not what it must be is reported here, and `None` to the reader.
pub struct Reading<'r, 'a> {
    section: &'r mut Section<'a>,
    params: &'r BTreeMap<String, Param>,
    secrets: &'r BTreeMap<String, String>,
    problems: &'r mut Vec<KindProblem>,
}

impl<'r, 'a> Reading<'r, 'a> {
    pub(super) fn new(
        section: &'r mut Section<'a>,
        params: &'r BTreeMap<String, Param>,
        secrets: &'r BTreeMap<String, String>,
        problems: &'r mut Vec<KindProblem>,
    ) -> Self {
        Self { section, params, secrets, problems }
    }

    /// Reports what is wrong at `key`, which may go further down, like `headers.Accept`.
    pub fn problem(&mut self, key: &str, message: &str) {
        self.problems.push(self.section.problem(key, message));
    }

    pub(crate) fn problems_found(&self) -> usize {
        self.problems.len()
    }

    /// The table has this key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.section.table.contains_key(key)
    }

    /// A value, converted; `what` says what it must be, like `a string`.
    pub fn get<T>(
        &mut self,
        key: &'static str,
        what: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        self.section.get(key, what, self.problems, convert)
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.section.text(key, self.problems)
    }

    /// True or false.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.section.flag(key, self.problems)
    }

    /// A whole number within a range.
    pub fn whole(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.section.whole_within(key, range, self.problems)
    }

    /// A list of whole numbers within a range.
    pub fn wholes(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<Vec<u32>> {
        self.section.wholes(key, range, self.problems)
    }

    /// A list of strings.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<&'a str>> {
        self.section.list(key, self.problems)
    }

    /// A table of strings; empty without one.
    pub fn texts(&mut self, key: &'static str) -> BTreeMap<String, String> {
        self.section.texts(key, self.problems)
    }

    /// The names of the kind's parameters.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.params.keys().map(String::as_str)
    }

    /// The names by which the kind knows its secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// A parameter that every job has a value for.
    pub(crate) fn is_always_there(&self, param: &str) -> bool {
        self.params.get(param).is_some_and(|param| param.required || param.default.is_some())
    }

    /// A parameter whose values are numbers, or true and false.
    pub(crate) fn is_bare(&self, param: &str) -> bool {
        self.params.get(param).is_some_and(|param| param.kind != ParamType::String)
    }

    /// All the parameters and secrets that the template names are there; the error says which is not.
    pub(crate) fn knows_all_of(&self, template: &Template) -> Result<(), String> {
        if let Some(name) = template.params().find(|name| !self.params.contains_key(*name)) {
            return Err(format!(
                "there is no parameter for `{{{name}}}`; write `{{{{` and `}}}}` for braces"
            ));
        }
        match template.secrets().find(|name| !self.secrets.contains_key(*name)) {
            Some(name) => Err(format!("there is no `{name}` among the kind's secrets")),
            None => Ok(()),
        }
    }
}
