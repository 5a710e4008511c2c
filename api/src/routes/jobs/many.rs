//! Many jobs at once: queueing a batch, and cancelling or retrying what a filter picks.

use std::collections::BTreeSet;

use axum::extract::State;
use chrono::{DateTime, Utc};
use commands::jobs::{JobChange, MOST_CHANGED, MOST_QUEUED};
use domain::{JobId, JobStatus, KindName, ScheduleId};
use projections::JobFilter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bodies::QueueBody;
use super::{checked, refused};
use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::JobsRun;
use crate::extract::Json;
use crate::input::{Creation, Fields};
use crate::problem::{Problem, ProblemBody};

/// Fields that are told of a batch at most.
const MOST_TOLD: usize = 100;

/// Jobs to be queued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"jobs": [{"kind": "disk-report"}, {"kind": "disk-report", "args": {"percent": 80}, "priority": 9}]}))]
pub struct BatchBody {
    /// 1 to 1,000 of them.
    jobs: Vec<QueueBody>,
}

/// A job that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuedBody {
    /// Its id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Whether it waited before: it is unique, and one like it was asked for.
    pub existing: bool,
}

/// What was queued.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchAnswer {
    /// The jobs, in the order asked for.
    pub items: Vec<QueuedBody>,
}

/// Queues up to 1,000 jobs: all of them, or none if something is wrong with one.
#[utoipa::path(
    post, path = "/jobs/batch", tag = "jobs", operation_id = "queue_jobs", request_body = BatchBody,
    responses(
        (status = 201, description = "The jobs, in the order asked for", body = BatchAnswer),
        (status = 422, description = "A field is wrong: jobs[3].args.day", body = ProblemBody),
    ),
)]
pub async fn batch(
    State(app): State<App>,
    caller: Can<JobsRun>,
    creation: Creation<BatchBody>,
) -> Result<Answer<BatchAnswer>, Problem> {
    let team = caller.team()?;
    let (body, context) = creation.within(&caller.context);
    if !(1..=MOST_QUEUED).contains(&body.jobs.len()) {
        return Err(Problem::invalid("jobs", format!("must be 1 to {MOST_QUEUED} jobs")));
    }
    let (mut jobs, mut problems) = (vec![], vec![]);
    for (place, job) in body.jobs.into_iter().enumerate() {
        match checked(&app, team, job) {
            Ok(job) => jobs.push(job),
            Err(found) => problems.extend(found.into_iter().map(|mut problem| {
                problem.field = format!("jobs[{place}].{}", problem.field);
                problem
            })),
        }
    }
    if !problems.is_empty() {
        problems.truncate(MOST_TOLD);
        return Err(refused(problems, ""));
    }
    let queued = app.commands.queue_jobs(&context, jobs).await?;
    app.settle(queued.position).await;
    let items = queued.jobs.iter().map(|job| QueuedBody { id: job.id.to_string(), existing: job.existing });
    Ok(Answer::created(BatchAnswer { items: items.collect() }).at(queued.position))
}

/// What is asked of jobs.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// They are not wanted any more.
    Cancel,
    /// They are to be tried again.
    Retry,
}

/// Which jobs of the team: those that fit everything that is given.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkFilter {
    /// Just these, 1,000 at most. Of each that is not changed the answer says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<Uuid>>,
    /// Those that stand so. By default, all that `ids` names; without them those that the action is for: pending and running ones are
    /// cancelled, failed ones retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    status: Option<JobStatus>,
    /// Those of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Those that this schedule queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule_id: Option<Uuid>,
    /// Those that were queued at this moment or later.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::input::moment")]
    from: Option<DateTime<Utc>>,
    /// Those that were queued before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::input::moment")]
    to: Option<DateTime<Utc>>,
}

/// What is asked of which jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"action": "retry", "filter": {"kind": "nightly-report", "status": "failed"}}))]
pub struct BulkBody {
    #[schema(inline)]
    action: BulkAction,
    #[schema(inline)]
    filter: BulkFilter,
}

/// A job that was left as it was.
#[derive(Debug, Serialize, ToSchema)]
pub struct SkippedBody {
    /// Which.
    #[schema(format = "uuid")]
    pub id: String,
    /// Why.
    pub code: &'static str,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkAnswer {
    /// Jobs that fitted the filter and were looked at.
    pub matched: usize,
    /// Jobs that were changed.
    pub changed: usize,
    /// Jobs that were left as they were, with the reason's code.
    pub skipped: Vec<SkippedBody>,
    /// Whether there may be more than the 1,000 that were looked at: ask again.
    pub more: bool,
}

/// Cancels or retries all jobs that fit a filter, 1,000 at a time, the newest first: one recorded command that says what it did.
#[utoipa::path(
    post, path = "/jobs/bulk", tag = "jobs", operation_id = "change_jobs", request_body = BulkBody,
    responses(
        (status = 200, description = "What was done", body = BulkAnswer),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    ),
)]
pub async fn bulk(
    State(app): State<App>,
    caller: Can<JobsRun>,
    Json(body): Json<BulkBody>,
) -> Result<Answer<BulkAnswer>, Problem> {
    let BulkBody { action, filter } = body;
    let mut fields = Fields::default();
    fields.check_optional("filter.kind", filter.kind.as_deref(), KindName::parse);
    fields.done()?;
    if filter.ids.as_ref().is_some_and(|ids| ids.len() > MOST_CHANGED) {
        return Err(Problem::invalid("filter.ids", format!("must be at most {MOST_CHANGED}")));
    }
    let (ids, more) = matching(&app, caller.team()?, action, &filter).await?;
    let change = match action {
        BulkAction::Cancel => JobChange::Cancel,
        BulkAction::Retry => JobChange::Retry,
    };
    let said = serde_json::to_value(&filter).map_err(Problem::internal)?;
    let done = app.commands.change_jobs(&caller.context, &ids, change, &said).await?;
    app.settle(Some(done.position)).await;
    let unknown = unknown(&app, caller.team()?, &filter).await?;
    let skipped = done.skipped.iter().map(|(id, code)| SkippedBody { id: id.to_string(), code });
    let skipped = skipped.chain(unknown.into_iter().map(|id| SkippedBody { id, code: "job_not_found" }));
    let answer =
        BulkAnswer { matched: ids.len(), changed: done.changed.len(), skipped: skipped.collect(), more };
    Ok(Answer::ok(answer).at(Some(done.position)))
}

fn texts(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

/// Those of the named jobs that are none of the team's.
async fn unknown(app: &App, team: domain::TeamId, filter: &BulkFilter) -> Result<BTreeSet<String>, Problem> {
    let Some(named) = &filter.ids else { return Ok(BTreeSet::new()) };
    let named = texts(named);
    let among = JobFilter { among: Some(named.clone()), ..JobFilter::default() };
    let known = app.projections.jobs().of(team).ids(&among, MOST_CHANGED).await?;
    let known: BTreeSet<String> = known.iter().map(ToString::to_string).collect();
    Ok(named.into_iter().filter(|id| !known.contains(id)).collect())
}

/// The jobs that fit, the newest first, and whether there are more than can be changed at once.
async fn matching(
    app: &App,
    team: domain::TeamId,
    action: BulkAction,
    filter: &BulkFilter,
) -> Result<(Vec<JobId>, bool), Problem> {
    let statuses = match (filter.status, &filter.ids, action) {
        (Some(status), ..) => vec![status],
        // Whoever names jobs is told of each why it was left as it was.
        (None, Some(_), _) => vec![],
        (None, None, BulkAction::Cancel) => vec![JobStatus::Pending, JobStatus::Running],
        (None, None, BulkAction::Retry) => vec![JobStatus::Failed],
    };
    let wanted = JobFilter {
        statuses,
        kind: filter.kind.clone(),
        schedule_id: filter.schedule_id.map(ScheduleId),
        from: filter.from,
        to: filter.to,
        among: filter.ids.as_deref().map(texts),
    };
    let mut ids = app.projections.jobs().of(team).ids(&wanted, MOST_CHANGED + 1).await?;
    let more = ids.len() > MOST_CHANGED;
    ids.truncate(MOST_CHANGED);
    Ok((ids, more))
}
