//! What can happen to a secret.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::stored_names;
use crate::{GrantId, TeamId, UserId};

/// What can happen to a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum SecretEvent {
    /// It is kept from now on; version 1.
    SecretStored {
        team_id: TeamId,
        name: String,
        description: String,
        tags: Vec<String>,
        expires_at: Option<DateTime<Utc>>,
        sealed: String,
    },
    /// It has a new value.
    SecretValueChanged { version: u32, sealed: String },
    /// It has another name.
    SecretRenamed { name: String },
    /// It is said to be for something else.
    SecretDescribed { description: String },
    /// It has other labels.
    SecretTagged { tags: Vec<String> },
    /// It should be replaced at another time, or never.
    SecretExpiryChanged { expires_at: Option<DateTime<Utc>> },
    /// So many of its versions are kept; `None`: all.
    SecretVersionLimitChanged { max_versions: Option<u32> },
    /// It was put away.
    SecretDeleted {},
    /// It was taken back.
    SecretRestored {},
    /// The values of these versions are gone for ever: their data keys are destroyed.
    SecretVersionsDestroyed { versions: Vec<u32> },
    /// All its values are gone for ever; these were the last ones.
    SecretDestroyed { versions: Vec<u32> },
    /// A person who could not may see its values for a while.
    RevealGranted {
        grant_id: GrantId,
        user_id: UserId,
        granted_at: DateTime<Utc>,
        until: DateTime<Utc>,
        reason: String,
        name: String,
    },
    /// That was ended before its time.
    RevealGrantWithdrawn { grant_id: GrantId },
}

stored_names!(SecretEvent {
    SecretStored: "1",
    SecretValueChanged: "1",
    SecretRenamed: "1",
    SecretDescribed: "1",
    SecretTagged: "1",
    SecretExpiryChanged: "1",
    SecretVersionLimitChanged: "1",
    SecretDeleted: "1",
    SecretRestored: "1",
    SecretVersionsDestroyed: "1",
    SecretDestroyed: "1",
    RevealGranted: "1",
    RevealGrantWithdrawn: "1",
});

impl SecretEvent {
    /// The versions whose values are gone with it.
    #[must_use]
    pub fn destroyed_versions(&self) -> &[u32] {
        match self {
            Self::SecretVersionsDestroyed { versions } | Self::SecretDestroyed { versions } => versions,
            Self::SecretStored { .. }
            | Self::SecretValueChanged { .. }
            | Self::SecretRenamed { .. }
            | Self::SecretDescribed { .. }
            | Self::SecretTagged { .. }
            | Self::SecretExpiryChanged { .. }
            | Self::SecretVersionLimitChanged { .. }
            | Self::SecretDeleted {}
            | Self::SecretRestored {}
            | Self::RevealGranted { .. }
            | Self::RevealGrantWithdrawn { .. } => &[],
        }
    }
}
