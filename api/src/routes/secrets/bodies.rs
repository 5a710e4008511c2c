//! What goes in and what comes out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use commands::SecretValue;
use domain::check_value;
use projections::SecretRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::input::Fields;
use projections::time::text as time;

/// What is known about a secret; never its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e13", "name": "payments/stripe/api-key", "description": "Stripe's live key",
    "tags": ["prod"], "version": 3, "max_versions": 5, "expires_at": "2027-01-01T00:00:00.000Z", "deleted": false,
    "destroyed": false, "created_by": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "created_at": "2026-07-01T09:30:00.000Z",
    "updated_at": "2026-11-01T09:30:00.000Z", "last_read_at": "2026-11-21T08:00:00.000Z"
}))]
pub struct SecretBody {
    /// The secret's id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Unique in the team.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Version of the present value, from 1.
    pub version: u32,
    /// How many versions are kept; null: all.
    pub max_versions: Option<u32>,
    /// When it should be replaced.
    pub expires_at: Option<String>,
    /// Whether it was put away.
    pub deleted: bool,
    /// Whether its values are gone for ever.
    pub destroyed: bool,
    /// Who stored it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// When it changed last.
    pub updated_at: String,
    /// When its value was read last, by a person or a job.
    pub last_read_at: Option<String>,
}

impl SecretBody {
    pub(super) fn of(row: &SecretRow, last_read: Option<DateTime<Utc>>) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            description: row.description.clone(),
            tags: row.tags.clone(),
            version: row.version,
            max_versions: row.max_versions,
            expires_at: row.expires_at.map(time),
            deleted: row.deleted,
            destroyed: row.destroyed,
            created_by: row.created_by.clone(),
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
            last_read_at: last_read.map(time),
        }
    }
}

/// A new secret: with `value`, or with `value_base64` for bytes that are no text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "report-db", "value": "postgres://…", "description": "The report's database", "tags": ["prod"]}))]
pub struct StoreBody {
    pub(super) name: String,
    /// 1 to 65,536 bytes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) value: Option<Zeroizing<String>>,
    /// The same for any bytes, in base64.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) value_base64: Option<Zeroizing<String>>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "crate::input::moment")]
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// How many versions are kept, 1 to 1,000; all if left out.
    #[serde(default)]
    pub(super) max_versions: Option<u32>,
}

/// A value as a client gives it: one of the two.
pub(super) struct GivenValue {
    pub(super) value: Option<Zeroizing<String>>,
    pub(super) value_base64: Option<Zeroizing<String>>,
}

impl GivenValue {
    /// The bytes; what is wrong is noted, never shown.
    pub(super) fn checked(self, fields: &mut Fields) -> Option<SecretValue> {
        let (field, bytes) = match (self.value, self.value_base64) {
            (Some(text), None) => ("value", Zeroizing::new(text.as_bytes().to_vec())),
            (None, Some(text)) => match decoded(&text) {
                Some(bytes) => ("value_base64", bytes),
                None => {
                    fields.refuse("value_base64", "must be base64");
                    return None;
                }
            },
            (None, None) => {
                fields.refuse("value", "must be given, here or in value_base64");
                return None;
            }
            (Some(_), Some(_)) => {
                fields.refuse("value_base64", "must not be given together with value");
                return None;
            }
        };
        fields.check(field, check_value(&bytes)).map(|()| bytes)
    }
}

/// Into a buffer that is large enough from the start: growing would leave copies behind.
fn decoded(text: &str) -> Option<SecretValue> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(text.len())));
    BASE64.decode_vec(text, &mut bytes).ok().map(|()| bytes)
}

/// The value as text if it is text and was not asked for otherwise, else as base64.
pub(super) struct ShownValue {
    pub(super) value: Option<Zeroizing<String>>,
    pub(super) value_base64: Option<Zeroizing<String>>,
}

impl ShownValue {
    pub(super) fn of(bytes: &SecretValue, as_base64: bool) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !as_base64 => {
                Self { value: Some(Zeroizing::new(text.to_owned())), value_base64: None }
            }
            Ok(_) | Err(_) => Self { value: None, value_base64: Some(Zeroizing::new(BASE64.encode(bytes))) },
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::LARGEST_VALUE;

    use super::*;

    fn given(value: Option<&str>, value_base64: Option<&str>) -> Option<Vec<u8>> {
        let text = |text: Option<&str>| text.map(|text| Zeroizing::new(text.to_owned()));
        let given = GivenValue { value: text(value), value_base64: text(value_base64) };
        given.checked(&mut Fields::default()).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn a_value_is_given_in_one_of_two_ways() {
        assert_eq!(given(Some("ä\0"), None), Some("ä\0".as_bytes().to_vec()));
        assert_eq!(given(None, Some("AP8=")), Some(vec![0, 255]));
        for (value, base64) in [(None, None), (Some("a"), Some("YQ==")), (Some(""), None), (None, Some(""))] {
            assert_eq!(given(value, base64), None);
        }
        for bad in ["AP8", "A", "AP8=\n", "!!!!", "AP8==", "_w=="] {
            assert_eq!(given(None, Some(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn the_bound_is_in_bytes() {
        let (most, over) = ("ä".repeat(LARGEST_VALUE / 2), "ä".repeat(LARGEST_VALUE / 2) + "a");
        assert_eq!(given(Some(&most), None).map(|bytes| bytes.len()), Some(LARGEST_VALUE));
        assert_eq!(given(Some(&over), None), None);
        assert_eq!(given(None, Some(&BASE64.encode(&over))), None);
        assert!(given(None, Some(&BASE64.encode(&most))).is_some());
    }

    #[test]
    fn text_is_shown_as_text_unless_asked_otherwise() {
        let shown = |bytes: &[u8], as_base64| {
            let shown = ShownValue::of(&Zeroizing::new(bytes.to_vec()), as_base64);
            (shown.value.map(|text| text.to_string()), shown.value_base64.map(|text| text.to_string()))
        };
        assert_eq!(shown(b"abc", false), (Some("abc".into()), None));
        assert_eq!(shown(b"abc", true), (None, Some("YWJj".into())));
        assert_eq!(shown(&[0, 255], false), (None, Some("AP8=".into())));
    }
}
