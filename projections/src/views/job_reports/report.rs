//! Reading: rows of many days and kinds, put together.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use futures::TryStreamExt as _;
use sqlx::{Postgres, QueryBuilder};

use super::{JobReportRow, JobReports, Tally};
use crate::error::{Fault, ReadError};
use crate::table_names::sql;
use crate::team_reader::TeamReader;

/// Groups of a report at most.
const MOST_GROUPS: usize = 1_000;

/// What a report's groups are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportGrouping {
    /// Kinds of jobs.
    Kind,
    /// Days.
    Day,
    /// How jobs stood after what happened.
    Status,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReportFilter {
    /// The first day.
    pub from: NaiveDate,
    /// The last day.
    pub to: NaiveDate,
    /// Only jobs of this kind.
    pub kind: Option<String>,
    /// What its groups are.
    pub by: ReportGrouping,
}

/// What happened to a team's jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobReport {
    /// The groups, in the order of their names; of statuses in that of a job's life. The first thousand.
    pub groups: Vec<JobReportGroup>,
    /// All of it, also what is in none of the groups.
    pub total: Tally,
    /// How long the attempts took that did their work.
    pub completed: Tally,
}

/// A part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobReportGroup {
    /// The kind, day or status.
    pub name: String,
    /// What happened, to all of the group.
    pub total: Tally,
    /// Of that, what is told of by durations: attempts that did their work; in groups by status, those that led to it.
    pub timed: Tally,
}

impl TeamReader<'_, JobReports> {
    /// What happened to the team's jobs. Reads every row in question, one after the other, and keeps as much as there are groups.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn report(&self, filter: &JobReportFilter) -> Result<JobReport, ReadError> {
        let mut query: QueryBuilder<'_, Postgres> =
            QueryBuilder::new(sql("select key, row::text from {job_reports} where team_id = "));
        query.push_bind(self.whose.setting());
        query.push(" and day >= ").push_bind(filter.from.to_string());
        query.push(" and day <= ").push_bind(filter.to.to_string());
        if let Some(kind) = &filter.kind {
            query.push(" and kind = ").push_bind(kind.replace('\0', "\u{fffd}"));
        }
        let mut connection = self.connection().await?;
        let mut rows = query.build_query_as::<(String, String)>().fetch(&mut *connection);
        let mut made = Making::default();
        while let Some((key, json)) = rows.try_next().await? {
            let row =
                serde_json::from_str(&json).map_err(|cause| Fault::at_row("job_reports", &key, cause))?;
            made.add(&row, filter.by);
        }
        Ok(made.done())
    }
}

/// A report under way: groups by what orders them.
#[derive(Default)]
struct Making {
    report: JobReport,
    groups: BTreeMap<(u8, String), JobReportGroup>,
}

impl Making {
    fn add(&mut self, row: &JobReportRow, by: ReportGrouping) {
        let parts = [
            ("pending", &row.pending),
            ("completed", &row.completed),
            ("failed", &row.failed),
            ("cancelled", &row.cancelled),
        ];
        for (place, (status, tally)) in (0..).zip(parts) {
            self.report.total.merge(tally);
            let (order, name, timed) = match by {
                ReportGrouping::Kind => (0, row.kind.as_str(), status == "completed"),
                ReportGrouping::Day => (0, row.day.as_str(), status == "completed"),
                ReportGrouping::Status => (place, status, true),
            };
            if *tally == Tally::default() {
                continue;
            }
            let group = self.groups.entry((order, name.to_owned())).or_default();
            group.total.merge(tally);
            if timed {
                group.timed.merge(tally);
            }
        }
        self.report.completed.merge(&row.completed);
        while self.groups.len() > MOST_GROUPS {
            self.groups.pop_last();
        }
    }

    fn done(self) -> JobReport {
        let groups = self.groups.into_iter().map(|((_, name), group)| JobReportGroup { name, ..group });
        JobReport { groups: groups.collect(), ..self.report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::team_id;

    fn row(day: &str, kind: &str) -> JobReportRow {
        let mut completed = Tally { completed: 1, attempts: 1, ..Tally::default() };
        completed.durations.add(1_000);
        let mut pending = Tally { queued: 2, retried: 1, attempts: 1, ..Tally::default() };
        pending.durations.add(9_000_000);
        JobReportRow {
            team_id: team_id(1),
            day: day.into(),
            kind: kind.into(),
            pending,
            completed,
            failed: Tally { failed: 1, ..Tally::default() },
            cancelled: Tally::default(),
        }
    }

    fn report(rows: &[JobReportRow], by: ReportGrouping) -> JobReport {
        let mut made = Making::default();
        rows.iter().for_each(|row| made.add(row, by));
        made.done()
    }

    #[test]
    fn groups_are_kinds_days_or_statuses_and_add_up_to_the_same() {
        let rows = [row("2026-03-02", "b"), row("2026-03-01", "b"), row("2026-03-01", "a")];
        let names = |report: &JobReport| -> Vec<(String, u64)> {
            report.groups.iter().map(|group| (group.name.clone(), group.total.attempts)).collect()
        };
        let by_kind = report(&rows, ReportGrouping::Kind);
        assert_eq!(names(&by_kind), [("a".into(), 2), ("b".into(), 4)]);
        let by_day = report(&rows, ReportGrouping::Day);
        assert_eq!(names(&by_day), [("2026-03-01".into(), 4), ("2026-03-02".into(), 2)]);
        let by_status = report(&rows, ReportGrouping::Status);
        assert_eq!(
            names(&by_status),
            [("pending".into(), 3), ("completed".into(), 3), ("failed".into(), 0)],
            "nothing was cancelled"
        );
        assert_eq!((&by_kind.total, &by_day.total), (&by_status.total, &by_status.total));
        assert_eq!((by_kind.total.queued, by_kind.total.completed, by_kind.total.failed), (6, 3, 3));
    }

    #[test]
    fn durations_are_those_of_attempts_that_did_their_work_unless_statuses_are_asked_for() {
        let rows = [row("2026-03-01", "a")];
        let slow = |group: &JobReportGroup| group.timed.durations.quantile(0.95) > Some(1_000_000);
        assert!(report(&rows, ReportGrouping::Kind).groups.iter().all(|group| !slow(group)));
        let by_status = report(&rows, ReportGrouping::Status);
        let found: Vec<bool> = by_status.groups.iter().map(slow).collect();
        assert_eq!(found, [true, false, false], "pending, completed, failed");
    }

    #[test]
    fn there_are_never_more_groups_than_are_allowed_and_the_total_has_all() {
        let rows: Vec<_> = (0..1_500).map(|n| row("2026-03-01", &format!("k{n:04}"))).collect();
        let made = report(&rows, ReportGrouping::Kind);
        assert_eq!((made.groups.len(), made.total.completed), (1_000, 1_500));
        assert_eq!(made.groups[999].name, "k0999");
    }
}
