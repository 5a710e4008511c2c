//! A secret: its versions and what is known about it. Values are sealed before they get here and never opened here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{aggregate, stored_names};
use crate::{
    Caller, Denied, Description, Guarded, Permission, Refusal, RefusalKind, SecretName, Tag, TeamId,
};

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
    /// Base64 of the sealed value of version 1.
    pub sealed: String,
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
    /// Put it away. Its versions stay in the log, sealed; its name is free again.
    Delete,
}

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
    /// It was put away.
    SecretDeleted {},
}

stored_names!(SecretEvent { SecretStored: "1", SecretValueChanged: "1", SecretDeleted: "1" });

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no such secret, or it was deleted.
    #[error("there is no such secret")]
    NotFound,
    /// The id is taken.
    #[error("this secret exists already")]
    AlreadyExists,
    /// Somebody else's value came first.
    #[error("the secret is at version {present}: this value was sealed for version {given}")]
    StaleVersion {
        /// The version it is at.
        present: u32,
        /// The version the command would have made.
        given: u32,
    },
}

impl Refusal for SecretError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::AlreadyExists | Self::StaleVersion { .. } => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "secret_not_found",
            Self::AlreadyExists => "secret_exists",
            Self::StaleVersion { .. } => "stale_version",
        }
    }
}

/// What the rules need to know of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    team_id: Option<TeamId>,
    name: String,
    version: u32,
    deleted: bool,
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

    pub(crate) fn decide(&self, command: SecretCommand) -> Result<Vec<SecretEvent>, SecretError> {
        match command {
            SecretCommand::Store(_) if self.team_id.is_some() => Err(SecretError::AlreadyExists),
            SecretCommand::Store(new) => Ok(vec![SecretEvent::SecretStored {
                team_id: new.team_id,
                name: new.name.to_string(),
                description: new.description.to_string(),
                tags: new.tags.iter().map(ToString::to_string).collect(),
                expires_at: new.expires_at,
                sealed: new.sealed,
            }]),
            _ if self.team_id.is_none() || self.deleted => Err(SecretError::NotFound),
            SecretCommand::ChangeValue { version, .. } if version != self.next_version() => {
                Err(SecretError::StaleVersion { present: self.version, given: version })
            }
            SecretCommand::ChangeValue { version, sealed } => {
                Ok(vec![SecretEvent::SecretValueChanged { version, sealed }])
            }
            SecretCommand::Delete => Ok(vec![SecretEvent::SecretDeleted {}]),
        }
    }

    pub(crate) fn evolve(&mut self, event: SecretEvent) {
        match event {
            SecretEvent::SecretStored { team_id, name, .. } => {
                *self = Self { team_id: Some(team_id), name, version: 1, deleted: false };
            }
            SecretEvent::SecretValueChanged { version, .. } => self.version = version,
            SecretEvent::SecretDeleted {} => self.deleted = true,
        }
    }
}

impl Guarded for Secret {
    fn admit(&self, command: &SecretCommand, caller: &Caller) -> Result<(), Denied> {
        match command {
            SecretCommand::Store(new) => caller.require_in(Some(new.team_id), Permission::SecretsWrite),
            SecretCommand::ChangeValue { .. } | SecretCommand::Delete => {
                caller.require_in(self.team_id, Permission::SecretsWrite)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;
    use crate::event::testing::given;
    use crate::{Actor, Role};

    fn team() -> TeamId {
        TeamId(Uuid::from_u128(1))
    }

    fn store() -> SecretCommand {
        SecretCommand::Store(Store {
            team_id: team(),
            name: SecretName::parse("report-db").unwrap(),
            description: Description::parse("the report's database").unwrap(),
            tags: vec![Tag::parse("prod").unwrap()],
            expires_at: None,
            sealed: "c2VhbGVk".into(),
        })
    }

    fn stored() -> SecretEvent {
        SecretEvent::SecretStored {
            team_id: team(),
            name: "report-db".into(),
            description: "the report's database".into(),
            tags: vec!["prod".into()],
            expires_at: None,
            sealed: "c2VhbGVk".into(),
        }
    }

    fn change(version: u32) -> SecretCommand {
        SecretCommand::ChangeValue { version, sealed: "bmV3".into() }
    }

    fn changed(version: u32) -> SecretEvent {
        SecretEvent::SecretValueChanged { version, sealed: "bmV3".into() }
    }

    #[test]
    fn a_secret_is_stored_once() {
        assert_eq!(given::<Secret>([]).decide(store()), Ok(vec![stored()]));
        assert_eq!(given::<Secret>([stored()]).decide(store()), Err(SecretError::AlreadyExists));
    }

    #[test]
    fn each_value_is_the_next_version() {
        assert_eq!(given::<Secret>([stored()]).decide(change(2)), Ok(vec![changed(2)]));
        assert_eq!(given::<Secret>([stored(), changed(2)]).decide(change(3)), Ok(vec![changed(3)]));
    }

    #[test]
    fn a_value_sealed_for_another_version_is_stale() {
        for given_version in [1, 2, 4] {
            assert_eq!(
                given::<Secret>([stored(), changed(2)]).decide(change(given_version)),
                Err(SecretError::StaleVersion { present: 2, given: given_version })
            );
        }
    }

    #[test]
    fn a_deleted_secret_is_gone_for_every_command() {
        let secret = given::<Secret>([stored(), SecretEvent::SecretDeleted {}]);
        assert_eq!(secret.decide(change(2)), Err(SecretError::NotFound));
        assert_eq!(secret.decide(SecretCommand::Delete), Err(SecretError::NotFound));
        assert_eq!(secret.held_name(), None);
    }

    #[test]
    fn deleting_frees_the_name() {
        let secret = given::<Secret>([stored()]);
        assert_eq!(secret.held_name(), Some((team(), "report-db")));
        assert_eq!(secret.decide(SecretCommand::Delete), Ok(vec![SecretEvent::SecretDeleted {}]));
    }

    #[test]
    fn what_is_not_there_cannot_change() {
        assert_eq!(given::<Secret>([]).decide(change(1)), Err(SecretError::NotFound));
        assert_eq!(given::<Secret>([]).decide(SecretCommand::Delete), Err(SecretError::NotFound));
    }

    #[test]
    fn writers_of_the_same_team_only() {
        let secret = given::<Secret>([stored()]);
        let caller = |team, role: Role| Caller {
            actor: Actor::System,
            team: Some(team),
            permissions: role.permissions(),
        };
        let stranger = TeamId(Uuid::from_u128(2));
        assert_eq!(secret.admit(&SecretCommand::Delete, &caller(team(), Role::Operator)), Ok(()));
        assert_eq!(
            secret.admit(&SecretCommand::Delete, &caller(team(), Role::Viewer)),
            Err(Denied::Forbidden(Permission::SecretsWrite))
        );
        assert_eq!(
            secret.admit(&SecretCommand::Delete, &caller(stranger, Role::Owner)),
            Err(Denied::NotFound)
        );
        assert_eq!(secret.admit(&store(), &caller(stranger, Role::Owner)), Err(Denied::NotFound));
    }
}
