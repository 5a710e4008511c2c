//! Reading kinds from TOML, with every problem reported and not only the first.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Number;
use toml::{Table, Value};

use super::param::{MAX_LENGTH, Param, ParamType, Pattern, compare};
use super::template::Template;
use super::{Kind, KindProblem};

const TIMEOUT_SECONDS: u32 = 3600;
const MAX_TIMEOUT_SECONDS: u32 = 86_400;
const MOST_ATTEMPTS: u32 = 100;

/// The longest string, in characters: Linux takes 128 KiB per argument, and a character may have four bytes.
const MOST_CHARACTERS: u32 = 30_000;

pub(super) fn kinds(text: &str) -> Result<BTreeMap<String, Kind>, Vec<KindProblem>> {
    let table: Table = text.parse().map_err(|error| vec![syntax_problem(text, &error)])?;
    let mut root = Section { path: String::new(), table: &table, asked: BTreeSet::new() };
    let mut problems = Vec::new();
    let mut kinds = BTreeMap::new();
    for (name, section) in root.sections("jobs", &mut problems) {
        if !is_kind_name(&name) {
            let rule = "a kind's name has 1 to 63 of a-z, 0-9 and -, and does not start with -";
            problems.push(KindProblem { path: section.path.clone(), message: rule.to_owned() });
        }
        kinds.insert(name.clone(), kind(name, section, &mut problems));
    }
    if problems.is_empty() { Ok(kinds) } else { Err(problems) }
}

/// Says where the text is broken, but does not quote it: the file may hold more than job kinds.
fn syntax_problem(text: &str, error: &toml::de::Error) -> KindProblem {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    KindProblem { path: format!("line {line}"), message: format!("is not TOML: {}", error.message()) }
}

fn kind(name: String, mut section: Section<'_>, problems: &mut Vec<KindProblem>) -> Kind {
    let mut params = BTreeMap::new();
    for (name, section) in section.sections("params", problems) {
        if !is_variable_name(&name) {
            problems.push(section.problem(
                "",
                "a parameter's name has letters, digits and _, and does not start with a digit",
            ));
        }
        params.insert(name, param(section, problems));
    }
    let secrets = section.texts("secrets", problems);
    let env = section.texts("env", problems);
    check_variables(&section, &secrets, &env, problems);
    let kind = Kind {
        name,
        description: section.text("description", problems).unwrap_or_default(),
        command: command(&mut section, &params, problems),
        timeout_seconds: section
            .whole("timeout_seconds", MAX_TIMEOUT_SECONDS, problems)
            .unwrap_or(TIMEOUT_SECONDS),
        max_attempts: section.whole("max_attempts", MOST_ATTEMPTS, problems),
        params,
        secrets,
        env,
    };
    section.finish(problems);
    kind
}

fn command(
    section: &mut Section<'_>,
    params: &BTreeMap<String, Param>,
    problems: &mut Vec<KindProblem>,
) -> Vec<Template> {
    let what = "a list of strings";
    let texts = section.get("command", what, problems, |value| {
        value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()
    });
    let Some(texts) = texts else {
        if !section.table.contains_key("command") {
            problems.push(section.problem("command", "is missing"));
        }
        return Vec::new();
    };
    if texts.first().is_none_or(|program| program.trim().is_empty()) {
        problems.push(section.problem("command", "needs a program as its first element"));
    }
    let mut templates = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match argument(index, text, params) {
            Ok(template) => templates.push(template),
            Err(message) => problems.push(section.problem(&format!("command[{index}]"), &message)),
        }
    }
    templates
}

fn argument(index: usize, text: &str, params: &BTreeMap<String, Param>) -> Result<Template, String> {
    if text.contains('\0') {
        return Err("must not contain NUL".to_owned());
    }
    let template = Template::parse(text)?;
    let named: Vec<&str> = template.params().collect();
    if index == 0 && !named.is_empty() {
        return Err("the program cannot be a parameter".to_owned());
    }
    match named.into_iter().find(|name| !params.contains_key(*name)) {
        Some(name) => {
            Err(format!("there is no parameter for `{{{name}}}`; write `{{{{` and `}}}}` for braces"))
        }
        None => Ok(template),
    }
}

/// Environment variables must be possible, distinct and not Daybook's own; secrets must have names.
fn check_variables(
    section: &Section<'_>,
    secrets: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
    problems: &mut Vec<KindProblem>,
) {
    for (table, name, value) in secrets
        .iter()
        .map(|(name, value)| ("secrets", name, value))
        .chain(env.iter().map(|(name, value)| ("env", name, value)))
    {
        let message = match name.as_str() {
            _ if !is_variable_name(name) => {
                "an environment variable's name has letters, digits and _, and does not start with a digit"
            }
            "PATH" | "HOME" => "is set by Daybook",
            _ if name.starts_with("DAYBOOK_") => "names starting with DAYBOOK_ are Daybook's own",
            _ if table == "env" && secrets.contains_key(name) => "is among the secrets too",
            _ if table == "secrets" && value.trim().is_empty() => "needs the name of a secret",
            _ if value.contains('\0') => "must not contain NUL",
            _ => continue,
        };
        problems.push(section.problem(&format!("{table}.{name}"), message));
    }
}

fn param(mut section: Section<'_>, problems: &mut Vec<KindProblem>) -> Param {
    let before = problems.len();
    let kind = section.get("type", "one of string, integer, number and boolean", problems, |value| {
        ParamType::from_name(value.as_str()?)
    });
    if !section.table.contains_key("type") {
        problems.push(section.problem("type", "is missing"));
    }
    let kind = kind.unwrap_or(ParamType::String);
    let default = section.json("default", problems);
    let mut param = Param {
        kind,
        description: section.text("description", problems).unwrap_or_default(),
        required: section.flag("required", problems).unwrap_or(default.is_none()),
        default,
        allowed: None,
        pattern: pattern(&mut section, problems),
        max_length: section.whole("max_length", MOST_CHARACTERS, problems).unwrap_or(MAX_LENGTH),
        min: section.number("min", kind, problems),
        max: section.number("max", kind, problems),
        allow_leading_dash: section.flag("allow_leading_dash", problems).unwrap_or(false),
    };
    let allowed = section.get("enum", "a list of values", problems, |value| {
        value.as_array()?.iter().map(to_json).collect::<Option<Vec<_>>>()
    });
    // What contradicts what only shows once the parts by themselves are right.
    if problems.len() == before {
        check_keys(&section, kind, problems);
        check_values(&section, &mut param, allowed, problems);
    }
    section.finish(problems);
    param
}

fn pattern(section: &mut Section<'_>, problems: &mut Vec<KindProblem>) -> Option<Pattern> {
    let text = section.text("pattern", problems)?;
    Pattern::new(&text).map_err(|message| problems.push(section.problem("pattern", &message))).ok()
}

fn check_keys(section: &Section<'_>, kind: ParamType, problems: &mut Vec<KindProblem>) {
    for (key, fits, whose) in [
        ("pattern", kind == ParamType::String, "a string"),
        ("max_length", kind == ParamType::String, "a string"),
        ("min", kind.is_numeric(), "an integer or a number"),
        ("max", kind.is_numeric(), "an integer or a number"),
    ] {
        if !fits && section.table.contains_key(key) {
            problems.push(section.problem(key, &format!("is only for {whose}")));
        }
    }
}

fn check_values(
    section: &Section<'_>,
    param: &mut Param,
    allowed: Option<Vec<serde_json::Value>>,
    problems: &mut Vec<KindProblem>,
) {
    if let (Some(min), Some(max)) = (&param.min, &param.max)
        && compare(min, max) == Ordering::Greater
    {
        problems.push(section.problem("min", "is greater than max"));
    }
    if allowed.as_ref().is_some_and(Vec::is_empty) {
        problems.push(section.problem("enum", "must not be empty"));
    }
    for (index, value) in allowed.iter().flatten().enumerate() {
        if let Err(message) = param.check(value) {
            problems.push(section.problem(&format!("enum[{index}]"), &message));
        }
    }
    param.allowed = allowed;
    if let Some(default) = &param.default {
        if let Err(message) = param.check(default) {
            problems.push(section.problem("default", &message));
        }
        if param.required {
            problems.push(section.problem("required", "a parameter with a default is not required"));
        }
    }
}

/// A table being read. Every key it may have is asked for; a key nobody asked for is unknown.
struct Section<'a> {
    path: String,
    table: &'a Table,
    asked: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    fn problem(&self, key: &str, message: &str) -> KindProblem {
        KindProblem { path: self.path_of(key), message: message.to_owned() }
    }

    fn path_of(&self, key: &str) -> String {
        let dot = if self.path.is_empty() || key.is_empty() { "" } else { "." };
        format!("{}{dot}{key}", self.path)
    }

    /// The value of a key, if it is there and is what it must be.
    fn get<T>(
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

    fn text(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Option<String> {
        self.get(key, "a string", problems, |value| value.as_str().map(str::to_owned))
    }

    fn flag(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Option<bool> {
        self.get(key, "true or false", problems, Value::as_bool)
    }

    /// A whole number from 1.
    fn whole(&mut self, key: &'static str, most: u32, problems: &mut Vec<KindProblem>) -> Option<u32> {
        let convert = |value: &Value| {
            u32::try_from(value.as_integer()?).ok().filter(|number| (1..=most).contains(number))
        };
        self.get(key, &format!("a whole number from 1 to {most}"), problems, convert)
    }

    fn number(
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

    fn json(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Option<serde_json::Value> {
        self.get(key, "a string, a number or a boolean", problems, to_json)
    }

    /// The entries of a table of strings.
    fn texts(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> BTreeMap<String, String> {
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
    fn sections(&mut self, key: &'static str, problems: &mut Vec<KindProblem>) -> Vec<(String, Section<'a>)> {
        let table = self.get(key, "a table of tables", problems, Value::as_table);
        let mut sections = Vec::new();
        for (name, value) in table.into_iter().flatten() {
            let path = self.path_of(&format!("{key}.{name}"));
            match value.as_table() {
                Some(table) => sections.push((name.clone(), Section { path, table, asked: BTreeSet::new() })),
                None => problems.push(KindProblem { path, message: "must be a table".to_owned() }),
            }
        }
        sections
    }

    fn finish(self, problems: &mut Vec<KindProblem>) {
        let unknown = self.table.keys().filter(|key| !self.asked.contains(key.as_str()));
        problems.extend(unknown.map(|key| self.problem(key, "is not known here")));
    }
}

/// A value a parameter may have; `None` for tables, lists, dates and numbers JSON has not.
fn to_json(value: &Value) -> Option<serde_json::Value> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Integer(number) => Some((*number).into()),
        Value::Float(number) => Number::from_f64(*number).map(Into::into),
        Value::Boolean(value) => Some((*value).into()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

fn is_kind_name(name: &str) -> bool {
    let possible = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(possible)
}

fn is_variable_name(name: &str) -> bool {
    let possible = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=100).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(possible)
}
