//! Secrets: sealed before they become events (D8), recorded before they leave (D4).

mod folder;
mod import;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use domain::{
    AccessEvent, ClaimKind, Description, JobId, Permission, Reason, Secret, SecretCommand, SecretId,
    SecretName, Store, Tag, TeamId,
};
use ledger::{NewDataKey, SealError, StreamId};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::door::{Executed, Prepare, Prepared};
use crate::error::RevealError;
use crate::{CommandError, Commands, Context};

pub use folder::SecretFolder;
pub use import::{
    FernetKeyError, FernetKeys, ImportError, ImportFile, ImportFormat, ImportProblem, Imported,
    ImportedSecret, LARGEST_IMPORT, MOST_IMPORTED, Place,
};

/// What a new secret is.
#[derive(Clone, Debug)]
pub struct NewSecret {
    /// Unique in the team.
    pub name: SecretName,
    /// What it is for.
    pub description: Description,
    /// Labels.
    pub tags: Vec<Tag>,
    /// When it should be replaced.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A sealed value as the log or a view has it.
#[derive(Clone, Debug)]
pub struct SealedSecret {
    /// Which secret.
    pub id: SecretId,
    /// Whose it is.
    pub team_id: TeamId,
    /// Which version of the value.
    pub version: u32,
    /// Base64 of the sealed value.
    pub sealed: String,
}

fn key_name(id: SecretId, version: u32) -> String {
    format!("secret/{id}/{version}")
}

/// What a value is sealed for: it opens for this secret and this version only.
fn place(id: SecretId, version: u32) -> String {
    format!("secret {id} version {version} value")
}

/// Stores a secret and claims its name.
struct Storing<'a> {
    id: SecretId,
    team_id: TeamId,
    new: &'a NewSecret,
    value: &'a Zeroizing<String>,
}

impl Prepare<Secret> for Storing<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        _: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let Self { id, team_id, new, value } = *self;
        let (sealed, key) = commands.seal_value(id, 1, value.as_bytes())?;
        let team = team_id.to_string();
        let name = [team.as_str(), new.name.as_str()];
        let claim = commands.claim(ClaimKind::SecretName, &name, &StreamId::new("secret", id)).await?;
        let store = Store {
            team_id,
            name: new.name.clone(),
            description: new.description.clone(),
            tags: new.tags.clone(),
            expires_at: new.expires_at,
            sealed,
        };
        Ok(Prepared { command: SecretCommand::Store(store), alongside: vec![claim], data_keys: vec![key] })
    }
}

/// Seals a value for the version that is next at this try.
struct ChangingValue<'a> {
    id: SecretId,
    value: &'a Zeroizing<String>,
}

impl Prepare<Secret> for ChangingValue<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let version = secret.next_version();
        let (sealed, key) = commands.seal_value(self.id, version, self.value.as_bytes())?;
        let command = SecretCommand::ChangeValue { version, sealed };
        Ok(Prepared { command, alongside: vec![], data_keys: vec![key] })
    }
}

/// Puts a secret away and frees its name.
struct Deleting;

impl Prepare<Secret> for Deleting {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let mut prepared = Prepared::alone(SecretCommand::Delete);
        if let Some((team, name)) = secret.held_name() {
            let released = commands.release(ClaimKind::SecretName, &[&team.to_string(), name]).await?;
            prepared.alongside.push(released);
        }
        Ok(prepared)
    }
}

impl Commands {
    /// Keeps a new secret of the caller's team, at version 1.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the team has a secret of this name.
    pub async fn store_secret(
        &self,
        context: &Context,
        new: &NewSecret,
        value: &Zeroizing<String>,
    ) -> Result<Executed, CommandError> {
        let id = SecretId(Uuid::now_v7());
        let team_id = context.caller.team.ok_or(domain::Denied::NotFound)?;
        let storing = Storing { id, team_id, new, value };
        self.execute_with::<Secret>(context, &id.to_string(), Some(0), &storing).await
    }

    /// Gives a secret its next value.
    ///
    /// # Errors
    /// See [`CommandError`]; [`CommandError::Stale`] when `expected` is not the stream's length.
    pub async fn change_secret_value(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
        value: &Zeroizing<String>,
    ) -> Result<Executed, CommandError> {
        let changing = ChangingValue { id, value };
        self.execute_with::<Secret>(context, &id.to_string(), expected, &changing).await
    }

    /// Puts a secret away and frees its name.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn delete_secret(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
    ) -> Result<Executed, CommandError> {
        self.execute_with::<Secret>(context, &id.to_string(), expected, &Deleting).await
    }

    fn seal_value(
        &self,
        id: SecretId,
        version: u32,
        value: &[u8],
    ) -> Result<(String, NewDataKey), CommandError> {
        let (key, new) = self.ledger.new_data_key(&key_name(id, version))?;
        let sealed = key.seal(&place(id, version), value)?;
        Ok((BASE64.encode(sealed), new))
    }

    /// A value in clear, for the caller. The reading is recorded durably before this returns; without the record there is no value.
    ///
    /// # Errors
    /// See [`RevealError`].
    pub async fn reveal_secret(
        &self,
        context: &Context,
        secret: &SealedSecret,
        reason: Option<&Reason>,
    ) -> Result<Zeroizing<String>, RevealError> {
        context.caller.require_in(Some(secret.team_id), Permission::SecretsReveal)?;
        let value = self.open_value(secret).await?;
        let record = AccessEvent::SecretRevealed {
            secret_id: secret.id,
            version: secret.version,
            reason: reason.map(ToString::to_string),
        };
        self.record(context, &record).await?;
        Ok(value)
    }

    /// A value in clear, for the process of a job; recorded likewise.
    ///
    /// # Errors
    /// See [`RevealError`].
    pub async fn use_secret(
        &self,
        context: &Context,
        secret: &SealedSecret,
        job_id: JobId,
        attempt: u32,
    ) -> Result<Zeroizing<String>, RevealError> {
        context.caller.require_in(Some(secret.team_id), Permission::SecretsReveal)?;
        let value = self.open_value(secret).await?;
        let record =
            AccessEvent::SecretUsed { secret_id: secret.id, version: secret.version, job_id, attempt };
        self.record(context, &record).await?;
        Ok(value)
    }

    async fn open_value(&self, secret: &SealedSecret) -> Result<Zeroizing<String>, RevealError> {
        let place = place(secret.id, secret.version);
        let malformed = || RevealError::Sealed(SealError::Malformed { what: place.clone() });
        let key = self.ledger.data_key(&key_name(secret.id, secret.version)).await?;
        let key = key.ok_or_else(|| RevealError::Sealed(SealError::Destroyed { what: place.clone() }))?;
        let sealed = BASE64.decode(&secret.sealed).map_err(|_| malformed())?;
        let plain = key.open(&place, &sealed).map_err(RevealError::Sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| malformed())?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}
