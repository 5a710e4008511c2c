//! Asking for the end of jobs, or for another try: of one, or of many at once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::{AccessEvent, Job, JobCommand, JobId, Permission};
use futures::future::join_all;
use ledger::{Append, AppendError, NewEvent, Store};
use serde_json::Value;
use uuid::Uuid;

use crate::door::{Executed, Prepare, Prepared, decided};
use crate::{CommandError, Commands, Context};

/// Why a job was left as it was that stands as asked for already: it is being cancelled, or is due.
const UNCHANGED: &str = "job_unchanged";
/// Jobs changed with one command at most.
pub const MOST_CHANGED: usize = 1_000;
/// How often many are tried to be changed together, though some changed meanwhile.
const TRIES_TOGETHER: usize = 2;
/// How many are changed at a time, each by itself.
const AT_A_TIME: usize = 64;

/// What is asked of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobChange {
    /// They are not wanted any more.
    Cancel,
    /// They are to be tried again, or at once.
    Retry,
}

impl JobChange {
    /// `cancel` or `retry`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }

    fn command(self, now: DateTime<Utc>) -> JobCommand {
        match self {
            Self::Cancel => JobCommand::Cancel,
            Self::Retry => JobCommand::Retry { at: now },
        }
    }
}

/// What came of changing many jobs.
#[derive(Clone, Debug, Default)]
pub struct ChangedJobs {
    /// Those that were changed, in the order given.
    pub changed: Vec<JobId>,
    /// Those that were not, with the code of the reason.
    pub skipped: BTreeMap<JobId, &'static str>,
    /// The log's position after it.
    pub position: i64,
}

/// One job's change. A job that never began has a place in the queue to give up.
struct Changing(JobChange);

impl Prepare<Job> for Changing {
    async fn prepare(&self, commands: &Commands, job: &Job) -> Result<Prepared<JobCommand>, CommandError> {
        let mut prepared = Prepared::alone(self.0.command(commands.now()));
        if let (JobChange::Cancel, Some(claim)) = (self.0, job.unique_claim()) {
            prepared.alongside.push(commands.free_place(claim).await?);
        }
        Ok(prepared)
    }
}

/// The record of a change of many.
fn record(
    id: Uuid,
    ids: &[JobId],
    change: JobChange,
    filter: &Value,
    outcome: &ChangedJobs,
) -> Result<NewEvent, CommandError> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let record = AccessEvent::JobsChangedInBulk {
        action: change.as_str().to_owned(),
        filter: filter.clone(),
        matched: count(ids.len()),
        changed: count(outcome.changed.len()),
    };
    Commands::access_event(id, 1, &record)
}

impl Commands {
    /// Asks for one job's end, or for another try. `expected` is the stream's length the caller knows.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn change_job(
        &self,
        context: &Context,
        id: JobId,
        expected: Option<i64>,
        change: JobChange,
    ) -> Result<Executed, CommandError> {
        self.execute_with::<Job>(context, &id.to_string(), expected, &Changing(change)).await
    }

    /// The same of many jobs of the caller's team, 1,000 at most, as one recorded command: what can be changed is, together with the
    /// record of who asked for what (`filter`); the others are named with the reason. While jobs keep moving, and all at once cannot be
    /// changed, each is by itself, and the record comes last.
    ///
    /// # Errors
    /// See [`CommandError`]. What was changed before one is recorded, if the log can take it.
    pub async fn change_jobs(
        &self,
        context: &Context,
        ids: &[JobId],
        change: JobChange,
        filter: &Value,
    ) -> Result<ChangedJobs, CommandError> {
        context.caller.require(Permission::JobsRun)?;
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        for _ in 0..TRIES_TOGETHER {
            let (mut events, mut outcome) = self.changes(context, ids, &texts, change).await?;
            events.push(record(self.new_id(), ids, change, filter, &outcome)?);
            let append = Append { events, metadata: context.metadata(), data_keys: vec![] };
            match self.ledger.append(append).await {
                Ok(done) => {
                    outcome.position = done.position;
                    return Ok(outcome);
                }
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (mut outcome, failed) = self.change_one_by_one(context, ids, change).await;
        let events = vec![record(self.new_id(), ids, change, filter, &outcome)?];
        outcome.position = self.append_records(context, events).await?;
        failed.map_or(Ok(outcome), Err)
    }

    /// What came of changing each, up to the first that failed for other reasons than its own.
    async fn change_one_by_one(
        &self,
        context: &Context,
        ids: &[JobId],
        change: JobChange,
    ) -> (ChangedJobs, Option<CommandError>) {
        let (mut outcome, mut failed) = (ChangedJobs::default(), None);
        for some in ids.chunks(AT_A_TIME) {
            let done = join_all(some.iter().map(|id| self.change_job(context, *id, None, change))).await;
            for (id, done) in some.iter().zip(done) {
                match done {
                    Ok(done) if done.stored == 0 => _ = outcome.skipped.insert(*id, UNCHANGED),
                    Ok(_) => outcome.changed.push(*id),
                    Err(CommandError::Refused(refusal)) => _ = outcome.skipped.insert(*id, refusal.code()),
                    Err(CommandError::Denied(_)) => _ = outcome.skipped.insert(*id, "job_not_found"),
                    Err(CommandError::Contended) => _ = outcome.skipped.insert(*id, "contended"),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if failed.is_some() {
                break;
            }
        }
        (outcome, failed)
    }

    async fn changes(
        &self,
        context: &Context,
        ids: &[JobId],
        texts: &[String],
        change: JobChange,
    ) -> Result<(Vec<NewEvent>, ChangedJobs), CommandError> {
        let mut loaded = Store::<Job>::new(&self.ledger).load_many(texts).await?;
        let (mut events, mut outcome) = (vec![], ChangedJobs::default());
        for (id, text) in ids.iter().zip(texts) {
            let Some(mut job) = loaded.remove(text) else { continue };
            let claim = job.aggregate.unique_claim().map(str::to_owned);
            match decided(context, &mut job, change.command(self.now())).await {
                Ok(new) if new.is_empty() => _ = outcome.skipped.insert(*id, UNCHANGED),
                Ok(new) => {
                    if let (JobChange::Cancel, Some(claim)) = (change, claim) {
                        events.push(self.free_place(&claim).await?);
                    }
                    events.extend(new);
                    outcome.changed.push(*id);
                }
                Err(CommandError::Refused(refusal)) => _ = outcome.skipped.insert(*id, refusal.code()),
                Err(CommandError::Denied(_)) => _ = outcome.skipped.insert(*id, "job_not_found"),
                Err(error) => return Err(error),
            }
        }
        Ok((events, outcome))
    }
}
