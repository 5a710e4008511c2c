//! Reading kinds from TOML, with every problem reported and not only the first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Table;

use super::param::{MAX_LENGTH, Param, ParamType, Pattern, compare};
use super::reading::Reading;
use super::section::{Section, to_json};
use super::{Kind, KindProblem, settings};
use crate::jobs::action::{Action, Actions};

const TIMEOUT_SECONDS: u32 = 3600;
const MAX_TIMEOUT_SECONDS: u32 = 86_400;
const MOST_ATTEMPTS: u32 = 100;

/// The longest string, in characters: Linux takes 128 KiB per argument, and a character may have four bytes.
const MOST_CHARACTERS: u32 = 30_000;

/// The type of a kind that does not say.
const USUAL_TYPE: &str = "command";

pub(super) fn kinds(text: &str, actions: &Actions) -> Result<BTreeMap<String, Kind>, Vec<KindProblem>> {
    let table: Table = text.parse().map_err(|error| vec![syntax_problem(text, &error)])?;
    let mut root = Section::new(String::new(), &table);
    let mut problems = Vec::new();
    let mut kinds = BTreeMap::new();
    for (name, section) in root.sections("jobs", &mut problems) {
        if !is_kind_name(&name) {
            let rule = "a kind's name has 1 to 63 of a-z, 0-9 and -, and does not start with -";
            problems.push(KindProblem { path: section.path.clone(), message: rule.to_owned() });
        }
        kinds.extend(kind(&name, section, actions, &mut problems).map(|kind| (name, kind)));
    }
    if problems.is_empty() { Ok(kinds) } else { Err(problems) }
}

/// Says where the text is broken, but does not quote it: the file may hold more than job kinds.
fn syntax_problem(text: &str, error: &toml::de::Error) -> KindProblem {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    KindProblem { path: format!("line {line}"), message: format!("is not TOML: {}", error.message()) }
}

/// A kind, unless something about what it does is wrong.
fn kind(
    name: &str,
    mut section: Section<'_>,
    actions: &Actions,
    problems: &mut Vec<KindProblem>,
) -> Option<Kind> {
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
    let description = section.text("description", problems).unwrap_or_default();
    let timeout_seconds = section.whole("timeout_seconds", MAX_TIMEOUT_SECONDS, problems);
    let max_attempts = section.whole("max_attempts", MOST_ATTEMPTS, problems);
    let settings = settings::read(&mut section, problems);
    let what = format!("one of {}", actions.names().collect::<Vec<_>>().join(", "));
    let given = section.get("type", &what, problems, |value| actions.name(value.as_str()?));
    let known = given.is_some() || !section.table.contains_key("type");
    let action_type = given.unwrap_or(USUAL_TYPE);
    // What else a table of no known type may hold cannot be said.
    let action = known
        .then(|| {
            let reading = Reading::new(&mut section, &params, &secrets, problems);
            let action = act(action_type, actions, reading);
            section.finish(problems);
            action
        })
        .flatten();
    Some(Kind {
        name: name.to_owned(),
        action_type: action_type.to_owned(),
        action: action?,
        description,
        timeout_seconds: timeout_seconds.unwrap_or(TIMEOUT_SECONDS),
        max_attempts,
        settings,
        params,
        secrets,
        env,
    })
}

/// What a kind of this type does. Nothing without a reason: a type that gives none is not believed to have been read.
fn act(action_type: &str, actions: &Actions, mut reading: Reading<'_, '_>) -> Option<Arc<dyn Action>> {
    let before = reading.problems_found();
    let action = actions.read(action_type, &mut reading);
    if action.is_none() && reading.problems_found() == before {
        reading.problem("type", "cannot be used here");
    }
    action
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
