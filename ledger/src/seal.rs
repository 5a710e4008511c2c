//! Envelope encryption (D8): values are sealed under data keys, data keys are wrapped by a key derived from
//! `ENCRYPTION_KEY`. AES-256-GCM (NIST SP 800-38D) throughout, with random 96-bit nonces: a data key seals one secret
//! version or one person's texts, far below the 2^32 messages at which random nonces become a concern.
//!
//! A sealed value is: version byte 1, id of the sealing key (8 bytes), nonce (12), ciphertext with its tag (16). The id is made
//! from the key itself, so that a destroyed key and one that later has its name are told apart.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf, hmac};
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
const KEY_ID_LEN: usize = 8;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Why something could not be sealed or opened. Never says what was inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The system's randomness failed.
    #[error("the system gave no randomness")]
    NoRandomness,
    /// Too short, or of a format this program does not know.
    #[error("{what}: the sealed value is damaged or of an unknown format")]
    Malformed {
        /// What was to be opened.
        what: String,
    },
    /// The key it names is not the key at hand.
    #[error("{what}: sealed with a key that is not configured (key id {key_id})")]
    UnknownKey {
        /// What was to be opened.
        what: String,
        /// The id of the key it was sealed with, in hex.
        key_id: String,
    },
    /// It was changed, or belongs elsewhere.
    #[error("{what}: the sealed value was altered or belongs elsewhere")]
    Forged {
        /// What was to be opened.
        what: String,
    },
    /// Its data key was destroyed.
    #[error("{what}: the data key was destroyed")]
    Destroyed {
        /// What was to be opened.
        what: String,
    },
    /// Its data key is not there, and nobody has destroyed it.
    #[error("{what}: the data key is lost, though nobody destroyed it")]
    Lost {
        /// What was to be opened.
        what: String,
    },
    /// New data keys are to be wrapped by a key that is not configured here: keys were rotated, and this process has not been told.
    #[error("data keys are wrapped with a key that is not configured here (key id {key_id})")]
    NoWrappingKey {
        /// The id of that key, in hex.
        key_id: String,
    },
    /// Without this data key nothing here works any more.
    #[error("{what}: this data key is never destroyed")]
    Indispensable {
        /// The key's name.
        what: String,
    },
}

/// What a key leaves in what it seals, so that it is found again.
pub(crate) type KeyId = [u8; KEY_ID_LEN];

fn key_id_of(domain: &str, bytes: &[u8]) -> KeyId {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(domain.as_bytes());
    context.update(bytes);
    let mut id = KeyId::default();
    id.copy_from_slice(&context.finish().as_ref()[..KEY_ID_LEN]);
    id
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealError> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(bytes.as_mut()).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}

/// A key and the id it leaves in what it seals.
struct SealingKey {
    id: KeyId,
    key: LessSafeKey,
}

impl SealingKey {
    fn new(id: KeyId, bytes: &[u8; 32]) -> Self {
        // Every 32 bytes are a key of AES-256-GCM.
        #[expect(clippy::expect_used, reason = "the length is right by type")]
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes");
        Self { id, key: LessSafeKey::new(key) }
    }

    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(nonce.as_ref());
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(context.as_bytes()),
                &mut body,
            )
            .map_err(|_| SealError::Malformed { what: context.to_owned() })?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let what = || context.to_owned();
        let (header, body) =
            sealed.split_at_checked(HEADER_LEN).ok_or_else(|| SealError::Malformed { what: what() })?;
        if header[0] != FORMAT {
            return Err(SealError::Malformed { what: what() });
        }
        if header[1..=KEY_ID_LEN] != self.id {
            return Err(SealError::UnknownKey { what: what(), key_id: hex(&header[1..=KEY_ID_LEN]) });
        }
        let nonce = Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_LEN..])
            .map_err(|_| SealError::Malformed { what: what() })?;
        let mut buffer = Zeroizing::new(body.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer)
            .map_err(|_| SealError::Forged { what: what() })?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The key-encryption keys: the present one and the previous one. Which of them wraps is the same for all nodes of a database.
pub struct Keyring {
    current: SealingKey,
    previous: Option<SealingKey>,
}

impl Keyring {
    /// Derives the keys (HKDF-SHA256, RFC 5869) from `ENCRYPTION_KEY` and `ENCRYPTION_KEY_PREVIOUS`.
    #[must_use]
    pub fn new(current: &[u8; 32], previous: Option<&[u8; 32]>) -> Self {
        Self { current: wrapping_key(current), previous: previous.map(wrapping_key) }
    }

    /// The id of `ENCRYPTION_KEY`.
    pub(crate) fn current(&self) -> KeyId {
        self.current.id
    }

    /// The ids of all configured keys, that of `ENCRYPTION_KEY` first; one only if both are the same.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        let mut ids = vec![self.current.id];
        ids.extend(self.previous.as_ref().map(|key| key.id).filter(|id| *id != self.current.id));
        ids
    }

    /// Whether `ENCRYPTION_KEY_PREVIOUS` is configured and the same as `ENCRYPTION_KEY`.
    pub(crate) fn is_twice_the_same(&self) -> bool {
        self.previous.as_ref().is_some_and(|key| key.id == self.current.id)
    }

    fn key(&self, id: &[u8]) -> Option<&SealingKey> {
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find(|key| key.id == id)
    }

    fn wrapping(&self, id: &KeyId) -> Result<&SealingKey, SealError> {
        self.key(id).ok_or_else(|| SealError::NoWrappingKey { key_id: hex(id) })
    }

    /// Wraps a fresh data key named `name` with the configured key of this id. Nothing is stored yet.
    pub(crate) fn make(&self, name: &str, wrapping: &KeyId) -> Result<(DataKey, NewDataKey), SealError> {
        let wrapping = self.wrapping(wrapping)?;
        let bytes = random::<32>()?;
        let wrapped = wrapping.seal(&wrap_context(name), bytes.as_ref())?;
        let new = NewDataKey { name: name.to_owned(), key_id: wrapping.id.to_vec(), wrapped };
        Ok((DataKey::new(&bytes), new))
    }

    /// Unwraps a stored data key.
    pub(crate) fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<DataKey, SealError> {
        let bytes = self.unwrap_bytes(name, wrapped)?;
        Ok(DataKey::new(&bytes))
    }

    /// Wraps a wrapped data key with the configured key of this id instead.
    pub(crate) fn rewrap(&self, name: &str, wrapped: &[u8], wrapping: &KeyId) -> Result<Vec<u8>, SealError> {
        let wrapping = self.wrapping(wrapping)?;
        wrapping.seal(&wrap_context(name), self.unwrap_bytes(name, wrapped)?.as_ref())
    }

    fn unwrap_bytes(&self, name: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let context = wrap_context(name);
        let bytes = match (self.current.open(&context, wrapped), &self.previous) {
            (Err(SealError::UnknownKey { .. }), Some(previous)) => previous.open(&context, wrapped)?,
            (outcome, _) => outcome?,
        };
        let bytes: &[u8; 32] =
            bytes.as_slice().try_into().map_err(|_| SealError::Malformed { what: context })?;
        Ok(Zeroizing::new(*bytes))
    }
}

/// The id of the key that a wrapped data key names as its own.
pub(crate) fn key_id_in(wrapped: &[u8]) -> Option<&[u8]> {
    wrapped.get(1..=KEY_ID_LEN)
}

pub(crate) fn wrap_context(name: &str) -> String {
    format!("data key {name}")
}

fn wrapping_key(secret: &[u8; 32]) -> SealingKey {
    let derived = derive(secret, b"daybook key-encryption key 1");
    SealingKey::new(key_id_of("daybook kek", derived.as_ref()), &derived)
}

fn derive(secret: &[u8], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, b"daybook").extract(secret);
    #[expect(clippy::expect_used, reason = "32 bytes are one block of HKDF-SHA256; at most 255 are allowed")]
    pseudorandom
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(derived.as_mut()))
        .expect("one block");
    derived
}

/// A wrapped data key on its way into the database, in the same transaction as the events that need it.
#[derive(Clone, Debug)]
pub struct NewDataKey {
    pub(crate) name: String,
    pub(crate) key_id: Vec<u8>,
    pub(crate) wrapped: Vec<u8>,
}

/// A data key, ready for use. Seals one secret version, or one subject's personal data.
pub struct DataKey {
    sealing: SealingKey,
    mac: hmac::Key,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey")
    }
}

impl DataKey {
    fn new(bytes: &[u8; 32]) -> Self {
        Self {
            sealing: SealingKey::new(key_id_of("daybook data key", bytes), bytes),
            mac: hmac::Key::new(hmac::HMAC_SHA256, derive(bytes, b"daybook keyed hash 1").as_ref()),
        }
    }

    /// Seals `plain` for one place. `context` says what it is and where it belongs; the same words must open it.
    ///
    /// # Errors
    /// Only when the system gives no randomness.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.sealing.seal(context, plain)
    }

    /// Opens what [`DataKey::seal`] made for the same context.
    ///
    /// # Errors
    /// [`SealError`] names the context, never the contents.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.sealing.open(context, sealed)
    }

    /// The keyed hash (HMAC-SHA256, RFC 2104) of `parts`, in hex. Parts are separated: `ab, c` is not `a, bc`.
    #[must_use]
    pub fn keyed_hash(&self, parts: &[&str]) -> String {
        let mut context = hmac::Context::with_key(&self.mac);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        hex(context.sign().as_ref())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key() -> DataKey {
        let keyring = Keyring::new(&[1; 32], None);
        keyring.make("k", &keyring.current()).unwrap().0
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_only() {
        let key = key();
        let sealed = key.seal("secret/1/value/1", b"hunter2").unwrap();
        assert_eq!(key.open("secret/1/value/1", &sealed).unwrap().as_slice(), b"hunter2");
        assert!(matches!(key.open("secret/1/value/2", &sealed), Err(SealError::Forged { .. })));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = key();
        let sealed = key.seal("here", b"value").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bent = sealed.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open("here", &bent).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.open("here", &sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn sealing_twice_never_looks_the_same() {
        let key = key();
        assert_ne!(key.seal("here", b"value").unwrap(), key.seal("here", b"value").unwrap());
    }

    #[test]
    fn the_previous_key_still_unwraps_and_a_strange_one_is_named() {
        let first = Keyring::new(&[1; 32], None);
        let (key, stored) = first.make("k", &first.current()).unwrap();
        let sealed = key.seal("here", b"value").unwrap();
        let rotated = Keyring::new(&[2; 32], Some(&[1; 32]));
        let again = rotated.unwrap("k", &stored.wrapped).unwrap();
        assert_eq!(again.open("here", &sealed).unwrap().as_slice(), b"value");
        let strange = Keyring::new(&[3; 32], None).unwrap("k", &stored.wrapped);
        assert!(
            matches!(strange, Err(SealError::UnknownKey { key_id, .. }) if key_id == hex(&stored.key_id))
        );
    }

    #[test]
    fn a_data_key_that_is_wrapped_anew_is_the_same_key_and_needs_the_new_one_only() {
        let (old, both) = (Keyring::new(&[1; 32], None), Keyring::new(&[2; 32], Some(&[1; 32])));
        let (key, stored) = both.make("k", &old.current()).unwrap();
        assert!(old.unwrap("k", &stored.wrapped).is_ok(), "whoever has the old key only can open it");
        let sealed = key.seal("here", b"value").unwrap();
        let wrapped = both.rewrap("k", &stored.wrapped, &both.current()).unwrap();
        assert_eq!(key_id_in(&wrapped), Some(&both.current()[..]));
        let again = Keyring::new(&[2; 32], None).unwrap("k", &wrapped).unwrap();
        assert_eq!(again.open("here", &sealed).unwrap().as_slice(), b"value");
        assert!(matches!(old.unwrap("k", &wrapped), Err(SealError::UnknownKey { .. })));
        assert!(matches!(both.rewrap("l", &stored.wrapped, &both.current()), Err(SealError::Forged { .. })));
        let refused = old.make("k", &both.current()).err();
        assert_eq!(refused, Some(SealError::NoWrappingKey { key_id: hex(&both.current()) }));
    }

    #[test]
    fn one_key_twice_is_one_key() {
        let twice = Keyring::new(&[1; 32], Some(&[1; 32]));
        assert!(twice.is_twice_the_same());
        assert_eq!(twice.ids(), [twice.current()]);
        assert!(!Keyring::new(&[2; 32], Some(&[1; 32])).is_twice_the_same());
    }

    #[test]
    fn a_data_key_cannot_take_anothers_place() {
        let keyring = Keyring::new(&[1; 32], None);
        let (_, stored) = keyring.make("a", &keyring.current()).unwrap();
        assert!(matches!(keyring.unwrap("b", &stored.wrapped), Err(SealError::Forged { .. })));
    }

    #[test]
    fn another_key_of_the_same_name_is_not_taken_for_a_forgery() {
        let sealed = key().seal("here", b"value").unwrap();
        assert!(matches!(key().open("here", &sealed), Err(SealError::UnknownKey { .. })));
    }

    #[test]
    fn keyed_hashes_separate_their_parts() {
        let key = key();
        assert_ne!(key.keyed_hash(&["ab", "c"]), key.keyed_hash(&["a", "bc"]));
        assert_eq!(key.keyed_hash(&["ab", "c"]), key.keyed_hash(&["ab", "c"]));
    }
}
