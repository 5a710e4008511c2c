//! What is told of a change: never a value, sealed or not.

use domain::TeamId;
use ledger::{Outline, Outlined};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The aggregate whose events are told.
const SECRET: &str = "secret";
/// What every name of its events that are told begins with.
const PREFIX: &str = "Secret";
/// The field of an event that says which version it made.
const VERSION: &str = "version";
/// The fields of an event that hold a name, present or former.
const NAMES: [&str; 2] = ["name", "from"];
/// All that is read of an event.
const FIELDS: [&str; 3] = [VERSION, NAMES[0], NAMES[1]];

/// That something happened to a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11", "name": "payments/db", "team_id": "0198c5a0-1111-7d60-b1c5-3b7f0a5d9e11",
    "event": "value_changed", "version": 2, "position": 4711
}))]
pub struct SecretNotice {
    /// The secret's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its name at the time of telling.
    pub name: Option<String>,
    /// Whose it is.
    #[schema(value_type = String, format = "uuid")]
    pub team_id: TeamId,
    /// What happened: `stored`, `value_changed`, `deleted` and so on, after the name of the event in the log.
    pub event: String,
    /// The version that it made, if it made one.
    pub version: Option<u32>,
    /// Where it stands in the log.
    pub position: i64,
    /// Names that the event itself speaks of.
    #[serde(skip)]
    named: Vec<String>,
}

impl SecretNotice {
    /// The notice of an event, still without the secret's name; `None` for what is not told.
    pub(super) fn of(outline: &Outline) -> Option<Self> {
        let event = told_as(&outline.event_type)?;
        let team_id = outline.team_id.as_deref()?.parse().ok()?;
        let said = |field: &str| outline.fields.get(field);
        let named = NAMES.iter().filter_map(|field| said(field)?.as_str().map(str::to_owned)).collect();
        let version = said(VERSION).and_then(Value::as_u64).and_then(|version| version.try_into().ok());
        // The event that begins a secret does not say so: its value is the first.
        let version = version.or((event == "stored").then_some(1));
        let id = outline.aggregate_id.clone();
        Some(Self { id, name: None, team_id, event, version, position: outline.position, named })
    }

    /// Whether it is about a secret whose name begins like this, or did before. What has no name is about any.
    #[must_use]
    pub fn is_within(&self, prefix: &str) -> bool {
        let mut names = self.named.iter().chain(&self.name).peekable();
        names.peek().is_none() || names.any(|name| name.starts_with(prefix))
    }
}

/// The events that notices are made of: of `team`, or of all.
pub(super) fn wanted(team: Option<&str>) -> Outlined<'_> {
    Outlined { aggregate_type: SECRET, team_id: team, fields: &FIELDS }
}

/// How an event of a secret is told, by its name in the log: `SecretValueChanged` as `value_changed`. `None`: not at all. An event
/// whose name does not begin with `Secret` is about who may do what with it, and changes nothing for its readers.
fn told_as(event_type: &str) -> Option<String> {
    let words = event_type.strip_prefix(PREFIX).filter(|words| !words.is_empty())?;
    let mut told = String::with_capacity(words.len() + 4);
    for letter in words.chars() {
        if letter.is_ascii_uppercase() && !told.is_empty() {
            told.push('_');
        }
        told.push(letter.to_ascii_lowercase());
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn outline(event_type: &str, fields: &Value) -> Outline {
        Outline {
            position: 7,
            at: chrono::DateTime::UNIX_EPOCH,
            aggregate_id: "s".into(),
            event_type: event_type.into(),
            team_id: Some("0198c5a0-1111-7d60-b1c5-3b7f0a5d9e11".into()),
            fields: fields.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn events_are_told_by_their_own_names() {
        let told = ["SecretStored", "SecretValueChanged", "SecretDeleted", "SecretVersionsDestroyed"];
        let told: Vec<_> = told.iter().map(|name| told_as(name)).collect();
        let as_text = |name: &str| Some(name.to_owned());
        assert_eq!(told, ["stored", "value_changed", "deleted", "versions_destroyed"].map(as_text));
        assert_eq!((told_as("RevealGranted"), told_as("Secret"), told_as("")), (None, None, None));
    }

    #[test]
    fn a_version_is_told_where_there_is_a_new_one() {
        let version = |name, fields| SecretNotice::of(&outline(name, &fields)).unwrap().version;
        assert_eq!(version("SecretStored", json!({"name": "a"})), Some(1));
        assert_eq!(version("SecretValueChanged", json!({"version": 3})), Some(3));
        assert_eq!(version("SecretDeleted", json!({})), None);
        assert_eq!(version("SecretValueChanged", json!({"version": -1})), None);
    }

    #[test]
    fn an_event_of_no_team_is_told_to_nobody() {
        let of = |team_id: Option<&str>| {
            SecretNotice::of(&Outline {
                team_id: team_id.map(str::to_owned),
                ..outline("SecretDeleted", &json!({}))
            })
        };
        assert_eq!((of(None), of(Some("main"))), (None, None));
    }

    #[test]
    fn a_prefix_meets_names_present_and_former() {
        let mut notice =
            SecretNotice::of(&outline("SecretRenamed", &json!({"from": "a/x", "name": "b/x"}))).unwrap();
        notice.name = Some("c/x".into());
        for prefix in ["a/", "b/", "c/x", ""] {
            assert!(notice.is_within(prefix), "{prefix}");
        }
        assert!(!notice.is_within("d/") && !notice.is_within("c/x/"));
        let nameless = SecretNotice::of(&outline("SecretDeleted", &json!({}))).unwrap();
        assert!(nameless.is_within("d/"), "rather once too often");
    }

    #[test]
    fn nothing_else_of_the_event_is_told() {
        let told = SecretNotice::of(&outline("SecretStored", &json!({"name": "a", "from": "b"}))).unwrap();
        let told = serde_json::to_value(told).unwrap();
        let fields: Vec<_> = told.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["event", "id", "name", "position", "team_id", "version"]);
    }
}
