//! Events as the log knows them: names, versions and JSON.

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::payload::Payload;

use crate::error::LedgerError;

/// Names a stream: the history of one aggregate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The kind of aggregate.
    pub aggregate_type: String,
    /// Which one of its kind.
    pub aggregate_id: String,
}

impl StreamId {
    /// Names the stream `aggregate_type/aggregate_id`.
    pub fn new(aggregate_type: impl Into<String>, aggregate_id: impl ToString) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.to_string() }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Where it goes.
    pub stream: StreamId,
    /// Its place in the stream, from 1. Taken already, or beyond the stream's end: conflict.
    pub sequence: i64,
    /// Its name.
    pub event_type: String,
    /// The version of its shape.
    pub event_version: String,
    /// What it says. Objects `{"personal": text, "subject": id}` are sealed under the subject's key.
    pub payload: Payload,
}

/// Who, for whom and why: what stands with every event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Who acted.
    pub actor: String,
    /// For which team.
    pub team_id: Option<String>,
    /// The request that led to it.
    pub request_id: Option<String>,
    /// The position or command that led to it.
    pub causation: Option<String>,
    /// The W3C trace it belongs to, 32 hex digits.
    pub trace_id: Option<String>,
    /// Whose key seals `ip` and `user_agent`; without a subject they are not stored.
    pub subject: Option<String>,
    /// From where. Sealed in the log.
    pub ip: Option<String>,
    /// With what. Sealed in the log.
    pub user_agent: Option<String>,
}

impl Metadata {
    /// The flat form in which cqrs-es knows metadata; what is not there is left out.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, String> {
        let fields = [
            ("actor", Some(&self.actor)),
            ("team_id", self.team_id.as_ref()),
            ("request_id", self.request_id.as_ref()),
            ("causation", self.causation.as_ref()),
            ("trace_id", self.trace_id.as_ref()),
            ("subject", self.subject.as_ref()),
            ("ip", self.ip.as_ref()),
            ("user_agent", self.user_agent.as_ref()),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect()
    }

    /// The reverse of [`Metadata::to_map`]; names it does not know are dropped.
    #[must_use]
    pub fn from_map(mut map: HashMap<String, String>) -> Self {
        Self {
            actor: map.remove("actor").unwrap_or_default(),
            team_id: map.remove("team_id"),
            request_id: map.remove("request_id"),
            causation: map.remove("causation"),
            trace_id: map.remove("trace_id"),
            subject: map.remove("subject"),
            ip: map.remove("ip"),
            user_agent: map.remove("user_agent"),
        }
    }
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its place in the log, from 1, dense and in commit order.
    pub position: i64,
    /// When it was recorded, to the millisecond; never runs backwards along the log.
    pub at: DateTime<Utc>,
    /// Which stream it is of.
    pub stream: StreamId,
    /// Its place in the stream, from 1, dense.
    pub sequence: i64,
    /// Its name.
    pub event_type: String,
    /// The version of its shape.
    pub event_version: String,
    /// What it says. Personal data is sealed until [`crate::Ledger::open_personal`].
    pub payload: Payload,
    /// What stands with it.
    pub metadata: Metadata,
    /// Why the row cannot be read, in words without contents. The payload is then null, and the metadata holds what could be read of it.
    pub damage: Option<String>,
}

impl Recorded {
    /// What it says, as a type that fits.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when the row is damaged, or does not fit.
    pub fn parse<E: DeserializeOwned>(&self) -> Result<E, LedgerError> {
        self.readable()?;
        // serde would quote what is there.
        let cause = |_| self.damaged(format!("{} does not have its shape", self.event_type));
        self.payload.read().map_err(cause)
    }

    /// # Errors
    /// [`LedgerError::Damaged`] when the row is damaged.
    pub fn readable(&self) -> Result<(), LedgerError> {
        self.damage.as_ref().map_or(Ok(()), |cause| Err(self.damaged(cause.clone())))
    }

    fn damaged(&self, cause: String) -> LedgerError {
        LedgerError::Damaged { position: self.position, cause }
    }
}
