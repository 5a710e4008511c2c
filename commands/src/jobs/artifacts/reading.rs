//! Reading what was kept, and making sure that it is that.

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, try_unfold};
use futures::{StreamExt as _, TryStreamExt as _};
use ledger::Sha256;

use super::ArtifactError;

/// A stream half read.
struct Reading {
    rest: BoxStream<'static, Result<Bytes, object_store::Error>>,
    digest: Sha256,
    /// Read and not given on: what came last.
    held: Option<Bytes>,
    expected: String,
}

/// The bytes of `content`, one piece behind: the last piece is given on once the digest of all is as `expected`, in hex. Otherwise it ends
/// with [`ArtifactError::Lost`], too short for anybody to take it for the whole.
pub(super) fn checked(
    content: impl Stream<Item = Result<Bytes, object_store::Error>> + Send + 'static,
    expected: String,
) -> impl Stream<Item = Result<Bytes, ArtifactError>> + Send + 'static {
    let reading = Reading { rest: content.boxed(), digest: Sha256::default(), held: None, expected };
    try_unfold(reading, |mut reading| async move {
        while let Some(piece) = reading.rest.try_next().await? {
            reading.digest.update(&piece);
            if let Some(before) = reading.held.replace(piece) {
                return Ok(Some((before, reading)));
            }
        }
        if reading.digest.clone().finish() != reading.expected {
            return Err(ArtifactError::Lost);
        }
        Ok(reading.held.take().map(|last| (last, reading)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::stream::iter;

    use super::*;

    async fn read(pieces: &[&'static str], expected: &str) -> (String, bool) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        let mut checked = Box::pin(checked(iter(pieces), Sha256::of(expected)));
        let mut all = vec![];
        loop {
            match checked.try_next().await {
                Ok(Some(piece)) => all.extend_from_slice(&piece),
                Ok(None) => return (String::from_utf8(all).unwrap(), true),
                Err(_) => return (String::from_utf8(all).unwrap(), false),
            }
        }
    }

    #[tokio::test]
    async fn what_was_kept_comes_whole_and_nothing_else_does() {
        assert_eq!(read(&["some", "thing"], "something").await, ("something".into(), true));
        assert_eq!(read(&[], "").await, (String::new(), true));
        assert_eq!(read(&["some", "thinG"], "something").await, ("some".into(), false));
        assert_eq!(read(&["other"], "something").await, (String::new(), false));
    }
}
