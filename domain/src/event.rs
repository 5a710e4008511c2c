//! Every event there is, and how a stored one becomes one of them again.

use cqrs_es::DomainEvent;
use serde::Deserializer;
use serde::de::DeserializeOwned;

use crate::{AccessEvent, ClaimEvent, JobEvent, ScheduleEvent, SecretEvent, TeamEvent, UserEvent};

/// Gives an event enum its stored names and versions, and an aggregate its plumbing around a pure `decide`.
macro_rules! stored_names {
    ($event:ty { $($variant:ident: $version:literal $(and $older:literal)*),* $(,)? }) => {
        impl $event {
            /// Name and version of every event of this type, as stored; also the older versions, whose shapes read as the present one
            /// because fields they lack have defaults.
            pub(crate) const NAMES: &'static [(&'static str, &'static str)] =
                &[$((stringify!($variant), $version), $((stringify!($variant), $older),)*)*];
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                match self { $(Self::$variant { .. } => stringify!($variant),)* }.to_owned()
            }

            fn event_version(&self) -> String {
                match self { $(Self::$variant { .. } => $version,)* }.to_owned()
            }
        }
    };
}

macro_rules! aggregate {
    ($aggregate:ty, $name:literal, $command:ty, $event:ty, $error:ty) => {
        impl cqrs_es::Aggregate for $aggregate {
            const TYPE: &'static str = $name;
            type Command = $command;
            type Event = $event;
            type Error = $error;
            type Services = ();

            async fn handle(
                &mut self,
                command: Self::Command,
                (): &Self::Services,
                sink: &cqrs_es::event_sink::EventSink<Self>,
            ) -> Result<(), Self::Error> {
                for event in self.decide(command)? {
                    sink.write(event, self).await;
                }
                Ok(())
            }

            fn apply(&mut self, event: Self::Event) {
                self.evolve(event);
            }
        }
    };
}

pub(crate) use {aggregate, stored_names};

/// Any event of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Of a person's account.
    User(UserEvent),
    /// Of a team.
    Team(TeamEvent),
    /// Of a secret.
    Secret(SecretEvent),
    /// Of a job.
    Job(JobEvent),
    /// Of a schedule.
    Schedule(ScheduleEvent),
    /// A fact without a decision: who saw or tried what.
    Access(AccessEvent),
    /// Who holds a unique value.
    Claim(ClaimEvent),
}

/// The aggregate types an auditor meets, as stored.
pub const AGGREGATE_TYPES: &[&str] = &["user", "team", "secret", "job", "schedule", "access"];

/// Aggregate type, event type and version of everything that can be decoded.
pub const KNOWN_EVENTS: &[(&str, &[(&str, &str)])] = &[
    ("user", UserEvent::NAMES),
    ("team", TeamEvent::NAMES),
    ("secret", SecretEvent::NAMES),
    ("job", JobEvent::NAMES),
    ("schedule", ScheduleEvent::NAMES),
    ("access", AccessEvent::NAMES),
    ("claim", ClaimEvent::NAMES),
];

/// A stored event that this program cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The name and version are not among [`KNOWN_EVENTS`].
    #[error("{aggregate_type} event {event_type} version {version} is not known to this version of Daybook")]
    Unknown {
        /// As stored.
        aggregate_type: String,
        /// As stored.
        event_type: String,
        /// As stored.
        version: String,
    },
    /// The payload does not have the shape of its name and version.
    #[error("{event_type} does not have its shape: {}", without_contents(cause))]
    Shape {
        /// As stored.
        event_type: String,
        /// What does not fit.
        cause: serde_json::Error,
    },
}

/// What serde says does not fit, without the value that it quotes: names of fields and types only.
fn without_contents(cause: &serde_json::Error) -> String {
    let said = cause.to_string();
    if said.starts_with("missing field `") || said.starts_with("duplicate field `") {
        return said;
    }
    let expected = said.rsplit_once(", expected ").map(|(_, expected)| expected);
    for prefix in ["invalid type: ", "invalid value: "] {
        if let (Some(found), Some(expected)) = (said.strip_prefix(prefix), expected) {
            let kind = found.split(['"', '`', ',']).next().unwrap_or_default().trim();
            return format!("{prefix}{kind}, expected {expected}");
        }
    }
    let known = ["unknown variant", "unknown field", "invalid length"];
    let known = known.into_iter().find(|start| said.starts_with(start));
    known.unwrap_or("a value does not have its form").to_owned()
}

impl Event {
    /// Reads a stored event: `payload` is a text's or a tree's reader.
    ///
    /// # Errors
    /// [`Undecodable`] when the name, the version or the shape is not known.
    pub fn decode<'de>(
        aggregate_type: &str,
        event_type: &str,
        version: &str,
        payload: impl Deserializer<'de, Error = serde_json::Error>,
    ) -> Result<Self, Undecodable> {
        let known = KNOWN_EVENTS
            .iter()
            .any(|(of, names)| *of == aggregate_type && names.contains(&(event_type, version)));
        if !known {
            return Err(Undecodable::Unknown {
                aggregate_type: aggregate_type.to_owned(),
                event_type: event_type.to_owned(),
                version: version.to_owned(),
            });
        }
        match aggregate_type {
            "user" => shape(event_type, payload).map(Self::User),
            "team" => shape(event_type, payload).map(Self::Team),
            "secret" => shape(event_type, payload).map(Self::Secret),
            "job" => shape(event_type, payload).map(Self::Job),
            "schedule" => shape(event_type, payload).map(Self::Schedule),
            "access" => shape(event_type, payload).map(Self::Access),
            _ => shape(event_type, payload).map(Self::Claim),
        }
    }

    /// The name under which it is stored.
    #[must_use]
    pub fn event_type(&self) -> String {
        match self {
            Self::User(event) => event.event_type(),
            Self::Team(event) => event.event_type(),
            Self::Secret(event) => event.event_type(),
            Self::Job(event) => event.event_type(),
            Self::Schedule(event) => event.event_type(),
            Self::Access(event) => event.event_type(),
            Self::Claim(event) => event.event_type(),
        }
    }
}

fn shape<'de, E: DeserializeOwned>(
    event_type: &str,
    payload: impl Deserializer<'de, Error = serde_json::Error>,
) -> Result<E, Undecodable> {
    E::deserialize(payload).map_err(|cause| Undecodable::Shape { event_type: event_type.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::Event;

    #[test]
    fn what_does_not_fit_is_said_without_what_was_there() {
        let said = |payload| Event::decode("user", "UserRenamed", "1", payload).unwrap_err().to_string();
        for payload in [
            json!(null),
            json!("hunter2"),
            json!({ "hunter2": {} }),
            json!({ "UserRenamed": "hunter2" }),
            json!({ "UserRenamed": { "name": "hunter2, expected hunter2" } }),
            json!({ "UserRenamed": { "name": { "personal": 4711, "subject": "hunter2" } } }),
            json!({ "UserRenamed": {} }),
        ] {
            let said = said(payload);
            assert!(said.starts_with("UserRenamed does not have its shape: "), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("4711"), "{said}");
        }
    }
}

/// Given / when / then for the tests of every aggregate.
#[cfg(test)]
pub(crate) mod testing {
    use cqrs_es::Aggregate;

    /// The aggregate after `events`.
    pub(crate) fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> A {
        let mut aggregate = A::default();
        for event in events {
            aggregate.apply(event);
        }
        aggregate
    }
}
