//! One attempt of one job, from its start to its recorded end.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{AccessEvent, Ending as Recorded, Failure, JobCommand, JobId, LogDigest};
use futures::{FutureExt as _, poll};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::artifacts::KeepAttempt;
use super::artifacts_folder::{KeepArtifacts, NoArtifacts};
use super::kinds::Kind;
use super::log_store::{LogWriter, Writing};
use super::prepare::Surroundings;
use super::process::{Ending, Finished, StopReason};
use super::queue::{ReadyJob, WorkQueue};
use super::result;
use super::running::Slot;
use super::starting::Started;
use super::watchdog::Watchdog;
use super::worker::{Failed, Worker};
use crate::{CommandError, Context};

/// Lines that wait between a process and the log store.
const OUTPUT_QUEUE: usize = 256;
/// How long the end of an attempt is tried to be recorded while the log is away. After that the lease runs out and the job is
/// given to another worker.
const REPORT_PATIENCE: Duration = Duration::from_secs(60);
/// How long one try may take: more than the append lane takes to say that it cannot.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);
const UNANSWERED: &str = "the database did not answer in time";
/// Pause between two tries.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

impl<Q: WorkQueue> Worker<Q> {
    /// Runs an attempt that was started by command, and reports its end by command.
    pub(super) async fn attempt(
        &self,
        started: Started,
        worker: &str,
        watchdog: &Watchdog,
        stop: watch::Receiver<Option<StopReason>>,
        slot: Slot,
    ) {
        let (id, attempt) = (started.job.id, started.job.attempt + 1);
        if let Err(error) = self.run_attempt(&started, attempt, worker, watchdog, stop, slot).await {
            tracing::warn!(job = %id, attempt, %error, "an attempt's end could not be recorded");
        }
    }

    async fn run_attempt(
        &self,
        started: &Started,
        attempt: u32,
        worker: &str,
        watchdog: &Watchdog,
        stop: watch::Receiver<Option<StopReason>>,
        slot: Slot,
    ) -> Result<(), Failed> {
        let job = &started.job;
        let context = Context::system(Some(job.team_id));
        let pool = self.commands.ledger.pool().clone();
        let writing = Writing { job_id: job.id, team_id: job.team_id, kind: job.kind.clone(), attempt };
        let mut log = LogWriter::new(pool, writing).ahead_of_node(self.commands.ledger.clock().ahead());
        let note = |progress| self.claims.set_progress(job.id, worker, progress);
        let (output, lines) = mpsc::channel(OUTPUT_QUEUE);
        let keeper = self.keeper(job, attempt);
        let keep: &dyn KeepArtifacts = keeper.as_ref().map_or(&NoArtifacts, |keeper| keeper);
        let surroundings = Surroundings { output, stop, watchdog, keep };
        let running = async {
            match self.prepare_attempt(&context, job, attempt, surroundings).await {
                Ok(prepared) => tokio::join!(prepared.run(), log.take(lines, note)).0,
                Err(ending) => Finished::without_process(ending),
            }
        };
        // What panicked has ended with that: processes are killed when what waits for them is dropped.
        let mut finished =
            AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|_| panicked(job.id));
        if let Ending::CouldNotStart { error } | Ending::Failed { error, .. } = &finished.ending {
            log.remark(error.clone());
        }
        // Whatever action it was: the log would not take its end with such a result.
        match finished.result.take().map(result::not_too_deep).transpose() {
            Ok(result) => finished.result = result,
            Err(remark) => log.remark(remark),
        }
        let kinds = self.kinds.now();
        let settings = kinds.get(&job.kind).map(Kind::settings);
        let finals = settings.map_or(&[][..], |settings| &settings.final_exit_codes);
        let end = End { context, attempt, worker, finished: &finished, finals };
        if finished.ending == Ending::TakenAway {
            // Else we could be faster than they are, and hand back what they have.
            tracing::warn!(job = %job.id, attempt, "this worker was given up: the attempt was stopped");
            return self.record_late(&end, started).await;
        }
        self.report(&end, started, &mut log, slot).await
    }

    /// What keeps the files that the attempt leaves, if there is a place for them.
    fn keeper(&self, job: &ReadyJob, attempt: u32) -> Option<KeepAttempt> {
        let store = self.options.artifacts.clone()?;
        Some(KeepAttempt { store, team: job.team_id, job: job.id, attempt })
    }

    /// Records the end, the lines first: the event has their digest. Patient while the log is away, for it would be a pity to
    /// run again what has run.
    async fn report(
        &self,
        end: &End<'_>,
        started: &Started,
        log: &mut LogWriter,
        slot: Slot,
    ) -> Result<(), Failed> {
        let until = Instant::now() + REPORT_PATIENCE;
        let mut slot = Some(slot);
        loop {
            let error = match timeout_at(until, self.try_report(end, started, log, &mut slot)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Unreported::ForNow(error))) => error,
                Ok(Err(Unreported::ForGood(error))) => return Err(error),
                Err(_) => return Err(UNANSWERED.into()),
            };
            if Instant::now() + REPORT_PAUSE >= until {
                return Err(error);
            }
            sleep(REPORT_PAUSE).await;
        }
    }

    async fn try_report(
        &self,
        end: &End<'_>,
        started: &Started,
        log: &mut LogWriter,
        slot: &mut Option<Slot>,
    ) -> Result<(), Unreported> {
        let job = &started.job;
        log.store().await.map_err(|error| Unreported::ForNow(error.into()))?;
        let digest = log.digest(end.finished.dropped_lines);
        let command = end.report(job.timeout_seconds, digest, self.now());
        let mut recording = pin!(self.commands.end_attempt(&end.context, &started.held, job.id, command));
        let recorded = poll!(&mut recording);
        // The end is on its way to the log, and whatever takes the slot comes after it there: no need to wait until it is on disk.
        drop(slot.take());
        let recorded = match recorded {
            Poll::Ready(recorded) => Ok(recorded),
            Poll::Pending => timeout(RECORD_PATIENCE, recording).await,
        };
        match recorded {
            // What it did all the same is found by the next try.
            Err(_) => Err(Unreported::ForNow(UNANSWERED.into())),
            Ok(Ok(())) => Ok(()),
            // Another attempt has taken over, or an earlier try did get through.
            Ok(Err(CommandError::Refused(refusal))) => {
                tracing::info!(job = %job.id, %refusal, "a late result was refused");
                self.record_late(end, started).await.map_err(Unreported::ForGood)
            }
            Ok(Err(error)) if error.is_passing() => Err(Unreported::ForNow(error.into())),
            Ok(Err(error)) => Err(Unreported::ForGood(error.into())),
        }
    }

    /// Records that an attempt came too late with its end, unless that end is what the log has.
    async fn record_late(&self, end: &End<'_>, started: &Started) -> Result<(), Failed> {
        let recording = async {
            if self.commands.has_ended(started, end.attempt, end.worker).await? {
                return Ok(());
            }
            let record = AccessEvent::JobResultRefused {
                job_id: started.job.id,
                attempt: end.attempt,
                worker: end.worker.to_owned(),
                outcome: outcome(&end.finished.ending).to_owned(),
            };
            self.commands.record(&end.context, &record).await.map(drop)
        };
        Ok(timeout(RECORD_PATIENCE, recording).await.map_err(|_| UNANSWERED)??)
    }
}

/// The end of an attempt that does not come to one, since its code (or ours) is wrong: it has failed, and the worker goes on. Without the
/// panic's message, which may repeat what the job was about.
pub(super) fn panicked(job: JobId) -> Finished {
    tracing::error!(%job, "an attempt of a job panicked");
    metrics::counter!("job_attempt_panics_total").increment(1);
    let error = crate::panics::PANICKED.to_owned();
    Finished::without_process(Ending::Failed { error, is_final: false, retry_after: None })
}

/// Why an end is not recorded.
enum Unreported {
    /// Another try may help.
    ForNow(Failed),
    /// None will.
    ForGood(Failed),
}

/// An attempt that is over, and who says so.
struct End<'a> {
    context: Context,
    attempt: u32,
    worker: &'a str,
    finished: &'a Finished,
    /// Exit codes after which the kind's jobs are not tried again.
    finals: &'a [i32],
}

/// What an attempt would have said, in a word.
fn outcome(ending: &Ending) -> &'static str {
    match ending {
        Ending::Exited { code: 0 } => "completed",
        Ending::Exited { .. }
        | Ending::Signalled { .. }
        | Ending::CouldNotStart { .. }
        | Ending::Failed { .. } => "failed",
        Ending::TimedOut => "timed_out",
        Ending::Cancelled => "cancelled",
        Ending::HandedBack => "handed_back",
        Ending::TakenAway => "stopped",
    }
}

impl End<'_> {
    /// The command that records it.
    fn report(&self, timeout_seconds: u32, log: LogDigest, at: DateTime<Utc>) -> JobCommand {
        let (finished, attempt) = (self.finished, self.attempt);
        let failure = |error: String| Failure {
            error,
            result: finished.result.clone(),
            artifacts: finished.artifacts.clone(),
            ..Failure::default()
        };
        let ending = match &finished.ending {
            Ending::Exited { code: 0 } => {
                Recorded::Succeeded { result: finished.result.clone(), artifacts: finished.artifacts.clone() }
            }
            Ending::Exited { code } => Recorded::Failed(Failure {
                exit_code: Some(*code),
                is_final: self.finals.contains(code),
                ..failure(format!("it ended with exit code {code}"))
            }),
            Ending::Signalled { signal } => {
                Recorded::Failed(failure(format!("it was ended by signal {signal}")))
            }
            Ending::TimedOut => {
                Recorded::Failed(failure(format!("it ran longer than {timeout_seconds} seconds")))
            }
            Ending::CouldNotStart { error } => Recorded::Failed(failure(error.clone())),
            Ending::Failed { error, is_final, retry_after } => Recorded::Failed(Failure {
                is_final: *is_final,
                // Up to a whole second: the host is not asked too early.
                retry_after_seconds: retry_after
                    .map(|pause| pause.as_millis().div_ceil(1_000).try_into().unwrap_or(u32::MAX)),
                ..failure(error.clone())
            }),
            Ending::Cancelled => Recorded::Cancelled,
            Ending::HandedBack | Ending::TakenAway => {
                return JobCommand::HandBack { attempt, log, at };
            }
        };
        JobCommand::Finish { attempt, ending, log, at, dice: dice() }
    }
}

/// From 0 to 1. It spreads retries; nobody gains by foreseeing it.
fn dice() -> f64 {
    let random = Uuid::now_v7().as_u64_pair().1 & 0xffff_ffff;
    random as f64 / f64::from(u32::MAX)
}
