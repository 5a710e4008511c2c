//! Making accounts: by registering, by invitation, by import, at the command line.

use chrono::TimeDelta;
use domain::{
    AccessEvent, ClaimKind, Email, PersonName, Personal, Register, Team, TeamId, TeamName, TeamSlug, TokenId,
    User, UserCommand, UserId,
};
use ledger::{NewEvent, Sha256, StreamId};
use zeroize::Zeroizing;

use crate::door::{Executed, Prepare, Prepared, first_events};
use crate::teams::{Accepting, MakingTeam};
use crate::tokens::mail_token;
use crate::{CommandError, Commands, Context, ImportedAccount, Password, StoredHash};

/// How long somebody has to show that an address is theirs.
pub(crate) const VERIFICATION: TimeDelta = TimeDelta::days(3);

/// An account to be made.
#[derive(Clone)]
pub struct NewAccount {
    /// What the person signs in with.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
    /// What proves who they are.
    pub password: NewPassword,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Whether the address is known to be theirs. If not, they are asked by mail.
    pub email_verified: bool,
    /// Whether they may sign in.
    pub active: bool,
    /// The team that comes with the account.
    pub team: FirstTeam,
}

/// What a new account is signed in to with.
#[derive(Clone, Debug)]
pub enum NewPassword {
    /// Chosen just now.
    Chosen(Password),
    /// The hash that an older system had of it. It is replaced at the first sign-in.
    Hash(StoredHash),
}

/// The team that comes with an account. It may hold a token, so it has no `Debug`.
#[derive(Clone)]
pub enum FirstTeam {
    /// One of their own, which is named for nobody, and whose slug is made of its id.
    Own,
    /// One of their own, of this name and slug.
    Named(TeamName, TeamSlug),
    /// The one whose invitation they bring: the invitation's token.
    Invited(Zeroizing<String>),
    /// None yet.
    None,
}

/// The team that comes with an account, as far as it is known before anything is stored.
enum Joining {
    Making(MakingTeam),
    Accepting(Accepting),
    None,
}

/// An account with its claim on the address, and its first team.
struct Registering<'a> {
    context: &'a Context,
    user: Register,
    joining: Joining,
    /// Whether a mail asks them to show that the address is theirs.
    asked_by_mail: bool,
}

impl Prepare<User> for Registering<'_> {
    async fn prepare(&self, commands: &Commands, _: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let user = StreamId::new("user", self.user.id);
        let email = self.user.email.canonical();
        let mut alongside = match &self.joining {
            Joining::Making(making) => {
                let (create, slug_claim) = making.command(commands).await?;
                let mut events = first_events::<Team>(self.context, making.id, create).await?;
                events.push(slug_claim);
                events
            }
            Joining::Accepting(accepting) => accepting.events(commands, self.context).await?,
            Joining::None => vec![],
        };
        alongside.push(commands.claim(ClaimKind::Email, &[&email], &user).await?);
        let command = UserCommand::Register(self.user.clone());
        if self.user.admin {
            alongside.extend(commands.admin_entered(self.user.id, &command).await?);
        }
        if self.asked_by_mail {
            alongside.push(commands.verification_request(self.user.id, &self.user.email).await?);
        }
        Ok(Prepared { command, alongside, data_keys: vec![] })
    }
}

impl Commands {
    /// Makes an account, and its team or membership, in one append with the claims on the address and the slug.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the address (in any letter case) or the slug is taken; what [`domain::TeamError`] says of an
    /// invitation.
    pub async fn register(&self, context: &Context, new: NewAccount) -> Result<Executed, CommandError> {
        let id = UserId(self.new_id());
        let joining = match new.team {
            FirstTeam::Own => Joining::Making(MakingTeam::own(TeamId(self.new_id()), id)?),
            FirstTeam::Named(name, slug) => {
                Joining::Making(MakingTeam::new(TeamId(self.new_id()), name, slug, id))
            }
            FirstTeam::Invited(token) => Joining::Accepting(self.accepting(&token, id, &new.email).await?),
            FirstTeam::None => Joining::None,
        };
        // The invitation came to the address, so its bearer has the mailbox.
        let email_verified = new.email_verified || matches!(joining, Joining::Accepting(_));
        let asked_by_mail = !email_verified && matches!(new.password, NewPassword::Chosen(_));
        let password_hash = match new.password {
            NewPassword::Chosen(password) => self.passwords().hash(password).await?,
            NewPassword::Hash(hash) => hash.as_str().to_owned(),
        };
        let context = &registering(context, id);
        let NewAccount { email, name, admin, active, .. } = new;
        let user = Register { id, email, name, password_hash, admin, email_verified, active };
        let registering = Registering { context, user, joining, asked_by_mail };
        self.execute_with::<User>(context, &id.to_string(), Some(0), &registering).await
    }

    /// Makes an account as another system had it, without a team. Nobody is asked anything by mail.
    ///
    /// # Errors
    /// As [`Commands::register`].
    pub async fn import(
        &self,
        context: &Context,
        account: ImportedAccount,
    ) -> Result<Executed, CommandError> {
        let ImportedAccount { email, name, password_hash, admin, email_verified, active } = account;
        let password = NewPassword::Hash(password_hash);
        let team = FirstTeam::None;
        let new = NewAccount { email, name, password, admin, email_verified, active, team };
        self.register(context, new).await
    }

    /// The record that leads to a mail with a token.
    pub(crate) async fn verification_request(
        &self,
        user_id: UserId,
        email: &Email,
    ) -> Result<NewEvent, CommandError> {
        let id = TokenId(self.new_id());
        let token = mail_token(&self.ledger, id).await?;
        let event = AccessEvent::EmailVerificationRequested {
            user_id,
            email: Personal::new(user_id, email),
            token_hash: Sha256::of(token),
            expires_at: self.now() + VERIFICATION,
        };
        Self::access_event(id.0, 1, &event)
    }
}

/// Whoever registers is the subject of what is recorded of them, and acts for nobody yet.
fn registering(context: &Context, id: UserId) -> Context {
    let mut context = context.clone();
    context.subject = Some(id.to_string());
    context
}
