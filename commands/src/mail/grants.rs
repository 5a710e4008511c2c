//! Leave to see a secret for a while: who is told of it, and what.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, EventStore as _};
use domain::{
    Actor, Event, Personal, Refusal, Secret, SecretEvent, SecretId, Team, TeamId, UserEvent, UserId,
};
use ledger::{Ledger, Recorded, Store, StreamId};

use super::drafts::{Drafts, MOST_EVENTS, NoLetter, OF_NO_MAIL, PATIENCE, id_of};
use super::letters::{Leave, Letter};
use crate::CommandError;
use crate::reactor::ReactorError;

/// Everybody who is told of a grant: the person and the owners of the team, nobody twice.
pub(super) async fn told_of_grant(
    ledger: &Ledger,
    event: &Recorded,
    grantee: UserId,
) -> Result<BTreeSet<UserId>, ReactorError> {
    let team = team_of(event).ok_or_else(|| ReactorError::Lasting("a grant names no team".to_owned()))?;
    let team: Team = load(ledger, team).await?;
    Ok(team.owners().chain([grantee]).collect())
}

/// A grant is for a secret of the team that its giver spoke for.
fn team_of(event: &Recorded) -> Option<TeamId> {
    event.metadata.team_id.as_deref()?.parse().ok()
}

async fn load<A>(ledger: &Ledger, id: impl ToString) -> Result<A, CommandError>
where
    A: Aggregate,
    A::Error: Refusal,
{
    Ok(Store::<A>::new(ledger).load_aggregate(&id.to_string()).await?.aggregate)
}

impl Drafts {
    /// The person is not told of what they cannot use; owners are told of everything. Whoever is both is told as a person while there is
    /// something to use, else as an owner.
    pub(super) async fn of_grant(
        &self,
        recorded: &Recorded,
        event: SecretEvent,
        recipient: UserId,
        now: DateTime<Utc>,
    ) -> Result<Letter, NoLetter> {
        let SecretEvent::RevealGranted { grant_id, user_id, until, reason, name, .. } = event else {
            return Err(OF_NO_MAIL);
        };
        if now >= recorded.at + PATIENCE {
            return Err(NoLetter::Expired);
        }
        let to = self.address_of(&StreamId::new("user", recipient)).await?;
        let team_id = team_of(recorded).ok_or(OF_NO_MAIL)?;
        let secret_id = SecretId(id_of(&recorded.stream)?);
        let team: Team = load(&self.ledger, team_id).await?;
        let secret: Secret = load(&self.ledger, secret_id).await?;
        let leave = Leave {
            team: team_id,
            secret: secret_id,
            grant: grant_id,
            name,
            grantee: self.person(user_id).await?,
            given_by: self.actor(&recorded.metadata.actor).await?,
            at: recorded.at,
            until,
            reason,
            is_open: secret.grant_is_open(grant_id, now) && team.has_member(user_id),
        };
        match (recipient == user_id, leave.is_open) {
            (true, true) => Ok(self.letters.reveal_granted(to, &leave)),
            (true, false) if team.owners().all(|owner| owner != recipient) => Err(ended(until, now)),
            (true | false, _) => Ok(self.letters.reveal_grant_notice(to, &leave)),
        }
    }

    async fn actor(&self, actor: &str) -> Result<String, NoLetter> {
        match actor.parse() {
            Ok(Actor::User(id)) => self.person(id).await,
            Ok(Actor::Key(_) | Actor::Job(_) | Actor::System | Actor::Anonymous) | Err(_) => {
                Ok(actor.to_owned())
            }
        }
    }

    /// Name and id; the id alone for whoever was erased.
    async fn person(&self, user: UserId) -> Result<String, NoLetter> {
        let mut named = None;
        let each = |event: Recorded| {
            if ["UserRegistered", "UserRenamed"].contains(&event.event_type.as_str()) {
                named = Some(event);
            }
        };
        self.ledger.walk_stream(&StreamId::new("user", user), 0, MOST_EVENTS, each).await?;
        let Some(named) = named else { return Ok(user.to_string()) };
        let opened = match self.open(Some(named)).await {
            Ok((_, event)) => event,
            // The name of somebody else is no reason to send nothing.
            Err(NoLetter::Impossible(_)) => return Ok(user.to_string()),
            Err(other) => return Err(other),
        };
        Ok(match opened {
            Event::User(
                UserEvent::UserRegistered { name: Personal::Open { personal, .. }, .. }
                | UserEvent::UserRenamed { name: Personal::Open { personal, .. } },
            ) => format!("{personal} ({user})"),
            _ => user.to_string(),
        })
    }
}

fn ended(until: DateTime<Utc>, now: DateTime<Utc>) -> NoLetter {
    if now >= until {
        return NoLetter::Expired;
    }
    NoLetter::Useless("the grant was ended, the secret put away, or the person has left the team")
}
