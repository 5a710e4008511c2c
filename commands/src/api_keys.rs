//! Keys for programs: `dbk_<id of the key><id of its maker>.<proof>`, ids as 32 hexadecimal digits. The proof is computed, as that of all
//! tokens (see `tokens.rs`), so that a repeated request can get the first answer though nothing keeps the key.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use domain::{ApiKeyId, ApiKeyName, NewApiKey, Permission, TeamId, User, UserCommand, UserEvent, UserId};
use ledger::{LedgerError, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::door::Executed;
use crate::tokens::is_same;
use crate::{CommandError, Commands, Context};

/// Begins every key, so that it is known for what it is where it should not be.
pub const API_KEY: &str = "dbk_";
/// Characters of a key that are shown to tell it from others.
const SHOWN: usize = 16;

/// A key to be made.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// What it is for.
    pub name: ApiKeyName,
    /// The team it speaks for.
    pub team_id: TeamId,
    /// What it may do at most.
    pub scopes: BTreeSet<Permission>,
    /// Until when it is good.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key that was just made. The key itself is not printable.
pub struct MadeKey {
    /// Its id.
    pub id: ApiKeyId,
    /// The key itself, given out this once; the log has its hash.
    pub key: Zeroizing<String>,
    /// What became of the maker's account.
    pub done: Executed,
}

impl fmt::Debug for MadeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeKey").field("id", &self.id).field("done", &self.done).finish_non_exhaustive()
    }
}

/// A key of this instance's making, as a program brings it. Whether it is still good is for the view of credentials to say.
#[derive(Clone, Debug)]
pub struct BroughtKey {
    /// Which key it is.
    pub id: ApiKeyId,
    /// Whose it is.
    pub user_id: UserId,
    /// SHA-256 of all of it, in hex.
    pub hash: String,
}

impl BroughtKey {
    /// Reads a key's form.
    fn parse(text: &str) -> Option<Self> {
        let (ids, proof) = text.strip_prefix(API_KEY)?.split_once('.')?;
        let (key, user) = ids.split_at_checked(32)?;
        if proof.len() != 64 || user.len() != 32 {
            return None;
        }
        Some(Self {
            id: ApiKeyId(Uuid::try_parse(key).ok()?),
            user_id: UserId(Uuid::try_parse(user).ok()?),
            hash: Sha256::of(text),
        })
    }
}

impl Commands {
    /// Makes a key that acts for `user_id`.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn make_api_key(
        &self,
        context: &Context,
        user_id: UserId,
        request: KeyRequest,
    ) -> Result<MadeKey, CommandError> {
        let id = ApiKeyId(self.new_id());
        let key = self.api_key(id, user_id).await?;
        let KeyRequest { name, team_id, scopes, expires_at } = request;
        let prefix = key.chars().take(SHOWN).collect();
        let new = NewApiKey { id, name, team_id, prefix, hash: Sha256::of(&*key), scopes, expires_at };
        let done = self.execute::<User>(context, user_id, None, UserCommand::MakeApiKey(new)).await?;
        if let Some(position) = done.position.filter(|_| done.replayed) {
            let id = self.key_made_before(position).await?;
            return Ok(MadeKey { id, key: self.api_key(id, user_id).await?, done });
        }
        Ok(MadeKey { id, key, done })
    }

    /// The key behind `text`, if this instance has made it. A forged one is told without looking anywhere, so it neither costs anything
    /// nor counts for the key it names.
    ///
    /// # Errors
    /// The database is out of reach, which is asked once for the key of all proofs.
    pub async fn brought_key(&self, text: &str) -> Result<Option<BroughtKey>, LedgerError> {
        let Some(key) = BroughtKey::parse(text) else { return Ok(None) };
        let right = self.api_key(key.id, key.user_id).await?;
        Ok(is_same(text, &right).then_some(key))
    }

    async fn api_key(&self, id: ApiKeyId, user_id: UserId) -> Result<Zeroizing<String>, LedgerError> {
        let (id, user) = (id.0.simple().to_string(), user_id.0.simple().to_string());
        let proof = Zeroizing::new(self.ledger.keyed_hash(&["api key", &id, &user]).await?);
        Ok(Zeroizing::new(format!("{API_KEY}{id}{user}.{}", *proof)))
    }

    async fn key_made_before(&self, position: i64) -> Result<ApiKeyId, CommandError> {
        match self.made_before(position).await? {
            UserEvent::ApiKeyMade { key_id, .. } => Ok(key_id),
            _ => Err(CommandError::Event("an idempotency key was used for no API key".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_a_key_is_read() {
        let good = format!("{API_KEY}{}{}.{}", "0".repeat(32), "1".repeat(32), "s".repeat(64));
        let brought = BroughtKey::parse(&good);
        assert_eq!(brought.as_ref().map(|key| key.user_id.0.simple().to_string()), Some("1".repeat(32)));
        assert_eq!(brought.map(|key| key.hash), Some(Sha256::of(&good)));
        for bad in
            ["", "dbk_", "dbk_.", &good[1..], &good[..100], &format!("{good}x"), &good.replace('1', "g")]
        {
            assert!(BroughtKey::parse(bad).is_none(), "{bad}");
        }
    }
}
