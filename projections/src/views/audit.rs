//! The audit trail: one row for every event but claims, by position (20 digits).

mod activity;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, TeamId};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

pub use activity::{Activity, ActivityDay, ActivityFilter};

use crate::confined::Whose;
use crate::error::ReadError;
use crate::fact::{Fact, Unreadable};
use crate::machine::MOST_LISTED;
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time::millis;
use crate::view::{Owner, TeamView, View};

/// See the module.
#[derive(Debug)]
pub struct Audit;

/// An event, as a list shows it. What it changed is told by [`crate::Projections::history`] and [`Fact::stated`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its place in the log.
    pub position: i64,
    /// When it was recorded.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
    /// Its name.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The version of its shape.
    pub version: String,
    /// The kind of aggregate.
    pub aggregate_type: String,
    /// Which one.
    pub aggregate_id: String,
    /// Its place in the stream.
    pub sequence: i64,
    /// Who acted.
    pub actor: String,
    /// For which team; of a team's own events, that team.
    pub team_id: Option<TeamId>,
    /// The request that led to it.
    pub request_id: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}

impl View for Audit {
    const NAME: &'static str = "audit";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = domain::AGGREGATE_TYPES;
    const ONCE: bool = true;
    const CACHED: bool = false;
    const PERSONAL: bool = true;
    const TRAILING: bool = true;
    const LISTS_DAMAGED: bool = true;
    const OWNER: Owner = Owner::TeamAndInstance;
    type Row = AuditRow;

    fn columns() -> &'static str {
        r#"aggregate_type text collate "C" generated always as (row->>'aggregate_type') stored,
           aggregate_id text collate "C" generated always as (row->>'aggregate_id') stored,
           event_type text collate "C" generated always as (row->>'type') stored,
           actor text collate "C" generated always as (row->>'actor') stored,
           team_id text collate "C" generated always as (row->>'team_id') stored,
           request_id text collate "C" generated always as (row->>'request_id') stored"#
    }

    // Times have no index: a time names one place in the log, so they become positions.
    fn indexes() -> &'static [&'static str] {
        &[
            "(position)",
            "(team_id, position) where team_id is not null",
            "(aggregate_type, aggregate_id, position)",
            "(event_type, position)",
            "(actor, position)",
            "(request_id, position) where request_id is not null",
        ]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_) => {
                vec![format!("{:020}", fact.position)]
            }
            Event::Claim(_) => vec![],
        }
    }

    fn fold(_: &str, row: Option<AuditRow>, fact: &Fact) -> Option<AuditRow> {
        match &fact.event {
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_) => Some(listed(fact)),
            Event::Claim(_) => row,
        }
    }

    fn unreadable(event: &Unreadable) -> Option<(String, AuditRow)> {
        Some(listed_unreadable(event))
    }
}

/// What is known of it, so that one damaged event does not hide those that come after it.
fn listed_unreadable(event: &Unreadable) -> (String, AuditRow) {
    let row = AuditRow {
        position: event.position,
        at: event.at,
        event_type: event.event_type.clone(),
        version: event.event_version.clone(),
        aggregate_type: event.aggregate_type.clone(),
        aggregate_id: event.aggregate_id.clone(),
        sequence: event.sequence,
        actor: event.actor.clone(),
        team_id: event.team_id,
        request_id: event.request_id.clone(),
        ip: None,
        user_agent: None,
    };
    (format!("{:020}", event.position), row)
}

impl TeamView for Audit {
    fn team(row: &AuditRow) -> Option<TeamId> {
        row.team_id
    }
}

fn listed(fact: &Fact) -> AuditRow {
    AuditRow {
        position: fact.position,
        at: fact.at,
        event_type: fact.event_type.clone(),
        version: fact.event_version.clone(),
        aggregate_type: fact.aggregate_type.clone(),
        aggregate_id: fact.aggregate_id.clone(),
        sequence: fact.sequence,
        actor: fact.actor.clone(),
        team_id: fact.team(),
        request_id: fact.request_id.clone(),
        ip: fact.ip.clone(),
        user_agent: fact.user_agent.clone(),
    }
}

/// Which events are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this kind of aggregate.
    pub aggregate_type: Option<String>,
    /// Of this aggregate.
    pub aggregate_id: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// Of this name.
    pub event_type: Option<String>,
    /// Recorded at or after this moment.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    pub to: Option<DateTime<Utc>>,
    /// Led to by this request.
    pub request_id: Option<String>,
}

impl TeamReader<'_, Audit> {
    /// The team's events, or the whole instance's, newest first, before position `before`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, ReadError> {
        let mut query = QueryBuilder::new(sql("select key, row::text from {audit} where position > "));
        let after = match filter.from {
            Some(from) => {
                let before = from.checked_sub_signed(TimeDelta::microseconds(1)).unwrap_or(from);
                self.ledger.position_at(before).await?
            }
            None => 0,
        };
        query.push_bind(after);
        if let Some(before) = before {
            query.push(" and position < ").push_bind(before);
        }
        if let Some(to) = filter.to {
            query
                .push(" and position <= ")
                .push_bind(self.ledger.position_at(to - TimeDelta::microseconds(1)).await?);
        }
        let team = match self.whose {
            Whose::Team(team) => Some(team.to_string()),
            Whose::Instance => None,
        };
        let equal = [
            ("team_id", team.as_ref()),
            ("aggregate_type", filter.aggregate_type.as_ref()),
            ("aggregate_id", filter.aggregate_id.as_ref()),
            ("actor", filter.actor.as_ref()),
            ("event_type", filter.event_type.as_ref()),
            ("request_id", filter.request_id.as_ref()),
        ];
        for (column, value) in equal {
            if let Some(value) = value {
                query.push(format_args!(" and {column} = ")).push_bind(value);
            }
        }
        query.push(" order by position desc limit ").push_bind(limit.min(MOST_LISTED));
        self.rows(query.build_query_as()).await
    }
}

#[cfg(test)]
mod tests {
    use domain::{ClaimEvent, SecretEvent, TeamEvent};

    use super::*;
    use crate::testing::{fact, folded, id, team_id, user_id};

    #[test]
    fn every_event_but_claims_is_listed_by_its_position() {
        let facts = [
            fact(1, "claim", "x", ClaimEvent::Released {}),
            fact(2, "secret", id(5), SecretEvent::SecretDeleted {}),
        ];
        let rows = folded::<Audit>(&facts);
        assert_eq!(rows.keys().collect::<Vec<_>>(), ["00000000000000000002"]);
        assert_eq!(rows["00000000000000000002"].event_type, "SecretDeleted");
    }

    #[test]
    fn a_teams_own_events_are_the_teams_whoever_caused_them() {
        let removed = TeamEvent::MemberRemoved { user_id: user_id(1) };
        let rows = folded::<Audit>(&[fact(3, "team", id(100), removed)]);
        assert_eq!(rows["00000000000000000003"].team_id, Some(team_id(100)));
    }
}
