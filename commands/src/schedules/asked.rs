//! What is asked of a schedule: whether it can be done, and the job it comes down to.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use domain::{Backoff, Plan, Queue, ScheduleId, TeamId, Timing};

use super::times::Times;
use crate::jobs::{ArgProblem, Kind, Kinds};

/// Bytes of a schedule's arguments at most: a hundred jobs with them must go into one append.
pub const LARGEST_ARGS: usize = 64 * 1024;
/// The shortest catch-up window, in seconds.
pub const SHORTEST_WINDOW: u32 = 60;
/// The longest catch-up window, in seconds: a week.
pub const LONGEST_WINDOW: u32 = 7 * 86_400;
/// The priority of a job that does not say.
const USUAL_PRIORITY: u8 = 5;
/// Longest timeout of a job, in seconds: a day.
const LONGEST_TIMEOUT: u32 = 86_400;
/// Most attempts of a job.
const MOST_ATTEMPTS: u32 = 100;

/// What holds for a job when neither its kind nor who asks for it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobDefaults {
    /// How many failures end it.
    pub max_attempts: u32,
    /// The pause after the first failure, in seconds.
    pub retry_delay_seconds: u32,
}

fn problem(field: &str, message: impl Into<String>) -> ArgProblem {
    ArgProblem { field: field.to_owned(), message: message.into() }
}

/// All that is wrong with a plan, by field, at `now`. Whether its times ever come is asked only when they are new: of a schedule that
/// runs once they are over some day.
#[must_use]
pub fn problems(plan: &Plan, kinds: &Kinds, now: DateTime<Utc>, new_times: bool) -> Vec<ArgProblem> {
    let mut problems = problems_of_job(plan, kinds);
    if new_times {
        problems.extend(problem_of_times(&plan.timing, now));
    }
    let windows = SHORTEST_WINDOW..=LONGEST_WINDOW;
    problems.extend(outside("catch_up_window_seconds", Some(plan.catch_up_window_seconds), windows));
    if serde_json::to_vec(&plan.args).map_or(0, |args| args.len()) > LARGEST_ARGS {
        problems.push(problem("args", format!("must be at most {LARGEST_ARGS} bytes")));
    }
    problems
}

fn problem_of_times(timing: &Timing, now: DateTime<Utc>) -> Option<ArgProblem> {
    match (Times::of(timing), timing) {
        (Err((field, invalid)), _) => Some(problem(field, invalid.0)),
        (Ok(times), _) if times.after(now).is_some() => None,
        (Ok(_), Timing::Cron { .. }) => Some(problem("cron", "is a time that never comes")),
        (Ok(_), Timing::Once { .. }) => Some(problem("run_at", "must be in the future")),
    }
}

/// What the kind and a job's bounds have against it.
fn problems_of_job(plan: &Plan, kinds: &Kinds) -> Vec<ArgProblem> {
    let mut problems = match kinds.get(plan.kind.as_str()) {
        None => vec![problem("kind", "is not one that can run; see /api/jobs/kinds")],
        Some(kind) => kind.validate(&plan.args).err().unwrap_or_default(),
    };
    problems.extend(outside("priority", plan.priority.map(u32::from), 0..=9));
    problems.extend(outside("max_attempts", plan.max_attempts, 1..=MOST_ATTEMPTS));
    problems.extend(outside("timeout_seconds", plan.timeout_seconds, 1..=LONGEST_TIMEOUT));
    problems
}

fn outside(field: &str, number: Option<u32>, bounds: RangeInclusive<u32>) -> Option<ArgProblem> {
    number
        .filter(|number| !bounds.contains(number))
        .map(|_| problem(field, format!("must be {} to {}", bounds.start(), bounds.end())))
}

/// The job that `plan` comes down to at the moment `due`.
///
/// # Errors
/// Why it cannot run (any more), in a sentence for people.
pub(super) fn job(
    plan: &Plan,
    of: (TeamId, ScheduleId),
    due: DateTime<Utc>,
    kinds: &Kinds,
    defaults: JobDefaults,
) -> Result<Queue, String> {
    let wrong = problems_of_job(plan, kinds);
    let kind = kinds.get(plan.kind.as_str()).filter(|_| wrong.is_empty());
    let Some(kind) = kind else {
        let told = wrong.iter().map(|problem| format!("{} {}", problem.field, problem.message));
        return Err(told.collect::<Vec<_>>().join("; "));
    };
    let usual_attempts = kind.max_attempts().unwrap_or(defaults.max_attempts.max(1));
    Ok(Queue {
        team_id: of.0,
        kind: plan.kind.clone(),
        args: plan.args.clone(),
        priority: plan.priority.unwrap_or(USUAL_PRIORITY),
        run_at: due,
        max_attempts: plan.max_attempts.unwrap_or(usual_attempts),
        timeout_seconds: plan.timeout_seconds.unwrap_or_else(|| Kind::timeout_seconds(kind)),
        retry_delay_seconds: defaults.retry_delay_seconds,
        backoff: Backoff::default(),
        concurrency_key: plan.concurrency_key.clone(),
        concurrency_limit: 1,
        unique: None,
        schedule_id: Some(of.1),
    })
}
