//! What happens to jobs that somebody watches at the moment: lines, progress, and where they stand.
//!
//! One task a node hears what workers tell of logs, follows the view `jobs`, and looks by itself every now and then. It only says that
//! there is something new: lines are read by whoever watches, from where they are, so that nothing has to be kept for anybody. While
//! nobody watches it does nothing, and has no connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use commands::jobs::LogNews;
use commands::{CommandError, Commands};
use domain::{JobId, TeamId};
use projections::{JobRow, Projections};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use crate::places::{Full, Place, Places};
use crate::problem::Problem;

/// The view that says where jobs stand.
const VIEW: &str = "jobs";
/// How many may watch at the same time: on this node, and of one person and their programs.
const MOST_WATCHING: usize = 512;
const MOST_WATCHING_EACH: usize = 32;
/// When to come back where there is no place.
const COME_BACK: Duration = Duration::from_secs(5);
/// How often it looks by itself: while it hears, and while it does not.
const GLANCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks at where jobs stand, however fast the view goes on.
const BREATH: Duration = Duration::from_millis(20);
/// The first and the longest pause between two attempts to listen.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long those who watch may take to leave when the node stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is known of a job that somebody watches.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The number of the last line that is known to be stored.
    pub last_seq: u64,
    /// Which attempt said last how far it is, and what: 0 to 1.
    pub progress: Option<(u32, f64)>,
    /// Where it stands.
    pub row: Option<Arc<JobRow>>,
}

/// Those who watch jobs on this node. Cheap to clone.
#[derive(Clone)]
pub struct Watching(Arc<Inner>);

struct Inner {
    commands: Commands,
    projections: Projections,
    board: Mutex<HashMap<JobId, Watched>>,
    /// Somebody has begun to watch.
    begun: Notify,
    hearing: AtomicBool,
    places: Places,
    present: TaskTracker,
    closing: CancellationToken,
}

struct Watched {
    team: TeamId,
    seen: watch::Sender<Seen>,
}

/// One who watches a job.
pub struct Watch {
    /// What is known of the job.
    pub seen: watch::Receiver<Seen>,
}

/// A place among those who watch, and that the node's end waits for whoever has it.
pub struct WatchPlace {
    #[expect(dead_code, reason = "it is held, and that is all")]
    place: Place,
    #[expect(dead_code, reason = "it is held, and that is all")]
    present: TaskTrackerToken,
}

impl Watching {
    /// Of the jobs in these views, until `closing`.
    #[must_use]
    pub fn new(commands: Commands, projections: Projections, closing: CancellationToken) -> Self {
        let present = TaskTracker::new();
        present.close();
        Self(Arc::new(Inner {
            commands,
            projections,
            board: Mutex::default(),
            begun: Notify::new(),
            hearing: AtomicBool::new(false),
            places: Places::new(MOST_WATCHING, MOST_WATCHING_EACH),
            present,
            closing,
        }))
    }

    /// Ends when the node stops: whoever watches then must leave.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// A place among those who watch on this node, for as long as the result is kept.
    ///
    /// # Errors
    /// 429 when `person` watches too much at once, with whatever sessions and keys; 503 when too many do.
    pub fn place(&self, person: Uuid) -> Result<WatchPlace, Problem> {
        let place = self.0.places.take(person).map_err(|full| match full {
            Full::Person => Problem::too_many_requests(COME_BACK)
                .with_detail(format!("You watch {MOST_WATCHING_EACH} times already."))
                .with_code("too_many_watching"),
            Full::Node => {
                let detail = "Too many watch on this node; try again, or another.";
                Problem::quietly_unavailable(detail, COME_BACK).with_code("overloaded")
            }
        })?;
        Ok(WatchPlace { place, present: self.0.present.token() })
    }

    /// Watches a job of the team from now on. Whoever does looks at the job afterwards: what happens after that look is told.
    #[must_use]
    pub fn watch(&self, team: TeamId, job: JobId) -> Watch {
        let seen = {
            let mut board = self.board();
            let watched = board.entry(job);
            watched
                .or_insert_with(|| Watched { team, seen: watch::channel(Seen::default()).0 })
                .seen
                .subscribe()
        };
        self.0.begun.notify_waiters();
        Watch { seen }
    }

    /// Waits, after the node was told to stop, until all who watched have left.
    pub async fn all_left(&self) {
        if timeout(FAREWELL, self.0.present.wait()).await.is_err() {
            tracing::warn!(left = self.0.present.len(), "who watched jobs was cut off");
        }
    }

    /// Tells, until `stop`. Loss of the database is waited out.
    pub async fn run(self, stop: CancellationToken) {
        let all = async { tokio::join!(self.hear(), self.look(), self.follow()) };
        stop.run_until_cancelled(all).await;
    }

    /// Waits until somebody watches.
    async fn wanted(&self) {
        loop {
            let begun = self.0.begun.notified();
            if !self.board().is_empty() {
                return;
            }
            begun.await;
        }
    }

    /// Hears what workers tell, while somebody watches.
    async fn hear(&self) {
        let mut pause = PAUSES.0;
        loop {
            self.wanted().await;
            let heard = self.0.commands.hear_log_news(
                || {
                    self.0.hearing.store(true, Ordering::SeqCst);
                    // What was told before is looked for.
                    self.0.begun.notify_waiters();
                },
                |news| self.learn(news),
            );
            let error = tokio::select! {
                heard = heard => heard.err(),
                () = self.unwanted() => None,
            };
            let heard = self.0.hearing.swap(false, Ordering::SeqCst);
            pause = if heard { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            if let Some(error) = error {
                tracing::warn!(%error, "news of jobs' logs are not heard; they are looked for");
                sleep(pause).await;
            }
        }
    }

    /// Waits until nobody has watched for a while.
    async fn unwanted(&self) {
        let mut quiet = 0;
        while quiet < 10 {
            sleep(GLANCE).await;
            quiet = if self.board().is_empty() { quiet + 1 } else { 0 };
        }
    }

    fn learn(&self, news: LogNews) {
        let board = self.board();
        match news {
            LogNews::Lines { job, last_seq } => {
                if let Some(watched) = board.get(&job) {
                    watched.reached(last_seq);
                }
            }
            LogNews::Progress { job, attempt, progress } => {
                if let Some(watched) = board.get(&job) {
                    watched.progressed(attempt, progress);
                }
            }
        }
    }

    /// Looks by itself: for what was not heard.
    async fn look(&self) {
        loop {
            self.wanted().await;
            let begun = self.0.begun.notified();
            if let Err(error) = self.look_once().await {
                tracing::debug!(%error, "jobs' logs could not be looked at");
            }
            let pause = if self.0.hearing.load(Ordering::SeqCst) { GLANCE } else { LOOK };
            let _ = timeout(pause, begun).await;
            sleep(BREATH).await;
        }
    }

    async fn look_once(&self) -> Result<(), CommandError> {
        let jobs: Vec<JobId> = self.watched().into_iter().map(|(job, _)| job).collect();
        let heads = self.0.commands.log_heads(&jobs).await?;
        let ids: Vec<String> = jobs.iter().map(JobId::to_string).collect();
        let progress = self.0.commands.job_progress(ids.iter().map(String::as_str)).await?;
        let board = self.board();
        for (job, id) in jobs.iter().zip(&ids) {
            let Some(watched) = board.get(job) else { continue };
            if let Some(last_seq) = heads.get(job) {
                watched.reached(*last_seq);
            }
            let attempt = watched.seen.borrow().row.as_ref().map(|row| row.attempt);
            if let (Some(attempt), Some(progress)) = (attempt, progress.get(id)) {
                watched.progressed(attempt, *progress);
            }
        }
        Ok(())
    }

    /// Follows where jobs stand.
    async fn follow(&self) {
        let mut reached = 0;
        loop {
            self.wanted().await;
            let begun = self.0.begun.notified();
            let known = self.stand_now().await;
            sleep(if known { BREATH } else { LOOK }).await;
            if !known {
                continue;
            }
            tokio::select! {
                // Somebody new.
                () = begun => {}
                beyond = self.0.projections.beyond(VIEW, reached) => match beyond {
                    Ok(position) => reached = position,
                    Err(error) => return tracing::error!(%error, "where jobs stand is not told"),
                },
            }
        }
    }

    /// Looks where all stand; whether that could be seen.
    async fn stand_now(&self) -> bool {
        for (job, team) in self.watched() {
            match self.0.projections.jobs().of(team).get(job).await {
                Ok(Some(row)) => {
                    if let Some(watched) = self.board().get(&job) {
                        watched.stands(row);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "where a job stands could not be looked at");
                    return false;
                }
            }
        }
        true
    }

    /// The jobs that are watched; those that nobody watches any more are forgotten.
    fn watched(&self) -> Vec<(JobId, TeamId)> {
        let mut board = self.board();
        board.retain(|_, watched| watched.seen.receiver_count() > 0);
        board.iter().map(|(job, watched)| (*job, watched.team)).collect()
    }

    fn board(&self) -> MutexGuard<'_, HashMap<JobId, Watched>> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn reached(&self, last_seq: u64) {
        self.seen.send_if_modified(|seen| {
            let further = seen.last_seq < last_seq;
            seen.last_seq = seen.last_seq.max(last_seq);
            further
        });
    }

    fn progressed(&self, attempt: u32, progress: f64) {
        self.seen.send_if_modified(|seen| {
            let late = seen.progress.is_some_and(|(known, _)| attempt < known);
            !late && seen.progress.replace((attempt, progress)) != Some((attempt, progress))
        });
    }

    fn stands(&self, row: Arc<JobRow>) {
        self.seen.send_if_modified(|seen| {
            let newer = seen.row.as_ref().is_none_or(|known| known.sequence < row.sequence);
            if newer {
                // What an earlier attempt has said is over.
                seen.progress = seen.progress.filter(|(attempt, _)| *attempt >= row.attempt);
                seen.row = Some(row);
            }
            newer
        });
    }
}
