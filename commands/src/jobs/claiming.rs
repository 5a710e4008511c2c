//! From the queue to attempts. What there will soon be room for is claimed and read while others still run, so that a slot that becomes
//! free is taken at once.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Job, JobId};
use futures::FutureExt as _;
use ledger::{AppendError, Loaded};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::process::StopReason;
use super::queue::{ReadyJob, WorkQueue};
use super::running::Slot;
use super::watchdog::Watchdog;
use super::worker::{Ended, Failed, POLL, Worker};
use crate::CommandError;

/// How long a worker rests at least between two looks at the queue: views change all the time on a busy node, mostly for other reasons.
const REST: Duration = Duration::from_millis(5);
/// For how long what was seen of the queue is acted on, once there may be something newer to see.
const FRESH: Duration = Duration::from_millis(100);
/// For how long a job is kept for which there is no room after all. Then it is given up for others.
const KEPT: Duration = Duration::from_millis(100);
/// How soon to look again after a job was found that somebody has claimed: it may be given up, and nobody says so.
const CLAIMED_BY_ANOTHER: Duration = Duration::from_millis(50);
/// For how long a claim is good for starting a job: well before a heartbeat takes it for one that was forgotten.
const GOOD: Duration = Duration::from_secs(5);
/// How long a worker that stops waits for what it is just claiming.
const LAST_FETCH: Duration = Duration::from_secs(5);
/// Jobs looked at at a time, at most.
const MOST_SEEN: usize = 1_000;

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
    /// Not to look before.
    rests_until: Instant,
    /// When to look again though nobody says that there is something new.
    again: Instant,
}

impl Outlook {
    fn new(now: Instant) -> Self {
        Self { ready: vec![], looked: now, reached: 0, news: true, rests_until: now, again: now }
    }

    /// Whether what was seen can still be acted on.
    fn lasts(&self, now: Instant) -> bool {
        !self.ready.is_empty() && now < if self.news { self.looked + FRESH } else { self.again }
    }

    /// When to look next.
    fn due(&self) -> Instant {
        if self.news { self.rests_until } else { self.again.max(self.rests_until) }
    }

    /// It is looked at now, when the queue has got so far.
    fn look(&mut self, now: Instant, reached: i64) {
        (self.looked, self.reached, self.news) = (now, reached, false);
        (self.rests_until, self.again) = (now + REST, now + POLL);
    }
}

/// What is fetched from the queue.
struct Fetched {
    claimed: Vec<Claimed>,
    /// What was seen and not yet tried.
    ready: Vec<ReadyJob>,
    /// There was more than could be seen.
    more: bool,
    /// When to look again in any case.
    again: Instant,
    failed: bool,
}

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
    /// A task, since one that is dropped in the middle of something may leave claims behind.
    fetching: Option<JoinHandle<Fetched>>,
    /// What is being fetched is of kinds as they were before.
    outdated: bool,
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
            outdated: false,
        }
    }

    /// Starts what is ready, as long as there is room for it, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        let mut changes = self.worker.queue.changes();
        let mut draining = self.worker.draining.subscribe();
        let mut kinds = self.worker.kinds.changes();
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
                _ = kinds.changed() => self.take_kinds().await,
                changed = changes.changed(), if hears && !self.outlook.news => {
                    hears = changed.is_ok();
                    self.outlook.news = self.reached(&mut changes) != self.outlook.reached;
                }
                () = some(wakes.map(|at| Box::pin(sleep_until(at)))) => {}
            }
        }
        if let Some(fetching) = &mut self.fetching
            && let Ok(fetched) = timeout(LAST_FETCH, fetching).await
        {
            self.take_in(fetched);
        }
        self.give_up_kept(|_| true);
    }

    /// The kinds have been read again: what was seen of the queue was seen for those before.
    async fn take_kinds(&mut self) {
        self.kinds = self.worker.kind_names().into();
        let now = Instant::now();
        self.outlook = Outlook::new(now);
        self.outdated = self.fetching.is_some();
        self.give_up_kept(|_| true);
        self.worker.show_kinds(&self.kinds).await;
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
                let (team, attempt) = (claimed.job.team_id, claimed.job.attempt + 1);
                let started = AssertUnwindSafe(worker.start(claimed, slot, &watchdog, stopped));
                if started.catch_unwind().await.is_err() {
                    worker.give_up_attempt(id, team, attempt).await;
                }
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
            let reached = self.reached(changes);
            self.outlook.look(now, reached);
            // Besides those wanted: what other workers reach for as well, what the view does not yet show as started, and what will be
            // wanted soon.
            let seen = 2 * wanted + self.worker.options.concurrency + 3 * self.pace.in_a_stretch();
            look = Some((Arc::clone(&self.kinds), seen.min(MOST_SEEN)));
        }
        let worker = Arc::clone(self.worker);
        self.fetching = Some(tokio::spawn(async move { worker.fetch(ready, look, wanted).await }));
        None
    }

    /// How far the queue has got; what has changed until now is not told any more.
    fn reached(&self, changes: &mut watch::Receiver<Q::Mark>) -> i64 {
        self.worker.queue.reached(&changes.borrow_and_update())
    }

    fn take_in(&mut self, fetched: Result<Fetched, JoinError>) {
        self.fetching = None;
        let latest = Instant::now() + POLL;
        let Ok(fetched) = fetched else {
            tracing::error!("looking for jobs panicked");
            self.outlook.rests_until = latest;
            return;
        };
        self.kept.extend(fetched.claimed);
        if std::mem::take(&mut self.outdated) {
            return self.give_up_kept(|_| true);
        }
        let outlook = &mut self.outlook;
        outlook.ready = fetched.ready;
        outlook.news |= fetched.more;
        outlook.again = outlook.again.min(fetched.again);
        if fetched.failed {
            outlook.rests_until = latest;
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
        let again = Instant::now() + POLL;
        let mut fetched = Fetched { claimed: vec![], ready, more: false, again, failed: false };
        if let Err(error) = self.try_fetch(&mut fetched, look, wanted).await {
            tracing::warn!(%error, "looking for jobs failed");
            (fetched.ready, fetched.failed) = (vec![], true);
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
        if name.is_empty() {
            // It is being entered into the list anew.
            (fetched.ready, fetched.failed) = (vec![], true);
            return Ok(());
        }
        if let Some((kinds, most)) = look {
            let now = self.now();
            (fetched.ready, fetched.more) = self.queue.ready(now, &kinds, most).await?;
            if !fetched.more
                && let Some(due) = self.next_due(now, &kinds).await?
            {
                fetched.again = fetched.again.min(due);
            }
        }
        fetched.ready.retain(|job| self.running.is_new(job));
        while fetched.claimed.len() < wanted && !fetched.ready.is_empty() {
            let missing = (wanted - fetched.claimed.len()).min(fetched.ready.len());
            let tried: Vec<ReadyJob> = fetched.ready.drain(..missing).collect();
            let missed = self.claim_and_read(&name, tried, &mut fetched.claimed).await?;
            if missed {
                fetched.again = fetched.again.min(Instant::now() + CLAIMED_BY_ANOTHER);
            }
        }
        Ok(())
    }

    /// Adds what was got of `tried` to `claimed`. Whether some was not.
    async fn claim_and_read(
        &self,
        name: &Arc<str>,
        tried: Vec<ReadyJob>,
        claimed: &mut Vec<Claimed>,
    ) -> Result<bool, Failed> {
        let since = Instant::now();
        let (taken, mut held) = tokio::join!(self.claims.take(name, &tried), self.commands.load_jobs(&tried));
        let taken = taken?;
        let missed = taken.len() < tried.len();
        let mut unreadable: Vec<JobId> = vec![];
        for job in tried.into_iter().filter(|job| taken.contains(&job.id)) {
            match held.remove(&job.id.to_string()) {
                Some(held) => claimed.push(Claimed { job, held, name: Arc::clone(name), since }),
                None => unreadable.push(job.id),
            }
        }
        if !unreadable.is_empty() {
            self.claims.release(name, &unreadable).await?;
        }
        Ok(missed)
    }

    /// When the next job becomes due that is not at `now`.
    async fn next_due(&self, now: DateTime<Utc>, kinds: &[String]) -> Result<Option<Instant>, Failed> {
        let due = self.queue.next_due(now, kinds).await?;
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
        let Claimed { job, held, name, since } = claimed;
        let id = job.id;
        // Who is given up from here on stops what it runs, and this is among it.
        if self.name() != name || stopped.borrow().is_some() || since.elapsed() > GOOD {
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
