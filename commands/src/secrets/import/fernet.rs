//! Fernet tokens: what older back ends kept values as. They are opened and never made.
//!
//! A token is base64url of `0x80`, eight bytes of time, sixteen of initialisation vector, AES-128-CBC with PKCS #7 padding, and HMAC-SHA256 of
//! all that (<https://github.com/fernet/spec>). A key is base64url of sixteen bytes for the HMAC and sixteen for AES. How old a token is does not
//! matter here: what was stored was meant to last.

use aes::Aes128;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Keys there may be at once.
const MOST_KEYS: usize = 100;
const VERSION: u8 = 0x80;
const HALF_KEY: usize = 16;
const VECTOR: std::ops::Range<usize> = 9..25;
const TAG: usize = 32;

/// With or without `=` at the end: both are in use.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FernetKeyError {
    /// It has another form.
    #[error("key {0} is not 32 bytes of base64url")]
    Malformed(usize),
    /// There is none, or there are too many.
    #[error("there must be 1 to {MOST_KEYS} keys, separated by commas")]
    Count,
}

/// Why a token was not opened. Nothing of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("is not a Fernet token")]
    Malformed,
    #[error("cannot be opened: it was made with another key, or was changed or cut")]
    Unopened,
}

/// Keys of Fernet tokens. A token may be made with any of them.
#[derive(Default)]
pub struct FernetKeys(Vec<Zeroizing<Vec<u8>>>);

impl FernetKeys {
    /// Reads keys separated by commas, as `MultiFernet` has them. White space around them does not matter.
    ///
    /// # Errors
    /// One of them is no key. It is named by its number, from 1.
    pub fn parse(text: &str) -> Result<Self, FernetKeyError> {
        let mut keys = vec![];
        for (key, number) in text.trim().split(',').zip(1..) {
            if number > MOST_KEYS || text.trim().is_empty() {
                return Err(FernetKeyError::Count);
            }
            let bytes = BASE64URL.decode(key.trim()).map(Zeroizing::new).ok();
            let bytes = bytes.filter(|bytes| bytes.len() == 2 * HALF_KEY);
            keys.push(bytes.ok_or(FernetKeyError::Malformed(number))?);
        }
        Ok(Self(keys))
    }

    /// What a token holds.
    pub(super) fn open(&self, token: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let token = BASE64URL.decode(token).map_err(|_| TokenError::Malformed)?;
        if token.first() != Some(&VERSION) || token.len() < VECTOR.end + TAG {
            return Err(TokenError::Malformed);
        }
        let (signed, tag) = token.split_at(token.len() - TAG);
        let key = self.0.iter().find(|key| is_signed_by(&key[..HALF_KEY], signed, tag));
        let key = key.ok_or(TokenError::Unopened)?;
        decrypted(&key[HALF_KEY..], &signed[VECTOR], &signed[VECTOR.end..]).ok_or(TokenError::Unopened)
    }
}

/// Compares in constant time.
fn is_signed_by(key: &[u8], signed: &[u8], tag: &[u8]) -> bool {
    Hmac::<Sha256>::new_from_slice(key).is_ok_and(|mac| mac.chain_update(signed).verify_slice(tag).is_ok())
}

fn decrypted(key: &[u8], vector: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let cipher = cbc::Decryptor::<Aes128>::new_from_slices(key, vector).ok()?;
    let length = cipher.decrypt_padded::<Pkcs7>(&mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests;
