//! Extractors whose refusals are problems. Handlers use these, never axum's own.

use std::error::Error;
use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub use crate::body::MAX_BODY_BYTES;
use crate::body::read;
use crate::problem::{FieldError, Problem};

/// A body must have arrived by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of a name that the caller made up, as far as it is repeated.
const LONGEST_NAME: usize = 100;

/// A JSON body, and a JSON answer.
///
/// Refusals: 415 wrong content type, 413 over `MAX_BODY_BYTES`, 408 too slow, 400 not JSON, 422 not what is expected.
/// Types that derive `Deserialize` should say `deny_unknown_fields`.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

/// A JSON body that may be left out; then everything in it is as by default.
#[derive(Debug, Clone, Copy)]
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        Json::from_request(request, state).await.map(|Json(body)| Self(body))
    }
}

/// The query string. A refusal is 422 and names the parameter, also one that is given twice.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

/// The path's parameters. A refusal is 404: what is not an id names nothing.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        parse(&json_bytes(request).await?).map(Self)
    }
}

/// The bytes of a body that says it is JSON, in memory that is overwritten when they go.
pub(crate) async fn json_bytes(request: Request) -> Result<Zeroizing<Vec<u8>>, Problem> {
    if !says_json(request.headers()) {
        return Err(Problem::unsupported_media_type());
    }
    let announced = announced_length(request.headers());
    read(request.into_body(), announced, BODY_TIMEOUT).await
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::unprocessable(vec![query_error(&rejection)])),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) if is_our_mistake(&rejection) => Err(Problem::internal(rejection)),
            Err(_) => Err(Problem::not_found()),
        }
    }
}

/// Whether the handler asks for parameters the route does not have.
fn is_our_mistake(rejection: &PathRejection) -> bool {
    let PathRejection::FailedToDeserializePathParams(failed) = rejection else { return true };
    matches!(failed.kind(), ErrorKind::WrongNumberOfParameters { .. } | ErrorKind::UnsupportedType { .. })
}

/// `application/json` or `application/*+json`, with any parameters.
fn says_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let value = parsed.map_err(|error| match error.inner().classify() {
        serde_json::error::Category::Data => Problem::unprocessable(vec![field_error(
            &error.path().to_string(),
            &without_place(error.inner()),
        )]),
        _ => not_json(error.inner()),
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// The place is told, the text around it is not.
fn not_json(error: &serde_json::Error) -> Problem {
    let place = format!("line {}, column {}", error.line(), error.column());
    Problem::bad_request(format!("The body is not valid JSON ({place})."))
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map(str::to_owned).unwrap_or(text)
}

/// Names the parameter: from the path where there is one, else from the message.
fn query_error(rejection: &QueryRejection) -> FieldError {
    type Located = serde_path_to_error::Error<serde::de::value::Error>;
    let mut cause: Option<&(dyn Error + 'static)> = rejection.source();
    while let Some(error) = cause {
        if let Some(located) = error.downcast_ref::<Located>() {
            return field_error(&located.path().to_string(), &located.inner().to_string());
        }
        cause = error.source();
    }
    FieldError::new("", "the query string is not valid")
}

/// serde's message in our words. It must not repeat the value, which may be a password in the wrong field.
fn field_error(path: &str, message: &str) -> FieldError {
    // serde_path_to_error writes "." for the input itself and "?" where it cannot tell.
    let parent = if matches!(path, "." | "?") { "" } else { path };
    let quoted = message.split('`').nth(1).unwrap_or_default();
    let child = || match parent {
        "" => quoted.to_owned(),
        // For an unknown field the path may name it already.
        _ if parent == quoted || parent.ends_with(&format!(".{quoted}")) => parent.to_owned(),
        _ => format!("{parent}.{quoted}"),
    };
    if message.starts_with("missing field") {
        return FieldError::new(child(), "is missing");
    }
    if message.starts_with("duplicate field") {
        return FieldError::new(child(), "is given more than once");
    }
    if message.starts_with("unknown field") {
        return FieldError::new(bounded(child()), "is not a known field");
    }
    if message.starts_with("invalid ") || message.starts_with("unknown variant") {
        return FieldError::new(bounded(parent.to_owned()), expected(message));
    }
    FieldError::new(bounded(parent.to_owned()), message)
}

/// What was expected, without what came. The value stands before it and may itself speak of what is expected: the last time counts.
fn expected(message: &str) -> &str {
    message.rfind(", expected ").map_or("is not valid", |at| &message[at + 2..])
}

/// The caller's own words, as far as they help to find the place.
fn bounded(name: String) -> String {
    name.char_indices().nth(LONGEST_NAME).map_or(name.clone(), |(end, _)| format!("{}…", &name[..end]))
}

#[cfg(test)]
mod tests;
