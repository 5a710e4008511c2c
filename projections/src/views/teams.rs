//! Teams with their members, by team id.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Event, InvitationId, Personal, Role, TeamEvent, TeamId, UserId};
use serde::{Deserialize, Serialize};

use crate::error::{Fault, ReadError};
use crate::fact::Fact;
use crate::machine::{MOST_LISTED, Reader};
use crate::table_names::sql;
use crate::time::{millis, to_millis};
use crate::view::{StreamView, View};

/// How long invitations whose time is over stay in the row, until the next one is made.
const EXPIRED_KEPT: TimeDelta = TimeDelta::days(30);

/// See the module.
#[derive(Debug)]
pub struct Teams;

/// A team. What has a default was not in rows of the first version, which serve until they are made anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeamRow {
    /// The team's id.
    pub id: String,
    /// Its short name in addresses.
    pub slug: String,
    /// What it is called.
    pub name: String,
    /// Its members' roles.
    pub members: BTreeMap<UserId, Role>,
    /// Whether its members must sign in with a second factor to speak for it.
    #[serde(default)]
    pub two_factor_required: bool,
    /// Whether who sees a secret's value must say why.
    #[serde(default)]
    pub reveal_reason_required: bool,
    /// Whether none of its jobs are started.
    #[serde(default)]
    pub jobs_paused: bool,
    /// The kinds of which none of its jobs are started.
    #[serde(default)]
    pub paused_kinds: BTreeSet<String>,
    /// Who is asked to join and has not yet; also those whose time is over.
    #[serde(default)]
    pub invitations: BTreeMap<InvitationId, InvitationRow>,
    /// Who made it, as the event's metadata has it.
    pub created_by: String,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

/// Somebody who is asked to join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvitationRow {
    /// Whom; `erased` once the address is forgotten.
    pub email: String,
    /// Keyed hash of the address, which stays.
    pub email_hash: String,
    /// As what.
    pub role: Role,
    /// Who asks, as the event's metadata has it.
    pub invited_by: String,
    /// When they were asked.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// Until when they may take it up.
    #[serde(with = "millis")]
    pub expires_at: DateTime<Utc>,
}

impl View for Teams {
    const NAME: &'static str = "teams";
    const VERSION: u32 = 5;
    const AGGREGATES: &'static [&'static str] = &["team"];
    const PERSONAL: bool = true;
    type Row = TeamRow;

    fn columns() -> &'static str {
        r#"slug text collate "C" generated always as (row->>'slug') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(slug)"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Team(_) => vec![fact.aggregate_id.clone()],
            Event::User(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<TeamRow>, fact: &Fact) -> Option<TeamRow> {
        match &fact.event {
            Event::Team(event) => team(key, row, event, fact),
            Event::User(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

impl StreamView for Teams {
    const STREAM: &'static str = "team";
}

fn team(key: &str, row: Option<TeamRow>, event: &TeamEvent, fact: &Fact) -> Option<TeamRow> {
    if let TeamEvent::TeamCreated { team_id: _, name, slug, owner } = event {
        return Some(TeamRow {
            id: key.to_owned(),
            slug: slug.clone(),
            name: name.clone(),
            members: [(*owner, Role::Owner)].into(),
            two_factor_required: false,
            reveal_reason_required: false,
            jobs_paused: false,
            paused_kinds: BTreeSet::new(),
            invitations: BTreeMap::new(),
            created_by: fact.actor.clone(),
            created_at: fact.at,
            updated_at: fact.at,
            sequence: fact.sequence,
        });
    }
    let mut row = row?;
    match event {
        TeamEvent::TeamCreated { .. } => {}
        TeamEvent::TeamRenamed { name } => row.name.clone_from(name),
        TeamEvent::TwoFactorRequirementChanged { required } => row.two_factor_required = *required,
        TeamEvent::RevealReasonRequirementChanged { required } => row.reveal_reason_required = *required,
        TeamEvent::JobsPaused { kind: None } => row.jobs_paused = true,
        TeamEvent::JobsResumed { kind: None } => row.jobs_paused = false,
        TeamEvent::JobsPaused { kind: Some(kind) } => {
            row.paused_kinds.insert(kind.clone());
        }
        TeamEvent::JobsResumed { kind: Some(kind) } => {
            row.paused_kinds.remove(kind);
        }
        TeamEvent::MemberInvited { invitation_id, email, email_hash, role, expires_at, .. } => {
            row.invitations.retain(|_, other| fact.at < other.expires_at + EXPIRED_KEPT);
            let invited = invitation(email, email_hash, *role, *expires_at, fact);
            row.invitations.insert(*invitation_id, invited);
        }
        TeamEvent::InvitationWithdrawn { invitation_id }
        | TeamEvent::InvitationAccepted { invitation_id, .. } => {
            row.invitations.remove(invitation_id);
        }
        TeamEvent::MemberAdded { user_id, role } | TeamEvent::MemberRoleChanged { user_id, role } => {
            row.members.insert(*user_id, *role);
        }
        TeamEvent::MemberRemoved { user_id } => {
            row.members.remove(user_id);
        }
    }
    row.updated_at = fact.at;
    row.sequence = fact.sequence;
    Some(row)
}

fn invitation(
    email: &Personal,
    email_hash: &str,
    role: Role,
    expires_at: DateTime<Utc>,
    fact: &Fact,
) -> InvitationRow {
    InvitationRow {
        email: email.text().to_owned(),
        email_hash: email_hash.to_owned(),
        role,
        invited_by: fact.actor.clone(),
        created_at: fact.at,
        expires_at: to_millis(expires_at),
    }
}

impl Reader<'_, Teams> {
    /// The team with this slug. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn by_slug(&self, slug: &str) -> Result<Option<TeamRow>, ReadError> {
        let query =
            sqlx::query_as(sql("select key, row::text from {teams} where slug = $1 order by key limit 1"));
        self.row(query.bind(slug)).await
    }

    /// The open invitations to the address of this keyed hash, of all teams: at most 1,000.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn inviting(
        &self,
        email_hash: &str,
    ) -> Result<Vec<(TeamId, InvitationId, InvitationRow)>, ReadError> {
        let query = sqlx::query_as(sql(
            "select key, row::text from {teams} where jsonb_path_exists(row, '$.invitations.* ? (@.email_hash == $hash)', \
             jsonb_build_object('hash', $1)) order by key limit $2",
        ));
        let mut found = vec![];
        for row in self.rows(query.bind(email_hash).bind(MOST_LISTED)).await? {
            let invited = row.invitations.into_iter().filter(|(_, row)| row.email_hash == email_hash);
            let team = row.id.parse().map_err(|cause| Fault::at_row(Teams::NAME, &row.id, cause))?;
            found.extend(invited.map(|(id, row)| (team, id, row)));
        }
        Ok(found)
    }

    /// Teams by id, after id `after`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(&self, after: Option<&str>, limit: i64) -> Result<Vec<TeamRow>, ReadError> {
        let query =
            sqlx::query_as(sql("select key, row::text from {teams} where key > $1 order by key limit $2"));
        self.rows(query.bind(after.unwrap_or_default()).bind(limit.min(MOST_LISTED))).await
    }
}

#[cfg(test)]
mod tests;
