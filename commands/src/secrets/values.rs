//! Values: sealed on the way in, opened on the way out, and recorded before they leave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use domain::{AccessEvent, Actor, GrantId, JobId, Permission, Reason, SecretId, TeamId, UserId};
use ledger::{LedgerError, NewDataKey, SealError};
use zeroize::Zeroizing;

use crate::error::{RevealError, Unreadable};
use crate::{CommandError, Commands, Context};

/// A value in clear: any bytes. Overwritten when it is dropped; it has no `Display`, and its `Debug` shows nothing.
pub type SecretValue = Zeroizing<Vec<u8>>;

/// A sealed value as a view has it, and who may see it.
#[derive(Clone, Debug)]
pub struct SealedSecret {
    /// Which secret.
    pub id: SecretId,
    /// What it is called, for errors.
    pub name: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// Which version of the value.
    pub version: u32,
    /// Base64 of the sealed value; `None`: it was destroyed.
    pub sealed: Option<String>,
    /// Leave to see it, besides what roles allow; also what has ended.
    pub grants: Vec<OpenGrant>,
}

/// Leave to see a secret for a while.
#[derive(Clone, Copy, Debug)]
pub struct OpenGrant {
    /// Its id.
    pub id: GrantId,
    /// Whose.
    pub user_id: UserId,
    /// When it ends.
    pub until: DateTime<Utc>,
}

pub(super) fn key_name(id: SecretId, version: u32) -> String {
    format!("secret/{id}/{version}")
}

/// What a value is sealed for: it opens for this secret and this version only.
fn place(id: SecretId, version: u32) -> String {
    format!("secret {id} version {version} value")
}

impl SealedSecret {
    /// By what right `context`'s caller may see it: their role (`None`) or a grant.
    fn right_of(&self, context: &Context, now: DateTime<Utc>) -> Result<Option<GrantId>, RevealError> {
        let refused = match context.caller.require_in(Some(self.team_id), Permission::SecretsReveal) {
            Ok(()) => return Ok(None),
            Err(refused) => refused,
        };
        let theirs = |grant: &&OpenGrant| {
            // A person's own: no program of theirs has it.
            context.caller.team == Some(self.team_id)
                && context.caller.actor == Actor::User(grant.user_id)
                && now < grant.until
        };
        match self.grants.iter().filter(theirs).max_by_key(|grant| grant.until) {
            Some(grant) => Ok(Some(grant.id)),
            None => Err(refused.into()),
        }
    }

    fn unreadable(&self, cause: SealError) -> RevealError {
        RevealError::Unreadable(Unreadable {
            name: self.name.clone(),
            id: self.id,
            version: self.version,
            cause,
        })
    }
}

impl Commands {
    pub(super) fn seal_value(
        &self,
        id: SecretId,
        version: u32,
        value: &SecretValue,
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
    ) -> Result<SecretValue, RevealError> {
        let (secret_id, version, reason) = (secret.id, secret.version, reason.map(ToString::to_string));
        let record = match secret.right_of(context, self.now())? {
            None => AccessEvent::SecretRevealed { secret_id, version, reason },
            Some(grant_id) => AccessEvent::SecretRevealedByGrant { secret_id, version, reason, grant_id },
        };
        let value = self.open_value(secret).await?;
        self.record(context, &record).await?;
        Ok(value)
    }

    /// Whether `context`'s caller may see the value.
    ///
    /// # Errors
    /// [`RevealError::Denied`] when not.
    pub fn may_reveal(&self, context: &Context, secret: &SealedSecret) -> Result<(), RevealError> {
        secret.right_of(context, self.now()).map(drop)
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
    ) -> Result<SecretValue, RevealError> {
        context.caller.require_in(Some(secret.team_id), Permission::SecretsUse)?;
        let value = self.open_value(secret).await?;
        let record =
            AccessEvent::SecretUsed { secret_id: secret.id, version: secret.version, job_id, attempt };
        self.record(context, &record).await?;
        Ok(value)
    }

    /// Whether the value still opens: what it is sealed with and for is right. The value itself goes no further.
    ///
    /// # Errors
    /// See [`RevealError`].
    pub async fn prove_secret(&self, secret: &SealedSecret) -> Result<(), RevealError> {
        self.open_value(secret).await.map(drop)
    }

    async fn open_value(&self, secret: &SealedSecret) -> Result<SecretValue, RevealError> {
        let place = place(secret.id, secret.version);
        let Some(sealed) = &secret.sealed else {
            return Err(secret.unreadable(SealError::Destroyed { what: place }));
        };
        let key = match self.ledger.data_key(&key_name(secret.id, secret.version)).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err(self.gone(secret, place).await),
            // Its data key was wrapped with a key that is not configured, or is damaged.
            Err(LedgerError::Seal(cause)) => return Err(secret.unreadable(cause)),
            Err(error) => return Err(error.into()),
        };
        let malformed = || secret.unreadable(SealError::Malformed { what: place.clone() });
        let sealed = BASE64.decode(sealed).map_err(|_| malformed())?;
        key.open(&place, &sealed).map_err(|cause| match cause {
            // Not of the keys that are configured: the value is another secret's or another version's.
            SealError::UnknownKey { .. } => secret.unreadable(SealError::Forged { what: place.clone() }),
            cause => secret.unreadable(cause),
        })
    }

    /// Why the key of a value is not there that a view still has: destroyed a moment ago, as the log says, or lost.
    async fn gone(&self, secret: &SealedSecret, what: String) -> RevealError {
        match self.destroyed_in(secret.id, 0, i64::MAX).await {
            Ok(destroyed) if destroyed.contains(&secret.version) => {
                secret.unreadable(SealError::Destroyed { what })
            }
            Ok(_) => secret.unreadable(SealError::Lost { what }),
            Err(CommandError::Ledger(error)) => error.into(),
            Err(_) => secret.unreadable(SealError::Malformed { what }),
        }
    }
}
