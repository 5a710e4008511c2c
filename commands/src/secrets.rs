//! Secrets: sealed before they become events (D8), recorded before they leave (D4).

mod destroying;
mod folder;
mod grants;
mod import;
mod names;
mod proving;
mod values;

use chrono::{DateTime, Utc};
use domain::{
    Description, Secret, SecretAmendment, SecretCommand, SecretId, SecretName, Store, Tag, TeamId,
    VersionLimit,
};

use crate::door::{Executed, Prepare, Prepared};
use crate::{CommandError, Commands, Context};

pub use destroying::Shredding;
pub use folder::SecretFolder;
pub use grants::{GrantRequest, MadeGrant};
pub use import::{
    FernetKeyError, FernetKeys, ImportError, ImportFile, ImportFormat, ImportProblem, Imported,
    ImportedSecret, LARGEST_IMPORT, MOST_IMPORTED, Place,
};
pub use proving::SecretsProved;
pub use values::{OpenGrant, SealedSecret, SecretValue};

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
    /// How many versions are kept; all if not given.
    pub max_versions: Option<VersionLimit>,
}

/// What the caller believes the secret to be before they change its value; what is `None` is not asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpectedSecret {
    /// Events of its stream (from its entity tag).
    pub sequence: Option<i64>,
    /// The version of its value.
    pub version: Option<u32>,
}

/// Stores a secret and claims its name.
struct Storing<'a> {
    id: SecretId,
    team_id: TeamId,
    new: &'a NewSecret,
    value: &'a SecretValue,
}

impl Prepare<Secret> for Storing<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        _: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let Self { id, team_id, new, value } = *self;
        let (sealed, key) = commands.seal_value(id, 1, value)?;
        let claim = commands.claim_name(team_id, new.name.as_str(), id).await?;
        let store = Store {
            team_id,
            name: new.name.clone(),
            description: new.description.clone(),
            tags: new.tags.clone(),
            expires_at: new.expires_at,
            max_versions: new.max_versions,
            sealed,
        };
        Ok(Prepared { command: SecretCommand::Store(store), alongside: vec![claim], data_keys: vec![key] })
    }
}

/// Seals a value for the version that is next at this try, or for the one after the version the caller knows.
struct ChangingValue<'a> {
    id: SecretId,
    after: Option<u32>,
    value: &'a SecretValue,
}

impl Prepare<Secret> for ChangingValue<'_> {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let version = self.after.map_or(secret.next_version(), |after| after.saturating_add(1));
        let (sealed, key) = commands.seal_value(self.id, version, self.value)?;
        let command = SecretCommand::ChangeValue { version, sealed };
        Ok(Prepared { command, alongside: vec![], data_keys: vec![key] })
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
        value: &SecretValue,
    ) -> Result<Executed, CommandError> {
        let id = SecretId(self.new_id());
        let team_id = context.caller.team.ok_or(domain::Denied::NotFound)?;
        let storing = Storing { id, team_id, new, value };
        self.execute_with::<Secret>(context, &id.to_string(), Some(0), &storing).await
    }

    /// Gives a secret its next value. Versions that are too many then are destroyed.
    ///
    /// # Errors
    /// See [`CommandError`]; [`CommandError::Stale`] or the refusal `stale_version` when it is not what was expected.
    pub async fn change_secret_value(
        &self,
        context: &Context,
        id: SecretId,
        expected: ExpectedSecret,
        value: &SecretValue,
    ) -> Result<Executed, CommandError> {
        let changing = ChangingValue { id, after: expected.version, value };
        let done =
            self.execute_with::<Secret>(context, &id.to_string(), expected.sequence, &changing).await?;
        self.let_go_after(id, &done).await;
        Ok(done)
    }

    /// Changes what is said of a secret, its name included.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the team has another secret of this name.
    pub async fn amend_secret(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
        amendment: SecretAmendment,
    ) -> Result<Executed, CommandError> {
        let amending = names::Amending { id, caller_team: context.caller.team, amendment };
        let done = self.execute_with::<Secret>(context, &id.to_string(), expected, &amending).await?;
        self.let_go_after(id, &done).await;
        Ok(done)
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
        let deleting = names::Leaving { caller_team: context.caller.team, command: SecretCommand::Delete };
        self.execute_with::<Secret>(context, &id.to_string(), expected, &deleting).await
    }

    /// Takes a secret back that was put away, under another name if one is given.
    ///
    /// # Errors
    /// [`CommandError::Taken`] when the team has a secret of this name by now.
    pub async fn restore_secret(
        &self,
        context: &Context,
        id: SecretId,
        expected: Option<i64>,
        name: Option<SecretName>,
    ) -> Result<Executed, CommandError> {
        let restoring = names::Restoring { id, caller_team: context.caller.team, name };
        self.execute_with::<Secret>(context, &id.to_string(), expected, &restoring).await
    }
}
