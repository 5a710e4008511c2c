//! Access tokens: JWT signed with Ed25519 (RFC 8037), the key derived from `JWT_SECRET` (design.md D12).
//!
//! The only file of the edge that names ring or jsonwebtoken; the randomness the edge needs also comes from here.

use std::sync::Once;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use moka::sync::Cache;
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, VerificationAlgorithm};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroize;

/// Issuer and audience of every token.
const NAME: &str = "daybook";
/// How long after `exp`, and how long before `iat`, a token still passes, for clocks that differ between nodes.
const LEEWAY_SECONDS: i64 = 60;
/// A token of ours has about 350 bytes; longer ones are refused before any work.
const MAX_TOKEN_BYTES: usize = 2048;
const CACHED_TOKENS: u64 = 10_000;
const CACHED_FOR: Duration = Duration::from_secs(600);

/// What a token says. Issuer and audience are added and checked here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// The session it belongs to; a revoked session ends its tokens.
    pub sid: Uuid,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// When it expires, in seconds since 1970.
    pub exp: i64,
    /// The token's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<Uuid>,
}

/// Why a token is refused. All but `Signing` and `Key` are the caller's fault (401).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours: wrong shape, over-long, other issuer or audience, claims missing.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm other than EdDSA, `none` included.
    #[error("the token's algorithm is not accepted")]
    WrongAlgorithm,
    /// No current or previous key has the token's `kid`.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// The time is over.
    #[error("the token has expired")]
    Expired,
    /// It says that it was issued later than now.
    #[error("the token is from the future")]
    NotYet,
    /// The key could not be derived from the secret.
    #[error("the token key cannot be derived")]
    Key,
    /// A token could not be made.
    #[error("the token cannot be signed")]
    Signing,
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random number generator failed")]
pub struct RandomError;

/// `N` random bytes fit for keys and credentials.
///
/// # Errors
/// When the operating system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(bytes)
}

/// Issues with the current key, verifies with the current and the previous one.
pub struct TokenKeys {
    current: Key,
    previous: Option<Key>,
    validation: Validation,
    /// SHA-256 of a token whose signature was good -> its claims. Ed25519 costs 50 µs a time, the digest less than 1, and
    /// unlike the token itself it is of no use to whoever reads our memory. Expiry is checked at every use.
    verified: Cache<[u8; 32], Claims>,
}

struct Key {
    id: String,
    public: Vec<u8>,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

#[derive(Serialize)]
struct Wire<'a> {
    iss: &'a str,
    aud: &'a str,
    #[serde(flatten)]
    claims: Claims,
}

/// The header's parts that decide, read before jsonwebtoken sees the token so that the reason for a refusal is known.
#[derive(Deserialize)]
struct Peek {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

impl TokenKeys {
    /// Derives the keys.
    ///
    /// # Errors
    /// `Key` when ring refuses to derive, which no secret is known to cause.
    pub fn new(current: &str, previous: Option<&str>) -> Result<Self, TokenError> {
        install_provider();
        let current = Key::derive(current)?;
        let previous = previous.map(Key::derive).transpose()?.filter(|key| key.id != current.id);
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[NAME]);
        validation.set_audience(&[NAME]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The caller brings the clock, see `verify`.
        validation.validate_exp = false;
        let verified = Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(CACHED_FOR).build();
        Ok(Self { current, previous, validation, verified })
    }

    /// A signed token.
    ///
    /// # Errors
    /// `Signing`, which no claims are known to cause.
    pub fn issue(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.current.id.clone());
        let wire = Wire { iss: NAME, aud: NAME, claims: claims.clone() };
        jsonwebtoken::encode(&header, &wire, &self.current.encoding).map_err(|_| TokenError::Signing)
    }

    /// The claims of a token that is ours and still good at `now`.
    ///
    /// # Errors
    /// Why it is refused. Answer them all alike: the difference is for the log.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let fingerprint = sha256(token.as_bytes());
        let claims = match self.verified.get(&fingerprint) {
            Some(claims) => claims,
            None => {
                let claims = self.check_signature(token)?;
                self.verified.insert(fingerprint, claims.clone());
                claims
            }
        };
        if now.timestamp() >= claims.exp.saturating_add(LEEWAY_SECONDS) {
            return Err(TokenError::Expired);
        }
        if claims.iat > now.timestamp().saturating_add(LEEWAY_SECONDS) {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }

    /// The public keys, for `/.well-known/jwks.json` (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = std::iter::once(&self.current).chain(&self.previous).map(Key::jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    fn check_signature(&self, token: &str) -> Result<Claims, TokenError> {
        let key = self.key_for(&peek(token)?)?;
        let data =
            jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation).map_err(|error| {
                match error.kind() {
                    ErrorKind::InvalidSignature => TokenError::BadSignature,
                    ErrorKind::InvalidAlgorithm => TokenError::WrongAlgorithm,
                    _ => TokenError::Malformed,
                }
            })?;
        Ok(data.claims)
    }

    fn key_for(&self, header: &Peek) -> Result<&Key, TokenError> {
        if header.alg != "EdDSA" {
            return Err(TokenError::WrongAlgorithm);
        }
        // We understand no extension, so none may be critical (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let id = header.kid.as_deref().ok_or(TokenError::UnknownKey)?;
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == id)
            .ok_or(TokenError::UnknownKey)
    }
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let previous = self.previous.as_ref().map(|key| &key.id);
        f.debug_struct("TokenKeys")
            .field("current", &self.current.id)
            .field("previous", &previous)
            .finish_non_exhaustive()
    }
}

impl Key {
    fn derive(secret: &str) -> Result<Self, TokenError> {
        let mut seed = [0; 32];
        Salt::new(HKDF_SHA256, b"daybook")
            .extract(secret.as_bytes())
            .expand(&[b"access token, Ed25519, 1"], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut seed))
            .map_err(|_| TokenError::Key)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| TokenError::Key)?;
        let public = pair.public_key().as_ref().to_vec();
        let id = URL_SAFE_NO_PAD.encode(&sha256(&public)[..8]);
        // jsonwebtoken only carries these bytes to our own provider below, which takes a seed and a raw public key.
        let key = Self {
            id,
            encoding: EncodingKey::from_ed_der(&seed),
            decoding: DecodingKey::from_ed_der(&public),
            public,
        };
        seed.zeroize();
        Ok(key)
    }

    fn jwk(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(&self.public);
        serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x })
    }
}

fn peek(token: &str) -> Result<Peek, TokenError> {
    let (header, _) = token.split_once('.').ok_or(TokenError::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Makes ring the provider of jsonwebtoken, which has none of its own and panics without one.
fn install_provider() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if PROVIDER.install_default().is_err() {
            tracing::warn!("another provider was installed for jsonwebtoken before ours");
        }
    });
}

struct RingSigner(Ed25519KeyPair);

struct RingVerifier(Vec<u8>);

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtSigner>> {
    if *algorithm != Algorithm::EdDSA {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(key.as_bytes())
        .map_err(|_| new_error(ErrorKind::InvalidEddsaKey))?;
    Ok(Box::new(RingSigner(pair)))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    if *algorithm != Algorithm::EdDSA {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    Ok(Box::new(RingVerifier(key.try_get_as_bytes()?.to_vec())))
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let (key, message, signature) =
            (self.0.as_slice().into(), message.into(), signature.as_slice().into());
        ED25519.verify(key, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests;
