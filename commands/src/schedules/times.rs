//! When a schedule's moments are: cron's notation read, and the clocks of its time zone followed where they are put forward and back.
//!
//! An expression that names every hour (`*/15 * * * *`, `0 * * * *`) goes by time that passes: it fires at each moment at which its
//! zone's clocks show what it asks for, however often they show it. Any other goes by the clock, and each time it names comes once: a
//! time that the clocks leave out is made up for at the first moment after the gap (several of one gap at that one moment), and of a time
//! that they show twice only the first counts.
//!
//! croner looks for the times on the clock; what becomes of them in the zone is decided here, since croner knows these rules for
//! expressions of a single time a day only (4.0: `0 2,14 * * *` would be left out in a gap, and come twice in a fold).

use chrono::offset::LocalResult;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use domain::{CronExpression, Invalid, TimeZoneName, Timing};

/// Further than any zone is from any other, and than any clock was ever put: the day that Samoa left out included.
const FURTHEST: TimeDelta = TimeDelta::hours(38);
/// How far [`Times::latest`] looks back at first.
const STRIDE: TimeDelta = TimeDelta::hours(1);
/// The fields of an expression with what each takes.
const FIELDS: [(&str, &str); 6] = [
    ("seconds", "0-59"),
    ("minutes", "0-59"),
    ("hours", "0-23"),
    ("days of the month", "1-31, L for the last, 15W for the working day next to the 15th"),
    ("months", "1-12 or JAN-DEC"),
    (
        "days of the week",
        "0-7 or SUN-SAT, 1#2 for the second Monday, 5#L for the last Friday, + first to ask for both days",
    ),
];

/// The moments of one schedule.
#[derive(Clone, Debug)]
pub struct Times(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Cron(Box<Recurring>),
    Once(DateTime<Utc>),
}

#[derive(Clone, Debug)]
struct Recurring {
    cron: Cron,
    zone: Tz,
    /// Whether it goes by time that passes.
    every_hour: bool,
}

impl Times {
    /// The moments that `timing` stands for.
    ///
    /// # Errors
    /// The field of a schedule that means nothing (`cron` or `time_zone`), with a sentence.
    pub fn of(timing: &Timing) -> Result<Self, (&'static str, Invalid)> {
        match timing {
            Timing::Once { run_at } => Ok(Self(Kind::Once(*run_at))),
            Timing::Cron { cron, time_zone } => {
                let cron = read_cron(cron).map_err(|invalid| ("cron", invalid))?;
                let zone = read_zone(time_zone).map_err(|invalid| ("time_zone", invalid))?;
                let every_hour = cron.pattern.hours.values().len() == 24;
                Ok(Self(Kind::Cron(Box::new(Recurring { cron, zone, every_hour }))))
            }
        }
    }

    /// The first moment after this one; none when there is none before the year 5000.
    #[must_use]
    pub fn after(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Kind::Once(run_at) => Some(*run_at).filter(|run_at| *run_at > moment),
            Kind::Cron(recurring) if recurring.every_hour => recurring.by_time(moment),
            Kind::Cron(recurring) => recurring.by_clock(moment),
        }
    }

    /// The moments after this one, in order.
    pub fn iter_after(&self, moment: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.after(moment), |last| self.after(*last))
    }

    /// The last `most` moments from `first` to `last`, both included, in order.
    #[must_use]
    pub fn latest(&self, first: DateTime<Utc>, last: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        let begin = first - TimeDelta::milliseconds(1);
        let (mut end, mut stride) = (last, STRIDE);
        let mut found: Vec<DateTime<Utc>> = vec![];
        while end > begin && found.len() < most {
            let start = end.checked_sub_signed(stride).map_or(begin, |start| start.max(begin));
            let mut earlier: Vec<_> = self.iter_after(start).take_while(|moment| *moment <= end).collect();
            // Where little happens, it is looked for further back.
            if earlier.is_empty() {
                stride = stride * 2;
            }
            earlier.append(&mut found);
            (found, end) = (earlier, start);
        }
        found.split_off(found.len().saturating_sub(most))
    }

    /// The moment as the clocks of the zone show it, with their distance from UTC.
    #[must_use]
    pub fn local(&self, moment: DateTime<Utc>) -> String {
        let zone = match &self.0 {
            Kind::Once(_) => Tz::UTC,
            Kind::Cron(recurring) => recurring.zone,
        };
        moment.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, false)
    }
}

impl Recurring {
    fn by_time(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.cron.find_next_occurrence(&moment.with_timezone(&self.zone), false);
        found.ok().map(|at| at.to_utc()).filter(|at| *at > moment)
    }

    fn by_clock(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = moment.with_timezone(&self.zone).naive_local();
        // More than once only for times that the clocks show a second time.
        loop {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            match self.first_at_or_after(local) {
                at if at > moment => return Some(at),
                _ => {}
            }
        }
    }

    /// The first moment at which the clocks show this time; where they leave it out, the first one after the gap.
    fn first_at_or_after(&self, local: NaiveDateTime) -> DateTime<Utc> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
            LocalResult::None => self.after_gap(local),
        }
    }

    /// The moment at which the clocks begin to show something later than a time that they leave out, found by halving.
    fn after_gap(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let (mut before, mut after) = (local.and_utc() - FURTHEST, local.and_utc() + FURTHEST);
        while after - before > TimeDelta::seconds(1) {
            let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
            if middle.with_timezone(&self.zone).naive_local() > local {
                after = middle;
            } else {
                before = middle;
            }
        }
        after
    }
}

fn parse(text: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(text)
}

fn read_cron(text: &CronExpression) -> Result<Cron, Invalid> {
    parse(text.as_str()).map_err(|_| Invalid(what_is_wrong(text.as_str())))
}

/// Which field is wrong, found by taking each alone.
fn what_is_wrong(text: &str) -> String {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let named = match fields.len() {
        5 => FIELDS.get(1..),
        6 => FIELDS.get(..),
        _ => None,
    };
    let Some(named) = named else {
        return "must have 5 fields (minutes, hours, days of the month, months, days of the week), or 6 with seconds before them, or be \
                @hourly, @daily, @weekly, @monthly or @yearly"
            .to_owned();
    };
    let alone = |place: usize| -> String {
        let field = |other: usize| if other == place { fields.get(other).copied() } else { Some("*") };
        (0..fields.len()).filter_map(field).collect::<Vec<_>>().join(" ")
    };
    let wrong = named.iter().enumerate().find(|(place, _)| parse(&alone(*place)).is_err());
    match wrong {
        Some((_, (name, takes))) => {
            format!(
                "has {name} that are not of {takes}, nor a list (1,3), a range (1-5) or steps (*/2, 1-9/2) of these"
            )
        }
        None => "is not an expression of cron's".to_owned(),
    }
}

fn read_zone(name: &TimeZoneName) -> Result<Tz, Invalid> {
    name.as_str().parse().map_err(|_| {
        Invalid(
            "is not a time zone of the IANA database, such as Europe/Berlin or UTC (letter case counts)"
                .to_owned(),
        )
    })
}

#[cfg(test)]
mod tests;
