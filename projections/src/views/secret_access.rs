//! Who read which secret's value: one row for each time one left Daybook, by position (20 digits).

use chrono::{DateTime, TimeDelta, Utc};
use domain::{AccessEvent, Event, GrantId, JobId, SecretId, TeamId, UserId};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::error::ReadError;
use crate::fact::Fact;
use crate::machine::MOST_LISTED;
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time::millis;
use crate::view::{Owner, TeamView, View};

/// See the module.
#[derive(Debug)]
pub struct SecretAccess;

/// A value that left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretAccessRow {
    /// The record's place in the log.
    pub position: i64,
    /// When.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
    /// Whose the secret is.
    pub team_id: TeamId,
    /// Which secret.
    pub secret_id: SecretId,
    /// Which version of it.
    pub version: u32,
    /// Who, as the event's metadata has it.
    pub actor: String,
    /// The person who asked, or whose API key did; `None` for a job.
    pub user_id: Option<UserId>,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// The leave without which it would not have been.
    pub grant_id: Option<GrantId>,
    /// The job whose process got it.
    pub job_id: Option<JobId>,
    /// Which attempt of it.
    pub attempt: Option<u32>,
    /// The request.
    pub request_id: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}

impl View for SecretAccess {
    const NAME: &'static str = "secret_access";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["access"];
    const ONCE: bool = true;
    const CACHED: bool = false;
    const PERSONAL: bool = true;
    const TRAILING: bool = true;
    const OWNER: Owner = Owner::Team;
    type Row = SecretAccessRow;

    fn columns() -> &'static str {
        r#"team_id text collate "C" generated always as (row->>'team_id') stored,
           secret_id text collate "C" generated always as (row->>'secret_id') stored,
           user_id text collate "C" generated always as (row->>'user_id') stored,
           job_id text collate "C" generated always as (row->>'job_id') stored"#
    }

    // Times have no index: a time names one place in the log, so they become positions.
    fn indexes() -> &'static [&'static str] {
        &[
            "(team_id, position)",
            "(secret_id, position)",
            "(user_id, position) where user_id is not null",
            "(job_id, position) where job_id is not null",
        ]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Access(event) if read_secret(event).is_some() => vec![format!("{:020}", fact.position)],
            Event::Access(_)
            | Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(_: &str, row: Option<SecretAccessRow>, fact: &Fact) -> Option<SecretAccessRow> {
        match &fact.event {
            Event::Access(event) => read(event, fact).or(row),
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => row,
        }
    }
}

impl TeamView for SecretAccess {
    fn team(row: &SecretAccessRow) -> Option<TeamId> {
        Some(row.team_id)
    }
}

/// What an event says of a value that left.
struct Reading {
    secret_id: SecretId,
    version: u32,
    reason: Option<String>,
    grant_id: Option<GrantId>,
    job: Option<(JobId, u32)>,
}

fn reading(event: &AccessEvent) -> Option<Reading> {
    let (secret_id, version, reason, grant_id, job) = match event {
        AccessEvent::SecretRevealed { secret_id, version, reason } => {
            (secret_id, version, reason.clone(), None, None)
        }
        AccessEvent::SecretRevealedByGrant { secret_id, version, reason, grant_id } => {
            (secret_id, version, reason.clone(), Some(*grant_id), None)
        }
        AccessEvent::SecretUsed { secret_id, version, job_id, attempt } => {
            (secret_id, version, None, None, Some((*job_id, *attempt)))
        }
        AccessEvent::SignedIn { .. }
        | AccessEvent::SessionRefreshed { .. }
        | AccessEvent::RefreshTokenReused { .. }
        | AccessEvent::SessionEnded { .. }
        | AccessEvent::PasswordResetRequested { .. }
        | AccessEvent::EmailVerificationRequested { .. }
        | AccessEvent::MailTokenUsed { .. }
        | AccessEvent::ProofFailed { .. }
        | AccessEvent::SignInFailed { .. }
        | AccessEvent::FailuresCounted { .. }
        | AccessEvent::AddressesForgotten { .. }
        | AccessEvent::AccessRefused { .. }
        | AccessEvent::AuditRead { .. }
        | AccessEvent::JobResultRefused { .. }
        | AccessEvent::JobsChangedInBulk { .. }
        | AccessEvent::WorkerDrained { .. }
        | AccessEvent::ViewRebuilt { .. }
        | AccessEvent::LogLossAccepted { .. }
        | AccessEvent::EffectsReleased { .. } => return None,
    };
    Some(Reading { secret_id: *secret_id, version: *version, reason, grant_id, job })
}

/// The secret whose value left, if the event is about that.
pub(crate) fn read_secret(event: &AccessEvent) -> Option<SecretId> {
    reading(event).map(|reading| reading.secret_id)
}

fn read(event: &AccessEvent, fact: &Fact) -> Option<SecretAccessRow> {
    let Reading { secret_id, version, reason, grant_id, job } = reading(event)?;
    Some(SecretAccessRow {
        position: fact.position,
        at: fact.at,
        team_id: fact.team_id?,
        secret_id,
        version,
        actor: fact.actor.clone(),
        user_id: fact.subject.as_deref().and_then(|subject| subject.parse().ok()),
        reason,
        grant_id,
        job_id: job.map(|(job_id, _)| job_id),
        attempt: job.map(|(_, attempt)| attempt),
        request_id: fact.request_id.clone(),
        ip: fact.ip.clone(),
        user_agent: fact.user_agent.clone(),
    })
}

/// Which records are wanted; all of the team's by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretAccessFilter {
    /// Of this secret.
    pub secret_id: Option<SecretId>,
    /// Of this person, and of their API keys.
    pub user_id: Option<UserId>,
    /// Of this job.
    pub job_id: Option<JobId>,
    /// Recorded at or after this moment.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    pub to: Option<DateTime<Utc>>,
}

impl TeamReader<'_, SecretAccess> {
    /// Who read the team's secrets, newest first, before position `before`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &SecretAccessFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<SecretAccessRow>, ReadError> {
        let mut query = QueryBuilder::new(sql("select key, row::text from {secret_access} where team_id = "));
        query.push_bind(self.whose.setting());
        if let Some(before) = before {
            query.push(" and position < ").push_bind(before);
        }
        let moment_before =
            |moment: DateTime<Utc>| moment.checked_sub_signed(TimeDelta::microseconds(1)).unwrap_or(moment);
        if let Some(from) = filter.from {
            query.push(" and position > ").push_bind(self.ledger.position_at(moment_before(from)).await?);
        }
        if let Some(to) = filter.to {
            query.push(" and position <= ").push_bind(self.ledger.position_at(moment_before(to)).await?);
        }
        let equal = [
            ("secret_id", filter.secret_id.map(|id| id.to_string())),
            ("user_id", filter.user_id.map(|id| id.to_string())),
            ("job_id", filter.job_id.map(|id| id.to_string())),
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
    use uuid::Uuid;

    use super::*;
    use crate::testing::{fact, folded, id, team_id, user_id};

    #[test]
    fn each_time_a_value_leaves_is_a_row_with_who_why_and_by_what_right() {
        let secret_id = SecretId(Uuid::from_u128(5));
        let (grant_id, job_id) = (GrantId(Uuid::from_u128(6)), JobId(Uuid::from_u128(7)));
        let events = [
            AccessEvent::SecretRevealed { secret_id, version: 1, reason: Some("why".into()) },
            AccessEvent::SecretRevealedByGrant { secret_id, version: 2, reason: None, grant_id },
            AccessEvent::SecretUsed { secret_id, version: 3, job_id, attempt: 4 },
            AccessEvent::AccessRefused { permission: "secrets:reveal".into(), resource: "/".into() },
        ];
        let of_team = |fact| Fact { team_id: Some(team_id(1)), subject: Some(id(8)), ..fact };
        let facts: Vec<Fact> = (1..)
            .zip(events)
            .map(|(n, event)| of_team(fact(n, "access", id(n as u128 + 900), event)))
            .collect();
        let rows: Vec<_> = folded::<SecretAccess>(&facts).into_values().collect();
        let told = |row: &SecretAccessRow| {
            (row.version, row.user_id, row.reason.clone(), row.grant_id, row.job_id, row.attempt)
        };
        let ada = Some(user_id(8));
        assert_eq!(
            rows.iter().map(told).collect::<Vec<_>>(),
            [
                (1, ada, Some("why".into()), None, None, None),
                (2, ada, None, Some(grant_id), None, None),
                (3, ada, None, None, Some(job_id), Some(4)),
            ]
        );
        assert!(rows.iter().all(|row| row.secret_id == secret_id && row.team_id == team_id(1)));
    }
}
