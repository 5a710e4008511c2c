//! What a pending job waits for.

use chrono::{DateTime, Utc};
use domain::JobStatus;
use projections::time::text as time;
use projections::{JobRow, Line};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::authenticate::Identity;
use crate::problem::Problem;

/// What a pending job waits for.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WaitingBody {
    /// pause, time, turn or worker.
    #[serde(rename = "for")]
    pub what: &'static str,
    /// The same in words.
    pub detail: String,
    /// Its place among those that wait for the same concurrency key, from 1.
    pub place: Option<u32>,
}

/// What stands between a job and its start, as far as the views and the list of workers show it.
struct Obstacles {
    team_paused: bool,
    kind_paused: bool,
    line: Line,
    /// Workers that run its kind and take jobs.
    workers: usize,
}

/// What the job waits for; nothing unless it is pending.
pub(super) async fn waiting(
    app: &App,
    caller: &Identity,
    row: &JobRow,
) -> Result<Option<WaitingBody>, Problem> {
    if row.status != JobStatus::Pending {
        return Ok(None);
    }
    let now = app.now();
    let team = app.projections.teams().get(row.team_id).await?;
    let workers = app.commands.workers().await?;
    let obstacles = Obstacles {
        team_paused: team.as_ref().is_some_and(|team| team.jobs_paused),
        kind_paused: team.as_ref().is_some_and(|team| team.paused_kinds.contains(&row.kind)),
        line: app.projections.jobs().of(caller.team()?).line(row, now).await?,
        workers: workers
            .iter()
            .filter(|worker| !worker.lost && !worker.draining && worker.kinds.contains(&row.kind))
            .count(),
    };
    Ok(Some(said(row, &obstacles, now)))
}

fn said(row: &JobRow, obstacles: &Obstacles, now: DateTime<Utc>) -> WaitingBody {
    let body = |what, detail: String, place| WaitingBody { what, detail, place };
    let due = row.next_attempt_at.unwrap_or(row.run_at);
    let Line { running, ahead } = obstacles.line;
    match &row.concurrency_key {
        _ if obstacles.team_paused => body("pause", "the team's jobs are paused".to_owned(), None),
        _ if obstacles.kind_paused => {
            body("pause", format!("jobs of the kind {} are paused", row.kind), None)
        }
        _ if due > now && !row.was_due => body("time", format!("not before {}", time(due)), None),
        Some(key) if running >= row.concurrency_limit || ahead > 0 => {
            let place = ahead.saturating_add(1);
            body("turn", format!("waiting on key {key}, {} in line", ordinal(place)), Some(place))
        }
        _ if obstacles.workers == 0 => body("worker", format!("no worker runs the kind {}", row.kind), None),
        _ => body("worker", "waiting for a worker that is free".to_owned(), None),
    }
}

/// 1st, 2nd, 3rd, 4th; 11th, 12th, 13th.
fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, teens) if teens != 11 => "st",
        (2, teens) if teens != 12 => "nd",
        (3, teens) if teens != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn places_are_counted_as_people_count() {
        let counted: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 113].into_iter().map(ordinal).collect();
        assert_eq!(counted, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "113th"]);
    }
}
