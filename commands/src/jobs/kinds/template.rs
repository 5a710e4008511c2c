//! One argument of a command, with places for parameters.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Param(String),
}

impl Template {
    /// Reads `--day={day}`; `{{` and `}}` are braces. The error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            push_text(&mut parts, before);
            rest = if let Some(after) = after.strip_prefix("{{") {
                push_text(&mut parts, "{");
                after
            } else if let Some(after) = after.strip_prefix("}}") {
                push_text(&mut parts, "}");
                after
            } else {
                let (name, after) =
                    after.strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or(LONE_BRACE)?;
                parts.push(Part::Param(name.to_owned()));
                after
            };
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    /// The parameters it names.
    pub(super) fn params(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Param(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The argument; `None` if it names a parameter without a value.
    pub(super) fn fill(&self, values: &BTreeMap<&str, String>) -> Option<String> {
        self.0.iter().map(|part| part.fill(values)).collect()
    }

    /// The parameter whose value the argument starts with, if it starts with one.
    pub(super) fn first_shown(&self, values: &BTreeMap<&str, String>) -> Option<&str> {
        let first = self.0.iter().find(|part| part.fill(values).is_none_or(|text| !text.is_empty()))?;
        match first {
            Part::Param(name) => Some(name),
            Part::Text(_) => None,
        }
    }
}

impl Part {
    fn fill<'a>(&'a self, values: &'a BTreeMap<&str, String>) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Param(name) => values.get(name.as_str()).map(String::as_str),
        }
    }
}

const LONE_BRACE: &str = "has a brace without its partner; write `{{` or `}}` for a brace";

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        Some(Part::Param(_)) | None => parts.push(Part::Text(text.to_owned())),
    }
}
