//! The headers of a request, as templates. No value gets out of its header.

use std::collections::BTreeMap;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::filling::Filling;
use crate::jobs::kinds::template::Template;
use crate::jobs::kinds::{ArgProblem, Reading, Values};

/// The longest value that is sent, in bytes.
const LONGEST: usize = 8 * 1024;
/// What is of the connection, or says how long the body is, and is not for a kind to say.
const OUR_OWN: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Debug, Default)]
pub(super) struct Headers(BTreeMap<String, (HeaderName, Template)>);

impl Headers {
    /// Reads `headers = { X-Day = "{day}" }` and reports what is wrong with each.
    pub(super) fn read(reading: &mut Reading<'_, '_>) -> Self {
        let mut headers = BTreeMap::new();
        for (name, text) in reading.texts("headers") {
            match header(&name, &text, reading) {
                Ok((name, _)) if headers.contains_key(name.as_str()) => {
                    reading.problem(&format!("headers.{name}"), "is there twice");
                }
                Ok((name, template)) => _ = headers.insert(name.as_str().to_owned(), (name, template)),
                Err(message) => reading.problem(&format!("headers.{name}"), &message),
            }
        }
        Self(headers)
    }

    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.0.values().map(|(_, template)| template)
    }

    /// What the kind says of its body.
    pub(super) fn content_type(&self) -> Option<&str> {
        let (_, template) = self.0.get(CONTENT_TYPE.as_str())?;
        template.literal()
    }

    /// Values that cannot stand in the header they would stand in.
    pub(super) fn check(&self, values: &Values) -> Vec<ArgProblem> {
        let named = self.templates().flat_map(Template::params);
        let refused = named.filter(|name| {
            values.text(name).is_some_and(|text| text.contains(is_refused) || text.len() > LONGEST)
        });
        refused
            .map(|name| ArgProblem::new(name, "must not contain line breaks or other control characters, nor be longer than 8 KiB: it stands in a header"))
            .collect()
    }

    /// The headers to send; marked sensitive are those with a secret. The error says what is wrong, and repeats no value.
    pub(super) fn fill(&self, filling: Filling<'_>) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, template) in self.0.values() {
            let Some(value) = filling.all(template, <[u8]>::to_vec) else { continue };
            let refused = || {
                format!(
                    "the header {name} cannot be sent: it would have a control character or more than 8 KiB"
                )
            };
            if value.len() > LONGEST
                || value.iter().any(|byte| is_refused(char::from(*byte)) && byte.is_ascii())
            {
                return Err(refused());
            }
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| refused())?;
            value.set_sensitive(template.secrets().next().is_some());
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }
}

fn header(name: &str, text: &str, reading: &Reading<'_, '_>) -> Result<(HeaderName, Template), String> {
    let name: HeaderName = name.parse().map_err(|_| "is not the name of a header")?;
    if OUR_OWN.contains(&name.as_str()) {
        return Err("is set by Daybook".to_owned());
    }
    let template = Template::parse(text)?;
    reading.knows_all_of(&template)?;
    if name == CONTENT_TYPE && template.literal().is_none() {
        return Err("must not depend on values: it says how they are written in the body".to_owned());
    }
    if text.contains(is_refused) {
        return Err("must not contain line breaks or other control characters".to_owned());
    }
    Ok((name, template))
}

fn is_refused(character: char) -> bool {
    character.is_control()
}
