//! The write side. [`Commands::execute`] is the only way to change anything: it authorises, loads, lets the aggregate decide,
//! appends, and answers with the position.

mod accounts;
mod admins;
mod api_keys;
mod context;
mod door;
mod error;
mod failure_counts;
mod guessing;
pub mod http;
mod idempotency;
mod import;
pub mod jobs;
pub mod mail;
mod panics;
mod passwords;
pub mod reactor;
mod records;
mod recovery;
pub mod schedules;
mod secrets;
mod sessions;
mod sign_in;
pub mod supervisor;
mod teams;
mod tickets;
mod tokens;
mod totp;
mod two_factor;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use ledger::Ledger;
use uuid::Uuid;

pub use accounts::{FirstTeam, NewAccount, NewPassword};
pub use admins::Ties;
pub use api_keys::{API_KEY, BroughtKey, KeyRequest, MadeKey};
pub use context::{Context, IdempotencyKey};
pub use door::Executed;
pub use error::{CommandError, RefreshError, RevealError, SignInError, Unreadable};
pub use guessing::{Attempt, AttemptError, Guessing, Purpose};
pub use import::{ImportLine, ImportLines, ImportedAccount, LineProblem};
pub use passwords::{About, Password, PasswordError, Passwords, StoredHash, Verdict};
pub use recovery::BroughtToken;
pub use secrets::{
    ExpectedSecret, FernetKeyError, FernetKeys, GrantRequest, ImportError, ImportFile, ImportFormat,
    ImportProblem, Imported, ImportedSecret, LARGEST_IMPORT, MOST_IMPORTED, MadeGrant, NewSecret, OpenGrant,
    Place, SealedSecret, SecretFolder, SecretValue, SecretsProved, Shredding,
};
pub use sessions::{BroughtRefresh, SignedIn};
pub use sign_in::{Account, PresentPassword, SignIn};
pub use tickets::{TICKET_LIFE, TicketHolder, TicketProof};
pub use totp::{Enrolment, TotpError};
pub use two_factor::SecondFactor;

/// The write side of one process. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    ledger: Ledger,
    passwords: Passwords,
    guessing: Guessing,
    /// Idempotency keys whose first request is still being answered by this process.
    in_flight: Arc<Mutex<HashSet<String>>>,
    /// Where callers of this process queue who have met each other on one stream: several streams share a place.
    turns: Arc<[tokio::sync::Mutex<()>; 64]>,
}

impl Commands {
    /// The write side on this ledger.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            passwords: Passwords::new(),
            guessing: Guessing::new(ledger),
            in_flight: Arc::default(),
            turns: Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default())),
        }
    }

    /// The same for what goes on without a request: it has connections of its own ([`Ledger::background`]).
    #[must_use]
    pub fn background(&self) -> Self {
        Self { ledger: self.ledger.background(), ..self.clone() }
    }

    /// The time as events state times: by the database's clock, to the millisecond.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.ledger.clock().now_millis()
    }

    /// A new id, in order with those made before.
    pub(crate) fn new_id(&self) -> Uuid {
        self.ledger.clock().id()
    }

    /// What slows down those who guess at passwords and codes.
    #[must_use]
    pub fn guessing(&self) -> &Guessing {
        &self.guessing
    }

    /// The pool that hashes passwords.
    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
