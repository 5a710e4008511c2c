//! What a host answered: whether it is a success, what is kept of it, and when to come again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::JsonText;
use ledger::is_deeper_than;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::jobs::mask::Patterns;
use crate::jobs::result::{self, RESULT_LEVELS};

/// Bytes of a body that are kept.
pub(super) const KEPT: usize = 64 * 1024;
/// Levels of a body that is kept as a document: the result is one more.
const BODY_LEVELS: usize = RESULT_LEVELS - 1;
/// The longest pause that a host can ask for: a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);
/// The headers that are kept.
const OF_INTEREST: [&str; 8] = [
    "content-length",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "x-request-id",
];

/// Some of the status codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Codes {
    /// 200 to 299.
    Success,
    /// 429 and 500 to 599.
    Passing,
    /// These and no others.
    These(Vec<u32>),
}

impl Codes {
    pub(super) fn have(&self, status: StatusCode) -> bool {
        match self {
            Self::Success => status.is_success(),
            Self::Passing => status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::These(codes) => codes.contains(&u32::from(status.as_u16())),
        }
    }
}

/// An answer, with as much of its body as is kept.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
    pub(super) cut: bool,
}

impl Answer {
    pub(super) async fn read(mut response: Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        let (mut body, mut cut) = (Vec::new(), false);
        while !cut && let Some(chunk) = response.chunk().await? {
            let room = KEPT - body.len();
            cut = chunk.len() > room;
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(Self { status, headers, body, cut })
    }

    /// As lines for the log. Not masked yet.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.status).into_bytes();
        for (name, value) in self.of_interest() {
            text.extend_from_slice(format!("{name}: ").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        if !self.body.is_empty() {
            text.push(b'\n');
            text.extend_from_slice(&self.body);
        }
        text
    }

    /// As the job's result, secrets masked. A body that is too deep a document is kept as text.
    pub(super) fn document(&self, patterns: &Arc<Patterns>) -> Option<JsonText> {
        let mut headers = Map::new();
        for (name, value) in self.of_interest() {
            headers.entry(name).or_insert_with(|| String::from_utf8_lossy(value).into_owned().into());
        }
        let body = match serde_json::from_slice(&self.body) {
            _ if self.body.is_empty() => Value::Null,
            Ok(document) if !self.cut && !is_deeper_than(BODY_LEVELS, &document) => document,
            _ => String::from_utf8_lossy(&self.body).into_owned().into(),
        };
        let mut document = json!({"status": self.status.as_u16(), "headers": headers, "body": body});
        if self.cut {
            document["cut"] = true.into();
        }
        // It is a document, and not too deep.
        result::parse(document.to_string().as_bytes(), patterns).ok()
    }

    /// The pause that the host asks for, if it does. A date is by the host's clock, which its answer tells; `now` is for hosts that do not.
    pub(super) fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        let told =
            self.headers.get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
        let now = told.map_or(now, |date| date.to_utc());
        parse_retry_after(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }

    fn of_interest(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        OF_INTEREST.into_iter().flat_map(|name| {
            self.headers.get_all(name).into_iter().map(move |value| (name, value.as_bytes()))
        })
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date. What lies behind means at once; what is neither means nothing.
fn parse_retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let pause = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let at = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
        at.signed_duration_since(now).max(TimeDelta::zero()).to_std().ok()?
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_date() {
        let now: DateTime<Utc> = "1994-11-06T08:49:00Z".parse().unwrap();
        let seconds = |text: &str| parse_retry_after(text, now).map(|pause| pause.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        for longest in ["86401", "99999999999999999999999", "Sun, 06 Nov 2094 08:49:37 GMT"] {
            assert!(seconds(longest).is_none_or(|pause| pause <= 86_400), "{longest}");
        }
        assert_eq!(seconds("99999999999999999999999"), Some(86_400));
        for nothing in ["", "-1", "1.5", "soon", "1e3"] {
            assert_eq!(seconds(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_date_is_by_the_clock_of_the_host_that_says_it() {
        let now: DateTime<Utc> = "1994-11-06T08:49:00Z".parse().unwrap();
        let after = |told: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, "Sun, 06 Nov 1994 10:49:37 GMT".parse().unwrap());
            told.map(|date| headers.insert(DATE, date.parse().unwrap()));
            let answer =
                Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers, body: vec![], cut: false };
            answer.retry_after(now).map(|pause| pause.as_secs())
        };
        assert_eq!(after(Some("Sun, 06 Nov 1994 10:49:00 GMT")), Some(37), "the host is two hours ahead");
        assert_eq!(after(Some("not a date")), Some(7_237));
        assert_eq!(after(None), Some(7_237));
    }

    #[test]
    fn codes_have_their_usual_meaning() {
        let has = |codes: &Codes, code: u16| codes.have(StatusCode::from_u16(code).unwrap());
        assert!(has(&Codes::Success, 204) && !has(&Codes::Success, 304));
        assert!(has(&Codes::Passing, 429) && has(&Codes::Passing, 503) && !has(&Codes::Passing, 404));
        assert!(has(&Codes::These(vec![404]), 404) && !has(&Codes::These(vec![404]), 200));
    }
}
