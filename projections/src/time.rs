//! Times in rows: RFC 3339, UTC, exactly three fractional digits, so that the order of the texts is the order of the times.

use chrono::{DateTime, DurationRound as _, SecondsFormat, SubsecRound as _, TimeDelta, Utc};

/// `at` as rows and answers write it, such as `2026-03-01T12:00:00.000Z`. Cuts what is finer than a millisecond.
#[must_use]
pub fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `at` without what is finer than a millisecond: what a row must hold to be equal to itself after it was stored.
#[must_use]
pub fn to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(3)
}

/// The first whole millisecond that is not before `at`: for moments before which something must not happen.
#[must_use]
pub fn up_to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_round_up(TimeDelta::milliseconds(1)).unwrap_or(at)
}

/// For `#[serde(with = "projections::time::millis")]` on a [`DateTime<Utc>`].
pub mod millis {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it with milliseconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::text(*at))
    }

    /// Reads any RFC 3339 time.
    ///
    /// # Errors
    /// The text is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        DateTime::<Utc>::deserialize(deserializer)
    }
}

/// For `#[serde(with = "projections::time::millis_option")]` on an [`Option`] of a time. Mind that serde then wants the field to
/// be there, or `default`.
pub mod millis_option {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes it with milliseconds, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(super::text).serialize(serializer)
    }

    /// Reads any RFC 3339 time, or null.
    ///
    /// # Errors
    /// The text is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        Option::<DateTime<Utc>>::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn three_digits_always() {
        assert_eq!(text(at("2026-03-01T12:00:00Z")), "2026-03-01T12:00:00.000Z");
        assert_eq!(text(at("2026-03-01T13:00:00.123999+01:00")), "2026-03-01T12:00:00.123Z");
    }

    #[test]
    fn rounding_up_never_comes_before() {
        assert_eq!(up_to_millis(at("2026-03-01T12:00:00.123001Z")), at("2026-03-01T12:00:00.124Z"));
        assert_eq!(up_to_millis(at("2026-03-01T12:00:00.123Z")), at("2026-03-01T12:00:00.123Z"));
    }
}
