//! Leave to see one secret for a while ("break-glass").

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Grant, GrantId, Reason, Secret, SecretCommand, SecretEvent, SecretId, UserId};

use crate::door::Executed;
use crate::{CommandError, Commands, Context};

/// Who may see the secret, for how long and why.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// Who.
    pub user_id: UserId,
    /// How long from now.
    pub duration: TimeDelta,
    /// Why.
    pub reason: Reason,
}

/// A grant that was given.
#[derive(Clone, Debug)]
pub struct MadeGrant {
    /// Its id.
    pub id: GrantId,
    /// What the command led to.
    pub done: Executed,
}

impl Commands {
    /// Lets a person see a secret's values for a while.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn grant_reveal(
        &self,
        context: &Context,
        id: SecretId,
        request: GrantRequest,
    ) -> Result<MadeGrant, CommandError> {
        let (grant_id, now) = (GrantId(self.new_id()), self.now());
        let until: DateTime<Utc> =
            now.checked_add_signed(request.duration).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let grant = Grant { id: grant_id, user_id: request.user_id, now, until, reason: request.reason };
        let done = self.execute::<Secret>(context, id, None, SecretCommand::GrantReveal(grant)).await?;
        let id = match done.position.filter(|_| done.replayed) {
            Some(position) => self.granted_before(position).await?,
            None => grant_id,
        };
        Ok(MadeGrant { id, done })
    }

    async fn granted_before(&self, position: i64) -> Result<GrantId, CommandError> {
        match self.made_before(position).await? {
            SecretEvent::RevealGranted { grant_id, .. } => Ok(grant_id),
            _ => Err(CommandError::Event("an idempotency key was used for no grant".to_owned())),
        }
    }
}
