//! What follows when a person is erased, or addresses were kept long enough (D8, D9): whatever the command could not do in its one append is done here, also after a crash.
//!
//! The views of accounts and credentials forget at once, by their folds. Others show something that was sealed under the person's key
//! and opened when it was folded: the addresses they came from. They are made anew, and find it erased.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use commands::reactor::{Reactor, ReactorError, decode};
use commands::{Commands, Ties};
use domain::{AccessEvent, Event, INVITEE, UserEvent, UserId};
use ledger::{FORGOTTEN_WITHIN, Recorded};
use projections::{Projections, ReadError, RebuildError};
use tokio::time::sleep;

use crate::key_uses::KeyUses;
use crate::node::registrar;

/// How long one waits before one looks again whether somebody else's rebuild of a view has ended, and how often.
const RETRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 600;
/// How long one waits for the view that says who is in which team.
const PATIENCE: Duration = Duration::from_secs(30);

/// What ties a person to teams; of invitations to the address of this keyed hash those until `made_until`, if it is given: later ones
/// are to somebody else who has it now.
///
/// # Errors
/// The database is out of reach.
pub(crate) async fn ties(
    projections: &Projections,
    user_id: UserId,
    email_hash: Option<&str>,
    made_until: Option<DateTime<Utc>>,
) -> Result<Ties, ReadError> {
    let row = projections.memberships().get(user_id).await?;
    let teams = row.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default();
    let teams = teams.iter().map(|membership| membership.team_id).collect();
    let mut invitations = match email_hash {
        Some(hash) => projections.teams().inviting(hash).await?,
        None => vec![],
    };
    invitations.retain(|(_, _, row)| made_until.is_none_or(|until| row.created_at <= until));
    Ok(Ties { teams, invitations: invitations.into_iter().map(|(team, id, _)| (team, id)).collect() })
}

/// Forgets people who were erased.
#[derive(Clone)]
pub(crate) struct Forgetting {
    pub(crate) commands: Commands,
    pub(crate) projections: Projections,
    pub(crate) key_uses: KeyUses,
}

impl Reactor for Forgetting {
    const NAME: &'static str = "forgetting";
    const AGGREGATES: &'static [&'static str] = &["user", "access"];
    type Effect = ();

    /// All of it may be done again: destroyed keys stay destroyed, and views are made anew from what opens then.
    async fn react(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        if event.event_type == "AddressesForgotten" {
            return self.forget_addresses(event).await;
        }
        if event.event_type != "UserErased" {
            return Ok(None);
        }
        let Event::User(UserEvent::UserErased { subjects }) = decode(event)? else { return Ok(None) };
        let strange = |_| ReactorError::Lasting("the stream is not of an account".to_owned());
        let user_id: UserId = event.stream.aggregate_id.parse().map_err(strange)?;
        self.cut_ties(event, user_id, &subjects).await?;
        self.commands.destroy_keys_of(user_id, subjects, Some(event.at)).await?;
        self.key_uses.forget(user_id).await?;
        self.forget_in_views().await?;
        tracing::info!(%user_id, position = event.position, "every view has forgotten an erased person");
        Ok(Some(()))
    }
}

impl Forgetting {
    async fn forget_addresses(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        let Event::Access(AccessEvent::AddressesForgotten { subjects }) = decode(event)? else {
            return Ok(None);
        };
        self.commands.destroy_addresses(&subjects, event.at).await?;
        self.forget_in_views().await?;
        tracing::info!(
            groups = subjects.len(),
            position = event.position,
            "every view has forgotten old addresses"
        );
        Ok(Some(()))
    }

    async fn forget_in_views(&self) -> Result<(), ReactorError> {
        // Until then another node may fold with a key it remembers.
        sleep(FORGOTTEN_WITHIN).await;
        for view in self.projections.personal() {
            self.make_anew(view).await?;
        }
        Ok(())
    }

    /// Those that the command had no time for.
    async fn cut_ties(
        &self,
        event: &Recorded,
        user_id: UserId,
        subjects: &BTreeSet<String>,
    ) -> Result<(), ReactorError> {
        for view in ["memberships", "teams"] {
            let seen = self.projections.wait_view(view, event.position, PATIENCE).await;
            seen.map_err(|behind| {
                ReactorError::Passing(format!("the views are at position {}", behind.reached))
            })?;
        }
        let passing = |error: ReadError| ReactorError::Passing(error.to_string());
        let hash = subjects.iter().find_map(|subject| subject.strip_prefix(INVITEE));
        let ties = ties(&self.projections, user_id, hash, Some(event.at)).await.map_err(passing)?;
        self.commands.cut_ties(&registrar(), user_id, &ties).await?;
        Ok(())
    }

    /// A rebuild that has begun before the keys were gone may have opened something: then another one follows.
    async fn make_anew(&self, view: &str) -> Result<(), ReactorError> {
        for _ in 0..TRIES {
            match self.projections.rebuild(view, |_| ()).await {
                Ok(()) => return Ok(()),
                Err(RebuildError::AlreadyRunning(_)) => sleep(RETRY).await,
                Err(error) => return Err(ReactorError::Passing(error.to_string())),
            }
        }
        Err(ReactorError::Passing(format!("another rebuild of {view} does not end")))
    }
}
