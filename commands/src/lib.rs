//! The write side. [`Commands::execute`] is the only way to change anything: it authorises, loads, lets the aggregate decide,
//! appends, and answers with the position.

mod accounts;
mod admins;
mod api_keys;
mod context;
mod door;
mod error;
mod idempotency;
pub mod jobs;
mod passwords;
mod records;
mod recovery;
mod secrets;
mod sessions;
mod sign_in;
mod teams;
mod tokens;
mod totp;
mod two_factor;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use ledger::Ledger;

pub use accounts::{FirstTeam, NewAccount, NewPassword};
pub use api_keys::{API_KEY, BroughtKey, KeyRequest, MadeKey};
pub use context::{Context, IdempotencyKey};
pub use door::Executed;
pub use error::{CommandError, RefreshError, RevealError, SignInError};
pub use passwords::{Password, PasswordError, Passwords};
pub use recovery::BroughtToken;
pub use secrets::{NewSecret, SealedSecret};
pub use sessions::{BroughtRefresh, SignedIn};
pub use sign_in::{Account, PresentPassword, SignIn};
pub use totp::{Enrolment, TotpError};
pub use two_factor::SecondFactor;

/// The write side of one process. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    ledger: Ledger,
    passwords: Passwords,
    /// Idempotency keys whose first request is still being answered by this process.
    in_flight: Arc<Mutex<HashSet<String>>>,
}

impl Commands {
    /// The write side on this ledger.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), passwords: Passwords::new(), in_flight: Arc::default() }
    }

    /// The pool that hashes passwords.
    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
