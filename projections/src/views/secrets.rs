//! Secrets' metadata and present sealed values, by secret id. Values are never opened here.

use chrono::{DateTime, Utc};
use domain::{Event, GrantId, SecretEvent, TeamId, UserId};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;
use crate::time::{millis, millis_option, to_millis};
use crate::view::{Owner, StreamView, TeamView, View};

mod list;

pub use list::SecretFilter;

/// See the module.
#[derive(Debug)]
pub struct Secrets;

/// A secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretRow {
    /// The secret's id.
    pub id: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// Its name; unique in its team among those not deleted.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Labels, in the order given.
    pub tags: Vec<String>,
    /// The version of its value, from 1.
    pub version: u32,
    /// How many versions are kept; `None`: all.
    pub max_versions: Option<u32>,
    /// When it should be replaced.
    #[serde(with = "millis_option")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it was put away.
    pub deleted: bool,
    /// Whether its values are gone for ever.
    pub destroyed: bool,
    /// Who may see its values for a while though their role would not be enough; also those whose time is over.
    pub grants: Vec<GrantRow>,
    /// Who stored it, as the event's metadata has it.
    pub created_by: String,
    /// When it was stored.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// Base64 of the sealed value of the present version; `None` once that is destroyed.
    pub sealed: Option<String>,
    /// Which event of the stream brought that value.
    pub sealed_sequence: i64,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

/// Leave to see a secret's values for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantRow {
    /// Its id.
    pub id: GrantId,
    /// Who may.
    pub user_id: UserId,
    /// When it ends by itself.
    #[serde(with = "millis")]
    pub until: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// Who gave it, as the event's metadata has it.
    pub granted_by: String,
    /// When.
    #[serde(with = "millis")]
    pub granted_at: DateTime<Utc>,
}

impl View for Secrets {
    const NAME: &'static str = "secrets";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["secret"];
    const HIDDEN: &'static [&'static str] = &["sealed"];
    const OWNER: Owner = Owner::Team;
    type Row = SecretRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           name text collate "C" generated always as (row->>'name') stored,
           deleted boolean generated always as ((row->>'deleted')::boolean) stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(team_id, name, key) where not deleted", "(team_id, name, key) where deleted"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Secret(_) => vec![fact.aggregate_id.clone()],
            Event::User(_)
            | Event::Team(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<SecretRow>, fact: &Fact) -> Option<SecretRow> {
        match &fact.event {
            Event::Secret(event) => secret(key, row, event, fact),
            Event::User(_)
            | Event::Team(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

impl StreamView for Secrets {
    const STREAM: &'static str = "secret";
}

impl TeamView for Secrets {
    fn team(row: &SecretRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

fn secret(key: &str, row: Option<SecretRow>, event: &SecretEvent, fact: &Fact) -> Option<SecretRow> {
    let mut row = match event {
        SecretEvent::SecretStored { team_id, name, description, tags, expires_at, sealed } => SecretRow {
            id: key.to_owned(),
            team_id: *team_id,
            name: name.clone(),
            description: description.clone(),
            tags: tags.clone(),
            version: 1,
            max_versions: None,
            expires_at: expires_at.map(to_millis),
            deleted: false,
            destroyed: false,
            grants: vec![],
            created_by: fact.actor.clone(),
            created_at: fact.at,
            updated_at: fact.at,
            sealed: Some(sealed.clone()),
            sealed_sequence: fact.sequence,
            sequence: fact.sequence,
        },
        SecretEvent::SecretValueChanged { .. }
        | SecretEvent::SecretRenamed { .. }
        | SecretEvent::SecretDescribed { .. }
        | SecretEvent::SecretTagged { .. }
        | SecretEvent::SecretExpiryChanged { .. }
        | SecretEvent::SecretVersionLimitChanged { .. }
        | SecretEvent::SecretDeleted {}
        | SecretEvent::SecretRestored {}
        | SecretEvent::SecretVersionsDestroyed { .. }
        | SecretEvent::SecretDestroyed { .. }
        | SecretEvent::RevealGranted { .. }
        | SecretEvent::RevealGrantWithdrawn { .. } => row?,
    };
    change(&mut row, event, fact);
    if event.destroyed_versions().contains(&row.version) {
        row.sealed = None;
    }
    (row.updated_at, row.sequence) = (fact.at, fact.sequence);
    Some(row)
}

fn change(row: &mut SecretRow, event: &SecretEvent, fact: &Fact) {
    match event {
        SecretEvent::SecretStored { .. } | SecretEvent::SecretVersionsDestroyed { .. } => {}
        SecretEvent::SecretValueChanged { version, sealed } => {
            row.version = *version;
            row.sealed = Some(sealed.clone());
            row.sealed_sequence = fact.sequence;
        }
        SecretEvent::SecretRenamed { from: _, name } => row.name.clone_from(name),
        SecretEvent::SecretDescribed { description } => row.description.clone_from(description),
        SecretEvent::SecretTagged { tags } => row.tags.clone_from(tags),
        SecretEvent::SecretExpiryChanged { expires_at } => row.expires_at = expires_at.map(to_millis),
        SecretEvent::SecretVersionLimitChanged { max_versions } => row.max_versions = *max_versions,
        SecretEvent::SecretDeleted {} => row.deleted = true,
        SecretEvent::SecretRestored {} => row.deleted = false,
        SecretEvent::SecretDestroyed { .. } => {
            (row.deleted, row.destroyed) = (true, true);
            row.grants.clear();
        }
        SecretEvent::RevealGranted { grant_id, user_id, granted_at, until, reason, name: _ } => {
            row.grants.retain(|grant| *granted_at < grant.until);
            row.grants.push(GrantRow {
                id: *grant_id,
                user_id: *user_id,
                until: to_millis(*until),
                reason: reason.clone(),
                granted_by: fact.actor.clone(),
                granted_at: to_millis(*granted_at),
            });
        }
        SecretEvent::RevealGrantWithdrawn { grant_id } => row.grants.retain(|grant| grant.id != *grant_id),
    }
}

#[cfg(test)]
mod tests;
