//! A parameter of a kind: what values it takes.

use std::cmp::Ordering;

use regex::Regex;
use serde::Serialize;
use serde_json::{Number, Value};

/// Characters a string may have unless its parameter says otherwise.
pub(super) const MAX_LENGTH: u32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ParamType {
    String,
    Integer,
    Number,
    Boolean,
}

impl ParamType {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "string" => Some(Self::String),
            "integer" => Some(Self::Integer),
            "number" => Some(Self::Number),
            "boolean" => Some(Self::Boolean),
            _ => None,
        }
    }

    pub(super) fn is_numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Param {
    pub(super) kind: ParamType,
    pub(super) description: String,
    pub(super) required: bool,
    pub(super) default: Option<Value>,
    pub(super) allowed: Option<Vec<Value>>,
    pub(super) pattern: Option<Pattern>,
    pub(super) max_length: u32,
    pub(super) min: Option<Number>,
    pub(super) max: Option<Number>,
    pub(super) allow_leading_dash: bool,
}

/// A regular expression that a value must match as a whole.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let compile =
            |text: &str| Regex::new(text).map_err(|error| format!("is not a regular expression: {error}"));
        // By itself first: otherwise `a)|(?:b` would get out of the anchors.
        compile(text)?;
        Ok(Self { text: text.to_owned(), regex: compile(&format!(r"\A(?:{text})\z"))? })
    }
}

impl Param {
    /// The text that stands for `given`, or for the default; `None` for an optional parameter without either. The error says what is wrong.
    pub(super) fn value(&self, given: Option<&Value>) -> Result<Option<String>, String> {
        match given.or(self.default.as_ref()) {
            Some(value) => self.check(value).map(Some),
            None if self.required => Err("is required".to_owned()),
            None => Ok(None),
        }
    }

    /// The text that stands for `value`, if the parameter takes it.
    pub(super) fn check(&self, value: &Value) -> Result<String, String> {
        let text = match (self.kind, value) {
            (ParamType::String, Value::String(text)) => self.check_text(text)?,
            (ParamType::Integer, Value::Number(number)) if number.as_i64().is_some() => {
                self.check_number(number)?
            }
            (ParamType::Number, Value::Number(number)) => self.check_number(number)?,
            (ParamType::Boolean, Value::Bool(value)) => value.to_string(),
            (ParamType::Integer, _) => return Err("must be a whole number of at most 64 bits".to_owned()),
            (kind, _) => return Err(format!("must be a {}", kind.name())),
        };
        match &self.allowed {
            Some(allowed) if !allowed.iter().any(|one| same(one, value)) => {
                Err(format!("must be one of {}", list(allowed)))
            }
            _ => Ok(text),
        }
    }

    fn check_text(&self, text: &str) -> Result<String, String> {
        if text.contains('\0') {
            return Err("must not contain NUL".to_owned());
        }
        if text.chars().count() > self.max_length as usize {
            return Err(format!("must have at most {} characters", self.max_length));
        }
        match &self.pattern {
            Some(pattern) if !pattern.regex.is_match(text) => {
                Err(format!("must match `{}` as a whole", pattern.text))
            }
            _ => Ok(text.to_owned()),
        }
    }

    fn check_number(&self, number: &Number) -> Result<String, String> {
        if let Some(min) = self.min.as_ref().filter(|min| compare(number, min) == Ordering::Less) {
            return Err(format!("must be at least {min}"));
        }
        if let Some(max) = self.max.as_ref().filter(|max| compare(number, max) == Ordering::Greater) {
            return Err(format!("must be at most {max}"));
        }
        Ok(number.to_string())
    }

    pub(super) fn info(&self, name: &str) -> ParamInfo {
        ParamInfo {
            name: name.to_owned(),
            kind: self.kind.name(),
            description: self.description.clone(),
            required: self.required,
            default: self.default.clone(),
            allowed: self.allowed.clone(),
            pattern: self.pattern.as_ref().map(|pattern| pattern.text.clone()),
            max_length: (self.kind == ParamType::String).then_some(self.max_length),
            min: self.min.clone(),
            max: self.max.clone(),
        }
    }
}

/// Orders whole numbers exactly and others as floating-point numbers.
pub(super) fn compare(left: &Number, right: &Number) -> Ordering {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => left.as_f64().unwrap_or(f64::NAN).total_cmp(&right.as_f64().unwrap_or(f64::NAN)),
    }
}

/// Equal values; of numbers the value counts, not how it is written (2 and 2.0).
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare(left, right) == Ordering::Equal,
        _ => left == right,
    }
}

fn list(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A parameter as `GET /api/jobs/kinds` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParamInfo {
    /// Its name in `args`.
    pub name: String,
    /// `string`, `integer`, `number` or `boolean`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it means; may be empty.
    pub description: String,
    /// It must be given.
    pub required: bool,
    /// What stands for it when it is not given.
    pub default: Option<Value>,
    /// The only values it takes.
    #[serde(rename = "enum")]
    pub allowed: Option<Vec<Value>>,
    /// A regular expression that a string must match as a whole.
    pub pattern: Option<String>,
    /// Characters a string may have.
    pub max_length: Option<u32>,
    /// The least number it takes.
    pub min: Option<Number>,
    /// The greatest number it takes.
    pub max: Option<Number>,
}
