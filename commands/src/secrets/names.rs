//! Names are claimed and freed together with what happens to their secrets (D3).

use domain::{ClaimKind, Secret, SecretAmendment, SecretCommand, SecretId, SecretName, TeamId};
use ledger::{NewEvent, StreamId};

use crate::door::{Prepare, Prepared};
use crate::{CommandError, Commands};

/// Changes what is said of a secret.
pub(super) struct Amending {
    pub(super) id: SecretId,
    /// Only of a secret of this team is asked whether a name is taken.
    pub(super) caller_team: Option<TeamId>,
    pub(super) amendment: SecretAmendment,
}

impl Prepare<Secret> for Amending {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let mut prepared = Prepared::alone(SecretCommand::Amend(self.amendment.clone()));
        let held = secret.held_name().filter(|(team, _)| Some(*team) == self.caller_team);
        let renamed = self.amendment.name.as_ref().filter(|name| secret.is_renamed_by(name));
        if let (Some((team, held)), Some(name)) = (held, renamed) {
            prepared.alongside.push(commands.release_name(team, held).await?);
            prepared.alongside.push(commands.claim_name(team, name.as_str(), self.id).await?);
        }
        Ok(prepared)
    }
}

/// Gives a command with which a secret lets go of its name.
pub(super) struct Leaving {
    pub(super) caller_team: Option<TeamId>,
    pub(super) command: SecretCommand,
}

impl Prepare<Secret> for Leaving {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let mut prepared = Prepared::alone(self.command.clone());
        if let Some((team, name)) = secret.held_name().filter(|(team, _)| Some(*team) == self.caller_team) {
            prepared.alongside.push(commands.release_name(team, name).await?);
        }
        Ok(prepared)
    }
}

/// Takes a secret back.
pub(super) struct Restoring {
    pub(super) id: SecretId,
    pub(super) caller_team: Option<TeamId>,
    pub(super) name: Option<SecretName>,
}

impl Prepare<Secret> for Restoring {
    async fn prepare(
        &self,
        commands: &Commands,
        secret: &Secret,
    ) -> Result<Prepared<SecretCommand>, CommandError> {
        let mut prepared = Prepared::alone(SecretCommand::Restore { name: self.name.clone() });
        let last = secret.last_name().filter(|(team, _)| Some(*team) == self.caller_team);
        if let Some((team, last)) = last.filter(|_| secret.can_be_restored()) {
            let name = self.name.as_ref().map_or(last, SecretName::as_str);
            prepared.alongside.push(commands.claim_name(team, name, self.id).await?);
        }
        Ok(prepared)
    }
}

impl Commands {
    pub(super) async fn claim_name(
        &self,
        team: TeamId,
        name: &str,
        id: SecretId,
    ) -> Result<NewEvent, CommandError> {
        let owner = StreamId::new("secret", id);
        self.claim(ClaimKind::SecretName, &[&team.to_string(), name], &owner).await
    }

    async fn release_name(&self, team: TeamId, name: &str) -> Result<NewEvent, CommandError> {
        self.release(ClaimKind::SecretName, &[&team.to_string(), name]).await
    }
}
