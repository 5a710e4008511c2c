//! Guessing at passwords and codes: a delay that grows with the failures, by account and by network, and never a lock that a
//! stranger can cause. All nodes count together, in the table `sign_in_attempts`.
//!
//! | counted by | free failures | then |
//! |---|---|---|
//! | account and network together | 5 | 1, 2, 4, ... seconds, up to 15 minutes; up to 1 minute where the account's owner has been before |
//! | network (an IPv4 address or an IPv6 /64) | 20 | 1, 2, 4, ... seconds, up to 15 minutes |
//! | account, for mails | 5 | 1, 2, 4, ... seconds, up to an hour |
//! | account | 10 | at sign-in the answer is held back, 0.25 seconds and more, up to 3; for codes and confirmations, where only somebody who has a part of the credentials gets so far, 1, 2, 4, ... seconds, up to 15 minutes |
//!
//! Where somebody has succeeded within 90 days, only the first line holds for that account. An hour without an attempt is forgotten. An attempt
//! that has to wait is not counted, so waiting is never in vain. It all goes by keyed hashes, the same for accounts that do not exist.

mod policy;
mod tallies;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledger::{Ledger, LedgerError};
use tokio::sync::Semaphore;

pub use policy::Purpose;
use policy::Reserved;
use tallies::Keys;

/// Answers held back at a time, in one process.
const MOST_HELD: usize = 256;
/// Every so many attempts old rows are removed.
const CLEANED_EVERY: u64 = 64;

/// Why an attempt may not go on.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Too many have failed.
    #[error("too many attempts have failed; the next one may be made in {} s", .wait.as_secs_f64().ceil())]
    TooSoon {
        /// When the next one may be made, from now.
        wait: Duration,
    },
    /// It could not be counted, so it may not be made.
    #[error(transparent)]
    Uncounted(#[from] LedgerError),
}

/// The door that guesses have to pass. Cheap to clone.
#[derive(Clone)]
pub struct Guessing {
    ledger: Ledger,
    places: Arc<Semaphore>,
    attempts: Arc<AtomicU64>,
}

/// An attempt that may be made now. It is counted as failed from its beginning; that it is not has to be said.
#[must_use = "it stays a failure unless it is said to have succeeded or not to have taken place"]
pub struct Attempt {
    ledger: Ledger,
    places: Arc<Semaphore>,
    keys: Keys,
    reserved: Reserved,
}

impl Guessing {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), places: Arc::new(Semaphore::new(MOST_HELD)), attempts: Arc::default() }
    }

    /// Asks whether an attempt on `account` may be made from `address`, and takes the time that is due. To be called before the
    /// password or code is looked at, and in the same way whether there is such an account or not.
    ///
    /// `account` is what the attempt names: the canonical address at sign-in, else the user's id.
    ///
    /// # Errors
    /// [`AttemptError::TooSoon`] when it has to wait, [`AttemptError::Uncounted`] when it cannot be counted.
    pub async fn begin(
        &self,
        purpose: Purpose,
        account: &str,
        address: IpAddr,
    ) -> Result<Attempt, AttemptError> {
        self.reserve(purpose, account, address).await?.held_back().await
    }

    /// As [`Guessing::begin`], without the wait: for who calls [`Attempt::held_back`] later.
    ///
    /// # Errors
    /// As [`Guessing::begin`].
    pub async fn reserve(
        &self,
        purpose: Purpose,
        account: &str,
        address: IpAddr,
    ) -> Result<Attempt, AttemptError> {
        let keys = self.keys(purpose, account, &network(address)).await?;
        let reserve = |tallies: &mut policy::Tallies, now| tallies.reserve(purpose, now);
        let outcome = tallies::change(self.ledger.pool(), &keys, reserve).await?;
        self.clean_now_and_then().await;
        let reserved = outcome.map_err(|wait| AttemptError::TooSoon { wait })?;
        Ok(Attempt { ledger: self.ledger.clone(), places: Arc::clone(&self.places), keys, reserved })
    }

    async fn keys(&self, purpose: Purpose, account: &str, network: &str) -> Result<Keys, LedgerError> {
        let purpose = purpose.as_str();
        let pair = self.ledger.keyed_hash(&["attempts_of_pair", purpose, account, network]).await?;
        let network = self.ledger.keyed_hash(&["attempts_from_network", purpose, network]).await?;
        let account = self.ledger.keyed_hash(&["attempts_on_account", purpose, account]).await?;
        Ok(Keys::new(pair, network, account))
    }

    /// More is removed at a time than attempts have added since the last time, so the table does not grow for ever. It may fail: the
    /// next one does it.
    async fn clean_now_and_then(&self) {
        if self.attempts.fetch_add(1, Ordering::Relaxed) % CLEANED_EVERY != CLEANED_EVERY - 1 {
            return;
        }
        if let Err(error) = tallies::clean(self.ledger.pool()).await {
            tracing::warn!(%error, "old sign-in attempts could not be removed");
        }
    }
}

impl Attempt {
    /// How long the answer is held back, whatever it is.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.reserved.hold
    }

    /// Waits for [`Attempt::hold`]. Only so many can wait at a time; beyond that the attempt is withdrawn and told to come back.
    ///
    /// # Errors
    /// [`AttemptError::TooSoon`] when too many wait already.
    pub async fn held_back(self) -> Result<Self, AttemptError> {
        let wait = self.hold();
        if wait.is_zero() {
            return Ok(self);
        }
        let Ok(_place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.withdrawn().await;
            return Err(AttemptError::TooSoon { wait });
        };
        tokio::time::sleep(wait).await;
        Ok(self)
    }

    /// The password or code was right: the failures of the account are forgotten, and this network is known for it from now on. If that
    /// cannot be stored, somebody may have to wait who need not; the log says so.
    pub async fn succeeded(self) {
        let reserved = self.reserved;
        self.settle("succeeded", |tallies, now| tallies.succeed(reserved, now)).await;
    }

    /// Whatever came of it: right, wrong by `is_wrong`, or not looked at for another reason.
    pub(crate) async fn judged<T, E>(self, outcome: &Result<T, E>, is_wrong: fn(&E) -> bool) {
        match outcome {
            Ok(_) => self.succeeded().await,
            Err(error) if is_wrong(error) => {}
            Err(_) => self.withdrawn().await,
        }
    }

    /// The password or code was not looked at (the pool was full, the database away): it counts for nothing.
    pub async fn withdrawn(self) {
        let reserved = self.reserved;
        self.settle("withdrawn", |tallies, _| tallies.withdraw(reserved)).await;
    }

    async fn settle(
        self,
        what: &str,
        change: impl FnOnce(&mut policy::Tallies, chrono::DateTime<chrono::Utc>),
    ) {
        let change = |tallies: &mut policy::Tallies, now| {
            change(tallies, now);
            Ok::<_, std::convert::Infallible>(())
        };
        if let Err(error) = tallies::change(self.ledger.pool(), &self.keys, change).await {
            tracing::warn!(%error, "an attempt goes on counting as failed that was {what}");
        }
    }
}

/// What is one client as far as anybody can tell: an IPv4 address, also one in IPv6's clothes, or an IPv6 /64.
pub(crate) fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_or_a_64() -> Result<(), std::net::AddrParseError> {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("::1", "0:0:0:0::/64"),
        ] {
            assert_eq!(network(address.parse()?), expected, "{address}");
        }
        Ok(())
    }
}
