//! Letting go of values for ever: the event says so, and then their data keys are destroyed.

use std::collections::BTreeSet;

use domain::{Event, Secret, SecretCommand, SecretEvent, SecretId};
use ledger::{Recorded, StreamId};

use super::names::Leaving;
use super::values::key_name;
use crate::door::{Executed, Plain};
use crate::reactor::{Reactor, ReactorError, decode};
use crate::{CommandError, Commands, Context};

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
        let command = Plain(SecretCommand::DestroyVersions { versions });
        let done = self.execute_with::<Secret>(context, &id.to_string(), expected, &command).await?;
        self.shred_after(id, &done).await?;
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
        self.shred_after(id, &done).await?;
        Ok(done)
    }

    /// Destroys the keys of what the command's events have let go of.
    pub(super) async fn shred_after(&self, id: SecretId, done: &Executed) -> Result<(), CommandError> {
        if done.stored == 0 {
            return Ok(());
        }
        let (stream, stored) = (StreamId::new("secret", id), done.stored as i64);
        // A new value alone lets go of nothing.
        let events = self.ledger.read_stream(&stream, done.sequence - stored, None, stored).await?;
        let mut versions = vec![];
        for event in events {
            let event: SecretEvent = serde_json::from_value(event.payload)
                .map_err(|error| CommandError::Event(error.to_string()))?;
            versions.extend_from_slice(event.destroyed_versions());
        }
        self.shred(id, &versions).await
    }

    async fn shred(&self, id: SecretId, versions: &[u32]) -> Result<(), CommandError> {
        let names: Vec<String> = versions.iter().map(|version| key_name(id, *version)).collect();
        self.ledger.destroy_keys(&names).await?;
        Ok(())
    }
}

/// Destroys the keys of destroyed values where the command came no further than the event.
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
