//! Teams: made, and joined by invitation.

use chrono::TimeDelta;
use domain::{
    Accept, ClaimEvent, ClaimKind, Email, InvitationId, Invite, Role, Team, TeamCommand, TeamError,
    TeamEvent, TeamId, TeamName, TeamSlug, UserId,
};
use ledger::{NewEvent, Sha256, StreamId};

use crate::door::{Executed, Prepare, Prepared};
use crate::tokens::{invitation_token, read_invitation_token};
use crate::{CommandError, Commands, Context};

/// How long an invitation is good.
const INVITATION: TimeDelta = TimeDelta::days(7);

/// A team with its claim on the slug.
pub(crate) struct MakingTeam {
    pub(crate) id: TeamId,
    name: TeamName,
    slug: TeamSlug,
    owner: UserId,
}

impl MakingTeam {
    pub(crate) fn new(id: TeamId, name: TeamName, slug: TeamSlug, owner: UserId) -> Self {
        Self { id, name, slug, owner }
    }

    /// The team of somebody who registers openly. It bears no name of theirs: team names are not personal data and stay.
    pub(crate) fn own(id: TeamId, owner: UserId) -> Result<Self, CommandError> {
        let digits = id.0.simple().to_string();
        let invalid = |error: domain::Invalid| CommandError::Event(error.to_string());
        let name = TeamName::parse("Own team").map_err(invalid)?;
        let slug = TeamSlug::parse(&format!("team-{}", &digits[digits.len() - 12..])).map_err(invalid)?;
        Ok(Self { id, name, slug, owner })
    }

    pub(crate) async fn command(&self, commands: &Commands) -> Result<(TeamCommand, NewEvent), CommandError> {
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

/// Somebody about to join by invitation.
pub(crate) struct Accepting {
    team: TeamId,
    accept: Accept,
}

impl Accepting {
    /// The events with which the team takes them in.
    pub(crate) async fn events(
        &self,
        commands: &Commands,
        context: &Context,
    ) -> Result<Vec<NewEvent>, CommandError> {
        let command = TeamCommand::AcceptInvitation(self.accept.clone());
        commands.events_of::<Team>(context, self.team, command).await
    }
}

impl Commands {
    /// The team of this slug or id, as the log has it: no view is asked, so none need be up to date.
    ///
    /// # Errors
    /// The log could not be read.
    pub async fn team_named(&self, slug_or_id: &str) -> Result<Option<TeamId>, CommandError> {
        if let Ok(id) = slug_or_id.parse::<TeamId>() {
            let length = self.ledger.stream_length(&StreamId::new("team", id)).await?;
            return Ok((length > 0).then_some(id));
        }
        let slug = self.claim_stream(ClaimKind::TeamSlug, &[slug_or_id]).await?;
        match self.last_claim(&slug).await? {
            (_, Some(ClaimEvent::Claimed { owner_id, .. })) => Ok(owner_id.parse().ok()),
            _ => Ok(None),
        }
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
        let making = MakingTeam::new(TeamId(self.new_id()), name, slug, owner);
        self.execute_with::<Team>(context, &making.id.to_string(), Some(0), &making).await
    }

    /// Asks whoever has the address `email` to join the caller's team: `invitee`, if somebody has an account with it. A mail with the
    /// token goes to them.
    ///
    /// # Errors
    /// What [`TeamError`] says of invitations; see [`CommandError`].
    pub async fn invite(
        &self,
        context: &Context,
        team: TeamId,
        email: Email,
        invitee: Option<UserId>,
        role: Role,
    ) -> Result<(InvitationId, Executed), CommandError> {
        let id = InvitationId(self.new_id());
        let token = invitation_token(&self.ledger, team, id).await?;
        let now = self.now();
        let invite = Invite {
            id,
            email_hash: self.email_hash(&email.canonical()).await?,
            email,
            invitee,
            role,
            token_hash: Sha256::of(token),
            now,
            expires_at: now + INVITATION,
        };
        let done = self.execute::<Team>(context, team, None, TeamCommand::Invite(invite)).await?;
        match done.position.filter(|_| done.replayed) {
            Some(position) => Ok((self.invited_before(position).await?, done)),
            None => Ok((id, done)),
        }
    }

    async fn invited_before(&self, position: i64) -> Result<InvitationId, CommandError> {
        match self.made_before(position).await? {
            TeamEvent::MemberInvited { invitation_id, .. } => Ok(invitation_id),
            _ => Err(CommandError::Event("an idempotency key was used for no invitation".to_owned())),
        }
    }

    /// Joins a team by invitation, for somebody who has an account.
    ///
    /// # Errors
    /// What [`TeamError`] says of the invitation; see [`CommandError`].
    pub async fn accept_invitation(
        &self,
        context: &Context,
        token: &str,
        user_id: UserId,
        email: &Email,
    ) -> Result<Executed, CommandError> {
        let Accepting { team, accept } = self.accepting(token, user_id, email).await?;
        self.execute::<Team>(context, team, None, TeamCommand::AcceptInvitation(accept)).await
    }

    pub(crate) async fn accepting(
        &self,
        token: &str,
        user_id: UserId,
        email: &Email,
    ) -> Result<Accepting, CommandError> {
        let known = read_invitation_token(&self.ledger, token).await?;
        let (team, id) =
            known.ok_or_else(|| CommandError::Refused(Box::new(TeamError::InvitationNotOpen)))?;
        let email_hash = self.email_hash(&email.canonical()).await?;
        let accept = Accept { id, user_id, email_hash, token_hash: Sha256::of(token), now: self.now() };
        Ok(Accepting { team, accept })
    }
}
