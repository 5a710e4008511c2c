//! What is asked of a schedule: whether it can be done, and the job it comes down to.

use chrono::{DateTime, Utc};
use domain::{Plan, ScheduleId, TeamId, Timing};

use super::times::Times;
use crate::jobs::{ArgProblem, JobDefaults, JobRequest, Kinds};

/// Bytes of a schedule's arguments at most: a hundred jobs with them must go into one append.
pub const LARGEST_ARGS: usize = 64 * 1024;
/// The shortest catch-up window, in seconds.
pub const SHORTEST_WINDOW: u32 = 60;
/// The longest catch-up window, in seconds: a week.
pub const LONGEST_WINDOW: u32 = 7 * 86_400;

/// What jobs are made with.
#[derive(Clone, Copy, Debug)]
pub struct JobRules<'a> {
    /// What can run.
    pub kinds: &'a Kinds,
    /// What holds where neither the schedule nor the kind says.
    pub defaults: JobDefaults,
}

/// All that is wrong with a plan of the team's, by field, at `now`. Whether its times ever come is asked only when they are new: of a
/// schedule that runs once they are over some day.
#[must_use]
pub fn problems(
    plan: &Plan,
    team_id: TeamId,
    rules: JobRules<'_>,
    now: DateTime<Utc>,
    new_times: bool,
) -> Vec<ArgProblem> {
    let JobRules { kinds, defaults } = rules;
    let mut problems = request(plan, None).checked(kinds, defaults, team_id, now).err().unwrap_or_default();
    if new_times {
        problems.extend(problem_of_times(&plan.timing, now));
    }
    if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&plan.catch_up_window_seconds) {
        let message = format!("must be {SHORTEST_WINDOW} to {LONGEST_WINDOW}");
        problems.push(problem("catch_up_window_seconds", message));
    }
    if serde_json::to_vec(&plan.args).map_or(0, |args| args.len()) > LARGEST_ARGS {
        problems.push(problem("args", format!("must be at most {LARGEST_ARGS} bytes")));
    }
    problems
}

fn problem(field: &str, message: impl Into<String>) -> ArgProblem {
    ArgProblem { field: field.to_owned(), message: message.into() }
}

fn problem_of_times(timing: &Timing, now: DateTime<Utc>) -> Option<ArgProblem> {
    match (Times::of(timing), timing) {
        (Err((field, invalid)), _) => Some(problem(field, invalid.0)),
        (Ok(times), _) if times.after(now).is_some() => None,
        (Ok(_), Timing::Cron { .. }) => Some(problem("cron", "is a time that never comes")),
        (Ok(_), Timing::Once { .. }) => Some(problem("run_at", "must be in the future")),
    }
}

/// The job that `plan` comes down to.
pub(super) fn request(plan: &Plan, schedule_id: Option<ScheduleId>) -> JobRequest {
    JobRequest {
        kind: plan.kind.to_string(),
        args: plan.args.clone(),
        priority: plan.priority,
        max_attempts: plan.max_attempts,
        timeout_seconds: plan.timeout_seconds,
        concurrency_key: plan.concurrency_key.as_ref().map(ToString::to_string),
        schedule_id,
        ..JobRequest::default()
    }
}
