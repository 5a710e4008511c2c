//! When a secret's value was last read, by a person or a job, by secret id.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{Event, TeamId};
use serde::{Deserialize, Serialize};

use super::secret_access::read_secret;
use crate::error::ReadError;
use crate::fact::Fact;
use crate::machine::MOST_LISTED;
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time::millis;
use crate::view::{Owner, TeamView, View};

/// See the module.
#[derive(Debug)]
pub struct SecretReads;

/// The last time, and how often so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretReadsRow {
    /// Which secret.
    pub secret_id: String,
    /// Whose it is.
    pub team_id: TeamId,
    /// When it was last read.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
    /// Who read it, as the event's metadata has it.
    pub actor: String,
    /// How often it was read.
    pub count: u64,
}

impl View for SecretReads {
    const NAME: &'static str = "secret_reads";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["access"];
    const OWNER: Owner = Owner::Team;
    type Row = SecretReadsRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &[]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        read(fact).map(|(secret_id, _)| secret_id).into_iter().collect()
    }

    fn fold(_: &str, row: Option<SecretReadsRow>, fact: &Fact) -> Option<SecretReadsRow> {
        let Some((secret_id, team_id)) = read(fact) else { return row };
        let count = row.map_or(0, |row| row.count) + 1;
        Some(SecretReadsRow { secret_id, team_id, at: fact.at, actor: fact.actor.clone(), count })
    }
}

/// The secret that was read, and for which team.
fn read(fact: &Fact) -> Option<(String, TeamId)> {
    match &fact.event {
        Event::Access(event) => Some((read_secret(event)?.to_string(), fact.team_id?)),
        Event::User(_)
        | Event::Team(_)
        | Event::Secret(_)
        | Event::Job(_)
        | Event::Schedule(_)
        | Event::Claim(_) => None,
    }
}

impl TeamView for SecretReads {
    fn team(row: &SecretReadsRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

impl TeamReader<'_, SecretReads> {
    /// When each of these secrets of the team was last read, of those that ever were.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn last_reads(&self, ids: &[String]) -> Result<HashMap<String, DateTime<Utc>>, ReadError> {
        let query = sqlx::query_as(sql(
            "select key, row::text from {secret_reads} where team_id = $1 and key = any($2) limit $3",
        ));
        let rows = self.rows(query.bind(self.whose.setting()).bind(ids).bind(MOST_LISTED)).await?;
        Ok(rows.into_iter().map(|row| (row.secret_id, row.at)).collect())
    }
}

#[cfg(test)]
mod tests {
    use domain::{AccessEvent, GrantId, JobId, SecretId};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{at, fact, folded, id, team_id};

    #[test]
    fn every_way_of_reading_counts_and_a_refusal_does_not() {
        let secret_id = SecretId(Uuid::from_u128(5));
        let grant_id = GrantId(Uuid::from_u128(6));
        let events = [
            AccessEvent::SecretRevealed { secret_id, version: 1, reason: None },
            AccessEvent::SecretRevealedByGrant { secret_id, version: 1, reason: None, grant_id },
            AccessEvent::SecretUsed { secret_id, version: 1, job_id: JobId(Uuid::from_u128(7)), attempt: 1 },
            AccessEvent::AccessRefused { permission: "secrets:reveal".into(), resource: "/".into() },
        ];
        let of_team = |fact| Fact { team_id: Some(team_id(1)), ..fact };
        let facts: Vec<Fact> = (1..)
            .zip(events)
            .map(|(n, event)| of_team(fact(n, "access", id(n as u128 + 900), event)))
            .collect();
        let row = SecretReadsRow {
            secret_id: id(5),
            team_id: team_id(1),
            at: at(3),
            actor: "system".into(),
            count: 3,
        };
        assert_eq!(folded::<SecretReads>(&facts), [(id(5), row)].into());
    }
}
