//! A person's account.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{aggregate, stored_names};
use crate::{
    Actor, ApiKeyId, ApiKeyName, Caller, Denied, Email, Guarded, Permission, PersonName, Personal, TeamId,
    TokenId, UserId,
};

mod error;
mod second_factor;

pub use error::UserError;
use second_factor::TwoFactor;

/// API keys that a person may have at a time.
pub(crate) const MOST_API_KEYS: usize = 100;

/// Makes an account.
#[derive(Clone, Debug)]
pub struct Register {
    /// The account's id.
    pub id: UserId,
    /// Where the person can be reached, and what they sign in with.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
    /// Their password's hash: PHC string of argon2id, or what an older system left (bcrypt).
    pub password_hash: String,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Whether the address is known to be theirs.
    pub email_verified: bool,
    /// Whether they may sign in.
    pub active: bool,
}

/// A key for programs that act for a person within one team.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What it is for.
    pub name: ApiKeyName,
    /// The team it speaks for.
    pub team_id: TeamId,
    /// The first characters of the key, to tell it from others.
    pub prefix: String,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// What it may do at most.
    pub scopes: BTreeSet<Permission>,
    /// Until when it is good.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What an instance admin changes of somebody's account. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Amendment {
    /// What they are called.
    pub name: Option<PersonName>,
    /// Whether they may sign in.
    pub active: Option<bool>,
    /// Whether they administer the instance.
    pub admin: Option<bool>,
    /// Who does it, if it is done at the command line.
    pub operator: Option<String>,
}

/// What can be asked of an account.
///
/// Where it says `other_admins`: how many active instance admins there are besides this account. The command layer makes sure that
/// the number still holds when the events are stored.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum UserCommand {
    /// Make it.
    Register(Register),
    /// Change the person's name.
    Rename { name: PersonName },
    /// Another password, chosen by somebody who has shown that they know the present one.
    ChangePassword { password_hash: String },
    /// Another password, chosen by somebody who has shown that the mailbox is theirs.
    ResetPassword { password_hash: String, token_id: TokenId },
    /// The same password under present parameters.
    Rehash { password_hash: String },
    /// The person has shown that the address is theirs.
    VerifyEmail,
    /// End all sessions.
    SignOutEverywhere,
    /// Begin to set up a second factor. `sealed`: its shared key, sealed under the person's own key.
    BeginTwoFactor { sealed: String },
    /// The person has shown that their device has the shared key. SHA-256 of the recovery codes, in hex.
    EnableTwoFactor { recovery_code_hashes: BTreeSet<String> },
    /// No second factor any more; the person has shown a code.
    DisableTwoFactor,
    /// No second factor any more; an operator has seen who it is.
    ResetTwoFactor { operator: String },
    /// Use up a recovery code: its SHA-256, in hex.
    UseRecoveryCode { hash: String },
    /// Make a key for programs.
    MakeApiKey(NewApiKey),
    /// Make such a key worthless.
    RevokeApiKey { key_id: ApiKeyId },
    /// Change what an instance admin changes; all of it or nothing.
    Amend { amendment: Amendment, other_admins: usize },
    /// Forget who it was. `subjects`: under whose keys else something of theirs is sealed.
    Erase { other_admins: usize, subjects: BTreeSet<String> },
}

/// What can happen to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum UserEvent {
    /// It was made.
    UserRegistered { email: Personal, name: Personal, password_hash: Personal, admin: bool },
    /// The person has another name.
    UserRenamed { name: Personal },
    /// They chose another password. All sessions have ended.
    PasswordChanged { password_hash: Personal },
    /// They chose another password by means of a mail. All sessions have ended.
    PasswordReset { password_hash: Personal, token_id: TokenId },
    /// The same password, hashed anew.
    PasswordRehashed { password_hash: Personal },
    /// The address is theirs.
    EmailVerified {},
    /// All sessions have ended.
    SignedOutEverywhere {},
    /// A second factor is being set up.
    TwoFactorBegun { sealed: String },
    /// A second factor is asked for from now on.
    TwoFactorEnabled { recovery_code_hashes: BTreeSet<String> },
    /// The person has switched it off.
    TwoFactorDisabled {},
    /// An operator has switched it off. All sessions have ended.
    TwoFactorReset { operator: Personal },
    /// A recovery code is spent.
    RecoveryCodeUsed { hash: String },
    /// There is a key for programs.
    ApiKeyMade {
        key_id: ApiKeyId,
        name: String,
        team_id: TeamId,
        prefix: String,
        hash: String,
        scopes: BTreeSet<Permission>,
        expires_at: Option<DateTime<Utc>>,
    },
    /// It is worthless.
    ApiKeyRevoked { key_id: ApiKeyId },
    /// Nobody signs in with the account; all sessions have ended. `operator`: who, if it was done at the command line.
    UserDeactivated { operator: Option<Personal> },
    /// They may again.
    UserReactivated {},
    /// They administer the instance.
    AdminGranted {},
    /// Not any more.
    AdminRevoked {},
    /// Nobody knows any more who it was: the keys of the account and of these subjects are destroyed.
    UserErased { subjects: BTreeSet<String> },
}

stored_names!(UserEvent {
    UserRegistered: "1",
    UserRenamed: "1",
    PasswordChanged: "1",
    PasswordReset: "1",
    PasswordRehashed: "1",
    EmailVerified: "1",
    SignedOutEverywhere: "1",
    TwoFactorBegun: "1",
    TwoFactorEnabled: "1",
    TwoFactorDisabled: "1",
    TwoFactorReset: "1",
    RecoveryCodeUsed: "1",
    ApiKeyMade: "1",
    ApiKeyRevoked: "1",
    UserDeactivated: "1",
    UserReactivated: "1",
    AdminGranted: "1",
    AdminRevoked: "1",
    UserErased: "1",
});

impl UserEvent {
    /// Whether all the person's sessions have ended with it.
    #[must_use]
    pub fn ends_sessions(&self) -> bool {
        match self {
            Self::PasswordChanged { .. }
            | Self::PasswordReset { .. }
            | Self::SignedOutEverywhere {}
            | Self::TwoFactorReset { .. }
            | Self::UserDeactivated { .. }
            | Self::UserErased { .. } => true,
            Self::UserRegistered { .. }
            | Self::UserRenamed { .. }
            | Self::PasswordRehashed { .. }
            | Self::EmailVerified {}
            | Self::TwoFactorBegun { .. }
            | Self::TwoFactorEnabled { .. }
            | Self::TwoFactorDisabled {}
            | Self::RecoveryCodeUsed { .. }
            | Self::ApiKeyMade { .. }
            | Self::ApiKeyRevoked { .. }
            | Self::UserReactivated {}
            | Self::AdminGranted {}
            | Self::AdminRevoked {} => false,
        }
    }
}

/// What the rules need to know of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    id: Option<String>,
    admin: bool,
    active: bool,
    erased: bool,
    email_verified: bool,
    two_factor: TwoFactor,
    api_keys: BTreeSet<ApiKeyId>,
}

aggregate!(User, "user", UserCommand, UserEvent, UserError);

impl User {
    /// Whether they administer the instance and may sign in.
    #[must_use]
    pub fn is_active_admin(&self) -> bool {
        self.admin && self.active
    }

    /// Whether nobody is behind it any more.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.erased
    }

    /// The account as it would be after `command`; the same if that would be refused.
    #[must_use]
    pub fn after(&self, command: &UserCommand) -> Self {
        let mut user = self.clone();
        for event in user.decide(command.clone()).unwrap_or_default() {
            user.evolve(event);
        }
        user
    }

    /// The sealed shared key of a second factor that is being set up.
    #[must_use]
    pub fn begun_two_factor(&self) -> Option<&str> {
        self.two_factor.begun()
    }

    /// The sealed shared key of the second factor that is asked for.
    #[must_use]
    pub fn second_factor(&self) -> Option<&str> {
        self.two_factor.on()
    }

    pub(crate) fn decide(&self, command: UserCommand) -> Result<Vec<UserEvent>, UserError> {
        match (&self.id, command) {
            (None, UserCommand::Register(new)) => Ok(registered(new)),
            (None, _) => Err(UserError::NotFound),
            (Some(_), UserCommand::Register(_)) => Err(UserError::AlreadyExists),
            (Some(_), UserCommand::Erase { .. }) if self.erased => Ok(vec![]),
            (Some(_), _) if self.erased => Err(UserError::Erased),
            (Some(id), command) => self.decide_for(id, command),
        }
    }

    fn decide_for(&self, id: &str, command: UserCommand) -> Result<Vec<UserEvent>, UserError> {
        use UserCommand as Asked;
        let personal = |text: String| Personal::new(id, text);
        let event = match command {
            Asked::Register(_) => return Err(UserError::AlreadyExists),
            Asked::Rename { name } => UserEvent::UserRenamed { name: Personal::new(id, name) },
            Asked::ChangePassword { password_hash } => {
                UserEvent::PasswordChanged { password_hash: personal(password_hash) }
            }
            Asked::ResetPassword { .. } if !self.active => return Err(UserError::Inactive),
            Asked::ResetPassword { password_hash, token_id } => {
                UserEvent::PasswordReset { password_hash: personal(password_hash), token_id }
            }
            Asked::Rehash { password_hash } => {
                UserEvent::PasswordRehashed { password_hash: personal(password_hash) }
            }
            Asked::VerifyEmail if self.email_verified => return Ok(vec![]),
            Asked::VerifyEmail => UserEvent::EmailVerified {},
            Asked::SignOutEverywhere => UserEvent::SignedOutEverywhere {},
            Asked::BeginTwoFactor { .. }
            | Asked::EnableTwoFactor { .. }
            | Asked::DisableTwoFactor
            | Asked::ResetTwoFactor { .. }
            | Asked::UseRecoveryCode { .. } => self.two_factor.decide(command)?,
            Asked::MakeApiKey(_) if self.api_keys.len() >= MOST_API_KEYS => {
                return Err(UserError::TooManyApiKeys);
            }
            Asked::MakeApiKey(key) => api_key_made(key),
            Asked::RevokeApiKey { key_id } if !self.api_keys.contains(&key_id) => {
                return Err(UserError::NoSuchApiKey);
            }
            Asked::RevokeApiKey { key_id } => UserEvent::ApiKeyRevoked { key_id },
            Asked::Amend { amendment, other_admins } => return self.amend(id, amendment, other_admins),
            Asked::Erase { other_admins: 0, .. } if self.is_active_admin() => {
                return Err(UserError::LastAdmin);
            }
            Asked::Erase { subjects, .. } => UserEvent::UserErased { subjects },
        };
        Ok(vec![event])
    }

    fn amend(
        &self,
        id: &str,
        amendment: Amendment,
        other_admins: usize,
    ) -> Result<Vec<UserEvent>, UserError> {
        let Amendment { name, active, admin, operator } = amendment;
        let (active, admin) = (active.unwrap_or(self.active), admin.unwrap_or(self.admin));
        if self.is_active_admin() && !(active && admin) && other_admins == 0 {
            return Err(UserError::LastAdmin);
        }
        let mut events = vec![];
        events.extend(name.map(|name| UserEvent::UserRenamed { name: Personal::new(id, name) }));
        match (self.active, active) {
            (true, false) => {
                events.push(UserEvent::UserDeactivated { operator: operator.as_deref().map(operator_name) })
            }
            (false, true) => events.push(UserEvent::UserReactivated {}),
            (true, true) | (false, false) => {}
        }
        match (self.admin, admin) {
            (true, false) => events.push(UserEvent::AdminRevoked {}),
            (false, true) => events.push(UserEvent::AdminGranted {}),
            (true, true) | (false, false) => {}
        }
        Ok(events)
    }

    pub(crate) fn evolve(&mut self, event: UserEvent) {
        match event {
            UserEvent::UserRegistered { email, admin, .. } => {
                self.id = Some(email.subject().to_owned());
                self.admin = admin;
                self.active = true;
            }
            UserEvent::EmailVerified {} => self.email_verified = true,
            UserEvent::TwoFactorBegun { sealed } => self.two_factor = TwoFactor::Begun { sealed },
            UserEvent::TwoFactorEnabled { recovery_code_hashes } => {
                self.two_factor.confirm(recovery_code_hashes);
            }
            UserEvent::TwoFactorDisabled {} | UserEvent::TwoFactorReset { .. } => {
                self.two_factor = TwoFactor::Off;
            }
            UserEvent::RecoveryCodeUsed { hash } => self.two_factor.spend(&hash),
            UserEvent::ApiKeyMade { key_id, .. } => drop(self.api_keys.insert(key_id)),
            UserEvent::ApiKeyRevoked { key_id } => drop(self.api_keys.remove(&key_id)),
            UserEvent::UserDeactivated { .. } => self.active = false,
            UserEvent::UserReactivated {} => self.active = true,
            UserEvent::AdminGranted {} => self.admin = true,
            UserEvent::AdminRevoked {} => self.admin = false,
            UserEvent::UserErased { .. } => {
                let id = self.id.take();
                *self = Self { id, erased: true, ..Self::default() };
            }
            UserEvent::UserRenamed { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordReset { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::SignedOutEverywhere {} => {}
        }
    }
}

fn registered(new: Register) -> Vec<UserEvent> {
    let personal = |text: String| Personal::new(new.id, text);
    let mut events = vec![UserEvent::UserRegistered {
        email: personal(new.email.to_string()),
        name: personal(new.name.to_string()),
        password_hash: personal(new.password_hash),
        admin: new.admin,
    }];
    if new.email_verified {
        events.push(UserEvent::EmailVerified {});
    }
    if !new.active {
        events.push(UserEvent::UserDeactivated { operator: None });
    }
    events
}

fn api_key_made(key: NewApiKey) -> UserEvent {
    UserEvent::ApiKeyMade {
        key_id: key.id,
        name: key.name.to_string(),
        team_id: key.team_id,
        prefix: key.prefix,
        hash: key.hash,
        scopes: key.scopes,
        expires_at: key.expires_at,
    }
}

/// Operators at the command line have no account: their names are forgotten together, if at all.
fn operator_name(name: &str) -> Personal {
    Personal::new("operators", name)
}

impl Guarded for User {
    fn admit(&self, command: &UserCommand, caller: &Caller) -> Result<(), Denied> {
        let own = matches!(caller.actor, Actor::User(id) if self.id == Some(id.to_string()));
        match command {
            UserCommand::Register(_) => caller.require(Permission::UsersRegister),
            UserCommand::Rename { .. } | UserCommand::RevokeApiKey { .. } if own => Ok(()),
            UserCommand::Rename { .. }
            | UserCommand::RevokeApiKey { .. }
            | UserCommand::ResetTwoFactor { .. }
            | UserCommand::Amend { .. }
            | UserCommand::Erase { .. } => caller.require(Permission::UsersManage),
            // Nobody does these for another, whatever they may do.
            UserCommand::ChangePassword { .. }
            | UserCommand::ResetPassword { .. }
            | UserCommand::Rehash { .. }
            | UserCommand::VerifyEmail
            | UserCommand::SignOutEverywhere
            | UserCommand::BeginTwoFactor { .. }
            | UserCommand::EnableTwoFactor { .. }
            | UserCommand::DisableTwoFactor
            | UserCommand::UseRecoveryCode { .. }
            | UserCommand::MakeApiKey(_) => {
                if own {
                    Ok(())
                } else {
                    Err(Denied::NotFound)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
