//! Background tasks under watch: one that panics, or ends although nobody asked it to, is logged, counted, shown, and started again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::panics;

/// Pause before the first restart. It doubles with each failure that follows.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(200);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A task that has run for so long is well: its next failure counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Whether a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It has failed, and is started again after a pause.
    Restarting,
    /// It has come to its end, as it was asked to.
    Stopped,
}

impl TaskState {
    /// `running`, `restarting` or `stopped`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
        }
    }
}

/// How a task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs.
    pub state: TaskState,
    /// How often it was started again.
    pub restarts: u64,
    /// How it failed last.
    pub last_error: Option<&'static str>,
    /// How long ago that was.
    pub failed_ago: Option<Duration>,
}

impl TaskStatus {
    /// It does not run although it should, or has failed within the last minute.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state == TaskState::Restarting
            || (self.state == TaskState::Running && self.failed_ago.is_some_and(|ago| ago < HEALTHY_AFTER))
    }
}

struct Entry {
    state: TaskState,
    restarts: u64,
    failed: Option<(&'static str, Instant)>,
}

/// The background tasks of a process. Cheap to clone; all clones know the same tasks.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.snapshot()).finish()
    }
}

impl Supervisor {
    /// Runs what `make` makes until it ends after `stop`. If it panics, or ends before, another one is made after a pause that grows from
    /// [`RESTART_DELAY_MIN`] to [`RESTART_DELAY_MAX`].
    ///
    /// The handle ends when the task has. Aborting it aborts the task.
    pub fn spawn<T>(
        &self,
        name: &'static str,
        stop: CancellationToken,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> JoinHandle<()>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let watched = Watched { tasks: self.clone(), name };
        watched.is(TaskState::Running);
        tokio::spawn(async move { watched.run(&stop, make).await })
    }

    /// All tasks, by name.
    #[must_use]
    pub fn snapshot(&self) -> Vec<TaskStatus> {
        let status = |(name, entry): (&&'static str, &Entry)| TaskStatus {
            name,
            state: entry.state,
            restarts: entry.restarts,
            last_error: entry.failed.map(|(error, _)| error),
            failed_ago: entry.failed.map(|(_, at)| at.elapsed()),
        };
        self.entries().iter().map(status).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's place among those that are watched.
struct Watched {
    tasks: Supervisor,
    name: &'static str,
}

impl Watched {
    async fn run<T>(&self, stop: &CancellationToken, make: impl Fn() -> T + Send + Sync)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let mut pause = RESTART_DELAY_MIN;
        loop {
            let begun = Instant::now();
            let error = match spawned(&make).await {
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => "it ended by itself",
                Err(error) => error,
            };
            if begun.elapsed() >= HEALTHY_AFTER {
                pause = RESTART_DELAY_MIN;
            }
            self.failed(error, pause);
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(RESTART_DELAY_MAX);
            metrics::counter!("task_restarts_total", "task" => self.name).increment(1);
            self.is(TaskState::Running);
        }
    }

    fn failed(&self, error: &'static str, pause: Duration) {
        let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(
            task = self.name,
            error,
            milliseconds,
            "a background task failed; it is started again"
        );
        metrics::counter!("task_failures_total", "task" => self.name).increment(1);
        if let Some(entry) = self.tasks.entries().get_mut(self.name) {
            entry.restarts = entry.restarts.saturating_add(1);
            entry.failed = Some((error, Instant::now()));
        }
        self.is(TaskState::Restarting);
    }

    fn is(&self, state: TaskState) {
        let up = if state == TaskState::Running { 1.0 } else { 0.0 };
        metrics::gauge!("task_running", "task" => self.name).set(up);
        let mut entries = self.tasks.entries();
        entries.entry(self.name).or_insert(Entry { state, restarts: 0, failed: None }).state = state;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.is(TaskState::Stopped);
    }
}

/// Runs in a task of its own, so that a panic stays there; aborted with whoever waits for it. What makes it may panic as well.
async fn spawned<T>(make: &(impl Fn() -> T + Send + Sync)) -> Result<(), &'static str>
where
    T: Future<Output = ()> + Send + 'static,
{
    let made = catch_unwind(AssertUnwindSafe(make)).map_err(|_| panics::PANICKED)?;
    AbortOnDropHandle::new(tokio::spawn(made)).await.map_err(|error| panics::cut_short(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn status(tasks: &Supervisor) -> TaskStatus {
        tasks.snapshot().into_iter().find(|task| task.name == "test").unwrap()
    }

    #[tokio::test]
    async fn what_panics_or_ends_by_itself_is_started_again_and_shown() {
        let (tasks, stop) = (Supervisor::default(), CancellationToken::new());
        let starts = Arc::new(AtomicU32::new(0));
        let (ready, mut is_ready) = watch::channel(false);
        let task = tasks.spawn("test", stop.clone(), {
            let (starts, stop) = (Arc::clone(&starts), stop.clone());
            move || {
                let (start, stop, ready) =
                    (starts.fetch_add(1, Ordering::SeqCst), stop.clone(), ready.clone());
                async move {
                    match start {
                        0 => panic!("{}", "hunter2"),
                        1 => {}
                        _ => {
                            ready.send_replace(true);
                            stop.cancelled().await;
                        }
                    }
                }
            }
        });
        timeout(LIMIT, is_ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
        let shown = status(&tasks);
        assert_eq!((shown.state, shown.restarts), (TaskState::Running, 2));
        assert_eq!(shown.last_error, Some("it ended by itself"));
        assert!(shown.is_failing(), "its last failure was a moment ago");
        stop.cancel();
        timeout(LIMIT, task).await.unwrap().unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!(status(&tasks).state, TaskState::Stopped);
        assert!(!status(&tasks).is_failing());
    }

    #[tokio::test]
    async fn a_panic_is_told_without_its_message_and_nothing_is_started_after_the_stop() {
        let (tasks, stop) = (Supervisor::default(), CancellationToken::new());
        let task = tasks.spawn("test", stop.clone(), {
            let stop = stop.clone();
            move || {
                // In `make` itself.
                stop.cancel();
                if stop.is_cancelled() {
                    panic!("{}", "hunter2");
                }
                std::future::ready(())
            }
        });
        // The panic in `make` is the task's own: it ends with it.
        assert!(timeout(LIMIT, task).await.unwrap().is_ok());
        let shown = status(&tasks);
        assert_eq!((shown.state, shown.last_error), (TaskState::Stopped, Some("it panicked")));
        assert!(!format!("{tasks:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn aborting_the_watch_aborts_the_task() {
        let (tasks, (alive, mut gone)) = (Supervisor::default(), watch::channel(()));
        let task = tasks.spawn("test", CancellationToken::new(), move || {
            let alive = alive.clone();
            async move {
                let _alive = alive;
                std::future::pending().await
            }
        });
        task.abort();
        // The last sender goes with the task.
        assert!(timeout(LIMIT, gone.changed()).await.unwrap().is_err());
        assert!(timeout(LIMIT, task).await.unwrap().unwrap_err().is_cancelled());
        assert_eq!(status(&tasks).state, TaskState::Stopped);
    }
}
