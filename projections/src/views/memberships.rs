//! The teams of a person, by user id, in the order they joined.

use domain::{Event, Role, TeamEvent, TeamId};
use serde::{Deserialize, Serialize};

use crate::fact::Fact;
use crate::view::View;

/// See the module.
#[derive(Debug)]
pub struct Memberships;

/// The teams of a person; somebody without one has no row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MembershipRow {
    /// The team they joined first comes first.
    pub teams: Vec<Membership>,
}

/// A person's part in a team.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Which team.
    pub team_id: TeamId,
    /// As what.
    pub role: Role,
}

impl MembershipRow {
    /// The role in one team, if they are in it.
    #[must_use]
    pub fn role_in(&self, team: TeamId) -> Option<Role> {
        self.teams.iter().find(|membership| membership.team_id == team).map(|membership| membership.role)
    }
}

impl View for Memberships {
    const NAME: &'static str = "memberships";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["team"];
    type Row = MembershipRow;

    fn columns() -> &'static str {
        ""
    }

    fn indexes() -> &'static [&'static str] {
        &[]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Team(
                TeamEvent::TeamCreated { owner: user_id, .. }
                | TeamEvent::MemberAdded { user_id, .. }
                | TeamEvent::MemberRoleChanged { user_id, .. }
                | TeamEvent::MemberRemoved { user_id },
            ) => vec![user_id.to_string()],
            Event::Team(
                TeamEvent::TeamRenamed { .. }
                | TeamEvent::TwoFactorRequirementChanged { .. }
                | TeamEvent::RevealReasonRequirementChanged { .. }
                | TeamEvent::JobsPaused { .. }
                | TeamEvent::JobsResumed { .. }
                | TeamEvent::MemberInvited { .. }
                | TeamEvent::InvitationWithdrawn { .. }
                | TeamEvent::InvitationAccepted { .. },
            )
            | Event::User(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(_: &str, row: Option<MembershipRow>, fact: &Fact) -> Option<MembershipRow> {
        let Ok(team_id) = fact.aggregate_id.parse::<TeamId>() else { return row };
        match &fact.event {
            Event::Team(TeamEvent::TeamCreated { .. }) => Some(joined(row, team_id, Role::Owner)),
            Event::Team(TeamEvent::MemberAdded { role, .. } | TeamEvent::MemberRoleChanged { role, .. }) => {
                Some(joined(row, team_id, *role))
            }
            Event::Team(TeamEvent::MemberRemoved { .. }) => left(row, team_id),
            Event::Team(
                TeamEvent::TeamRenamed { .. }
                | TeamEvent::TwoFactorRequirementChanged { .. }
                | TeamEvent::RevealReasonRequirementChanged { .. }
                | TeamEvent::JobsPaused { .. }
                | TeamEvent::JobsResumed { .. }
                | TeamEvent::MemberInvited { .. }
                | TeamEvent::InvitationWithdrawn { .. }
                | TeamEvent::InvitationAccepted { .. },
            )
            | Event::User(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => row,
        }
    }
}

fn joined(row: Option<MembershipRow>, team_id: TeamId, role: Role) -> MembershipRow {
    let mut row = row.unwrap_or_default();
    match row.teams.iter_mut().find(|membership| membership.team_id == team_id) {
        Some(membership) => membership.role = role,
        None => row.teams.push(Membership { team_id, role }),
    }
    row
}

fn left(row: Option<MembershipRow>, team_id: TeamId) -> Option<MembershipRow> {
    let mut row = row?;
    row.teams.retain(|membership| membership.team_id != team_id);
    if row.teams.is_empty() { None } else { Some(row) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fact, folded, id, team_id, user_id};

    fn created(team: u128, owner: u128) -> Fact {
        fact(
            1,
            "team",
            id(team),
            TeamEvent::TeamCreated {
                team_id: team_id(team),
                name: "T".into(),
                slug: "t".into(),
                owner: user_id(owner),
            },
        )
    }

    fn member(team: u128, event: TeamEvent) -> Fact {
        fact(2, "team", id(team), event)
    }

    #[test]
    fn the_team_joined_first_comes_first_whatever_happens_to_the_role() {
        let rows = folded::<Memberships>(&[
            created(200, 1),
            created(100, 9),
            member(100, TeamEvent::MemberAdded { user_id: user_id(1), role: Role::Viewer }),
            member(200, TeamEvent::MemberRoleChanged { user_id: user_id(1), role: Role::Operator }),
        ]);
        let teams = vec![
            Membership { team_id: team_id(200), role: Role::Operator },
            Membership { team_id: team_id(100), role: Role::Viewer },
        ];
        assert_eq!(rows[&id(1)], MembershipRow { teams });
        assert_eq!(rows[&id(1)].role_in(team_id(100)), Some(Role::Viewer));
        assert_eq!(rows[&id(1)].role_in(team_id(300)), None);
    }

    #[test]
    fn who_leaves_the_last_team_has_no_row() {
        let removed = member(100, TeamEvent::MemberRemoved { user_id: user_id(1) });
        assert_eq!(folded::<Memberships>(&[created(100, 1), removed]), [].into());
    }
}
