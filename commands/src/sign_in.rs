//! Signing in with a password and, where it is set up, a second factor. Every attempt is recorded, whatever comes of it.

use domain::{AccessEvent, ClaimKind, Email, SessionId, User, UserCommand, UserEvent, UserId};
use ledger::{AppendError, NewEvent, Recorded, StreamId};
use tokio::time::{Duration, Instant, sleep_until};

use crate::door::{Executed, Prepare, Prepared};
use crate::error::SignInError;
use crate::guessing::{AttemptError, Purpose, network};
use crate::sessions::{Beginning, SignedIn, acting_as};
use crate::totp::recovery_code_hash;
use crate::two_factor::{SecondFactor, SpendingCode};
use crate::{CommandError, Commands, Context, Password};

/// Events of an account read at once where one looks what has become of it meanwhile.
const PAGE: i64 = 100;

/// A password that is wrong is not answered sooner: hashes of other systems take longer than ours, and none at all as long as ours, so
/// without this the time would tell what there is behind an address.
const FAILURE_TAKES: Duration = Duration::from_millis(500);

/// Somebody who wants to sign in.
pub struct SignIn {
    /// The address they gave.
    pub email: Email,
    /// The password they gave.
    pub password: Password,
    /// What else they gave.
    pub second_factor: Option<SecondFactor>,
    /// The account of that address, if there is one.
    pub account: Option<Account>,
    /// How long their refresh token is good for, in days.
    pub refresh_days: u16,
}

/// An account as the view `users` shows it.
pub struct Account {
    /// Whose.
    pub user_id: UserId,
    /// Whether they may sign in.
    pub active: bool,
    /// Their password's hash.
    pub password_hash: String,
    /// The sealed shared key of their second factor, if one is asked for.
    pub second_factor: Option<String>,
    /// Events of its stream.
    pub sequence: i64,
}

/// A password as the view `users` shows it.
#[derive(Debug)]
pub struct PresentPassword {
    /// Its hash.
    pub hash: String,
    /// The position at which it was set.
    pub position: i64,
}

/// Another password for somebody who knew the one that was set at `position`.
struct ChangingPassword {
    user_id: UserId,
    position: i64,
    password_hash: String,
}

impl Prepare<User> for ChangingPassword {
    async fn prepare(&self, commands: &Commands, _: &User) -> Result<Prepared<UserCommand>, CommandError> {
        // Whoever only knows the old one must not undo what was done against them.
        if commands.has_new_password_since(self.user_id, self.position).await? {
            return Err(CommandError::WrongPassword);
        }
        let password_hash = self.password_hash.clone();
        Ok(Prepared::alone(UserCommand::ChangePassword { password_hash }))
    }
}

impl Commands {
    /// Checks what somebody brings, and begins a session. Unknown address, wrong password and an account that is not active take as
    /// long and look alike.
    ///
    /// # Errors
    /// See [`SignInError`]; without a record there is no answer.
    pub async fn sign_in(&self, context: &Context, attempt: SignIn) -> Result<SignedIn, SignInError> {
        let SignIn { email, password, second_factor, account, refresh_days } = attempt;
        let (account, outdated) = self.known(context, &email, password.clone(), account).await?;
        let signed_in = match &account.second_factor {
            None => self.signed_in(context, &account, vec![], refresh_days).await?,
            Some(sealed) => {
                let outcome = self.with_second_factor(context, &account, sealed, second_factor, refresh_days);
                let outcome = outcome.await;
                let reason = match &outcome {
                    Err(SignInError::SecondFactorNeeded) => Some("second_factor_missing"),
                    Err(SignInError::WrongSecondFactor) => Some("wrong_second_factor"),
                    Err(SignInError::Attempt(AttemptError::TooSoon { .. })) => Some("second_factor_too_soon"),
                    Err(_) | Ok(_) => None,
                };
                if let Some(reason) = reason {
                    self.failed(context, &email, reason).await?;
                }
                outcome?
            }
        };
        if !self.still_stands(context, &account, signed_in.session_id).await? {
            self.failed(context, &email, "changed_meanwhile").await?;
            return Err(SignInError::Wrong);
        }
        if outdated {
            self.rehash_password(context, &account, password).await;
        }
        Ok(signed_in)
    }

    /// The account that the password is of, and whether the hash of it should be made anew.
    async fn known(
        &self,
        context: &Context,
        email: &Email,
        password: Password,
        account: Option<Account>,
    ) -> Result<(Account, bool), SignInError> {
        let attempt =
            match self.guessing().begin(Purpose::SignIn, &email.canonical(), context.address()).await {
                Err(error @ AttemptError::TooSoon { .. }) => {
                    self.failed(context, email, "too_soon").await?;
                    return Err(error.into());
                }
                begun => begun?,
            };
        let begun = Instant::now();
        // Somebody who is not active is checked like nobody: neither the time nor the answer tells.
        let hash = account.as_ref().filter(|account| account.active).map(|it| it.password_hash.clone());
        let verdict = match self.passwords().verify(password, hash).await {
            Ok(verdict) => verdict,
            Err(error) => {
                attempt.withdrawn().await;
                return Err(error.into());
            }
        };
        let reason = match &account {
            None => "unknown_account",
            Some(account) if !account.active => "inactive_account",
            Some(_) => "wrong_password",
        };
        let Some(account) = account.filter(|account| account.active && verdict.right) else {
            self.failed(context, email, reason).await?;
            sleep_until(begun + FAILURE_TAKES).await;
            return Err(SignInError::Wrong);
        };
        attempt.succeeded().await;
        Ok((account, verdict.outdated))
    }

    async fn with_second_factor(
        &self,
        context: &Context,
        account: &Account,
        sealed: &str,
        second_factor: Option<SecondFactor>,
        refresh_days: u16,
    ) -> Result<SignedIn, SignInError> {
        let Some(second_factor) = second_factor else { return Err(SignInError::SecondFactorNeeded) };
        let (account_id, address) = (account.user_id.to_string(), context.address());
        let attempt = self.guessing().begin(Purpose::SecondFactor, &account_id, address).await?;
        let outcome = self.by_second_factor(context, account, sealed, second_factor, refresh_days).await;
        attempt.judged(&outcome, |error| matches!(error, SignInError::WrongSecondFactor)).await;
        outcome
    }

    async fn by_second_factor(
        &self,
        context: &Context,
        account: &Account,
        sealed: &str,
        second_factor: SecondFactor,
        refresh_days: u16,
    ) -> Result<SignedIn, SignInError> {
        match second_factor {
            SecondFactor::Totp(code) => {
                let step = self.accepted_step(account.user_id, sealed, &code).await?;
                let step = step.ok_or(SignInError::WrongSecondFactor)?;
                match self.signed_in(context, account, vec![step], refresh_days).await {
                    // Somebody else has used the code at the same moment.
                    Err(CommandError::Append(AppendError::Conflict)) => Err(SignInError::WrongSecondFactor),
                    outcome => Ok(outcome?),
                }
            }
            SecondFactor::Recovery(code) => {
                self.by_recovery_code(context, account, &code, refresh_days).await
            }
        }
    }

    async fn signed_in(
        &self,
        context: &Context,
        account: &Account,
        events: Vec<NewEvent>,
        refresh_days: u16,
    ) -> Result<SignedIn, CommandError> {
        self.start_session(&acting_as(context, account.user_id), account.user_id, events, refresh_days).await
    }

    /// The code is spent and the session begun in one append.
    async fn by_recovery_code(
        &self,
        context: &Context,
        account: &Account,
        code: &str,
        refresh_days: u16,
    ) -> Result<SignedIn, SignInError> {
        let Beginning { session_id, refresh_token, event } =
            self.begin_session(account.user_id, refresh_days).await?;
        let alongside = [event];
        let spending = SpendingCode { hash: recovery_code_hash(code), alongside: &alongside };
        let (context, id) = (acting_as(context, account.user_id), account.user_id.to_string());
        match self.execute_with::<User>(&context, &id, None, &spending).await {
            Ok(done) => {
                let position = done.position;
                Ok(SignedIn { user_id: account.user_id, session_id, refresh_token, position })
            }
            Err(error) if error.refusal_code() == Some("no_such_recovery_code") => {
                Err(SignInError::WrongSecondFactor)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn failed(&self, context: &Context, email: &Email, reason: &str) -> Result<(), CommandError> {
        let account = self.claim_id(ClaimKind::Email, &[&email.canonical()]).await?;
        let failed = AccessEvent::SignInFailed { account, reason: reason.to_owned() };
        self.record_failure(context, &failed, &[&network(context.address())]).await
    }

    /// What was checked is what a view showed. If the password was changed or the account deactivated between that and the record, the
    /// new session ends at once: what ends all sessions ends this one too.
    async fn still_stands(
        &self,
        context: &Context,
        account: &Account,
        session_id: SessionId,
    ) -> Result<bool, SignInError> {
        let stream = StreamId::new("user", account.user_id);
        let mut ended = false;
        let each = |event: Recorded| {
            // What cannot be read may have ended them.
            ended |= event.parse().map_or(true, |event: UserEvent| event.ends_sessions());
        };
        let walked = self.ledger.walk_stream(&stream, account.sequence, PAGE, each).await;
        walked.map_err(CommandError::from)?;
        if ended {
            self.end_session(&acting_as(context, account.user_id), session_id).await?;
        }
        Ok(!ended)
    }

    /// Changes the password of somebody who is signed in and knows the present one. Ends all sessions.
    ///
    /// # Errors
    /// [`CommandError::WrongPassword`], on record, or when it was set anew meanwhile; see [`CommandError`].
    pub async fn change_password(
        &self,
        context: &Context,
        user_id: UserId,
        present: PresentPassword,
        typed: Password,
        new: Password,
    ) -> Result<Executed, CommandError> {
        let PresentPassword { hash, position } = present;
        let (account, address) = (user_id.to_string(), context.address());
        let attempt = self.guessing().begin(Purpose::Confirmation, &account, address).await?;
        let verdict = match self.passwords().verify(typed, Some(hash)).await {
            Ok(verdict) => verdict,
            Err(error) => {
                attempt.withdrawn().await;
                return Err(error.into());
            }
        };
        if !verdict.right {
            let failed = AccessEvent::ProofFailed { user_id, proof: "password".to_owned() };
            self.record_failure(context, &failed, &[&user_id.to_string()]).await?;
            return Err(CommandError::WrongPassword);
        }
        attempt.succeeded().await;
        let password_hash = self.passwords().hash(new).await?;
        let changing = ChangingPassword { user_id, position, password_hash };
        self.execute_with::<User>(context, &user_id.to_string(), None, &changing).await
    }

    /// Keeps a password's hash under present parameters. What stands in its way is for the next sign-in: it is logged and nobody is
    /// kept waiting for it twice.
    async fn rehash_password(&self, context: &Context, account: &Account, password: Password) {
        let user_id = account.user_id;
        let context = acting_as(context, user_id);
        let outcome = match self.passwords().hash(password).await {
            Ok(password_hash) => {
                let command = UserCommand::Rehash { password_hash };
                // Only if it is still the same password.
                self.execute::<User>(&context, user_id, Some(account.sequence), command).await.map(drop)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            tracing::warn!(%user_id, %error, "a password's hash could not be brought up to date");
        }
    }
}
