//! What shows the schedules that are due: the composition root's adapter between the read side and the write side.

use chrono::{DateTime, Utc};
use commands::jobs::QueueError;
use commands::schedules::{DueSchedules, ShownSchedule};
use domain::KnownSchedule;
use projections::{Projections, Reader, ScheduleRow, Schedules};
use uuid::Error;

/// Schedules as the views show them.
pub(crate) struct ViewSchedules {
    projections: Projections,
}

impl ViewSchedules {
    /// The schedules of these views.
    pub(crate) fn new(projections: &Projections) -> Self {
        Self { projections: projections.clone() }
    }

    /// Those of all teams.
    fn schedules(&self) -> Reader<'_, Schedules> {
        self.projections.schedules().across_teams()
    }
}

/// The schedule of a row.
///
/// # Errors
/// The row's key is no id.
pub(crate) fn shown(row: &ScheduleRow) -> Result<ShownSchedule, Error> {
    let known = KnownSchedule {
        team_id: row.team_id,
        plan: row.plan.clone(),
        paused: row.paused,
        next: row.next_run_at,
        handled: row.handled(),
    };
    Ok(ShownSchedule { id: row.id.parse()?, sequence: row.sequence, known })
}

fn failed(error: impl std::fmt::Display) -> QueueError {
    QueueError(error.to_string())
}

impl DueSchedules for ViewSchedules {
    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<ShownSchedule>, QueueError> {
        let rows = self.schedules().due(now, limit as i64).await.map_err(failed)?;
        rows.iter().map(|row| shown(row).map_err(failed)).collect()
    }

    async fn next_due(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, QueueError> {
        self.schedules().next_due(now).await.map_err(failed)
    }
}
