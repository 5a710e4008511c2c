//! How many connections to the database a node needs, and whether the server has them.

use ledger::connect::ConnectionLimits;
use ledger::{Ledger, LedgerError};

/// Connections that a node always has or may have besides its pools: one that appends, two that fold views, three that listen (to
/// views, to destroyed keys, to logs of jobs), and one for what happens rarely (migrations, rebuilds, scrubbing, rotation).
const FIXED: u32 = 7;
/// The fewest with which every purpose has one of its own.
pub const FEWEST: u32 = 12;
/// More than any server has.
pub const MOST: u32 = 1_000;
/// What `DATABASE_CONNECTIONS` is unless it is set: the usual 100 of a server are enough for four nodes and an administrator.
pub const DEFAULT: &str = "20";

/// The pools' connections. None of them can be used up by what the others are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For requests, of what is no team's alone.
    pub requests: u32,
    /// For requests, of what is a team's.
    pub teams: u32,
    /// For what goes on without a request: views, jobs, schedules, mail, reactors.
    pub background: u32,
}

impl Shares {
    /// The shares of a node that has `connections` in all; [`FEWEST`] or more.
    #[must_use]
    pub fn of(connections: u32) -> Self {
        let rest = connections.max(FEWEST) - FIXED;
        let teams = (rest / 3).max(1);
        let background = (rest / 3).clamp(2, 16);
        Self { requests: rest - teams - background, teams, background }
    }
}

/// Why the server has not the connections that a node is configured to use; `None` if it has.
///
/// # Errors
/// The database is out of reach.
pub async fn lacking(ledger: &Ledger, connections: u32) -> Result<Option<String>, LedgerError> {
    let ConnectionLimits { server, user, database, present } = ledger.connection_limits().await?;
    let limits = [
        (Some(server), "the server allows users (max_connections less what it reserves)"),
        (user, "the database user's CONNECTION LIMIT allows"),
        (database, "the database's CONNECTION LIMIT allows"),
    ];
    let least =
        limits.into_iter().filter_map(|(limit, whose)| Some((limit?, whose))).min_by_key(|(limit, _)| *limit);
    if let Some((limit, _)) = least
        && present + i64::from(connections) > i64::from(limit)
    {
        tracing::info!(connections, limit, present, "few database connections are left for other nodes");
    }
    Ok(least.filter(|(limit, _)| i64::from(*limit) < i64::from(connections)).map(|(limit, whose)| {
        format!(
            "is {connections}, and {whose} {limit} for all nodes together: lower the one or raise the other"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_has_its_share_and_all_together_no_more_than_was_said() {
        for connections in FEWEST..=MOST {
            let Shares { requests, teams, background } = Shares::of(connections);
            assert_eq!(FIXED + requests + teams + background, connections);
            assert!(requests >= 2 && teams >= 1 && background >= 2, "{connections}");
        }
        assert_eq!(Shares::of(20), Shares { requests: 5, teams: 4, background: 4 });
    }
}
