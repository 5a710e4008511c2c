//! Every version of every secret with its sealed value, by `<secret id>/<version, 10 digits>`.

use chrono::{DateTime, Utc};
use domain::{Event, SecretEvent, SecretId, TeamId};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::error::ReadError;
use crate::fact::Fact;
use crate::machine::{Listed, MOST_LISTED};
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time::{millis, millis_option};
use crate::view::{Owner, TeamView, View};

/// See the module.
#[derive(Debug)]
pub struct SecretVersions;

/// One version of a secret's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretVersionRow {
    /// The secret's id.
    pub secret_id: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// Which version, from 1.
    pub version: u32,
    /// Base64 of the sealed value; `None` once it is destroyed.
    pub sealed: Option<String>,
    /// Who gave it, as the event's metadata has it.
    pub created_by: String,
    /// When.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// Who destroyed it, as the event's metadata has it.
    pub destroyed_by: Option<String>,
    /// When.
    #[serde(with = "millis_option")]
    pub destroyed_at: Option<DateTime<Utc>>,
}

fn key(secret_id: &str, version: u32) -> String {
    format!("{secret_id}/{version:010}")
}

impl View for SecretVersions {
    const NAME: &'static str = "secret_versions";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["secret"];
    const HIDDEN: &'static [&'static str] = &["sealed"];
    const OWNER: Owner = Owner::Team;
    type Row = SecretVersionRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           secret_id text collate "C" generated always as (row->>'secret_id') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(team_id, secret_id, key)"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Secret(event) => {
                touched(event).into_iter().map(|version| key(&fact.aggregate_id, version)).collect()
            }
            Event::User(_)
            | Event::Team(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(_: &str, row: Option<SecretVersionRow>, fact: &Fact) -> Option<SecretVersionRow> {
        match &fact.event {
            Event::Secret(event) => version(row, event, fact),
            Event::User(_)
            | Event::Team(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

impl TeamView for SecretVersions {
    fn team(row: &SecretVersionRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

/// The versions the event is about.
fn touched(event: &SecretEvent) -> Vec<u32> {
    match event {
        SecretEvent::SecretStored { .. } => vec![1],
        SecretEvent::SecretValueChanged { version, .. } => vec![*version],
        SecretEvent::SecretVersionsDestroyed { versions } | SecretEvent::SecretDestroyed { versions } => {
            versions.clone()
        }
        SecretEvent::SecretRenamed { .. }
        | SecretEvent::SecretDescribed { .. }
        | SecretEvent::SecretTagged { .. }
        | SecretEvent::SecretExpiryChanged { .. }
        | SecretEvent::SecretVersionLimitChanged { .. }
        | SecretEvent::SecretDeleted {}
        | SecretEvent::SecretRestored {}
        | SecretEvent::RevealGranted { .. }
        | SecretEvent::RevealGrantWithdrawn { .. } => vec![],
    }
}

fn version(row: Option<SecretVersionRow>, event: &SecretEvent, fact: &Fact) -> Option<SecretVersionRow> {
    match event {
        SecretEvent::SecretStored { team_id, sealed, .. } => Some(kept(fact, *team_id, 1, sealed)),
        // Only who speaks for the secret's team changes it.
        SecretEvent::SecretValueChanged { version, sealed } => {
            fact.team_id.map(|team_id| kept(fact, team_id, *version, sealed))
        }
        SecretEvent::SecretVersionsDestroyed { .. } | SecretEvent::SecretDestroyed { .. } => {
            row.map(|row| SecretVersionRow {
                sealed: None,
                destroyed_by: Some(fact.actor.clone()),
                destroyed_at: Some(fact.at),
                ..row
            })
        }
        SecretEvent::SecretRenamed { .. }
        | SecretEvent::SecretDescribed { .. }
        | SecretEvent::SecretTagged { .. }
        | SecretEvent::SecretExpiryChanged { .. }
        | SecretEvent::SecretVersionLimitChanged { .. }
        | SecretEvent::SecretDeleted {}
        | SecretEvent::SecretRestored {}
        | SecretEvent::RevealGranted { .. }
        | SecretEvent::RevealGrantWithdrawn { .. } => row,
    }
}

fn kept(fact: &Fact, team_id: TeamId, version: u32, sealed: &str) -> SecretVersionRow {
    SecretVersionRow {
        secret_id: fact.aggregate_id.clone(),
        team_id,
        version,
        sealed: Some(sealed.to_owned()),
        created_by: fact.actor.clone(),
        created_at: fact.at,
        destroyed_by: None,
        destroyed_at: None,
    }
}

impl TeamReader<'_, SecretVersions> {
    /// One version of a secret of the team.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn version(
        &self,
        id: SecretId,
        version: u32,
    ) -> Result<Option<std::sync::Arc<SecretVersionRow>>, ReadError> {
        self.get(key(&id.to_string(), version)).await
    }

    /// The versions of a secret of the team, newest first, before version `before`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        id: SecretId,
        before: Option<u32>,
        limit: i64,
    ) -> Result<Listed<SecretVersionRow>, ReadError> {
        let id = id.to_string();
        let mut query =
            QueryBuilder::new(sql("select key, row::text from {secret_versions} where team_id = "));
        query.push_bind(self.whose.setting()).push(" and secret_id = ").push_bind(id.clone());
        if let Some(before) = before {
            query.push(" and key < ").push_bind(key(&id, before));
        }
        query.push(" order by key desc limit ").push_bind(limit.min(MOST_LISTED));
        self.listed(query.build_query_as()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, fact, folded, id, team_id};

    fn secret(sequence: i64, event: SecretEvent) -> Fact {
        Fact { team_id: Some(team_id(100)), ..fact(sequence, "secret", id(5), event) }
    }

    fn history() -> Vec<Fact> {
        let stored = SecretEvent::SecretStored {
            team_id: team_id(100),
            name: "report-db".into(),
            description: String::new(),
            tags: vec![],
            expires_at: None,
            sealed: "b25l".into(),
        };
        let changed = |version| SecretEvent::SecretValueChanged { version, sealed: format!("v{version}") };
        vec![secret(1, stored), secret(2, changed(2)), secret(3, changed(3))]
    }

    fn row(version: u32, sealed: &str) -> SecretVersionRow {
        SecretVersionRow {
            secret_id: id(5),
            team_id: team_id(100),
            version,
            sealed: Some(sealed.into()),
            created_by: "system".into(),
            created_at: at(version.into()),
            destroyed_by: None,
            destroyed_at: None,
        }
    }

    #[test]
    fn each_version_has_its_value() {
        let rows = folded::<SecretVersions>(&history());
        assert_eq!(rows.into_values().collect::<Vec<_>>(), [row(1, "b25l"), row(2, "v2"), row(3, "v3")]);
    }

    #[test]
    fn destroyed_versions_stay_without_a_value() {
        let mut facts = history();
        facts.push(secret(4, SecretEvent::SecretVersionsDestroyed { versions: vec![1] }));
        facts.push(secret(5, SecretEvent::SecretDestroyed { versions: vec![2, 3] }));
        let gone = |row, when| SecretVersionRow {
            sealed: None,
            destroyed_by: Some("system".into()),
            destroyed_at: Some(at(when)),
            ..row
        };
        let expected = [gone(row(1, ""), 4), gone(row(2, ""), 5), gone(row(3, ""), 5)];
        assert_eq!(folded::<SecretVersions>(&facts).into_values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn versions_are_in_order_as_texts_too() {
        assert!(key("a", 9) < key("a", 10) && key("a", u32::MAX) > key("a", 1));
    }
}
