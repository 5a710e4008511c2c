//! One-time passwords by time (RFC 6238: SHA-1, six digits, 30 s, one step of tolerance), and the codes for when the device is lost.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use ledger::{SealError, Sha256, random_token};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use totp_rs::{Algorithm, Builder, Secret, Totp};
use zeroize::Zeroizing;

/// Whom authenticator apps name as the one who asks for the code.
const ISSUER: &str = "Daybook";
/// Length of the shared key in bytes, as RFC 4226 section 4 recommends.
const KEY_BYTES: usize = 20;
/// Steps before and after the present one that are accepted, for clocks that differ and people who type slowly.
const TOLERANCE: u16 = 1;
/// Recovery codes of one set.
const RECOVERY_CODES: usize = 10;
/// Characters of a recovery code, of 5 bits each.
const RECOVERY_CODE_LENGTH: usize = 16;
/// Letters and digits that are not mistaken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
/// Width and height of the picture at least, in pixels.
const PICTURE: u32 = 240;

/// Why a shared key cannot be used or shown.
#[derive(Debug, thiserror::Error)]
#[error("the second factor cannot be set up: {0}")]
pub struct TotpError(String);

/// What a person needs to set up their device: shown once. Not printable.
pub struct Enrolment {
    /// The shared key in base32, to be typed.
    pub secret: Zeroizing<String>,
    /// The same for apps (`otpauth://totp/…`).
    pub otpauth_uri: Zeroizing<String>,
    /// The same as a picture to be photographed: an SVG document.
    pub qr_svg: Zeroizing<String>,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enrolment")
    }
}

/// A shared key between Daybook and a person's device.
pub(crate) struct SharedKey(Zeroizing<Vec<u8>>);

impl SharedKey {
    pub(crate) fn new() -> Result<Self, SealError> {
        Ok(Self(Zeroizing::new(random_bytes(KEY_BYTES)?)))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn totp(&self, account: &str) -> Result<Totp, TotpError> {
        Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(6)
            .with_skew(TOLERANCE)
            .with_secret(Secret::from(self.0.to_vec()))
            .with_issuer(Some(ISSUER))
            .with_account_name(account)
            .build()
            .map_err(|error| TotpError(error.to_string()))
    }

    /// For the device of the person whose address is `account`.
    pub(crate) fn enrolment(&self, account: &str) -> Result<Enrolment, TotpError> {
        let totp = self.totp(account)?;
        let uri = Zeroizing::new(totp.to_url().map_err(|error| TotpError(error.to_string()))?);
        let code = QrCode::with_error_correction_level(uri.as_bytes(), EcLevel::M)
            .map_err(|error| TotpError(error.to_string()))?;
        let picture = code.render::<svg::Color<'_>>().min_dimensions(PICTURE, PICTURE).build();
        Ok(Enrolment {
            secret: Zeroizing::new(totp.secret().to_base32()),
            otpauth_uri: uri,
            qr_svg: Zeroizing::new(picture),
        })
    }

    /// The time step whose code is `code`, of those near `now`.
    pub(crate) fn step_of(&self, code: &str, now: DateTime<Utc>) -> Result<Option<u64>, TotpError> {
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        Ok(self.totp("")?.check(code, seconds))
    }
}

/// Recovery codes in clear: shown once.
pub(crate) fn recovery_codes() -> Result<Vec<Zeroizing<String>>, SealError> {
    (0..RECOVERY_CODES)
        .map(|_| {
            let bytes = Zeroizing::new(random_bytes(RECOVERY_CODE_LENGTH)?);
            let letters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
            let mut code = Zeroizing::new(String::with_capacity(RECOVERY_CODE_LENGTH + 3));
            for (place, letter) in letters.enumerate() {
                if place > 0 && place % 4 == 0 {
                    code.push('-');
                }
                code.push(letter);
            }
            Ok(code)
        })
        .collect()
}

/// SHA-256 of a recovery code, however it was typed. 80 random bits need no slow hash.
pub(crate) fn recovery_code_hash(typed: &str) -> String {
    let letters: Zeroizing<String> =
        Zeroizing::new(typed.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase());
    Sha256::of(letters.as_bytes())
}

fn random_bytes(number: usize) -> Result<Vec<u8>, SealError> {
    let mut bytes = URL_SAFE_NO_PAD.decode(random_token()?).unwrap_or_default();
    bytes.truncate(number);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// RFC 6238 appendix B, cut to six digits.
    #[test]
    fn the_codes_are_those_of_the_standard() {
        let key = SharedKey::from_bytes(b"12345678901234567890");
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            assert_eq!(key.step_of(code, at(seconds)).unwrap(), Some(seconds as u64 / 30), "{seconds}");
        }
    }

    #[test]
    fn one_step_of_difference_is_forgiven_and_not_two() {
        let key = SharedKey::from_bytes(b"12345678901234567890");
        for (shift, found) in [(-60, false), (-30, true), (0, true), (30, true), (60, false)] {
            let step = key.step_of("005924", at(1_234_567_890 + shift)).unwrap();
            assert_eq!(step, found.then_some(1_234_567_890 / 30), "{shift}");
        }
        assert_eq!(key.step_of("", at(0)).unwrap(), None);
        assert_eq!(key.step_of("２８７０８２", at(59)).unwrap(), None);
    }

    #[test]
    fn an_enrolment_says_the_same_in_three_ways() {
        let key = SharedKey::from_bytes(b"12345678901234567890");
        let enrolment = key.enrolment("ada+work@example.org").unwrap();
        assert_eq!(*enrolment.secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        let again = Totp::from_url(enrolment.otpauth_uri.as_str()).unwrap();
        assert_eq!(again.secret().as_ref(), key.as_bytes());
        assert!(enrolment.otpauth_uri.contains("Daybook") && enrolment.otpauth_uri.contains("ada"));
        assert!(enrolment.qr_svg.contains("<svg"), "{}", *enrolment.qr_svg);
        assert_eq!(SharedKey::new().unwrap().as_bytes().len(), KEY_BYTES);
    }

    #[test]
    fn the_longest_address_fits_into_the_picture() {
        let address = format!("{}@{}.example.org", "a".repeat(64), "юзер".repeat(15));
        assert!(SharedKey::new().unwrap().enrolment(&address).is_ok());
    }

    #[test]
    fn recovery_codes_are_read_however_they_are_typed() {
        let codes = recovery_codes().unwrap();
        assert_eq!(codes.len(), RECOVERY_CODES);
        let all: std::collections::BTreeSet<_> = codes.iter().map(|code| code.to_string()).collect();
        assert_eq!(all.len(), RECOVERY_CODES);
        let code = &codes[0];
        assert_eq!(code.len(), 19);
        let typed = format!(" {} ", code.to_uppercase().replace('-', " "));
        assert_eq!(recovery_code_hash(&typed), recovery_code_hash(code));
        assert_ne!(recovery_code_hash(&codes[1]), recovery_code_hash(code));
    }
}
