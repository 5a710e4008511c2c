//! The days that a report is about.

use chrono::{DateTime, Days as Later, NaiveDate, Utc};

use crate::input::{Fields, NOT_SHOWABLE, showable};
use crate::problem::Problem;

/// Days of a report at most.
pub(super) const MOST: u64 = 366;
/// Days of a report that does not say.
const USUAL: u64 = 30;

/// From one day to another, both included; UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) from: NaiveDate,
    pub(super) to: NaiveDate,
}

impl Days {
    /// What `from` and `to` ask for: today and the 29 days before it, if they do not say.
    ///
    /// # Errors
    /// 422 that names the field.
    pub(super) fn parse(
        from: Option<&str>,
        to: Option<&str>,
        most: u64,
        today: NaiveDate,
    ) -> Result<Self, Problem> {
        let mut fields = Fields::default();
        let mut day = |name: &str, text: Option<&str>| match text.map(day_of) {
            None => None,
            Some(Ok(day)) => Some(day),
            Some(Err(message)) => {
                fields.refuse(name, message);
                None
            }
        };
        let (first, last) = (day("from", from), day("to", to));
        fields.done()?;
        let to = last.unwrap_or(today);
        let usual = || to.checked_sub_days(Later::new(USUAL.min(most) - 1)).unwrap_or(to);
        let from = first.unwrap_or_else(usual);
        if from > to {
            return Err(Problem::invalid("from", "must not be after to (today, if not given)"));
        }
        if (to - from).num_days().unsigned_abs() >= most {
            return Err(Problem::invalid("from", format!("must be within {most} days of to")));
        }
        Ok(Self { from, to })
    }
}

fn day_of(text: &str) -> Result<NaiveDate, &'static str> {
    let moment =
        text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0)).map(|day| day.and_utc());
    let moment = moment.or_else(|| text.parse::<DateTime<Utc>>().ok());
    match moment {
        None => Err("must be a date such as 2026-03-01, or a time such as 2026-03-01T12:00:00Z"),
        Some(moment) if !showable(moment) => Err(NOT_SHOWABLE),
        Some(moment) => Ok(moment.date_naive()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn days(from: Option<&str>, to: Option<&str>) -> Result<(String, String), u16> {
        let today = "2026-03-15".parse().unwrap();
        let days = Days::parse(from, to, MOST, today).map_err(|problem| problem.status().as_u16())?;
        Ok((days.from.to_string(), days.to.to_string()))
    }

    #[test]
    fn days_are_dates_or_the_days_of_times_in_utc() {
        let both = |from: &str, to: &str| Ok((from.to_owned(), to.to_owned()));
        assert_eq!(days(None, None), both("2026-02-14", "2026-03-15"));
        assert_eq!(days(Some("2026-03-01"), None), both("2026-03-01", "2026-03-15"));
        assert_eq!(days(None, Some("2026-01-30")), both("2026-01-01", "2026-01-30"));
        let (from, to) = ("2026-03-02T00:30:00+01:00", "2026-03-02T23:59:59.999Z");
        assert_eq!(days(Some(from), Some(to)), both("2026-03-01", "2026-03-02"));
        assert_eq!(days(Some("2025-03-15"), Some("2026-03-15")), both("2025-03-15", "2026-03-15"));
    }

    #[test]
    fn what_is_no_day_the_wrong_way_round_or_too_long_is_refused() {
        for bad in ["", "yesterday", "2026-02-30", "2026-03-01T25:00:00Z", "+12026-03-01", "2026-3-1x"] {
            assert_eq!(days(Some(bad), None), Err(422), "{bad:?}");
            assert_eq!(days(None, Some(bad)), Err(422), "{bad:?}");
        }
        assert_eq!(days(Some("2026-03-16"), None), Err(422));
        assert_eq!(days(Some("2025-03-14"), Some("2026-03-15")), Err(422), "367 days");
    }
}
