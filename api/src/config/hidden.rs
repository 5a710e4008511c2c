//! Text that must not reach a log, an error message or a core of memory longer than needed.

use std::fmt;
use std::hint::black_box;

/// A configured secret. `Debug` hides it, there is no `Display`, and its memory is overwritten when it goes.
///
/// The overwriting is best effort: `forbid(unsafe_code)` rules out volatile writes, so the compiler is only
/// kept from dropping it by `black_box`.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Every caller is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

/// Overwrites bytes with zeroes.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    black_box(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        let shown = format!("{:?}", Some(Hidden::new("correct horse")));
        assert_eq!(shown, "Some([hidden])");
    }

    #[test]
    fn wiping_leaves_zeroes() {
        let mut bytes = *b"secret";
        wipe(&mut bytes);
        assert_eq!(bytes, [0; 6]);
    }
}
