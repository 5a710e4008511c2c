//! Starting and ending jobs by command, with as few looks at the log as it takes: jobs that are claimed together are read together, and what a
//! worker has started it need not read again to end it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use cqrs_es::EventStore as _;
use domain::{Job, JobCommand, JobEvent, JobId};
use ledger::{Append, AppendError, Loaded, Store, StreamId};

use super::queue::ReadyJob;
use crate::door::decided;
use crate::{CommandError, Commands, Context};

/// Events after an attempt's start that are looked at for its end, which is among the first of them.
const MOST_EVENTS: i64 = 1_000;

/// A job that this process has started, as it stands in the log as far as is known here.
pub(super) struct Started {
    pub(super) job: ReadyJob,
    pub(super) held: Loaded<Job>,
}

impl Commands {
    /// Reads the streams of jobs that are to be started, by their ids. One that cannot be read is left out.
    pub(super) async fn load_jobs(&self, jobs: &[ReadyJob]) -> HashMap<String, Loaded<Job>> {
        let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
        let store = Store::<Job>::new(&self.ledger);
        let mut loaded = store.load_many(&ids).await.unwrap_or_default();
        if loaded.is_empty() {
            // One that cannot be read keeps only itself from starting.
            for id in ids {
                match store.load_aggregate(&id).await {
                    Ok(held) => _ = loaded.insert(id, held),
                    Err(error) => {
                        tracing::warn!(job = id, %error, "a job could not be read, and is not started")
                    }
                }
            }
        }
        loaded
    }

    /// Starts a job for `worker`. The log stores those starts together that come together.
    pub(super) async fn start_job(
        &self,
        job: ReadyJob,
        mut held: Loaded<Job>,
        worker: &str,
        at: DateTime<Utc>,
    ) -> Result<Started, CommandError> {
        // The view the job was found in may be late: only a stream of just this length makes our attempt number the right one.
        if held.sequence != job.sequence {
            return Err(CommandError::Stale { present: held.sequence });
        }
        let context = Context::system(Some(job.team_id));
        let claim = held.aggregate.unique_claim().map(str::to_owned);
        let start = JobCommand::Start { worker: worker.to_owned(), at };
        let mut events = decided(&context, &mut held, start).await?;
        held.sequence += events.len() as i64;
        if let Some(claim) = claim {
            events.push(self.free_place(&claim).await?);
        }
        self.ledger.append(Append { events, metadata: context.metadata(), data_keys: vec![] }).await?;
        Ok(Started { job, held })
    }

    /// Gives `command` to a job that this process has started. It stands as it was left, unless the log has gone on meanwhile.
    pub(super) async fn end_attempt(
        &self,
        context: &Context,
        held: &Loaded<Job>,
        id: JobId,
        command: JobCommand,
    ) -> Result<(), CommandError> {
        let mut loaded =
            Loaded { id: held.id.clone(), aggregate: held.aggregate.clone(), sequence: held.sequence };
        let events = decided(context, &mut loaded, command.clone()).await?;
        let append = Append { events, metadata: context.metadata(), data_keys: vec![] };
        match self.ledger.append(append).await {
            Ok(_) => Ok(()),
            // Somebody wants it cancelled, or it was given to another: it is decided anew.
            Err(AppendError::Conflict) => self.execute::<Job>(context, id, None, command).await.map(drop),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the log has an end of this attempt that `worker` itself reported: not that the worker was lost. It comes after what
    /// was held when the attempt had started, however long the job's history is.
    pub(super) async fn has_ended(
        &self,
        started: &Started,
        attempt: u32,
        worker: &str,
    ) -> Result<bool, CommandError> {
        let stream = StreamId::new("job", started.job.id);
        let is_this = |event: JobEvent| {
            let (of, ran) = match event {
                JobEvent::JobCompleted { attempt, ran, .. }
                | JobEvent::JobAttemptFailed { attempt, ran, .. }
                | JobEvent::JobFailed { attempt, ran, .. }
                | JobEvent::JobHandedBack { attempt, ran, .. }
                | JobEvent::JobCancelled { attempt, ran, .. } => (attempt, ran),
                JobEvent::JobQueued { .. }
                | JobEvent::JobStarted { .. }
                | JobEvent::JobLost { .. }
                | JobEvent::JobCancelRequested {}
                | JobEvent::JobRetried { .. } => return false,
            };
            of == attempt && ran.is_some_and(|ran| ran.worker == worker)
        };
        let mut ended = Ok(false);
        let each = |event: ledger::Recorded| {
            if let Err(damaged) = event.readable() {
                ended = Err(damaged);
            } else if let Ok(ended) = &mut ended {
                *ended |= event.parse().is_ok_and(is_this);
            }
        };
        self.ledger.walk_stream(&stream, started.held.sequence, MOST_EVENTS, each).await?;
        Ok(ended?)
    }
}
