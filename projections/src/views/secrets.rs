//! Secrets' metadata and sealed values, by secret id. Values are never opened here.

use chrono::{DateTime, Utc};
use domain::{Event, SecretEvent, TeamId};
use ledger::StreamId;
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::error::{Fault, ReadError};
use crate::fact::{self, Fact};
use crate::machine::MOST_LISTED;
use crate::team_reader::TeamReader;
use crate::time::{millis, millis_option, to_millis};
use crate::view::{Owner, StreamView, TeamView, View};

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
    /// When it should be replaced.
    #[serde(with = "millis_option")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it was put away.
    pub deleted: bool,
    /// Who stored it, as the event's metadata has it.
    pub created_by: String,
    /// When it was stored.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// Base64 of the sealed value of the present version.
    pub sealed: String,
    /// Which event of the stream brought that value.
    pub sealed_sequence: i64,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

/// One version's value, sealed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SealedValue {
    /// Which version, from 1.
    pub version: u32,
    /// Base64 of the sealed value.
    pub sealed: String,
    /// Who gave it, as the event's metadata has it.
    pub created_by: String,
    /// When.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
}

impl View for Secrets {
    const NAME: &'static str = "secrets";
    const VERSION: u32 = 1;
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
        &["(team_id, name) where not deleted"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Secret(_) => vec![fact.aggregate_id.clone()],
            Event::User(_) | Event::Team(_) | Event::Job(_) | Event::Access(_) | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<SecretRow>, fact: &Fact) -> Option<SecretRow> {
        match &fact.event {
            Event::Secret(SecretEvent::SecretStored {
                team_id,
                name,
                description,
                tags,
                expires_at,
                sealed,
            }) => Some(SecretRow {
                id: key.to_owned(),
                team_id: *team_id,
                name: name.clone(),
                description: description.clone(),
                tags: tags.clone(),
                version: 1,
                expires_at: expires_at.map(to_millis),
                deleted: false,
                created_by: fact.actor.clone(),
                created_at: fact.at,
                updated_at: fact.at,
                sealed: sealed.clone(),
                sealed_sequence: fact.sequence,
                sequence: fact.sequence,
            }),
            Event::Secret(SecretEvent::SecretValueChanged { version, sealed }) => row.map(|row| SecretRow {
                version: *version,
                sealed: sealed.clone(),
                sealed_sequence: fact.sequence,
                updated_at: fact.at,
                sequence: fact.sequence,
                ..row
            }),
            Event::Secret(SecretEvent::SecretDeleted {}) => row.map(|row| SecretRow {
                deleted: true,
                updated_at: fact.at,
                sequence: fact.sequence,
                ..row
            }),
            Event::User(_) | Event::Team(_) | Event::Job(_) | Event::Access(_) | Event::Claim(_) => row,
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

/// Which secrets of a team are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFilter {
    /// Name or description contain this, whatever the case of the letters a to z.
    pub q: Option<String>,
    /// They have this tag.
    pub tag: Option<String>,
    /// The name begins with this.
    pub prefix: Option<String>,
}

impl TeamReader<'_, Secrets> {
    /// The team's secrets by name, after name `after`, without those deleted: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &SecretFilter,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SecretRow>, ReadError> {
        let mut query =
            QueryBuilder::new("select key, row::text from secrets where not deleted and team_id = ");
        query.push_bind(self.whose.setting());
        if let Some(after) = after {
            query.push(" and name > ").push_bind(after);
        }
        if let Some(prefix) = &filter.prefix {
            query.push(" and name ^@ ").push_bind(prefix);
        }
        if let Some(tag) = &filter.tag {
            query.push(" and row->'tags' ? ").push_bind(tag);
        }
        if let Some(q) = &filter.q {
            query.push(" and position(").push_bind(q.to_ascii_lowercase());
            // Whatever the database's locale: the same letters on both sides.
            query.push(r#" in lower(((row->>'name') || chr(10) || (row->>'description')) collate "C")) > 0"#);
        }
        query.push(" order by name limit ").push_bind(limit.min(MOST_LISTED));
        self.rows(query.build_query_as()).await
    }

    /// The team's secret of this name that is not deleted. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn by_name(&self, name: &str) -> Result<Option<SecretRow>, ReadError> {
        let query = sqlx::query_as(
            "select key, row::text from secrets where not deleted and team_id = $1 and name = $2 order by key limit 1",
        );
        Ok(self.rows(query.bind(self.whose.setting()).bind(name)).await?.into_iter().next())
    }

    /// A version's sealed value, read from the secret's own stream. `None` when there is no such version, and of another team's
    /// secret.
    ///
    /// # Errors
    /// The database is out of reach, or an event does not fit.
    pub async fn sealed_value(&self, id: &str, version: u32) -> Result<Option<SealedValue>, ReadError> {
        let stream = StreamId::new(Secrets::STREAM, id);
        let mut sequence = 0;
        loop {
            let entries = fact::read_stream(self.ledger, &stream, sequence, None, 1_000).await?;
            if entries.is_empty() {
                return Ok(None);
            }
            for entry in entries {
                let fact = entry.fact.map_err(|cause| Fault::at_event(entry.position, cause))?;
                sequence = fact.sequence;
                if owner(&fact).is_some_and(|team| !self.whose.sees(Some(team))) {
                    return Ok(None);
                }
                if let Some(value) = value_of(fact, version) {
                    return Ok(Some(value));
                }
            }
        }
    }
}

/// The team of a secret, if `fact` is its first.
fn owner(fact: &Fact) -> Option<TeamId> {
    match &fact.event {
        Event::Secret(SecretEvent::SecretStored { team_id, .. }) => Some(*team_id),
        Event::Secret(SecretEvent::SecretValueChanged { .. } | SecretEvent::SecretDeleted {})
        | Event::User(_)
        | Event::Team(_)
        | Event::Job(_)
        | Event::Access(_)
        | Event::Claim(_) => None,
    }
}

/// The value of version `wanted`, if `fact` brought it.
fn value_of(fact: Fact, wanted: u32) -> Option<SealedValue> {
    let (version, sealed) = match fact.event {
        Event::Secret(SecretEvent::SecretStored { sealed, .. }) => (1, sealed),
        Event::Secret(SecretEvent::SecretValueChanged { version, sealed }) => (version, sealed),
        Event::Secret(SecretEvent::SecretDeleted {})
        | Event::User(_)
        | Event::Team(_)
        | Event::Job(_)
        | Event::Access(_)
        | Event::Claim(_) => return None,
    };
    (version == wanted).then_some(SealedValue {
        version,
        sealed,
        created_by: fact.actor,
        created_at: fact.at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, fact, folded, id, team_id};

    fn secret(sequence: i64, event: SecretEvent) -> Fact {
        fact(sequence, "secret", id(5), event)
    }

    fn stored() -> Fact {
        secret(
            1,
            SecretEvent::SecretStored {
                team_id: team_id(100),
                name: "report-db".into(),
                description: "the report's".into(),
                tags: vec!["prod".into()],
                expires_at: Some(at(99) + chrono::TimeDelta::microseconds(7)),
                sealed: "b25l".into(),
            },
        )
    }

    fn row() -> SecretRow {
        SecretRow {
            id: id(5),
            team_id: team_id(100),
            name: "report-db".into(),
            description: "the report's".into(),
            tags: vec!["prod".into()],
            version: 2,
            expires_at: Some(at(99)),
            deleted: false,
            created_by: "system".into(),
            created_at: at(1),
            updated_at: at(2),
            sealed: "dHdv".into(),
            sealed_sequence: 2,
            sequence: 2,
        }
    }

    fn changed() -> Fact {
        secret(2, SecretEvent::SecretValueChanged { version: 2, sealed: "dHdv".into() })
    }

    #[test]
    fn a_new_value_is_the_next_version() {
        assert_eq!(folded::<Secrets>(&[stored(), changed()]), [(id(5), row())].into());
    }

    #[test]
    fn a_deleted_secret_stays_and_says_so() {
        let deleted = secret(3, SecretEvent::SecretDeleted {});
        let expected = SecretRow { deleted: true, updated_at: at(3), sequence: 3, ..row() };
        assert_eq!(folded::<Secrets>(&[stored(), changed(), deleted]), [(id(5), expected)].into());
    }

    #[test]
    fn nobody_is_shown_the_sealed_bytes() {
        assert_eq!(Secrets::public(&row())["sealed"], "sealed");
        let stated = stored().stated();
        let sealed = stated.iter().find(|change| change.field == "sealed").map(|change| change.after.clone());
        assert_eq!(sealed, Some("sealed".into()));
    }

    #[test]
    fn each_version_has_its_value() {
        let sealed = |fact, version| value_of(fact, version).map(|value| value.sealed);
        assert_eq!(sealed(stored(), 1), Some("b25l".into()));
        assert_eq!(sealed(stored(), 2), None);
        assert_eq!(sealed(changed(), 2), Some("dHdv".into()));
    }
}
