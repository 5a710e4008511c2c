//! SHA-256 (FIPS 180-4) and random tokens for those who may not name `ring` (D12).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

use crate::seal::{SealError, hex, random};

/// A SHA-256 in the making.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The digest in lower-case hex, 64 characters.
    #[must_use]
    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }

    /// The digest of `bytes` in lower-case hex.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> String {
        let mut digest = Self::default();
        digest.update(bytes);
        digest.finish()
    }
}

/// 32 random bytes as 43 characters of base64url.
///
/// # Errors
/// Only when the system gives no randomness.
pub fn random_token() -> Result<String, SealError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?.as_ref()))
}
