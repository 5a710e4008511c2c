//! A text with places for parameters and secrets: an argument of a command, a URL, a header, a body.

use super::values::Values;

/// What stands before the name of a secret.
const SECRET: &str = "secret:";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    /// The value of the parameter of this name.
    Param(String),
    /// The value of the secret that the kind knows by this name.
    Secret(String),
}

impl Template {
    /// Reads `--day={day}`; `{{` and `}}` are braces. The error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
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
                parts.push(Part::named(name));
                after
            };
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    /// Reads a text in which braces mostly stand for themselves, as in JSON: only `{name}` and `{secret:NAME}` are places, and
    /// `{{name}}` is `{name}`.
    pub(crate) fn parse_among_braces(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, after) = rest.split_at(at);
            push_text(&mut parts, before);
            let escaped =
                after.strip_prefix("{{").and_then(place).filter(|(_, after)| after.starts_with('}'));
            rest = if let Some((name, after)) = escaped {
                push_text(&mut parts, &format!("{{{name}}}"));
                &after[1..]
            } else if let Some((name, after)) = place(&after[1..]) {
                parts.push(Part::named(name));
                after
            } else {
                push_text(&mut parts, "{");
                &after[1..]
            };
        }
        push_text(&mut parts, rest);
        Self(parts)
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The text, if it names nothing.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The secrets it names.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name.as_str()),
            Part::Text(_) | Part::Param(_) => None,
        })
    }

    /// The parameters it names.
    pub(crate) fn params(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Param(name) => Some(name.as_str()),
            Part::Text(_) | Part::Secret(_) => None,
        })
    }

    /// The argument; `None` if it names a parameter without a value.
    pub(crate) fn fill(&self, values: &Values) -> Option<String> {
        self.0.iter().map(|part| part.fill(values)).collect()
    }

    /// The parameter whose value the argument starts with, if it starts with one.
    pub(crate) fn first_shown(&self, values: &Values) -> Option<&str> {
        let first = self.0.iter().find(|part| part.fill(values).is_none_or(|text| !text.is_empty()))?;
        match first {
            Part::Param(name) => Some(name),
            Part::Text(_) | Part::Secret(_) => None,
        }
    }
}

impl Part {
    fn named(name: &str) -> Self {
        match name.strip_prefix(SECRET) {
            Some(name) => Self::Secret(name.to_owned()),
            None => Self::Param(name.to_owned()),
        }
    }

    fn fill<'a>(&'a self, values: &'a Values) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Param(name) => values.text(name),
            // Never in an argument: everybody on the machine can see those.
            Self::Secret(_) => None,
        }
    }
}

/// The name at the beginning of `name}...` or `secret:NAME}...`, and what comes after its brace.
fn place(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.split_once('}')?;
    let bare = name.strip_prefix(SECRET).unwrap_or(name);
    let possible = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = !bare.is_empty() && !bare.as_bytes()[0].is_ascii_digit() && bare.bytes().all(possible);
    is_name.then_some((name, after))
}

const LONE_BRACE: &str = "has a brace without its partner; write `{{` or `}}` for a brace";

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        Some(Part::Param(_) | Part::Secret(_)) | None => parts.push(Part::Text(text.to_owned())),
    }
}
