//! What follows when a person is erased (D8, D9): whatever the command could not do in its one append is done here, also after a crash.
//!
//! The views of accounts and credentials forget at once, by their folds. Others show something that was sealed under the person's key
//! and opened when it was folded: the addresses they came from, where they were invited. They are made anew, and find it erased.

use std::time::Duration;

use commands::Commands;
use commands::reactor::{Reactor, ReactorError, decode};
use domain::{Event, UserEvent, UserId};
use ledger::{FORGOTTEN_WITHIN, Recorded};
use projections::{Projections, RebuildError};
use tokio::time::sleep;

use crate::key_uses::KeyUses;
use crate::node::registrar;

/// How long one waits before one looks again whether somebody else's rebuild of a view has ended, and how often.
const RETRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 600;
/// How long one waits for the view that says who is in which team.
const PATIENCE: Duration = Duration::from_secs(30);

/// Forgets people who were erased.
pub(crate) struct Forgetting {
    pub(crate) commands: Commands,
    pub(crate) projections: Projections,
    pub(crate) key_uses: KeyUses,
}

impl Reactor for Forgetting {
    const NAME: &'static str = "forgetting";
    const AGGREGATES: &'static [&'static str] = &["user"];
    type Effect = ();

    /// All of it may be done again: destroyed keys stay destroyed, and views are made anew from what opens then.
    async fn react(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        if event.event_type != "UserErased" {
            return Ok(None);
        }
        let Event::User(UserEvent::UserErased { subjects }) = decode(event)? else { return Ok(None) };
        let strange = |_| ReactorError::Lasting("the stream is not of an account".to_owned());
        let user_id: UserId = event.stream.aggregate_id.parse().map_err(strange)?;
        self.leave_teams(event.position, user_id).await?;
        self.commands.destroy_keys_of(user_id, subjects).await?;
        self.key_uses.forget(user_id).await?;
        // Until then another node may fold with a key it remembers.
        sleep(FORGOTTEN_WITHIN).await;
        for view in self.projections.personal() {
            self.make_anew(view).await?;
        }
        tracing::info!(%user_id, position = event.position, "every view has forgotten an erased person");
        Ok(Some(()))
    }
}

impl Forgetting {
    /// Those that the command had no time for.
    async fn leave_teams(&self, position: i64, user_id: UserId) -> Result<(), ReactorError> {
        let seen = self.projections.wait_view("memberships", position, PATIENCE).await;
        seen.map_err(|behind| {
            ReactorError::Passing(format!("the views are at position {}", behind.reached))
        })?;
        let row = self.projections.memberships().get(user_id).await;
        let row = row.map_err(|error| ReactorError::Passing(error.to_string()))?;
        let teams = row.as_deref().map(|row| row.teams.as_slice()).unwrap_or_default();
        let teams: Vec<_> = teams.iter().map(|membership| membership.team_id).collect();
        self.commands.take_out_of(&registrar(), user_id, &teams).await?;
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
