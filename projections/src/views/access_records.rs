//! Single access records, for the auditor's state and history of one. Not kept in a table: each is one event, and the audit
//! trail lists them.

use chrono::{DateTime, Utc};
use domain::Event;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fact::Fact;
use crate::time::millis;
use crate::view::{StreamView, View};

/// See the module.
#[derive(Debug)]
pub struct AccessRecords;

/// What somebody saw or tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessRecord {
    /// The record's id.
    pub id: String,
    /// The event's name.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Who, as the event's metadata has it.
    pub actor: String,
    /// When.
    #[serde(with = "millis")]
    pub at: DateTime<Utc>,
    /// What the event says.
    pub details: Map<String, Value>,
}

impl View for AccessRecords {
    const NAME: &'static str = "access_records";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["access"];
    const ONCE: bool = true;
    const CACHED: bool = false;
    type Row = AccessRecord;

    fn columns() -> &'static str {
        ""
    }

    fn indexes() -> &'static [&'static str] {
        &[]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::Access(_) => vec![fact.aggregate_id.clone()],
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<AccessRecord>, fact: &Fact) -> Option<AccessRecord> {
        match &fact.event {
            Event::Access(_) => Some(AccessRecord {
                id: key.to_owned(),
                event_type: fact.event_type.clone(),
                actor: fact.actor.clone(),
                at: fact.at,
                details: fact
                    .stated()
                    .into_iter()
                    .map(|change| (change.field, change.after.value()))
                    .collect(),
            }),
            Event::User(_)
            | Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Claim(_) => row,
        }
    }
}

impl StreamView for AccessRecords {
    const STREAM: &'static str = "access";
}

#[cfg(test)]
mod tests {
    use domain::AccessEvent;
    use serde_json::json;

    use super::*;
    use crate::testing::{fact, folded, id};

    #[test]
    fn a_record_says_what_the_event_says() {
        let event = AccessEvent::AccessRefused { permission: "secrets:read".into(), resource: "/api".into() };
        let rows = folded::<AccessRecords>(&[fact(1, "access", id(9), event)]);
        let expected = json!({ "permission": "secrets:read", "resource": "/api" });
        assert_eq!(Value::Object(rows[&id(9)].details.clone()), expected);
        assert_eq!(rows[&id(9)].event_type, "AccessRefused");
    }
}
