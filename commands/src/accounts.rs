//! Accounts: registering and signing in.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    AccessEvent, Actor, ClaimKind, Email, PersonName, Register, SessionId, Team, TeamCommand, TeamId,
    TeamName, TeamSlug, User, UserCommand, UserId,
};
use ledger::{NewEvent, Sha256, StreamId, random_token};
use uuid::Uuid;

use crate::context::now;
use crate::door::{Executed, Prepare, Prepared, first_events};
use crate::error::SignInError;
use crate::{CommandError, Commands, Context, Password};

/// An account to be made, with the team that comes with it.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// What the person signs in with.
    pub email: Email,
    /// What they are called.
    pub name: PersonName,
    /// What proves who they are.
    pub password: Password,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Name and slug of the team they will own; without one the team is named for nobody and its slug is made of its id.
    pub team: Option<(TeamName, TeamSlug)>,
}

/// Somebody who wants to sign in.
#[derive(Debug)]
pub struct SignIn {
    /// The address they gave.
    pub email: Email,
    /// The password they gave.
    pub password: Password,
    /// The account of that address and its password's hash, if there is one.
    pub account: Option<(UserId, String)>,
    /// How long their refresh token is good for, in days.
    pub refresh_days: u16,
}

/// Somebody who has signed in.
#[derive(Debug)]
pub struct SignedIn {
    /// Who.
    pub user_id: UserId,
    /// Their session.
    pub session_id: SessionId,
    /// Their refresh token, given out this once; the log has its hash.
    pub refresh_token: String,
    /// The log's position after the record.
    pub position: i64,
}

/// An account with its claim on the address, and the team it owns with its claim on the slug.
struct Registering<'a> {
    context: &'a Context,
    user: Register,
    team_id: TeamId,
    team_name: TeamName,
    slug: TeamSlug,
}

impl Prepare<User> for Registering<'_> {
    async fn prepare(&self, commands: &Commands, _: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let user = StreamId::new("user", self.user.id);
        let email = self.user.email.canonical();
        let email_claim = commands.claim(ClaimKind::Email, &[&email], &user).await?;
        let making = MakingTeam {
            id: self.team_id,
            name: self.team_name.clone(),
            slug: self.slug.clone(),
            owner: self.user.id,
        };
        let (create, slug_claim) = making.command(commands).await?;
        let mut alongside = first_events::<Team>(self.context, self.team_id, create).await?;
        alongside.extend([email_claim, slug_claim]);
        let command = UserCommand::Register(self.user.clone());
        Ok(Prepared { command, alongside, data_keys: vec![] })
    }
}

/// A team with its claim on the slug.
struct MakingTeam {
    id: TeamId,
    name: TeamName,
    slug: TeamSlug,
    owner: UserId,
}

impl MakingTeam {
    async fn command(&self, commands: &Commands) -> Result<(TeamCommand, NewEvent), CommandError> {
        let team = StreamId::new("team", self.id);
        let claim = commands.claim(ClaimKind::TeamSlug, &[self.slug.as_str()], &team).await?;
        let Self { id, name, slug, owner } = self;
        let create = TeamCommand::Create { id: *id, name: name.clone(), slug: slug.clone(), owner: *owner };
        Ok((create, claim))
    }
}

impl Prepare<Team> for MakingTeam {
    async fn prepare(&self, commands: &Commands, _: &Team) -> Result<Prepared<TeamCommand>, CommandError> {
        let (command, claim) = self.command(commands).await?;
        Ok(Prepared { command, alongside: vec![claim], data_keys: vec![] })
    }
}

impl Commands {
    /// Makes an account and the team it owns, in one append with the claims on the address and the slug.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the address (in any letter case) or the slug is taken.
    pub async fn register(&self, context: &Context, new: NewAccount) -> Result<Executed, CommandError> {
        let password_hash = self.passwords().hash(new.password).await?;
        let id = UserId(Uuid::now_v7());
        let team_id = TeamId(Uuid::now_v7());
        let (team_name, slug) = new.team.map_or_else(|| own_team(team_id), Ok)?;
        let context = &registering(context, id);
        let NewAccount { email, name, admin, .. } = new;
        let user = Register { id, email, name, password_hash, admin };
        let registering = Registering { context, user, team_id, team_name, slug };
        self.execute_with::<User>(context, &id.to_string(), Some(0), &registering).await
    }

    /// Makes a team that `owner` owns.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the slug is taken.
    pub async fn make_team(
        &self,
        context: &Context,
        name: TeamName,
        slug: TeamSlug,
        owner: UserId,
    ) -> Result<Executed, CommandError> {
        let id = TeamId(Uuid::now_v7());
        let making = MakingTeam { id, name, slug, owner };
        self.execute_with::<Team>(context, &id.to_string(), Some(0), &making).await
    }

    /// Checks a password and records the attempt, whatever it comes to. Unknown address and wrong password take as long and
    /// look alike.
    ///
    /// # Errors
    /// See [`SignInError`]; without a record there is no answer.
    pub async fn sign_in(&self, context: &Context, attempt: SignIn) -> Result<SignedIn, SignInError> {
        let (user_id, hash) = attempt.account.unzip();
        let right = self.passwords().verify(attempt.password, hash).await?.right;
        let Some(user_id) = user_id.filter(|_| right) else {
            let account = self.claim_id(ClaimKind::Email, &[&attempt.email.canonical()]).await?;
            let reason = if user_id.is_some() { "wrong_password" } else { "unknown_account" };
            let failed = AccessEvent::SignInFailed { account, reason: reason.to_owned() };
            self.record(context, &failed).await?;
            return Err(SignInError::Wrong);
        };
        let session_id = SessionId(Uuid::now_v7());
        let refresh_token = random_token().map_err(CommandError::Seal)?;
        let signed_in = AccessEvent::SignedIn {
            user_id,
            session_id,
            refresh_token_hash: Sha256::of(&refresh_token),
            refresh_expires_at: expiry(attempt.refresh_days),
        };
        let mut context = context.acting_as(Actor::User(user_id));
        context.subject = Some(user_id.to_string());
        let position = self.record_as(session_id.0, &context, &signed_in).await?;
        Ok(SignedIn { user_id, session_id, refresh_token, position })
    }
}

/// Whoever registers is the subject of what is recorded of them, and acts for nobody yet.
fn registering(context: &Context, id: UserId) -> Context {
    let mut context = context.clone();
    context.subject = Some(id.to_string());
    context
}

fn expiry(days: u16) -> DateTime<Utc> {
    now() + TimeDelta::days(i64::from(days))
}

/// The team of somebody who registers openly. It bears no name of theirs: team names are not personal data and stay.
fn own_team(id: TeamId) -> Result<(TeamName, TeamSlug), CommandError> {
    let digits = id.0.simple().to_string();
    let invalid = |error: domain::Invalid| CommandError::Event(error.to_string());
    let name = TeamName::parse("Own team").map_err(invalid)?;
    let slug = TeamSlug::parse(&format!("team-{}", &digits[digits.len() - 12..])).map_err(invalid)?;
    Ok((name, slug))
}
