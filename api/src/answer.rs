//! Answers with the headers the contract promises: entity tag, position, location.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::authenticate::DAYBOOK_POSITION;
use crate::problem::Problem;

/// A single resource, or the answer to a write of one.
pub struct Answer<T> {
    status: StatusCode,
    body: T,
    headers: HeaderMap,
}

impl<T> Answer<T> {
    /// 200 with `body`.
    pub fn ok(body: T) -> Self {
        Self { status: StatusCode::OK, body, headers: HeaderMap::new() }
    }

    /// 201 with `body`.
    pub fn created(body: T) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(body) }
    }

    /// Its parts, for other ways of writing the body.
    pub(crate) fn into_parts(self) -> (StatusCode, HeaderMap, T) {
        (self.status, self.headers, self.body)
    }

    /// `ETag`: the version of the resource's stream.
    #[must_use]
    pub fn tagged(mut self, sequence: i64) -> Self {
        if let Ok(value) = HeaderValue::from_str(&format!("\"{sequence}\"")) {
            self.headers.insert(header::ETAG, value);
        }
        self
    }

    /// `Daybook-Position`: a read that carries it sees this write.
    #[must_use]
    pub fn at(mut self, position: Option<i64>) -> Self {
        if let Some(position) = position {
            self.headers.insert(HeaderName::from_static(DAYBOOK_POSITION), HeaderValue::from(position));
        }
        self
    }

    /// Cookies to be kept or forgotten.
    #[must_use]
    pub fn with_cookies(mut self, cookies: Vec<HeaderValue>) -> Self {
        self.headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
        self
    }

    /// One more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }
}

impl Answer<()> {
    /// 204 with the headers.
    pub fn without_content(self) -> Response {
        (StatusCode::NO_CONTENT, self.headers).into_response()
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        (self.status, self.headers, axum::Json(self.body)).into_response()
    }
}

/// 204 with the position of the write.
pub fn no_content(position: Option<i64>) -> Response {
    Answer::ok(()).at(position).without_content()
}

/// The version that `If-Match` asks for. `None`: any.
///
/// # Errors
/// 422 when the header is not one entity tag, 412 when it is a weak one (which never matches, RFC 9110 section 13.1.1).
pub fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    if text.starts_with("W/") {
        return Err(Problem::precondition_failed("A weak entity tag never matches."));
    }
    let version: Option<i64> =
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    match version {
        Some(1..) => Ok(version),
        // Nothing that exists has such a version, and to the write side 0 stands for what is yet to be made.
        Some(_) => Err(Problem::precondition_failed("There are no versions below \"1\".")),
        None => Err(Problem::invalid("If-Match", "must be an entity tag such as \"3\", or *")),
    }
}

/// Entity tags of values, which are not those of the streams they are in: `"v3"`.
pub mod entity_tag {
    use axum::http::{HeaderMap, header};

    /// The version that `If-Match` names, if it is a value's entity tag.
    pub fn version(headers: &HeaderMap) -> Option<u32> {
        let text = headers.get(header::IF_MATCH)?.to_str().ok()?.trim();
        text.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok().filter(|version| *version > 0)
    }

    /// Whether `If-None-Match` names `tag`, by weak comparison (RFC 9110 section 13.1.2).
    pub fn is_none_of(headers: &HeaderMap, tag: &str) -> bool {
        let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut named = lists.flat_map(|list| list.split(',')).map(str::trim);
        named.any(|named| named == "*" || named.trim_start_matches("W/").trim_matches('"') == tag)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asks(text: &'static str) -> Result<Option<i64>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, HeaderValue::from_static(text));
        if_match(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn if_match_names_a_version_or_any() {
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(asks("*"), Ok(None));
        assert_eq!(asks("\"3\""), Ok(Some(3)));
        assert_eq!((asks("\"0\""), asks("\"-1\"")), (Err(412), Err(412)));
        assert_eq!(asks("W/\"3\""), Err(412));
        for bad in ["3", "\"x\"", "\"1\", \"2\"", ""] {
            assert_eq!(asks(bad), Err(422), "{bad:?}");
        }
    }
}
