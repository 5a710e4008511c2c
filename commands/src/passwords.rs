//! Passwords: which may be chosen, their hashes, and a bounded pool that makes and checks them.

mod choice;
mod common;
mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::panics::cut_short;
pub use choice::{About, Password};
pub use stored::StoredHash;

/// Requests that may wait for a hash.
const MOST_WAITING: usize = 64;
/// How long one waits at most for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a sign-in with an unknown address is checked against, so that it takes as long as any other: the hash of a random
/// password nobody knows, at the present parameters.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ZGF5Ym9vay1ub2JvZHktMQ$4YMcQ3dq0oTUi2VbDCoxYQVTaLQZ3uqA1xJmFqbDvvE";

/// What checking a password came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is the one behind the hash.
    pub right: bool,
    /// Whether it is right and a new hash of it should take the place of this one, which is bcrypt's, of other parameters than
    /// today's, or of another spelling of the same characters. Not said where bcrypt has seen only a part of what was typed: the rest may be
    /// wrong, and a new hash would make it count.
    pub outdated: bool,
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
        self.in_turn(move || stored::hash(&password)).await
    }

    /// Whether `password` is the one behind `hash`. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] when the pool is full; [`PasswordError::Hash`] when `hash` is none that [`StoredHash::parse`] takes.
    pub async fn verify(&self, password: Password, hash: Option<String>) -> Result<Verdict, PasswordError> {
        self.in_turn(move || {
            let stored = StoredHash::parse(hash.as_deref().unwrap_or(NOBODY));
            let stored =
                stored.map_err(|invalid| PasswordError::Hash(format!("the stored hash {invalid}")))?;
            let found = stored.check(&password)?;
            let right = found.right && hash.is_some();
            Ok(Verdict { right, outdated: right && found.outdated })
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
        done.await.unwrap_or_else(|error| Err(PasswordError::Hash(cut_short(&error).to_owned())))
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

#[cfg(test)]
mod tests;
