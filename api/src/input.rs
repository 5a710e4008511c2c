//! Input: fields that are checked all at once, and creations that happen once.

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use chrono::{DateTime, Datelike as _, Utc};
use commands::{Context, IdempotencyKey};
use domain::Invalid;
use ledger::Sha256;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::extract;
use crate::problem::{FieldError, Problem};

/// The header that makes a creation happen once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a time outside [`showable`] is told.
pub(crate) const NOT_SHOWABLE: &str = "must be within the years 0000 to 9999";

/// Whether a time can be written as RFC 3339 has it, with a year of four digits; the database takes all of these.
pub(crate) fn showable(at: DateTime<Utc>) -> bool {
    (0..=9999).contains(&at.year())
}

/// A time that may be left out, for `deserialize_with`.
pub(crate) fn moment<'de, D: Deserializer<'de>>(input: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let at = Option::<DateTime<Utc>>::deserialize(input)?;
    if at.is_none_or(showable) { Ok(at) } else { Err(D::Error::custom(NOT_SHOWABLE)) }
}

/// A field that is given, whose value may be null, for `deserialize_with` beside `default`: left out is `None`.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some)
}

/// As [`given`], of times as [`moment`] takes them.
pub(crate) fn given_moment<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Option<DateTime<Utc>>>, D::Error> {
    moment(input).map(Some)
}

/// Collects what is wrong with each field, so that the client learns of everything at once.
#[derive(Default)]
pub struct Fields(Vec<FieldError>);

impl Fields {
    /// Checks one field.
    pub fn check<T>(&mut self, field: &str, outcome: Result<T, Invalid>) -> Option<T> {
        outcome.map_err(|invalid| self.refuse(field, invalid.0)).ok()
    }

    /// Checks one field that may be left out.
    pub fn check_optional<T>(
        &mut self,
        field: &str,
        text: Option<&str>,
        parse: fn(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        text.and_then(|text| self.check(field, parse(text)))
    }

    /// Notes what is wrong with a field.
    pub fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(FieldError::new(field, message));
    }

    /// The end of checking.
    ///
    /// # Errors
    /// 422 with everything that was noted.
    pub fn done(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::unprocessable(self.0)) }
    }
}

/// The JSON body of a request that creates something, and its `Idempotency-Key` if it has one.
pub struct Creation<T> {
    /// What is asked for.
    pub body: T,
    key: Option<IdempotencyKey>,
}

impl<T> Creation<T> {
    /// The body, and `context` with the key in it.
    pub fn within(self, context: &Context) -> (T, Context) {
        let mut context = context.clone();
        context.idempotency = self.key;
        (self.body, context)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Creation<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let key = key(request.headers())?;
        // The path without its mount point: `/api/v1/x` and `/api/x` are the same request.
        let operation = format!("{} {}\n", request.method(), request.uri().path());
        let bytes = extract::json_bytes(request).await?;
        let key = key.map(|key| {
            let mut fingerprint = Sha256::default();
            fingerprint.update(operation);
            fingerprint.update(&bytes);
            IdempotencyKey { key, fingerprint: fingerprint.finish() }
        });
        Ok(Self { body: extract::parse(&bytes)?, key })
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(text.to_owned()))
    } else {
        Err(Problem::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters"))
    }
}
