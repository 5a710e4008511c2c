//! From a started job to what runs: its kind, its arguments and the values of its secrets.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use domain::{Actor, JobId, Permissions};
use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::action::{Action, Run};
use super::artifacts_folder::KeepArtifacts;
use super::attempt::panicked;
use super::kinds::Kind;
use super::lines::Output;
use super::mask::SecretBytes;
use super::process::{Ending, Finished, StopReason, stop_reason};
use super::queue::{ReadyJob, WorkQueue};
use super::watchdog::Watchdog;
use super::worker::Worker;
use crate::{Context, RevealError};

const KIB: u64 = 1024;
/// How long the database may take over what an attempt needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an attempt is connected to while it runs.
pub(super) struct Surroundings<'a> {
    pub(super) output: mpsc::Sender<Output>,
    pub(super) stop: watch::Receiver<Option<StopReason>>,
    pub(super) watchdog: &'a Watchdog,
    pub(super) keep: &'a dyn KeepArtifacts,
}

/// An attempt with everything it needs.
pub(super) struct Prepared<'a> {
    action: Arc<dyn Action>,
    run: Run<'a>,
}

impl Prepared<'_> {
    /// Runs it to its end. What does not come to one, since its code is wrong, has failed: the worker goes on.
    pub(super) async fn run(self) -> Finished {
        let Self { action, run } = self;
        let job = run.job_id;
        // Nothing of a run that panicked is looked at again.
        AssertUnwindSafe(action.run(run)).catch_unwind().await.unwrap_or_else(|_| panicked(JobId(job)))
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// Everything an attempt needs, in bounded time; or how it ended without it.
    pub(super) async fn prepare_attempt<'a>(
        &'a self,
        context: &Context,
        job: &ReadyJob,
        attempt: u32,
        surroundings: Surroundings<'a>,
    ) -> Result<Prepared<'a>, Ending> {
        let stopped = stop_reason(surroundings.stop.clone());
        let preparing = timeout(PATIENCE, self.try_prepare(context, job, attempt, surroundings));
        tokio::select! {
            biased;
            reason = stopped => Err(reason.into()),
            prepared = preparing => prepared
                .unwrap_or_else(|_| Err("the values of its secrets were not to be had in time".to_owned()))
                .map_err(|error| Ending::CouldNotStart { error }),
        }
    }

    /// Everything an attempt needs; a sentence for the job's error where it cannot be had.
    async fn try_prepare<'a>(
        &'a self,
        context: &Context,
        job: &ReadyJob,
        attempt: u32,
        surroundings: Surroundings<'a>,
    ) -> Result<Prepared<'a>, String> {
        let kinds = self.kinds.now();
        let kind = kinds.get(&job.kind).ok_or("this worker does not know the job's kind")?;
        let values = kind.validate(&job.args).map_err(|problems| {
            let problems: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.field, problem.message)).collect();
            format!("the arguments do not fit the kind any more: {}", problems.join("; "))
        })?;
        let settings = kind.settings();
        let run = Run {
            values,
            secrets: self.secrets(context, job, attempt, kind).await?,
            plain_env: kind.env().clone().into_iter().collect(),
            job_id: job.id.0,
            attempt,
            timeout: Duration::from_secs(job.timeout_seconds.into()),
            max_lines: self.options.max_log_lines,
            output_bytes: settings.output_kb.map(|kib| u64::from(kib) * KIB),
            limits: settings.limits,
            artifacts_bytes: u64::from(settings.artifacts_mb) * KIB * KIB,
            grace: self.options.grace,
            working_root: self.options.working_root.clone(),
            directory: self.options.directory.clone(),
            output: surroundings.output,
            stop: surroundings.stop,
            watchdog: surroundings.watchdog,
            keep: surroundings.keep,
            circuits: self.kinds.circuits(),
        };
        Ok(Prepared { action: Arc::clone(kind.action()), run })
    }

    /// The values the process gets, by variable. That each of them is there and opens is known before the use of any is recorded: an
    /// attempt that cannot have all of them uses none.
    async fn secrets(
        &self,
        context: &Context,
        job: &ReadyJob,
        attempt: u32,
        kind: &Kind,
    ) -> Result<Vec<(String, SecretBytes)>, String> {
        let unusable =
            |name: &str, error: RevealError| format!("the secret {name:?} cannot be used: {error}");
        let mut found = vec![];
        for (variable, name) in kind.secrets() {
            let sealed = self.queue.secret(job.team_id, name).await.map_err(|error| error.to_string())?;
            let sealed = sealed.ok_or_else(|| format!("the team has no secret named {name:?}"))?;
            self.commands.prove_secret(&sealed).await.map_err(|error| unusable(name, error))?;
            found.push((variable, name, sealed));
        }
        let mut acting = context.acting_as(Actor::Job(job.id));
        acting.caller.permissions = Permissions::job();
        let mut env = vec![];
        for (variable, name, sealed) in found {
            let value = self.commands.use_secret(&acting, &sealed, job.id, attempt).await;
            env.push((variable.clone(), value.map_err(|error| unusable(name, error))?.into()));
        }
        Ok(env)
    }
}
