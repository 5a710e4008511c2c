//! Passwords: argon2id (RFC 9106) at OWASP's floor, in a bounded pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use domain::Invalid;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Requests that may wait for a hash.
const MOST_WAITING: usize = 64;
/// How long one waits at most for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a sign-in with an unknown address is checked against, so that it takes as long as any other: the hash of a random
/// password nobody knows, at the parameters above.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ZGF5Ym9vay1ub2JvZHktMQ$4YMcQ3dq0oTUi2VbDCoxYQVTaLQZ3uqA1xJmFqbDvvE";

/// A password of acceptable length. Not printable; cleared from memory when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Checks a password somebody chose: 12 to 256 characters, any of Unicode, no rules of composition (NIST SP 800-63B).
    ///
    /// # Errors
    /// Says which bound it breaks, never what was typed.
    pub fn choose(text: String) -> Result<Self, Invalid> {
        let password = Self::typed(text);
        match password.0.chars().count() {
            0..12 => Err(Invalid("must have at least 12 characters".to_owned())),
            12..=256 => Ok(password),
            _ => Err(Invalid("must have at most 256 characters".to_owned())),
        }
    }

    /// A password somebody typed to prove who they are: any text.
    #[must_use]
    pub fn typed(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// Why no hash was made or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already, or it took too long.
    #[error("too many passwords are being checked at the moment")]
    Busy,
    /// The hash could not be computed.
    #[error("a password could not be hashed: {0}")]
    Hash(String),
}

/// The bounded pool: as many hashes at a time as there are cores, a limited queue, a limited wait.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    /// A pool of its own.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores)), waiting: Arc::default() }
    }

    /// The PHC string of a new hash, with a random salt.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] when the pool is full.
    pub async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        self.in_turn(move || {
            hasher()?.hash_password(password.0.as_bytes()).map(|hash| hash.to_string()).map_err(hash_error)
        })
        .await
    }

    /// Whether `password` is the one behind `hash`. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] when the pool is full.
    pub async fn verify(&self, password: Password, hash: Option<String>) -> Result<bool, PasswordError> {
        self.in_turn(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let parsed = PasswordHash::new(&hash).map_err(|error| PasswordError::Hash(error.to_string()))?;
            Ok(hasher()?.verify_password(password.0.as_bytes(), &parsed).is_ok() && known)
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let queued = Queued::join(&self.waiting)?;
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(PasswordError::Busy) };
        drop(queued);
        // The turn goes with the work: a caller who leaves does not make room before the core is free.
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.unwrap_or_else(|error| Err(PasswordError::Hash(error.to_string())))
    }
}

/// A place in the queue, given back when dropped.
struct Queued(Arc<AtomicUsize>);

impl Queued {
    fn join(waiting: &Arc<AtomicUsize>) -> Result<Self, PasswordError> {
        let place = Self(Arc::clone(waiting));
        if waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            Err(PasswordError::Busy)
        } else {
            Ok(place)
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| PasswordError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_error(error: argon2::password_hash::Error) -> PasswordError {
    PasswordError::Hash(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_right_password_verifies_and_no_other() {
        let passwords = Passwords::new();
        let hash = passwords.hash(Password::typed("correct horse battery".into())).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let verify = |text: &str| passwords.verify(Password::typed(text.into()), Some(hash.clone()));
        assert!(verify("correct horse battery").await.unwrap());
        assert!(!verify("correct horse batterz").await.unwrap());
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let parsed = PasswordHash::new(NOBODY).unwrap();
        let present = Params::try_from(&parsed).unwrap();
        assert_eq!((present.m_cost(), present.t_cost(), present.p_cost()), (MEMORY_KIB, PASSES, LANES));
        assert!(!Passwords::new().verify(Password::typed(String::new()), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let passwords = Passwords::new();
        passwords.waiting.store(MOST_WAITING, Ordering::Relaxed);
        let refused = passwords.hash(Password::typed("x".into())).await;
        assert!(matches!(refused, Err(PasswordError::Busy)));
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), MOST_WAITING);
    }

    #[test]
    fn chosen_passwords_have_bounds() {
        assert!(Password::choose("elevenchars".into()).is_err());
        assert!(Password::choose("twelve chars".into()).is_ok());
        assert!(Password::choose("長い長い長い長い長い長い".into()).is_ok());
        assert!(Password::choose("x".repeat(257)).is_err());
    }
}
