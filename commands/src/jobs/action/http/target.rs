//! The URL of a request, as a template. Values are percent-encoded, each as one component: none changes the scheme, the host, or
//! which path is asked.

use url::Url;

use super::filling::{Filled, Filling, percent_encoded};
use crate::jobs::kinds::template::{Part, Template};
use crate::jobs::kinds::{Reading, Values};

/// The longest URL that is asked, in bytes.
pub(super) const LONGEST: usize = 8 * 1024;

#[derive(Debug)]
pub(super) struct Target(Template);

impl Target {
    /// Reads a URL like `https://api.example.org/v1/{item}?day={day}`. The error says what is wrong.
    pub(super) fn read(text: &str, reading: &Reading<'_, '_>) -> Result<Self, String> {
        let template = Template::parse(text)?;
        reading.knows_all_of(&template)?;
        if let Some(name) = template.params().find(|name| !reading.is_always_there(name)) {
            return Err(format!("`{name}` may be missing: make it required, or give it a default"));
        }
        let Some(Part::Text(first)) = template.parts().first() else {
            return Err("must begin with http:// or https://, and a host".to_owned());
        };
        let after = first.strip_prefix("https://").or_else(|| first.strip_prefix("http://"));
        let rest = after.ok_or("must begin with http:// or https://")?;
        if template.parts().len() > 1 && !rest.contains(['/', '?']) {
            return Err("no value may stand in the host or the port".to_owned());
        }
        // What comes after would be taken for the host, be it a value.
        if rest.starts_with(['/', '?']) {
            return Err("must have a host after http:// or https://".to_owned());
        }
        let literals = template.parts().iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Param(_) | Part::Secret(_) => None,
        });
        for literal in literals {
            if literal.contains(['#', '\\']) || literal.contains(|one: char| one.is_control() || one == ' ') {
                return Err("must not contain #, \\, spaces or control characters".to_owned());
            }
        }
        let stand_in: String = template.parts().iter().map(stand_in).collect();
        let url = Url::parse(&stand_in).map_err(|error| format!("is not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user or a password: send a header, with {secret:NAME}".to_owned());
        }
        Ok(Self(template))
    }

    pub(super) fn template(&self) -> &Template {
        &self.0
    }

    /// Parameters whose values would ask for another path: a segment of nothing, `.` or `..`.
    pub(super) fn astray(&self, filling: Filling<'_>) -> Vec<&str> {
        let segments = self.segments(filling).into_iter();
        let astray = segments.filter(|segment| matches!(segment.text.as_slice(), b"" | b"." | b".."));
        astray.flat_map(|segment| segment.names).collect()
    }

    /// The path up to the query, with the host before it.
    fn segments(&self, filling: Filling<'_>) -> Vec<Segment<'_>> {
        let (mut segments, mut present) = (Vec::new(), Segment::default());
        for part in self.0.parts() {
            match part {
                Part::Text(text) => {
                    let path = text.split('?').next().unwrap_or_default();
                    for (index, piece) in path.split('/').enumerate() {
                        if index > 0 {
                            segments.push(std::mem::take(&mut present));
                        }
                        present.text.extend_from_slice(piece.as_bytes());
                    }
                    if text.contains('?') {
                        break;
                    }
                }
                Part::Param(name) | Part::Secret(name) => {
                    present.names.push(name);
                    match filling.part(part) {
                        Some(Filled::Literal(text)) => present.text.extend_from_slice(text.as_bytes()),
                        Some(Filled::Value(value)) => present.text.extend_from_slice(value),
                        None => {}
                    }
                }
            }
        }
        segments.push(present);
        segments
    }

    /// The URL to ask. The error says what is wrong, and repeats no value.
    pub(super) fn fill(&self, filling: Filling<'_>) -> Result<Url, String> {
        if let Some(name) = self.astray(filling).first() {
            return Err(format!(
                "the value of `{name}` is empty, `.` or `..`, which would ask for another path"
            ));
        }
        let filled = filling.all(&self.0, percent_encoded).ok_or("a value is missing in the URL")?;
        let text = String::from_utf8(filled).map_err(|_| "the URL is not text")?;
        if text.len() > LONGEST {
            return Err(format!("the URL is longer than {LONGEST} bytes"));
        }
        Url::parse(&text).map_err(|error| format!("the URL cannot be used: {error}"))
    }

    /// The URL with masks in place of secrets, for people.
    pub(super) fn shown(&self, values: &Values) -> String {
        let filled = Filling::masked(values).all(&self.0, percent_encoded).unwrap_or_default();
        String::from_utf8_lossy(&filled).into_owned()
    }
}

/// What stands between two slashes.
#[derive(Default)]
struct Segment<'a> {
    text: Vec<u8>,
    /// Whose values it is made of.
    names: Vec<&'a str>,
}

/// What stands for a part while the text is looked at as a URL.
fn stand_in(part: &Part) -> &str {
    match part {
        Part::Text(text) => text,
        Part::Param(_) | Part::Secret(_) => "x",
    }
}
