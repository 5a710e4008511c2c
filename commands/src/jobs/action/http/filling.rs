//! Filling templates with the values of parameters and secrets.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::jobs::kinds::Values;
use crate::jobs::kinds::template::{Part, Template};
use crate::jobs::mask::{MASK, SecretBytes};

/// What is not percent-encoded: RFC 3986's unreserved characters, section 2.3.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the values come from.
#[derive(Clone, Copy)]
pub(super) struct Filling<'a> {
    pub(super) values: &'a Values,
    pub(super) secrets: Secrets<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Secrets<'a> {
    /// By the kind's names.
    Known(&'a [(String, SecretBytes)]),
    /// A mask stands for each: for whoever only wants to look.
    Masked,
}

impl<'a> Filling<'a> {
    /// With masks in place of secrets.
    pub(super) fn masked(values: &'a Values) -> Self {
        Self { values, secrets: Secrets::Masked }
    }

    /// What stands for a part; `None` for a parameter without a value.
    pub(super) fn part<'p>(&self, part: &'p Part) -> Option<Filled<'p>>
    where
        'a: 'p,
    {
        match part {
            Part::Text(text) => Some(Filled::Literal(text)),
            Part::Param(name) => self.values.text(name).map(|text| Filled::Value(text.as_bytes())),
            Part::Secret(name) => match self.secrets {
                Secrets::Masked => Some(Filled::Literal(MASK)),
                Secrets::Known(secrets) => {
                    let secret = secrets.iter().find(|(known, _)| known == name);
                    secret.map(|(_, value)| Filled::Value(value.expose()))
                }
            },
        }
    }

    /// All parts together, values as `encode` has them; `None` if a parameter has no value.
    pub(super) fn all(&self, template: &Template, encode: impl Fn(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
        let mut filled = Vec::new();
        for part in template.parts() {
            match self.part(part)? {
                Filled::Literal(text) => filled.extend_from_slice(text.as_bytes()),
                Filled::Value(value) => filled.extend(encode(value)),
            }
        }
        Some(filled)
    }
}

/// What stands for a part of a template.
pub(super) enum Filled<'a> {
    /// As the kind's author wrote it.
    Literal(&'a str),
    /// Somebody else's.
    Value(&'a [u8]),
}

/// A value as one component of a URL.
pub(super) fn percent_encoded(value: &[u8]) -> Vec<u8> {
    let encoded: Cow<'_, str> = percent_encode(value, UNRESERVED).into();
    encoded.into_owned().into_bytes()
}

/// A value as part of a JSON string, RFC 8259 section 7. What is no UTF-8 has no such form and is replaced, so it is refused before.
pub(super) fn json_escaped(value: &[u8]) -> Vec<u8> {
    let mut escaped = String::with_capacity(value.len() + 2);
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            control if control.is_control() => {
                // Writing to a string cannot fail. Control characters lie within 16 bits.
                let _cannot_fail = write!(escaped, "\\u{:04x}", u32::from(control));
            }
            other => escaped.push(other),
        }
    }
    escaped.into_bytes()
}
