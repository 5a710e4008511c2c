//! Hashes as they are stored: argon2id (RFC 9106) at our parameters, and those that came from older systems.

use std::ops::RangeInclusive;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::NO_PAD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use domain::Invalid;

use super::{Password, PasswordError};

/// OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
pub(super) const MEMORY_KIB: u32 = 19_456;
pub(super) const PASSES: u32 = 2;
pub(super) const LANES: u32 = 1;

/// What an imported hash may cost, so that checking it neither takes the memory of others nor holds a core for seconds.
const MOST_MEMORY_KIB: u32 = 262_144;
const MOST_PASSES: u32 = 16;
const MOST_LANES: u32 = 16;
/// KiB filled in all passes together: about a second.
const MOST_WORK_KIB: u32 = 1_048_576;
/// bcrypt's cost; every step doubles the work, 15 takes a few seconds.
const COSTS: RangeInclusive<u32> = 4..=15;
/// What bcrypt sees of a password, in bytes.
const BCRYPT_BYTES: usize = 72;
/// `$2b$12$`, 22 characters of salt, 31 of hash.
const BCRYPT_LENGTH: usize = 60;

/// bcrypt's own base64. Some systems left bits set behind the salt's last one that mean nothing.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::BCRYPT, NO_PAD_LENIENT);
const NO_PAD_LENIENT: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);

/// A password's hash that can be checked here, at a bounded cost: argon2id or argon2i as a PHC string, or bcrypt
/// (`$2a$`, `$2b$`, `$2y$`).
#[derive(Clone, PartialEq, Eq)]
pub struct StoredHash {
    text: String,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2(Box<PasswordHash>),
    Bcrypt { cost: u32, salt: [u8; 16], digest: [u8; 23] },
}

/// What checking a password against a hash came to.
pub(super) struct Match {
    pub(super) right: bool,
    /// Whether a new hash of the password would be better than this one.
    pub(super) outdated: bool,
}

/// Never shows the hash: who has it can try passwords on it.
impl std::fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::Argon2(_) => "StoredHash(argon2)",
            Kind::Bcrypt { .. } => "StoredHash(bcrypt)",
        })
    }
}

impl StoredHash {
    /// Reads a hash, our own or one to be imported.
    ///
    /// # Errors
    /// Says why it cannot be checked here; never repeats it.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let kind = match text.split('$').nth(1) {
            Some("argon2id" | "argon2i") => argon2(text)?,
            Some("2a" | "2b" | "2y") => bcrypt(text)?,
            _ => {
                return invalid(
                    "must be an argon2id or argon2i hash as a PHC string, or a bcrypt hash ($2a$, $2b$ or $2y$)",
                );
            }
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// The hash as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a better hash should take its place as soon as the password is known.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        match &self.kind {
            Kind::Argon2(hash) => {
                let present = Params::try_from(hash.as_ref()).is_ok_and(|params| {
                    (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES)
                });
                !present
                    || hash.algorithm.as_str() != "argon2id"
                    || hash.version != Some(Version::V0x13.into())
            }
            Kind::Bcrypt { .. } => true,
        }
    }

    /// Checks a password: as we hash it, and as it was typed where that differs, since older systems hashed it so. Both are
    /// always tried, so that the time says nothing.
    pub(super) fn check(&self, password: &Password) -> Result<Match, PasswordError> {
        let normalized = password.normalized();
        let right = self.matches(&normalized)?;
        if normalized.as_str() == password.as_typed() {
            return Ok(Match { right, outdated: self.is_outdated() && self.saw_all_of(&normalized) });
        }
        let as_typed = self.matches(password.as_typed())?;
        let outdated = (as_typed && !right || self.is_outdated()) && self.saw_all_of(password.as_typed());
        Ok(Match { right: right || as_typed, outdated })
    }

    /// Whether the hash is of the whole text. If not, the rest may be wrong and must not become part of a new hash.
    fn saw_all_of(&self, text: &str) -> bool {
        match &self.kind {
            Kind::Argon2(_) => true,
            Kind::Bcrypt { .. } => text.len() <= BCRYPT_BYTES && !text.contains('\0'),
        }
    }

    fn matches(&self, text: &str) -> Result<bool, PasswordError> {
        match &self.kind {
            Kind::Argon2(hash) => Ok(hasher()?.verify_password(text.as_bytes(), hash.as_ref()).is_ok()),
            Kind::Bcrypt { cost, salt, digest } => {
                let made = bcrypt::bcrypt(*cost, *salt, &bcrypt_key(text));
                // All bytes are looked at, wherever they differ.
                Ok(made.iter().zip(digest).fold(0, |differ, (made, stored)| differ | (made ^ stored)) == 0)
            }
        }
    }
}

/// The hash of a password at our parameters, with a random salt, as a PHC string.
pub(super) fn hash(password: &Password) -> Result<String, PasswordError> {
    let hash = hasher()?.hash_password(password.normalized().as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| PasswordError::Hash(error.to_string()))
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| PasswordError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn argon2(text: &str) -> Result<Kind, Invalid> {
    let Ok(hash) = PasswordHash::new(text) else {
        return invalid("is not a well-formed argon2 hash (PHC string)");
    };
    let params = Params::try_from(&hash);
    let (Ok(params), Some(_), Some(_)) = (params, &hash.salt, &hash.hash) else {
        return invalid("is an argon2 hash with parts missing, or with parameters that argon2 does not have");
    };
    if hash.version.is_none_or(|version| Version::try_from(version).is_err()) {
        return invalid("must say which version of argon2 it is: v=19 or v=16");
    }
    if hash.params.iter().any(|(name, _)| !matches!(name.as_str(), "m" | "t" | "p")) {
        return invalid("was made with a secret or with data of its own, which are not known here");
    }
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    let work = memory.checked_mul(passes).is_some_and(|work| work <= MOST_WORK_KIB);
    if memory > MOST_MEMORY_KIB || passes > MOST_PASSES || lanes > MOST_LANES || !work {
        return invalid(format!(
            "costs too much to check: m may be {MOST_MEMORY_KIB}, t {MOST_PASSES}, p {MOST_LANES} and m*t {MOST_WORK_KIB} at most"
        ));
    }
    Ok(Kind::Argon2(Box::new(hash)))
}

fn bcrypt(text: &str) -> Result<Kind, Invalid> {
    let malformed = || Invalid("is not a well-formed bcrypt hash".to_owned());
    if text.len() != BCRYPT_LENGTH || !text.is_ascii() || &text[6..7] != "$" {
        return Err(malformed());
    }
    let digits = &text[4..6];
    let cost = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    let cost: u32 = cost.ok_or_else(malformed)?;
    if !COSTS.contains(&cost) {
        return invalid(format!(
            "has a cost of {cost}: bcrypt's cost may be {} to {}",
            COSTS.start(),
            COSTS.end()
        ));
    }
    let decode = |part: &str| BCRYPT_BASE64.decode(part).map_err(|_| malformed());
    let salt = decode(&text[7..29])?.try_into().map_err(|_| malformed())?;
    let digest = decode(&text[29..])?.try_into().map_err(|_| malformed())?;
    Ok(Kind::Bcrypt { cost, salt, digest })
}

/// What bcrypt sees of a password, as the older systems gave it: up to the first NUL, with one behind it, and 72 bytes of that.
fn bcrypt_key(text: &str) -> zeroize::Zeroizing<Vec<u8>> {
    let text = text.split('\0').next().unwrap_or_default();
    let bytes = text.bytes().chain([0]).take(BCRYPT_BYTES);
    zeroize::Zeroizing::new(bytes.collect())
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(message.into()))
}
