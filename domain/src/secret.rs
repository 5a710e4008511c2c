//! A secret: its versions, what is known about it, and who may see it for a while. Values are sealed before they get here and never
//! opened here.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::event::aggregate;
use crate::{
    Caller, Denied, Description, GrantId, Guarded, Invalid, Permission, Reason, SecretName, Tag, TeamId,
    UserId, VersionLimit,
};

mod error;
mod event;

pub use error::SecretError;
pub use event::SecretEvent;

/// Bytes of a value at most.
pub const LARGEST_VALUE: usize = 64 * 1024;

/// Checks a value's length.
///
/// # Errors
/// A sentence with the bound; never the value.
pub fn check_value(value: &[u8]) -> Result<(), Invalid> {
    match value.len() {
        0 => Err(Invalid("must not be empty".to_owned())),
        1..=LARGEST_VALUE => Ok(()),
        length => Err(Invalid(format!("must be at most {LARGEST_VALUE} bytes, has {length}"))),
    }
}

/// Labels of a secret at most.
pub const MOST_TAGS: usize = 20;

/// Versions a secret has at most, those included that were destroyed: each command looks at all of them.
pub const MOST_VERSIONS: u32 = 10_000;

/// Grants of a secret that are open at a time.
pub(crate) const MOST_GRANTS: usize = 20;

/// How long a grant lasts at most.
pub const LONGEST_GRANT: TimeDelta = TimeDelta::hours(24);

/// Keeps a new secret, at version 1.
#[derive(Clone, Debug)]
pub struct Store {
    /// Whose it is.
    pub team_id: TeamId,
    /// Unique in the team (a claim stream sees to that).
    pub name: SecretName,
    /// What it is for.
    pub description: Description,
    /// Labels, in the order given.
    pub tags: Vec<Tag>,
    /// When it should be replaced; a mark for people, nothing happens by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many versions are kept; all if not given.
    pub max_versions: Option<VersionLimit>,
    /// Base64 of the sealed value of version 1.
    pub sealed: String,
}

/// What is said of a secret from now on; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct SecretAmendment {
    /// Its name.
    pub name: Option<SecretName>,
    /// What it is for.
    pub description: Option<Description>,
    /// Labels, in the order given.
    pub tags: Option<Vec<Tag>>,
    /// When it should be replaced; `Some(None)`: never.
    pub expires_at: Option<Option<DateTime<Utc>>>,
    /// How many versions are kept; `Some(None)`: all.
    pub max_versions: Option<Option<VersionLimit>>,
}

/// Lets a person who may not reveal secrets reveal this one, for a while ("break-glass").
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Who may.
    pub user_id: UserId,
    /// When it is given.
    pub now: DateTime<Utc>,
    /// When it ends by itself; at most [`LONGEST_GRANT`] later.
    pub until: DateTime<Utc>,
    /// Why.
    pub reason: Reason,
}

/// What can be asked of a secret.
#[derive(Clone, Debug)]
pub enum SecretCommand {
    /// Keep a new one.
    Store(Store),
    /// Give it a new value. `version` is the one the value was sealed for: sealing binds a value to its version, so a
    /// value that comes late must be sealed again.
    ChangeValue {
        /// The version this makes.
        version: u32,
        /// Base64 of the sealed value.
        sealed: String,
    },
    /// Change what is said of it.
    Amend(SecretAmendment),
    /// Put it away. Its versions stay in the log, sealed; its name is free again.
    Delete,
    /// Take it back, under another name if one is given.
    Restore {
        /// Its name from now on; as it was, if not given.
        name: Option<SecretName>,
    },
    /// Let go of the values of some versions for ever.
    DestroyVersions {
        /// Which.
        versions: BTreeSet<u32>,
    },
    /// Let go of every value for ever, and of the name.
    Destroy,
    /// Let somebody see its values for a while.
    GrantReveal(Grant),
    /// End that before its time.
    WithdrawGrant {
        /// Which.
        id: GrantId,
    },
}

/// What the rules need to know of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    team_id: Option<TeamId>,
    name: String,
    description: String,
    tags: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
    max_versions: Option<u32>,
    version: u32,
    /// The versions whose values are kept.
    kept: BTreeSet<u32>,
    deleted: bool,
    destroyed: bool,
    /// Until when each lasts.
    grants: BTreeMap<GrantId, DateTime<Utc>>,
}

aggregate!(Secret, "secret", SecretCommand, SecretEvent, SecretError);

impl Secret {
    /// The version the next value will have; 1 for a secret that does not exist yet.
    #[must_use]
    pub fn next_version(&self) -> u32 {
        self.version + 1
    }

    /// Team and name, while the secret exists and holds its name.
    #[must_use]
    pub fn held_name(&self) -> Option<(TeamId, &str)> {
        self.team_id.filter(|_| !self.deleted).map(|team| (team, self.name.as_str()))
    }

    /// Team and name, whether or not it was put away.
    #[must_use]
    pub fn last_name(&self) -> Option<(TeamId, &str)> {
        self.team_id.map(|team| (team, self.name.as_str()))
    }

    /// Whether restoring it would change anything.
    #[must_use]
    pub fn can_be_restored(&self) -> bool {
        self.deleted && !self.destroyed
    }

    /// Whether `name` is another than its own.
    #[must_use]
    pub fn is_renamed_by(&self, name: &SecretName) -> bool {
        self.name != name.as_str()
    }

    /// Whether a value may be seen by this grant at `now`: nobody ended it, its time is not over, and the secret was not put away.
    #[must_use]
    pub fn grant_is_open(&self, grant: GrantId, now: DateTime<Utc>) -> bool {
        !self.deleted && self.grants.get(&grant).is_some_and(|until| now < *until)
    }

    pub(crate) fn decide(&self, command: SecretCommand) -> Result<Vec<SecretEvent>, SecretError> {
        match command {
            SecretCommand::Store(_) if self.team_id.is_some() => Err(SecretError::AlreadyExists),
            SecretCommand::Store(new) => Ok(stored(new)),
            _ if self.team_id.is_none() => Err(SecretError::NotFound),
            SecretCommand::Destroy => Ok(self.destroy()),
            _ if self.destroyed => Err(SecretError::Destroyed),
            SecretCommand::Restore { name } => self.restore(name),
            SecretCommand::DestroyVersions { versions } => self.destroy_versions(&versions),
            SecretCommand::WithdrawGrant { id } => self.withdraw(id),
            _ if self.deleted => Err(SecretError::NotFound),
            SecretCommand::ChangeValue { version, sealed } => self.change_value(version, sealed),
            SecretCommand::Amend(amendment) => Ok(self.amend(amendment)),
            SecretCommand::Delete => Ok(vec![SecretEvent::SecretDeleted {}]),
            SecretCommand::GrantReveal(grant) => self.grant(grant),
        }
    }

    fn change_value(&self, version: u32, sealed: String) -> Result<Vec<SecretEvent>, SecretError> {
        if version != self.next_version() {
            return Err(SecretError::StaleVersion { present: self.version, given: version });
        }
        if version > MOST_VERSIONS {
            return Err(SecretError::TooManyVersions);
        }
        let changed = SecretEvent::SecretValueChanged { version, sealed };
        let mut kept = self.kept.clone();
        kept.insert(version);
        Ok([changed].into_iter().chain(surplus(&kept, self.max_versions)).collect())
    }

    fn amend(&self, amendment: SecretAmendment) -> Vec<SecretEvent> {
        let SecretAmendment { name, description, tags, expires_at, max_versions } = amendment;
        let mut events = vec![];
        events.extend(name.and_then(|name| self.rename(&name)));
        if let Some(description) = description.filter(|text| text.as_str() != self.description) {
            events.push(SecretEvent::SecretDescribed { description: description.to_string() });
        }
        let tags = tags.map(|tags| tags.iter().map(ToString::to_string).collect::<Vec<_>>());
        if let Some(tags) = tags.filter(|tags| *tags != self.tags) {
            events.push(SecretEvent::SecretTagged { tags });
        }
        if let Some(expires_at) = expires_at.filter(|expires_at| *expires_at != self.expires_at) {
            events.push(SecretEvent::SecretExpiryChanged { expires_at });
        }
        let max_versions = max_versions.map(|limit| limit.map(VersionLimit::get));
        if let Some(max_versions) = max_versions.filter(|limit| *limit != self.max_versions) {
            events.push(SecretEvent::SecretVersionLimitChanged { max_versions });
            events.extend(surplus(&self.kept, max_versions));
        }
        events
    }

    fn rename(&self, name: &SecretName) -> Option<SecretEvent> {
        self.is_renamed_by(name)
            .then(|| SecretEvent::SecretRenamed { from: self.name.clone(), name: name.to_string() })
    }

    fn restore(&self, name: Option<SecretName>) -> Result<Vec<SecretEvent>, SecretError> {
        let renamed = name.and_then(|name| self.rename(&name));
        match (self.deleted, renamed) {
            (false, None) => Ok(vec![]),
            // It would be another thing that is asked for than what would be done.
            (false, Some(_)) => Err(SecretError::NotDeleted),
            (true, renamed) => Ok([SecretEvent::SecretRestored {}].into_iter().chain(renamed).collect()),
        }
    }

    fn destroy_versions(&self, versions: &BTreeSet<u32>) -> Result<Vec<SecretEvent>, SecretError> {
        if let Some(unknown) = versions.iter().find(|version| !(1..=self.version).contains(*version)) {
            return Err(SecretError::NoSuchVersion(*unknown));
        }
        let versions: Vec<u32> = versions.intersection(&self.kept).copied().collect();
        // Again is no error.
        Ok(if versions.is_empty() { vec![] } else { vec![SecretEvent::SecretVersionsDestroyed { versions }] })
    }

    fn destroy(&self) -> Vec<SecretEvent> {
        if self.destroyed {
            return vec![];
        }
        vec![SecretEvent::SecretDestroyed { versions: self.kept.iter().copied().collect() }]
    }

    fn grant(&self, grant: Grant) -> Result<Vec<SecretEvent>, SecretError> {
        let Grant { id, user_id, now, until, reason } = grant;
        if until <= now || until - now > LONGEST_GRANT {
            return Err(SecretError::GrantTooLong);
        }
        if self.grants.values().filter(|until| now < **until).count() >= MOST_GRANTS {
            return Err(SecretError::TooManyGrants);
        }
        let reason = reason.to_string();
        let name = self.name.clone();
        Ok(vec![SecretEvent::RevealGranted { grant_id: id, user_id, granted_at: now, until, reason, name }])
    }

    fn withdraw(&self, id: GrantId) -> Result<Vec<SecretEvent>, SecretError> {
        if !self.grants.contains_key(&id) {
            return Err(SecretError::NoSuchGrant);
        }
        Ok(vec![SecretEvent::RevealGrantWithdrawn { grant_id: id }])
    }

    pub(crate) fn evolve(&mut self, event: SecretEvent) {
        match event {
            SecretEvent::SecretStored { team_id, name, description, tags, expires_at, sealed: _ } => {
                *self = Self {
                    team_id: Some(team_id),
                    name,
                    description,
                    tags,
                    expires_at,
                    version: 1,
                    kept: [1].into(),
                    ..Self::default()
                };
            }
            SecretEvent::SecretValueChanged { version, .. } => {
                self.version = version;
                self.kept.insert(version);
            }
            SecretEvent::SecretRenamed { from: _, name } => self.name = name,
            SecretEvent::SecretDescribed { description } => self.description = description,
            SecretEvent::SecretTagged { tags } => self.tags = tags,
            SecretEvent::SecretExpiryChanged { expires_at } => self.expires_at = expires_at,
            SecretEvent::SecretVersionLimitChanged { max_versions } => self.max_versions = max_versions,
            SecretEvent::SecretDeleted {} => self.deleted = true,
            SecretEvent::SecretRestored {} => self.deleted = false,
            SecretEvent::SecretVersionsDestroyed { versions } => {
                self.kept.retain(|version| !versions.contains(version));
            }
            SecretEvent::SecretDestroyed { .. } => {
                (self.deleted, self.destroyed) = (true, true);
                self.kept.clear();
                self.grants.clear();
            }
            SecretEvent::RevealGranted { grant_id, granted_at, until, .. } => {
                self.grants.retain(|_, until| granted_at < *until);
                self.grants.insert(grant_id, until);
            }
            SecretEvent::RevealGrantWithdrawn { grant_id } => drop(self.grants.remove(&grant_id)),
        }
    }
}

fn stored(new: Store) -> Vec<SecretEvent> {
    let stored = SecretEvent::SecretStored {
        team_id: new.team_id,
        name: new.name.to_string(),
        description: new.description.to_string(),
        tags: new.tags.iter().map(ToString::to_string).collect(),
        expires_at: new.expires_at,
        sealed: new.sealed,
    };
    let limited =
        |limit: VersionLimit| SecretEvent::SecretVersionLimitChanged { max_versions: Some(limit.get()) };
    [stored].into_iter().chain(new.max_versions.map(limited)).collect()
}

/// The oldest of `kept` go where there are more than `limit`.
fn surplus(kept: &BTreeSet<u32>, limit: Option<u32>) -> Option<SecretEvent> {
    let surplus = kept.len().checked_sub(limit? as usize).filter(|surplus| *surplus > 0)?;
    Some(SecretEvent::SecretVersionsDestroyed { versions: kept.iter().take(surplus).copied().collect() })
}

impl Guarded for Secret {
    fn admit(&self, command: &SecretCommand, caller: &Caller) -> Result<(), Denied> {
        match command {
            SecretCommand::Store(new) => caller.require_in(Some(new.team_id), Permission::SecretsWrite),
            SecretCommand::ChangeValue { .. }
            | SecretCommand::Amend(_)
            | SecretCommand::Delete
            | SecretCommand::Restore { .. }
            | SecretCommand::DestroyVersions { .. }
            | SecretCommand::Destroy => caller.require_in(self.team_id, Permission::SecretsWrite),
            // Who says who may do what in the team, and may do it themselves.
            SecretCommand::GrantReveal(_) | SecretCommand::WithdrawGrant { .. } => {
                caller.require_in(self.team_id, Permission::TeamWrite)?;
                caller.require(Permission::SecretsReveal)
            }
        }
    }
}

#[cfg(test)]
mod tests;
