//! The second factor: set up, confirmed, asked for, switched off.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::{AccessEvent, ClaimEvent, ClaimKind, Email, User, UserCommand, UserId};
use ledger::{NewEvent, SealError};
use zeroize::Zeroizing;

use crate::door::{Executed, Prepare, Prepared};
use crate::guessing::Purpose;
use crate::idempotency::claim_event;
use crate::totp::{Enrolment, SharedKey, recovery_code_hash, recovery_codes};
use crate::{CommandError, Commands, Context};

/// What a person typed as their second factor. Not printable.
#[derive(Clone)]
pub enum SecondFactor {
    /// Six digits from their device.
    Totp(Zeroizing<String>),
    /// One of their recovery codes, for which they need not have the device.
    Recovery(Zeroizing<String>),
}

impl fmt::Debug for SecondFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Totp(_) => "Totp",
            Self::Recovery(_) => "Recovery",
        })
    }
}

impl SecondFactor {
    /// Tells by the form which one it is; `None` when it is neither.
    #[must_use]
    pub fn typed(text: &str) -> Option<Self> {
        // Room for all of it: growing would leave copies behind.
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(text.chars().filter(|c| !c.is_whitespace() && *c != '-'));
        match plain.len() {
            6 if plain.bytes().all(|byte| byte.is_ascii_digit()) => Some(Self::Totp(plain)),
            16 if plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Some(Self::Recovery(plain)),
            _ => None,
        }
    }
}

/// What a sealed shared key is sealed for.
fn place(user_id: UserId) -> String {
    format!("user {user_id} second factor")
}

/// Spends a recovery code, together with what it was spent for.
pub(crate) struct SpendingCode<'a> {
    pub(crate) hash: String,
    pub(crate) alongside: &'a [NewEvent],
}

impl Prepare<User> for SpendingCode<'_> {
    async fn prepare(&self, _: &Commands, _: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let command = UserCommand::UseRecoveryCode { hash: self.hash.clone() };
        Ok(Prepared { command, alongside: self.alongside.to_vec(), data_keys: vec![] })
    }
}

/// Changes the second factor of somebody who shows a code of their device for it.
struct WithCode<'a> {
    user_id: UserId,
    code: &'a str,
    change: Change,
}

enum Change {
    Enable(BTreeSet<String>),
    Disable,
}

impl Prepare<User> for WithCode<'_> {
    async fn prepare(&self, commands: &Commands, user: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let (sealed, command) = match &self.change {
            Change::Enable(hashes) => {
                let command = UserCommand::EnableTwoFactor { recovery_code_hashes: hashes.clone() };
                (user.begun_two_factor(), command)
            }
            Change::Disable => (user.second_factor(), UserCommand::DisableTwoFactor),
        };
        // Without one that is as it must be the aggregate says what is wrong.
        let Some(sealed) = sealed else { return Ok(Prepared::alone(command)) };
        let step = commands.accepted_step(self.user_id, sealed, self.code).await?;
        let step = step.ok_or(CommandError::WrongCode)?;
        Ok(Prepared { command, alongside: vec![step], data_keys: vec![] })
    }
}

impl Commands {
    /// Begins to set up a second factor: a new shared key, of no effect until it is confirmed.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn begin_two_factor(
        &self,
        context: &Context,
        user_id: UserId,
        email: &Email,
    ) -> Result<(Enrolment, Executed), CommandError> {
        let key = SharedKey::new()?;
        let what = place(user_id);
        let subject_key = self.ledger.subject_key(user_id).await?;
        let subject_key = subject_key.ok_or_else(|| SealError::Destroyed { what: what.clone() })?;
        let sealed = BASE64.encode(subject_key.seal(&what, key.as_bytes())?);
        let enrolment = key.enrolment(email.as_str())?;
        let command = UserCommand::BeginTwoFactor { sealed };
        let done = self.execute::<User>(context, user_id, None, command).await?;
        Ok((enrolment, done))
    }

    /// Asks for the second factor from now on, since the person has shown a code of their device. Answers with the recovery codes, in
    /// clear this once.
    ///
    /// # Errors
    /// [`CommandError::WrongCode`]; otherwise see [`CommandError`].
    pub async fn enable_two_factor(
        &self,
        context: &Context,
        user_id: UserId,
        code: &str,
    ) -> Result<(Vec<Zeroizing<String>>, Executed), CommandError> {
        let (account, address) = (user_id.to_string(), context.address());
        let attempt = self.guessing().begin(Purpose::SecondFactor, &account, address).await?;
        let codes = recovery_codes()?;
        let hashes = codes.iter().map(|code| recovery_code_hash(code)).collect();
        let change = WithCode { user_id, code, change: Change::Enable(hashes) };
        let done = self.execute_with::<User>(context, &user_id.to_string(), None, &change).await;
        let done = self.on_record(context, user_id, done).await;
        attempt.judged(&done, |error| matches!(error, CommandError::WrongCode)).await;
        Ok((codes, done?))
    }

    /// Asks for it no more.
    ///
    /// # Errors
    /// [`CommandError::WrongCode`]; otherwise see [`CommandError`].
    pub async fn disable_two_factor(
        &self,
        context: &Context,
        user_id: UserId,
        proof: &SecondFactor,
    ) -> Result<Executed, CommandError> {
        let (account, address) = (user_id.to_string(), context.address());
        let attempt = self.guessing().begin(Purpose::SecondFactor, &account, address).await?;
        let done = match proof {
            SecondFactor::Totp(code) => {
                let change = WithCode { user_id, code, change: Change::Disable };
                self.execute_with::<User>(context, &user_id.to_string(), None, &change).await
            }
            SecondFactor::Recovery(code) => self.disable_by_recovery(context, user_id, code).await,
        };
        let done = self.on_record(context, user_id, done).await;
        attempt.judged(&done, |error| matches!(error, CommandError::WrongCode)).await;
        done
    }

    /// If we crash between the two, a code is spent and nothing else has changed.
    async fn disable_by_recovery(
        &self,
        context: &Context,
        user_id: UserId,
        code: &str,
    ) -> Result<Executed, CommandError> {
        let spent = SpendingCode { hash: recovery_code_hash(code), alongside: &[] };
        self.execute_with::<User>(context, &user_id.to_string(), None, &spent).await?;
        self.execute::<User>(context, user_id, None, UserCommand::DisableTwoFactor).await
    }

    /// A wrong code goes on record before it is told.
    async fn on_record(
        &self,
        context: &Context,
        user_id: UserId,
        done: Result<Executed, CommandError>,
    ) -> Result<Executed, CommandError> {
        let wrong = match &done {
            Err(CommandError::WrongCode) => true,
            Err(error) => error.refusal_code() == Some("no_such_recovery_code"),
            Ok(_) => false,
        };
        if wrong {
            let failed = AccessEvent::ProofFailed { user_id, proof: "second_factor".to_owned() };
            self.record_failure(context, &failed, &[&user_id.to_string()]).await?;
            return Err(CommandError::WrongCode);
        }
        done
    }

    /// The event that uses up the time step of `code`, to be stored with what the code is used for. `None` when the code is wrong, or
    /// its step or a later one was used before. Who stores it second meets a conflict.
    pub(crate) async fn accepted_step(
        &self,
        user_id: UserId,
        sealed: &str,
        code: &str,
    ) -> Result<Option<NewEvent>, CommandError> {
        let key = self.open_shared_key(user_id, sealed).await?;
        let Some(step) = key.step_of(code, self.now())? else { return Ok(None) };
        // Each shared key counts for itself: whoever sets up another device may do so with a code of this very step.
        let stream = self.claim_stream(ClaimKind::TotpStep, &[&user_id.to_string(), sealed]).await?;
        let length = match self.last_claim(&stream).await? {
            (_, Some(ClaimEvent::StepUsed { step: last })) if step <= last => return Ok(None),
            (length, None | Some(ClaimEvent::StepUsed { .. })) => length,
            (_, Some(_)) => {
                return Err(CommandError::Event(format!("{stream} is not a record of time steps")));
            }
        };
        claim_event(stream, length + 1, &ClaimEvent::StepUsed { step }).map(Some)
    }

    async fn open_shared_key(&self, user_id: UserId, sealed: &str) -> Result<SharedKey, CommandError> {
        let what = place(user_id);
        let subject_key = self.ledger.subject_key(user_id).await?;
        let subject_key = subject_key.ok_or_else(|| SealError::Destroyed { what: what.clone() })?;
        let bytes = BASE64.decode(sealed).map_err(|_| SealError::Malformed { what: what.clone() })?;
        Ok(SharedKey::from_bytes(&subject_key.open(&what, &bytes)?))
    }
}
