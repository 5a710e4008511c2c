//! Reading a request's body into memory that is overwritten when it goes: it may hold passwords, tokens and the values of secrets.
//!
//! What cannot be overwritten from here: hyper's own read buffer, as long as it shares its memory with the frames it hands out, and
//! the texts that serde_json puts together from escapes while it parses.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt as _, LengthLimitError};
use zeroize::{Zeroize as _, Zeroizing};

use crate::problem::Problem;

/// Largest accepted body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Room made before anything has arrived, at most: what a client announces is only a word.
const ROOM_AT_FIRST: usize = 64 * 1024;

/// The whole body, which must have arrived within `patience`. `announced` is its length by the client's own account.
///
/// # Errors
/// 413 over [`MAX_BODY_BYTES`], 408 when it takes too long, 400 when it breaks off.
pub(crate) async fn read(
    body: Body,
    announced: Option<u64>,
    patience: Duration,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let too_large = || Problem::payload_too_large(MAX_BODY_BYTES);
    let announced = usize::try_from(announced.unwrap_or_default()).map_err(|_| too_large())?;
    if announced > MAX_BODY_BYTES {
        return Err(too_large());
    }
    let room = announced.min(ROOM_AT_FIRST);
    tokio::time::timeout(patience, collect(body, room)).await.map_err(|_| Problem::request_timeout())?
}

async fn collect(mut body: Body, room: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut whole = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(&error))?;
        // Trailers say nothing we ask for.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY_BYTES {
            wipe(data);
            return Err(Problem::payload_too_large(MAX_BODY_BYTES));
        }
        append(&mut whole, &data);
        wipe(data);
    }
    Ok(whole)
}

fn broken_off(error: &axum::Error) -> Problem {
    let too_large = error.source().is_some_and(|source| source.is::<LengthLimitError>());
    if too_large {
        Problem::payload_too_large(MAX_BODY_BYTES)
    } else {
        Problem::bad_request("The body did not arrive whole.")
    }
}

/// A vector that grows by itself leaves a copy behind; this one's former memory is overwritten.
fn append(whole: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let length = whole.len() + data.len();
    if length > whole.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * whole.capacity())));
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(data);
}

/// Overwrites a frame that nobody else holds a part of.
fn wipe(data: Bytes) {
    if let Ok(mut alone) = data.try_into_mut() {
        alone.as_mut().zeroize();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_grows_without_losing_anything() {
        let mut whole = Zeroizing::new(Vec::with_capacity(3));
        let mut expected = vec![];
        for length in [0_usize, 1, 2, 3, 100, 1, 4096] {
            let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            append(&mut whole, &data);
            expected.extend_from_slice(&data);
            assert_eq!(*whole, expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_408() {
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = read(endless, None, Duration::ZERO).await.unwrap_err();
        assert_eq!(problem.status().as_u16(), 408);
    }

    #[tokio::test]
    async fn what_is_announced_is_not_made_room_for_and_too_much_is_refused_at_once() {
        let read = |announced| read(Body::from("{}"), Some(announced), Duration::from_secs(60));
        let whole = read(MAX_BODY_BYTES as u64).await.unwrap();
        assert_eq!((&whole[..], whole.capacity()), (&b"{}"[..], ROOM_AT_FIRST));
        for announced in [MAX_BODY_BYTES as u64 + 1, u64::MAX] {
            assert_eq!(read(announced).await.unwrap_err().status().as_u16(), 413);
        }
    }
}
