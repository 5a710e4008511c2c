//! Letting go of values for ever: the event says so, and then their data keys are destroyed.

use std::collections::BTreeSet;

use domain::{Event, Secret, SecretCommand, SecretEvent, SecretId};
use ledger::{Recorded, StreamId};

use super::names::Leaving;
use super::values::key_name;
use crate::door::{Executed, Plain};
use crate::reactor::{Reactor, ReactorError, decode};
use crate::{CommandError, Commands, Context};

/// Events of a secret read at once.
const PAGE: i64 = 200;

impl Commands {
    /// Destroys the values of some versions of a secret, those that are gone already included.
    ///
    /// # Errors
    /// See [`CommandError`]. Once the event is stored, the keys are destroyed even if this fails: see [`Shredding`].
    pub async fn destroy_secret_versions(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
        versions: BTreeSet<u32>,
    ) -> Result<Executed, CommandError> {
        let command = Plain(SecretCommand::DestroyVersions { versions: versions.clone() });
        let done = self.execute_with::<Secret>(context, &id.to_string(), expected, &command).await?;
        // Also those of an earlier command that did not come this far.
        self.shred(id, &versions.into_iter().collect::<Vec<_>>()).await?;
        Ok(done)
    }

    /// Destroys every value of a secret and frees its name.
    ///
    /// # Errors
    /// As [`Commands::destroy_secret_versions`].
    pub async fn destroy_secret(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
    ) -> Result<Executed, CommandError> {
        let destroying = Leaving { caller_team: context.caller.team, command: SecretCommand::Destroy };
        let done = self.execute_with::<Secret>(context, &id.to_string(), expected, &destroying).await?;
        self.shred(id, &self.destroyed_in(id, 0, done.sequence).await?).await?;
        Ok(done)
    }

    /// Destroys the keys of what the command's events have let go of besides what it was about. If that fails, [`Shredding`] does it
    /// later: the command is done.
    pub(super) async fn let_go_after(&self, id: SecretId, done: &Executed) {
        // A new value alone lets go of nothing.
        if done.stored < 2 {
            return;
        }
        let shredded = async {
            let versions = self.destroyed_in(id, done.sequence - done.stored as i64, done.sequence).await?;
            self.shred(id, &versions).await
        };
        if let Err(error) = shredded.await {
            tracing::warn!(secret = %id, %error, "keys of old versions are destroyed later");
        }
    }

    /// The versions that the events of the secret's stream after `after` and up to `up_to` have let go of.
    pub(super) async fn destroyed_in(
        &self,
        id: SecretId,
        after: i64,
        up_to: i64,
    ) -> Result<Vec<u32>, CommandError> {
        let stream = StreamId::new("secret", id);
        let (mut versions, mut reached) = (vec![], after);
        while reached < up_to {
            let page = self.ledger.read_stream(&stream, reached, None, PAGE.min(up_to - reached)).await?;
            let Some(last) = page.last() else { break };
            reached = last.sequence;
            for event in page {
                let event: SecretEvent = event.parse()?;
                versions.extend_from_slice(event.destroyed_versions());
            }
        }
        Ok(versions)
    }

    async fn shred(&self, id: SecretId, versions: &[u32]) -> Result<(), CommandError> {
        let names: Vec<String> = versions.iter().map(|version| key_name(id, *version)).collect();
        self.ledger.destroy_keys(&names).await?;
        Ok(())
    }
}

/// Destroys the keys of destroyed values where the command came no further than the event.
#[derive(Clone)]
pub struct Shredding(pub Commands);

impl Reactor for Shredding {
    const NAME: &'static str = "shredding";
    const AGGREGATES: &'static [&'static str] = &["secret"];
    type Effect = ();

    /// May be done again: destroyed keys stay destroyed, and no version is ever sealed a second time.
    async fn react(&self, event: &Recorded) -> Result<Option<()>, ReactorError> {
        if !["SecretVersionsDestroyed", "SecretDestroyed"].contains(&event.event_type.as_str()) {
            return Ok(None);
        }
        let Event::Secret(destroyed) = decode(event)? else { return Ok(None) };
        let strange = |_| ReactorError::Lasting("the stream is not of a secret".to_owned());
        let id: SecretId = event.stream.aggregate_id.parse().map_err(strange)?;
        self.0.shred(id, destroyed.destroyed_versions()).await?;
        Ok(Some(()))
    }
}
