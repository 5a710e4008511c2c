//! Proving that every value that was not destroyed still opens: its data key is there, and it is sealed for its own place.

use std::collections::{HashMap, HashSet};

use domain::{SecretEvent, SecretId, TeamId};
use uuid::Uuid;

use super::values::SealedSecret;
use crate::error::RevealError;
use crate::{CommandError, Commands};

/// Positions of the log looked at in one query.
const STRETCH: i64 = 5_000;
/// Values named at most, of those that do not open.
const MOST_NAMED: usize = 20;

/// What [`Commands::prove_secrets`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretsProved {
    /// Values looked at.
    pub values: u64,
    /// How many do not open.
    pub unopened: u64,
    /// Why the first of them do not, at most 20; says which they are, never what was inside.
    pub named: Vec<String>,
}

/// What the log says of secrets before their values are looked at.
#[derive(Default)]
struct Known {
    destroyed: HashSet<(SecretId, u32)>,
    names: HashMap<SecretId, String>,
}

impl Known {
    fn take(&mut self, id: SecretId, event: SecretEvent) {
        self.destroyed.extend(event.destroyed_versions().iter().map(|version| (id, *version)));
        if let SecretEvent::SecretStored { name, .. } | SecretEvent::SecretRenamed { name, .. } = event {
            self.names.insert(id, name);
        }
    }
}

impl Commands {
    /// Opens every value that the log has and nobody has destroyed, and lets go of it at once. `progress` is told how many were looked
    /// at. Whatever is written meanwhile is not looked at.
    ///
    /// # Errors
    /// The log cannot be read, or an event of it has not its shape.
    pub async fn prove_secrets(&self, progress: impl Fn(u64) + Send) -> Result<SecretsProved, CommandError> {
        let head = self.ledger.head().await?;
        let mut known = Known::default();
        let mut after = 0;
        while after < head {
            let (events, up_to) = self.secret_events(after, head).await?;
            events.into_iter().for_each(|(id, event)| known.take(id, event));
            after = up_to;
        }
        let mut proved = SecretsProved::default();
        let mut after = 0;
        while after < head {
            let (events, up_to) = self.secret_events(after, head).await?;
            after = up_to;
            for (id, event) in events {
                let Some((version, sealed)) = value_in(event) else { continue };
                if !known.destroyed.contains(&(id, version)) {
                    let name = known.names.get(&id).cloned().unwrap_or_default();
                    self.prove(&mut proved, sealed_secret(id, name, version, sealed)).await?;
                    progress(proved.values);
                }
            }
        }
        Ok(proved)
    }

    /// The next events of secrets, and up to which position.
    async fn secret_events(
        &self,
        after: i64,
        head: i64,
    ) -> Result<(Vec<(SecretId, SecretEvent)>, i64), CommandError> {
        let stretch = self.ledger.read_types(after, (after + STRETCH).min(head), &["secret"]).await?;
        // What cannot be read is for the audit of the log to tell.
        let events = stretch.events.into_iter().filter_map(|recorded| {
            let id = recorded.stream.aggregate_id.parse().ok()?;
            Some((id, recorded.parse().ok()?))
        });
        Ok((events.collect(), stretch.up_to))
    }

    async fn prove(&self, proved: &mut SecretsProved, secret: SealedSecret) -> Result<(), CommandError> {
        proved.values += 1;
        match self.prove_secret(&secret).await {
            Ok(()) => {}
            Err(RevealError::Unreadable(unreadable)) => {
                proved.unopened += 1;
                if proved.named.len() < MOST_NAMED {
                    proved.named.push(unreadable.to_string());
                }
            }
            Err(RevealError::Ledger(error)) => return Err(error.into()),
            Err(RevealError::Unrecorded(error)) => return Err(error),
            Err(RevealError::Denied(denied)) => return Err(denied.into()),
        }
        Ok(())
    }
}

/// The value that the event brought, if it brought one.
fn value_in(event: SecretEvent) -> Option<(u32, String)> {
    match event {
        SecretEvent::SecretStored { sealed, .. } => Some((1, sealed)),
        SecretEvent::SecretValueChanged { version, sealed } => Some((version, sealed)),
        SecretEvent::SecretRenamed { .. }
        | SecretEvent::SecretDescribed { .. }
        | SecretEvent::SecretTagged { .. }
        | SecretEvent::SecretExpiryChanged { .. }
        | SecretEvent::SecretVersionLimitChanged { .. }
        | SecretEvent::SecretDeleted {}
        | SecretEvent::SecretRestored {}
        | SecretEvent::SecretVersionsDestroyed { .. }
        | SecretEvent::SecretDestroyed { .. }
        | SecretEvent::RevealGranted { .. }
        | SecretEvent::RevealGrantWithdrawn { .. } => None,
    }
}

/// Whose it is does not matter to what seals it.
fn sealed_secret(id: SecretId, name: String, version: u32, sealed: String) -> SealedSecret {
    SealedSecret { id, name, team_id: TeamId(Uuid::nil()), version, sealed: Some(sealed), grants: vec![] }
}
