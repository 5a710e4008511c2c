//! The body of a request, as a template. In JSON a value stays within the string it stands in; in a form within its field.

use super::filling::{Filled, Filling, json_escaped, percent_encoded};
use crate::jobs::kinds::Reading;
use crate::jobs::kinds::template::{Part, Template};

/// The largest body that is sent, in bytes.
const LARGEST: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Content {
    template: Template,
    form: Form,
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// `application/x-www-form-urlencoded`
    Fields,
    Text,
}

impl Content {
    /// Reads a body. `content_type` is the kind's own header, if it has one. The error says what is wrong.
    pub(super) fn read(
        text: &str,
        content_type: Option<&str>,
        reading: &Reading<'_, '_>,
    ) -> Result<Self, String> {
        if text.len() > LARGEST {
            return Err(format!("must have at most {LARGEST} bytes"));
        }
        let template = Template::parse_among_braces(text);
        reading.knows_all_of(&template)?;
        if let Some(name) = template.params().find(|name| !reading.is_always_there(name)) {
            return Err(format!("`{name}` may be missing: make it required, or give it a default"));
        }
        let form = match content_type {
            Some(given) => named_form(given),
            None if text.trim_start().starts_with(['{', '[', '"']) && is_json(&template) => Form::Json,
            None => Form::Text,
        };
        if form == Form::Json {
            check_json(&template, reading)?;
        }
        Ok(Self { template, form })
    }

    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    /// What it is sent as, unless the kind says.
    pub(super) fn media_type(&self) -> &'static str {
        match self.form {
            Form::Json => "application/json",
            Form::Fields => "application/x-www-form-urlencoded",
            Form::Text => "text/plain; charset=utf-8",
        }
    }

    /// The body to send. The error says what is wrong, and repeats no value.
    pub(super) fn fill(&self, filling: Filling<'_>) -> Result<Vec<u8>, String> {
        if self.form == Form::Json && !self.is_text(filling) {
            return Err("a secret in the body is not UTF-8, which JSON has to be".to_owned());
        }
        let mut in_string = InString::default();
        let mut body = Vec::new();
        for part in self.template.parts() {
            match (filling.part(part).ok_or("a value is missing in the body")?, self.form) {
                (Filled::Literal(text), _) => body.extend_from_slice(text.as_bytes()),
                (Filled::Value(value), Form::Json) if in_string.inside => body.extend(json_escaped(value)),
                (Filled::Value(value), Form::Fields) => body.extend(percent_encoded(value)),
                (Filled::Value(value), Form::Json | Form::Text) => body.extend_from_slice(value),
            }
            in_string.pass(part);
        }
        if body.len() > LARGEST {
            return Err(format!("the body has more than {LARGEST} bytes"));
        }
        Ok(body)
    }

    fn is_text(&self, filling: Filling<'_>) -> bool {
        let filled = filling.all(&self.template, <[u8]>::to_vec);
        filled.is_none_or(|filled| std::str::from_utf8(&filled).is_ok())
    }
}

fn named_form(content_type: &str) -> Form {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-www-form-urlencoded" => Form::Fields,
        json if json.ends_with("/json") || json.ends_with("+json") => Form::Json,
        _ => Form::Text,
    }
}

/// Whether the text before a part leaves a JSON string open.
#[derive(Default)]
struct InString {
    inside: bool,
    escaped: bool,
}

impl InString {
    fn pass(&mut self, part: &Part) {
        let Part::Text(text) = part else { return };
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.inside => self.escaped = true,
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}

/// Whether it is JSON once values stand in their places.
fn is_json(template: &Template) -> bool {
    let mut in_string = InString::default();
    let mut text = String::new();
    for part in template.parts() {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Param(_) | Part::Secret(_) => text.push(if in_string.inside { 'x' } else { '0' }),
        }
        in_string.pass(part);
    }
    serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok()
}

fn check_json(template: &Template, reading: &Reading<'_, '_>) -> Result<(), String> {
    if !is_json(template) {
        return Err("is not JSON, which its Content-Type says".to_owned());
    }
    let mut in_string = InString::default();
    for part in template.parts() {
        match part {
            Part::Param(name) if !in_string.inside && !reading.is_bare(name) => {
                return Err(format!("`{{{name}}}` is text: it must stand within a JSON string"));
            }
            Part::Secret(name) if !in_string.inside => {
                return Err(format!("`{{secret:{name}}}` must stand within a JSON string"));
            }
            Part::Text(_) | Part::Param(_) | Part::Secret(_) => in_string.pass(part),
        }
    }
    Ok(())
}
