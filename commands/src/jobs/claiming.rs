//! From the queue to attempts. What there will soon be room for is claimed and read while others still run, so that a slot that becomes
//! free is taken at once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Job, JobId};
use ledger::{AppendError, Loaded};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::process::StopReason;
use super::queue::{ReadyJob, WorkQueue};
use super::running::Slot;
use super::watchdog::Watchdog;
use super::worker::{Ended, POLL, Worker};
use crate::CommandError;

/// How long a worker rests at least between two looks at the queue: views change all the time on a busy node, mostly for other reasons.
const REST: Duration = Duration::from_millis(5);
/// For how long what was seen of the queue is acted on, once there may be something newer to see.
const FRESH: Duration = Duration::from_millis(100);
/// For how long a job is kept for which there is no room after all. Then it is given up for others.
const KEPT: Duration = Duration::from_millis(100);
/// Jobs looked at at a time, at most.
const MOST_SEEN: usize = 1_000;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A job that this worker has claimed and read, but not started.
struct Claimed {
    job: ReadyJob,
    held: Loaded<Job>,
    /// The worker's name when it claimed it.
    name: Arc<str>,
    since: Instant,
}

/// What was last seen of the queue.
struct Outlook {
    /// What may be claimed, in this order.
    ready: Vec<ReadyJob>,
    looked: Instant,
    /// How far the queue had got by then.
    reached: i64,
    /// There may be something that was not seen.
    news: bool,
    /// When to look again though nobody says that there is something new.
    again: Instant,
}

impl Outlook {
    fn new(now: Instant) -> Self {
        Self { ready: vec![], looked: now, reached: 0, news: true, again: now }
    }

    /// Whether what was seen can still be acted on.
    fn lasts(&self, now: Instant) -> bool {
        !self.ready.is_empty() && (!self.news || now < self.looked + FRESH)
    }

    /// When to look next.
    fn due(&self) -> Instant {
        if self.news { self.looked + REST } else { self.again }
    }
}

/// What is fetched from the queue.
struct Fetched {
    claimed: Vec<Claimed>,
    /// What was seen and not yet tried.
    ready: Vec<ReadyJob>,
    /// If it was looked at: whether there was more than could be seen, and when to look again in any case.
    looked: Option<(bool, Instant)>,
}

type Fetching = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// One worker's way from the queue to attempts.
pub(super) struct Claiming<'a, Q: WorkQueue> {
    worker: &'a Arc<Worker<Q>>,
    kinds: Arc<[String]>,
    watchdog: &'a Arc<Watchdog>,
    attempts: &'a mut JoinSet<()>,
    ended: &'a mpsc::Sender<Ended>,
    outlook: Outlook,
    pace: Pace,
    kept: VecDeque<Claimed>,
    fetching: Option<Fetching>,
}

impl<'a, Q: WorkQueue> Claiming<'a, Q> {
    pub(super) fn new(
        worker: &'a Arc<Worker<Q>>,
        watchdog: &'a Arc<Watchdog>,
        attempts: &'a mut JoinSet<()>,
        ended: &'a mpsc::Sender<Ended>,
    ) -> Self {
        let now = Instant::now();
        Self {
            worker,
            kinds: worker.kind_names().into(),
            watchdog,
            attempts,
            ended,
            outlook: Outlook::new(now),
            pace: Pace::new(now),
            kept: VecDeque::new(),
            fetching: None,
        }
    }

    /// Starts what is ready, as long as there is room for it, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        let mut changes = self.worker.queue.changes();
        let mut draining = self.worker.draining.subscribe();
        let mut hears = true;
        while !shutdown.is_cancelled() {
            let now = Instant::now();
            let works = !self.kinds.is_empty() && !*draining.borrow_and_update();
            while self.attempts.try_join_next().is_some() {}
            self.pace.learn(self.worker.slots.ended(), now);
            self.start_kept(works);
            self.give_up_kept(|claimed| !works || now >= claimed.since + KEPT);
            let wakes = if works { self.fetch_more(now, &mut changes) } else { None };
            let wakes = wakes.into_iter().chain(self.kept.front().map(|first| first.since + KEPT)).min();
            tokio::select! {
                () = shutdown.cancelled() => {}
                fetched = some(self.fetching.as_mut()) => self.take_in(fetched),
                () = self.worker.slots.room() => {}
                _ = draining.changed() => {}
                changed = changes.changed(), if hears && !self.outlook.news => {
                    hears = changed.is_ok();
                    self.outlook.news = self.reached(&mut changes) != self.outlook.reached;
                }
                () = some(wakes.map(|at| Box::pin(sleep_until(at)))) => {}
            }
        }
        // What is just being claimed is given up when the worker leaves, or by a heartbeat before.
        self.give_up_kept(|_| true);
    }

    /// Puts what is kept into the slots that are free.
    fn start_kept(&mut self, works: bool) {
        while works
            && !self.kept.is_empty()
            && let Some(slot) = self.worker.slots.take()
            && let Some(claimed) = self.kept.pop_front()
        {
            let stopped = self.worker.running.begin(&claimed.job);
            let (worker, watchdog) = (Arc::clone(self.worker), Arc::clone(self.watchdog));
            let ended = self.ended.clone();
            self.attempts.spawn(async move {
                let (name, id) = (Arc::clone(&claimed.name), claimed.job.id);
                worker.start(claimed, slot, &watchdog, stopped).await;
                worker.running.end(id);
                // Nobody listens only once all attempts have ended.
                let _nobody = ended.send((name, id)).await;
            });
        }
    }

    fn give_up_kept(&mut self, whom: impl Fn(&Claimed) -> bool) {
        while self.kept.front().is_some_and(&whom) {
            let Some(claimed) = self.kept.pop_front() else { return };
            // Where there is no room for that either, a heartbeat sees to it.
            let _full = self.ended.try_send((claimed.name, claimed.job.id));
        }
    }

    /// Begins to fetch jobs if there is or will be room for them and it is time to; else says when it will be, if there is room.
    fn fetch_more(&mut self, now: Instant, changes: &mut watch::Receiver<Q::Mark>) -> Option<Instant> {
        let (free, ahead) = (self.worker.slots.free(), self.pace.ahead());
        let wanted = (free + ahead).saturating_sub(self.kept.len());
        // Not one by one, as long as there are some at hand.
        let enough = free == 0 && 2 * wanted < ahead;
        if wanted == 0 || enough || self.fetching.is_some() {
            return None;
        }
        let lasts = self.outlook.lasts(now);
        if !lasts && now < self.outlook.due() {
            return Some(self.outlook.due());
        }
        let ready = if lasts { std::mem::take(&mut self.outlook.ready) } else { vec![] };
        let mut look = None;
        if !lasts {
            // Before looking, so that nothing is slept over.
            self.outlook.reached = self.reached(changes);
            (self.outlook.news, self.outlook.looked) = (false, now);
            // Besides those wanted: what other workers reach for as well, what the view does not yet show as started, and what will be
            // wanted soon.
            let seen = 2 * wanted + self.worker.options.concurrency + 3 * self.pace.in_a_stretch();
            look = Some((Arc::clone(&self.kinds), seen.min(MOST_SEEN)));
        }
        let worker = Arc::clone(self.worker);
        self.fetching = Some(Box::pin(async move { worker.fetch(ready, look, wanted).await }));
        None
    }

    /// How far the queue has got; what has changed until now is not told any more.
    fn reached(&self, changes: &mut watch::Receiver<Q::Mark>) -> i64 {
        self.worker.queue.reached(&changes.borrow_and_update())
    }

    fn take_in(&mut self, fetched: Fetched) {
        self.fetching = None;
        self.kept.extend(fetched.claimed);
        self.outlook.ready = fetched.ready;
        if let Some((more, again)) = fetched.looked {
            self.outlook.news |= more;
            self.outlook.again = again;
        }
    }
}

/// What a future gives, if there is one.
async fn some<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl<Q: WorkQueue> Worker<Q> {
    /// Claims and reads `wanted` jobs at most, of those that are `ready` or that a look at the queue shows.
    async fn fetch(
        &self,
        ready: Vec<ReadyJob>,
        look: Option<(Arc<[String]>, usize)>,
        wanted: usize,
    ) -> Fetched {
        let mut fetched = Fetched { claimed: vec![], ready, looked: None };
        if let Err(error) = self.try_fetch(&mut fetched, look, wanted).await {
            tracing::warn!(%error, "looking for jobs failed");
            (fetched.ready, fetched.looked) = (vec![], Some((false, Instant::now() + POLL)));
        }
        fetched
    }

    async fn try_fetch(
        &self,
        fetched: &mut Fetched,
        look: Option<(Arc<[String]>, usize)>,
        wanted: usize,
    ) -> Result<(), Failed> {
        let name = self.name();
        if let Some((kinds, most)) = look {
            let now = self.now();
            let ready = self.queue.ready(now, &kinds, most).await?;
            let more = ready.len() >= most;
            fetched.ready = ready.into_iter().filter(|job| self.running.is_new(job)).collect();
            let again = if fetched.ready.is_empty() { self.next_due(now).await? } else { None };
            let latest = Instant::now() + POLL;
            fetched.looked = Some((more, again.map_or(latest, |again| again.min(latest))));
        }
        // Nameless while it is entered into the list anew.
        while fetched.claimed.len() < wanted && !fetched.ready.is_empty() && !name.is_empty() {
            let missing = (wanted - fetched.claimed.len()).min(fetched.ready.len());
            let tried: Vec<ReadyJob> =
                fetched.ready.drain(..missing).filter(|job| self.running.is_new(job)).collect();
            let (taken, mut held) =
                tokio::join!(self.claims.take(&name, &tried), self.commands.load_jobs(&tried));
            let (taken, since) = (taken?, Instant::now());
            let mut unreadable: Vec<JobId> = vec![];
            for job in tried.into_iter().filter(|job| taken.contains(&job.id)) {
                match held.remove(&job.id.to_string()) {
                    Some(held) => fetched.claimed.push(Claimed { job, held, name: Arc::clone(&name), since }),
                    None => unreadable.push(job.id),
                }
            }
            if !unreadable.is_empty() {
                self.claims.release(&name, &unreadable).await?;
            }
        }
        Ok(())
    }

    /// When the next job becomes due that is not at `now`.
    async fn next_due(&self, now: DateTime<Utc>) -> Result<Option<Instant>, Failed> {
        let due = self.queue.next_due(now).await?;
        // Where it is too far away to be told, something else will happen before.
        Ok(due.and_then(|due| Instant::now().checked_add((due - self.now()).to_std().unwrap_or_default())))
    }

    /// Starts a job by command, and sees its attempt to its end.
    async fn start(
        &self,
        claimed: Claimed,
        slot: Slot,
        watchdog: &Watchdog,
        stopped: watch::Receiver<Option<StopReason>>,
    ) {
        let Claimed { job, held, name, since: _ } = claimed;
        let id = job.id;
        // Who is given up from here on stops what it runs, and this is among it.
        if self.name() != name {
            return self.running.forget(id);
        }
        match self.commands.start_job(job, held, &name, self.now()).await {
            Ok(started) => {
                metrics::counter!("job_attempts_total").increment(1);
                // If we die from here on, the attempt is recorded as lost once we are missed.
                self.attempt(started, &name, watchdog, stopped, slot).await;
            }
            Err(error) => {
                self.running.forget(id);
                // Somebody else was faster, or the view is late.
                let is_usual = matches!(
                    error,
                    CommandError::Refused(_)
                        | CommandError::Stale { .. }
                        | CommandError::Append(AppendError::Conflict)
                );
                if !is_usual {
                    tracing::warn!(job = %id, %error, "a job could not be started");
                }
            }
        }
    }
}
