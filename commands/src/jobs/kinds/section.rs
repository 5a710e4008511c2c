//! A table of the file while it is read: what it may hold is asked for key by key, and whatever nobody asked for is a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::Number;
use toml::{Table, Value};

use super::KindProblem;
use super::param::ParamType;

/// A table being read. Every key it may have is asked for; a key nobody asked for is unknown.
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) table: &'a Table,
    asked: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, table: &'a Table) -> Self {
        Self { path, table, asked: BTreeSet::new() }
    }

    pub(super) fn problem(&self, key: &str, message: &str) -> KindProblem {
        KindProblem { path: self.path_of(key), message: message.to_owned() }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        let dot = if self.path.is_empty() || key.is_empty() { "" } else { "." };
        format!("{}{dot}{key}", self.path)
    }

    /// The value of a key, if it is there and is what it must be.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        what: &str,
        problems: &mut Vec<KindProblem>,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        self.asked.insert(key);
        let value = self.table.get(key)?;
        let converted = convert(value);
        if converted.is_none() {
            problems.push(self.problem(key, &format!("must be {what}")));
        }
        converted
    }

    pub(super) fn text(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Option<String> {
        self.get(key, "a string", problems, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Option<bool> {
        self.get(key, "true or false", problems, Value::as_bool)
    }

    /// A whole number from 1.
    pub(super) fn whole(
        &mut self,
        key: &'static str,
        most: u32,
        problems: &mut Vec<KindProblem>,
    ) -> Option<u32> {
        self.whole_within(key, 1..=most, problems)
    }

    pub(super) fn whole_within(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        problems: &mut Vec<KindProblem>,
    ) -> Option<u32> {
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        self.get(key, &what, problems, |value| whole(value, &range))
    }

    /// A list of whole numbers.
    pub(super) fn wholes(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        problems: &mut Vec<KindProblem>,
    ) -> Option<Vec<u32>> {
        let what = format!("a list of whole numbers from {} to {}", range.start(), range.end());
        self.get(key, &what, problems, |value| {
            value.as_array()?.iter().map(|value| whole(value, &range)).collect()
        })
    }

    /// A number, whole or not.
    pub(super) fn real(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        problems: &mut Vec<KindProblem>,
    ) -> Option<f64> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.get(key, &what, problems, |value| {
            to_json(value)?.as_number()?.as_f64().filter(|number| range.contains(number))
        })
    }

    /// The entries of a list of strings.
    pub(super) fn list(
        &mut self,
        key: &'static str,
        problems: &mut Vec<KindProblem>,
    ) -> Option<Vec<&'a str>> {
        self.get(key, "a list of strings", problems, |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// A table within this one, to be read and finished by itself.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        problems: &mut Vec<KindProblem>,
    ) -> Option<Section<'a>> {
        let table = self.get(key, "a table", problems, Value::as_table)?;
        Some(Section::new(self.path_of(key), table))
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        kind: ParamType,
        problems: &mut Vec<KindProblem>,
    ) -> Option<Number> {
        let what = if kind == ParamType::Integer { "a whole number" } else { "a number" };
        self.get(key, what, problems, |value| match (value, kind) {
            (Value::Float(_), ParamType::Integer) => None,
            _ => to_json(value)?.as_number().cloned(),
        })
    }

    pub(super) fn json(
        &mut self,
        key: &'static str,
        problems: &mut Vec<KindProblem>,
    ) -> Option<serde_json::Value> {
        self.get(key, "a string, a number or a boolean", problems, to_json)
    }

    /// The entries of a table of strings.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        problems: &mut Vec<KindProblem>,
    ) -> BTreeMap<String, String> {
        let table = self.get(key, "a table of strings", problems, Value::as_table);
        let mut texts = BTreeMap::new();
        for (name, value) in table.into_iter().flatten() {
            match value.as_str() {
                Some(text) => _ = texts.insert(name.clone(), text.to_owned()),
                None => problems.push(self.problem(&format!("{key}.{name}"), "must be a string")),
            }
        }
        texts
    }

    /// The entries of a table of tables.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        problems: &mut Vec<KindProblem>,
    ) -> Vec<(String, Section<'a>)> {
        let table = self.get(key, "a table of tables", problems, Value::as_table);
        let mut sections = Vec::new();
        for (name, value) in table.into_iter().flatten() {
            let path = self.path_of(&format!("{key}.{name}"));
            match value.as_table() {
                Some(table) => sections.push((name.clone(), Section::new(path, table))),
                None => problems.push(KindProblem { path, message: "must be a table".to_owned() }),
            }
        }
        sections
    }

    pub(super) fn finish(self, problems: &mut Vec<KindProblem>) {
        let unknown = self.table.keys().filter(|key| !self.asked.contains(key.as_str()));
        problems.extend(unknown.map(|key| self.problem(key, "is not known here")));
    }
}

fn whole(value: &Value, range: &RangeInclusive<u32>) -> Option<u32> {
    u32::try_from(value.as_integer()?).ok().filter(|number| range.contains(number))
}

/// A value a parameter may have; `None` for tables, lists, dates and numbers JSON has not.
pub(super) fn to_json(value: &Value) -> Option<serde_json::Value> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Integer(number) => Some((*number).into()),
        Value::Float(number) => Number::from_f64(*number).map(Into::into),
        Value::Boolean(value) => Some((*value).into()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
