//! Who asks, from where, and as part of what.

use std::net::{IpAddr, Ipv4Addr};

use domain::{Actor, Caller, TeamId};
use ledger::Metadata;

/// What the client sent as `Idempotency-Key`, and what it asked for.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The header's value.
    pub key: String,
    /// Hex SHA-256 of method, path and body: the same key with another fingerprint is a mistake of the client's.
    pub fingerprint: String,
}

/// What stands around a command: it becomes the metadata of the events.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who asks, and what they may do.
    pub caller: Caller,
    /// The request it is part of.
    pub request_id: Option<String>,
    /// The position or command that led to it.
    pub causation: Option<String>,
    /// The W3C trace it is part of.
    pub trace_id: Option<String>,
    /// Whose personal data `ip` and `user_agent` are: a user's id, or a group that is forgotten together.
    pub subject: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// Makes a creating command happen once.
    pub idempotency: Option<IdempotencyKey>,
}

impl Context {
    /// The context of `caller` and nothing else.
    #[must_use]
    pub fn of(caller: Caller) -> Self {
        Self {
            caller,
            request_id: None,
            causation: None,
            trace_id: None,
            subject: None,
            ip: None,
            user_agent: None,
            idempotency: None,
        }
    }

    /// Daybook itself, acting for `team`.
    #[must_use]
    pub fn system(team: Option<TeamId>) -> Self {
        Self::of(Caller::system(team))
    }

    /// The same circumstances, with another actor.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        let mut context = self.clone();
        context.caller.actor = actor;
        context
    }

    /// From where, for what is counted by network; all who say nothing count as one.
    pub(crate) fn address(&self) -> IpAddr {
        self.ip.as_deref().and_then(|ip| ip.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    pub(crate) fn metadata(&self) -> Metadata {
        Metadata {
            actor: self.caller.actor.to_string(),
            team_id: self.caller.team.map(|team| team.to_string()),
            request_id: self.request_id.clone(),
            causation: self.causation.clone(),
            trace_id: self.trace_id.clone(),
            subject: self.subject.clone(),
            ip: self.ip.clone(),
            user_agent: self.user_agent.clone(),
        }
    }
}
