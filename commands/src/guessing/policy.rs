//! The rules: how long to wait after how many failures. No clock and no database: the time comes in.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// What is guessed at. Failures of one kind do not count for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A password, by somebody who may be anybody.
    SignIn,
    /// A code of the second factor or a recovery code, by somebody who knew the password.
    SecondFactor,
    /// The password once more, by somebody who is signed in.
    Confirmation,
    /// Nothing: a mail that is asked for, to be sent to the account's address. Each counts, so that nobody's mailbox is filled.
    Mail,
}

/// How failures under one key slow down what comes next.
struct Limit {
    /// Failures that cost nothing.
    free: i32,
    /// The longest delay. Each failure doubles it, from one second.
    longest: TimeDelta,
}

const LONGEST: TimeDelta = TimeDelta::minutes(15);
/// One account from one network.
const PAIR: Limit = Limit { free: 5, longest: LONGEST };
/// The same where somebody has signed in before: a stranger behind the same address can make them wait, but not for long.
const KNOWN_PAIR: Limit = Limit { free: 5, longest: TimeDelta::minutes(1) };
/// All accounts from one network.
const NETWORK: Limit = Limit { free: 20, longest: LONGEST };
/// One account from everywhere, where only somebody who has a part of the credentials can fail.
const ACCOUNT: Limit = Limit { free: 10, longest: LONGEST };
/// Mails to one account, whoever asks for them.
const MAILS: Limit = Limit { free: 5, longest: TimeDelta::hours(1) };
/// Failures of one account after which the answers to strangers are held back.
const UNHURRIED: i32 = 10;
/// How long the first of them is held back; it doubles.
const FIRST_HOLD: Duration = Duration::from_millis(250);
const LONGEST_HOLD: Duration = Duration::from_secs(3);
/// After so long without an attempt the failures are forgotten.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::hours(1);
/// A failure that seems to come so much later than now came before the clock was set back.
const SET_BACK: TimeDelta = TimeDelta::seconds(1);
/// How long it is remembered that somebody has signed in from a network.
const KNOWN_FOR: TimeDelta = TimeDelta::days(90);

impl Purpose {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::SecondFactor => "second_factor",
            Self::Confirmation => "confirmation",
            Self::Mail => "mail",
        }
    }

    /// How failures from everywhere together make an account wait. For a password they do not: anybody in the world could lock the
    /// owner out.
    fn account_limit(self) -> Option<&'static Limit> {
        match self {
            Self::SignIn => None,
            Self::SecondFactor | Self::Confirmation => Some(&ACCOUNT),
            Self::Mail => Some(&MAILS),
        }
    }
}

/// What is remembered under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) failures: i32,
    pub(super) blocked_until: Option<DateTime<Utc>>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) known_until: Option<DateTime<Utc>>,
}

/// The three that an attempt counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tallies {
    /// The account from this network.
    pub(super) pair: Tally,
    /// Any account from this network.
    pub(super) network: Tally,
    /// The account from anywhere.
    pub(super) account: Tally,
}

/// An attempt that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    /// How long its answer is held back.
    pub(super) hold: Duration,
    /// Whether it counts for the pair only, since somebody has signed in from there before.
    pub(super) known: bool,
}

impl Tallies {
    /// Counts an attempt as failed before anybody knows, so that of many at once no more get through than may fail. If it
    /// has to wait, nothing is counted, and the answer is how long.
    pub(super) fn reserve(&mut self, purpose: Purpose, now: DateTime<Utc>) -> Result<Reserved, Duration> {
        let known = self.pair.is_known(now);
        let mut wait = self.pair.wait(now);
        if !known {
            wait = wait.max(self.network.wait(now));
            if purpose.account_limit().is_some() {
                wait = wait.max(self.account.wait(now));
            }
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        self.pair.count(Some(if known { &KNOWN_PAIR } else { &PAIR }), now);
        if known {
            return Ok(Reserved { hold: Duration::ZERO, known });
        }
        self.network.count(Some(&NETWORK), now);
        self.account.count(purpose.account_limit(), now);
        let hold =
            if purpose.account_limit().is_some() { Duration::ZERO } else { hold(self.account.failures) };
        Ok(Reserved { hold, known })
    }

    /// The attempt was right: the account and the pair begin anew, and the pair is known from now on.
    pub(super) fn succeed(&mut self, reserved: Reserved, now: DateTime<Utc>) {
        self.pair = Tally { known_until: Some(now + KNOWN_FOR), ..Tally::new(now) };
        if !reserved.known {
            self.account = Tally::new(now);
            self.network.give_back();
        }
    }

    /// The attempt did not take place.
    pub(super) fn withdraw(&mut self, reserved: Reserved) {
        self.pair.give_back();
        if !reserved.known {
            self.network.give_back();
            self.account.give_back();
        }
    }
}

impl Tally {
    pub(super) fn new(now: DateTime<Utc>) -> Self {
        Self { failures: 0, blocked_until: None, updated_at: now, known_until: None }
    }

    fn is_known(&self, now: DateTime<Utc>) -> bool {
        self.known_until.is_some_and(|until| until > now)
    }

    /// A failure of the future was before the database's clock was set back; nobody waits until it has come round again.
    fn wait(&self, now: DateTime<Utc>) -> Duration {
        if self.updated_at > now + SET_BACK {
            return Duration::ZERO;
        }
        let left = self.blocked_until.map(|until| until - now);
        left.and_then(|left| left.to_std().ok()).unwrap_or_default()
    }

    fn count(&mut self, limit: Option<&Limit>, now: DateTime<Utc>) {
        let quiet = now - self.updated_at >= FORGOTTEN_AFTER;
        self.failures = if quiet { 1 } else { self.failures.saturating_add(1) };
        self.blocked_until = limit.and_then(|limit| limit.delay(self.failures)).map(|delay| now + delay);
        self.updated_at = now;
    }

    /// Takes one failure back. It could only be counted because nothing made it wait, so nothing makes the next one wait.
    fn give_back(&mut self) {
        self.failures = (self.failures - 1).max(0);
        self.blocked_until = None;
    }
}

impl Limit {
    /// How long after this many failures.
    fn delay(&self, failures: i32) -> Option<TimeDelta> {
        let doublings = u32::try_from(failures - self.free).ok()?;
        let delay = TimeDelta::seconds(1_i64.checked_shl(doublings.min(32))?);
        Some(delay.min(self.longest))
    }
}

fn hold(failures: i32) -> Duration {
    match u32::try_from(failures - UNHURRIED) {
        Ok(beyond @ 1..) => FIRST_HOLD.saturating_mul(1 << (beyond - 1).min(8)).min(LONGEST_HOLD),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
