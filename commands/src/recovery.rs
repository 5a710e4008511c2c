//! Getting back in, and showing that an address is one's own: by a token that only the mailbox has.

use chrono::TimeDelta;
use domain::{
    AccessEvent, Email, MailToken, MailTokenCommand, MailTokenError, MailTokenUse, Personal, TokenId, User,
    UserCommand, UserEvent, UserId,
};
use ledger::{Sha256, StreamId};

use crate::door::{Executed, Prepare, Prepared};
use crate::sessions::acting_as;
use crate::tokens::{mail_token, read_mail_token};
use crate::{CommandError, Commands, Context, Password};

/// How long somebody has to choose a new password.
const RESET: TimeDelta = TimeDelta::hours(1);

/// Events of an account read at once where one looks whether it has another password.
const PAGE: i64 = 500;

/// A token that was brought, of somebody who is known by it.
#[derive(Debug)]
pub struct BroughtToken {
    /// Whose mailbox it was sent to.
    pub user_id: UserId,
    /// The position of the request for it.
    pub position: i64,
    id: TokenId,
    hash: String,
    purpose: MailTokenUse,
}

/// Something that a token allows, once.
struct WithToken<'a> {
    context: &'a Context,
    token: &'a BroughtToken,
    command: UserCommand,
}

impl Prepare<User> for WithToken<'_> {
    async fn prepare(&self, commands: &Commands, _: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let BroughtToken { user_id, position, id, hash, purpose } = self.token;
        let outdated = match purpose {
            MailTokenUse::PasswordReset => commands.has_new_password_since(*user_id, *position).await?,
            MailTokenUse::EmailVerification => false,
        };
        if outdated {
            return Err(CommandError::Refused(Box::new(MailTokenError)));
        }
        let using = MailTokenCommand::Use { purpose: *purpose, hash: hash.clone(), now: commands.now() };
        // Of many who bring it at once all but one meet a conflict, and then find it used.
        let alongside = commands.events_of::<MailToken>(self.context, id, using).await?;
        Ok(Prepared { command: self.command.clone(), alongside, data_keys: vec![] })
    }
}

impl Commands {
    /// Records that somebody asks for a way to choose a new password; a mail with the token goes to the address.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn request_password_reset(
        &self,
        context: &Context,
        user_id: UserId,
        email: &Email,
    ) -> Result<i64, CommandError> {
        let id = TokenId(self.new_id());
        let token = mail_token(&self.ledger, id).await?;
        let event = AccessEvent::PasswordResetRequested {
            user_id,
            email: Personal::new(user_id, email),
            token_hash: Sha256::of(token),
            expires_at: self.now() + RESET,
        };
        self.record_as(id.0, context, &event).await
    }

    /// Asks a person once more to show that their address is theirs.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn request_email_verification(
        &self,
        context: &Context,
        user_id: UserId,
        email: &Email,
    ) -> Result<i64, CommandError> {
        let event = self.verification_request(user_id, email).await?;
        self.append_records(context, vec![event]).await
    }

    /// Looks whose token this is.
    ///
    /// # Errors
    /// [`MailTokenError`] as a refusal when it is none of this instance's.
    pub async fn read_mail_token(
        &self,
        text: &str,
        purpose: MailTokenUse,
    ) -> Result<BroughtToken, CommandError> {
        let strange = || CommandError::Refused(Box::new(MailTokenError));
        let id = read_mail_token(&self.ledger, text).await?.ok_or_else(strange)?;
        match self.first_record(id.0).await? {
            Some((
                AccessEvent::PasswordResetRequested { user_id, .. }
                | AccessEvent::EmailVerificationRequested { user_id, .. },
                position,
            )) => Ok(BroughtToken { user_id, position, id, hash: Sha256::of(text), purpose }),
            Some(_) | None => Err(strange()),
        }
    }

    /// Sets a new password, since the token shows whose the account is. Ends all sessions; uses the token up, and makes all others worthless
    /// that were asked for before.
    ///
    /// # Errors
    /// [`MailTokenError`] as a refusal when the token is not open; see [`CommandError`].
    pub async fn reset_password(
        &self,
        context: &Context,
        token: &BroughtToken,
        password: Password,
    ) -> Result<Executed, CommandError> {
        let password_hash = self.passwords().hash(password).await?;
        let command = UserCommand::ResetPassword { password_hash, token_id: token.id };
        self.with_token(context, token, command).await
    }

    /// Notes that an address is its person's, since the token shows it. Uses the token up.
    ///
    /// # Errors
    /// [`MailTokenError`] as a refusal when the token is not open; see [`CommandError`].
    pub async fn verify_email(
        &self,
        context: &Context,
        token: &BroughtToken,
    ) -> Result<Executed, CommandError> {
        self.with_token(context, token, UserCommand::VerifyEmail).await
    }

    /// Looks into the account's own history, not into a view: it is what the append will be compared with, so of several who would set
    /// the password at once one does, and the others find it set.
    pub(crate) async fn has_new_password_since(
        &self,
        user_id: UserId,
        position: i64,
    ) -> Result<bool, CommandError> {
        let (stream, mut after) = (StreamId::new("user", user_id), 0);
        loop {
            let page = self.ledger.read_stream(&stream, after, None, PAGE).await?;
            let Some(last) = page.last() else { return Ok(false) };
            after = last.sequence;
            let mut since = page.into_iter().filter(|event| event.position > position);
            // What cannot be read may have set it.
            if since.any(|event| event.parse().map_or(true, |it| sets_password(&it))) {
                return Ok(true);
            }
        }
    }

    async fn with_token(
        &self,
        context: &Context,
        token: &BroughtToken,
        command: UserCommand,
    ) -> Result<Executed, CommandError> {
        let context = &acting_as(context, token.user_id);
        let using = WithToken { context, token, command };
        self.execute_with::<User>(context, &token.user_id.to_string(), None, &using).await
    }
}

fn sets_password(event: &UserEvent) -> bool {
    match event {
        UserEvent::UserRegistered { .. }
        | UserEvent::PasswordChanged { .. }
        | UserEvent::PasswordReset { .. } => true,
        UserEvent::PasswordRehashed { .. }
        | UserEvent::UserRenamed { .. }
        | UserEvent::EmailVerified {}
        | UserEvent::SignedOutEverywhere {}
        | UserEvent::TwoFactorBegun { .. }
        | UserEvent::TwoFactorEnabled { .. }
        | UserEvent::TwoFactorDisabled {}
        | UserEvent::TwoFactorReset { .. }
        | UserEvent::RecoveryCodeUsed { .. }
        | UserEvent::ApiKeyMade { .. }
        | UserEvent::ApiKeyRevoked { .. }
        | UserEvent::UserDeactivated { .. }
        | UserEvent::UserReactivated {}
        | UserEvent::AdminGranted {}
        | UserEvent::AdminRevoked {}
        | UserEvent::UserErased { .. } => false,
    }
}
