//! Following the log: the loop around the batches.
//!
//! There is no leader. Every process that follows reads the same events and asks for the checkpoints' locks; who has them folds,
//! and the others find the work done, but know from the events what to forget in their caches.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ledger::{Divergence, LedgerError, uptime};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::batch::{self, Outcome, Standing};
use crate::checkpoint::{self, Checkpoint, State};
use crate::error::{Fault, ReadError, RebuildError, is_lock_timeout};
use crate::fact::{Entry, Page, read_page};
use crate::news::Gate;
use crate::{Inner, Projections};

/// The first and the longest pause after the database was lost.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Events come thick and fast if a batch has so many.
const MANY: i64 = 16;
/// How old the follower's knowledge of the checkpoints' states may get.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How long one step may take on this side: the server gives up before.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
/// How often tables that no node needs are looked for.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

impl Projections {
    /// Follows the log and listens to other processes, until `shutdown`. Loss of the database is waited out. Views whose
    /// table has another shape than this program's, or that are far behind, are rebuilt meanwhile.
    pub async fn run(self, shutdown: CancellationToken) {
        let following = (Following::begin(&self.inner), Gate::close(&self.inner));
        let prompt = Follower::new(self.clone(), false);
        let trailing = Follower::new(self.clone(), true);
        tokio::join!(prompt.run(&shutdown), trailing.run(&shutdown), self.listen(shutdown.clone()));
        drop(following);
    }
}

/// Counts this process's followers, whatever way they end.
struct Following(Arc<Inner>);

impl Following {
    fn begin(inner: &Arc<Inner>) -> Self {
        inner.following.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::SeqCst);
    }
}

/// When something that failed is tried again.
#[derive(Clone, Copy)]
struct Retry {
    due: Instant,
    delay: Duration,
}

/// One of two: the views that people wait for, and those that may trail them.
struct Follower {
    projections: Projections,
    trailing: bool,
    kick: watch::Receiver<()>,
    head: watch::Receiver<i64>,
    connection: Option<PgConnection>,
    standings: Vec<Standing>,
    retries: Vec<Retry>,
    /// Views that only a rebuild brings back.
    lost: Vec<bool>,
    /// Raised when an operator accepted that the log lost events: positions known from before are worthless.
    known_epoch: i32,
    /// The ledger's connections when the checkpoints were last looked at.
    generation: u64,
    /// When unneeded tables were last looked for.
    cleaned: Option<Instant>,
    /// When the checkpoints were last looked at; `None` means that nothing is known.
    refreshed: Option<Instant>,
    /// Aggregate types that some view needs.
    wanted: Vec<&'static str>,
    rebuilds: JoinSet<(usize, Result<(), RebuildError>)>,
}

enum Step {
    /// There may be more at once. With how many events the batch had.
    Busy(i64),
    /// The end of the log.
    Idle,
}

impl Follower {
    fn new(projections: Projections, trailing: bool) -> Self {
        let inner = &projections.inner;
        let views = inner.registry.all.len();
        let mine = inner.registry.all.iter().filter(|view| view.spec().trailing == trailing);
        let mut wanted: Vec<_> = mine.flat_map(|view| view.spec().aggregates).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            trailing,
            kick: inner.kick.subscribe(),
            head: inner.ledger.appends(),
            connection: None,
            standings: vec![Standing { applied: 0, active: false, retrying: false }; views],
            retries: vec![Retry { due: Instant::now(), delay: inner.options.retry }; views],
            lost: vec![false; views],
            known_epoch: 0,
            generation: 0,
            cleaned: None,
            refreshed: None,
            wanted,
            rebuilds: JoinSet::new(),
            projections,
        }
    }

    async fn run(mut self, shutdown: &CancellationToken) {
        let mut pause = PAUSES.0;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let outcome = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                outcome = timeout(STEP_TIMEOUT, self.step()) => outcome.unwrap_or_else(|_| {
                    self.connection = None;
                    Err(sqlx::Error::WorkerCrashed.into())
                }),
            };
            match outcome {
                Ok(Step::Busy(events)) => {
                    pause = PAUSES.0;
                    self.gather(began, events, shutdown).await;
                }
                Ok(Step::Idle) => {
                    pause = PAUSES.0;
                    self.rest(shutdown).await;
                }
                Err(error) => {
                    self.interrupted(&error);
                    let _ = timeout(pause, shutdown.cancelled()).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
        self.rebuilds.shutdown().await;
    }

    async fn step(&mut self) -> Result<Step, ReadError> {
        // Interest is registered before looking, so that nothing appended in between is slept over.
        self.head.mark_unchanged();
        self.kick.mark_unchanged();
        let inner = Arc::clone(&self.projections.inner);
        if self.generation != inner.ledger.generation() {
            self.refreshed = None;
        }
        if self.refreshed.is_none_or(|at| at.elapsed() > REFRESH_INTERVAL) {
            self.refresh().await?;
        }
        self.start_rebuilds();
        self.clean_up().await;
        let active = self.standings.iter().filter(|standing| standing.active);
        let Some(from) = active.map(|standing| standing.applied).min() else { return Ok(Step::Idle) };
        // The clock before the log: what is in the log by now is in the page.
        let looked = uptime();
        let page = read_page(&inner.background, from, inner.options.page, &self.wanted).await?;
        let Some(mut page) = page else {
            let head = inner.background.head().await?;
            if head < from {
                inner.ledger.condemn(Divergence::Shorter { head, known: from }, self.known_epoch);
                return Err(LedgerError::Diverged(Divergence::Shorter { head, known: from }).into());
            }
            self.prove(looked);
            return Ok(Step::Idle);
        };
        if let Some(position) = self.unreadable(&page).filter(|position| *position > from + 1) {
            page.end_before(position);
        }
        let folded = self.fold(&page).await?;
        if folded && page.complete {
            self.prove(looked);
        }
        Ok(Step::Busy(page.looked_at))
    }

    /// The views that take part have everything that was in the log at `moment`. Not those that an unreadable event stopped before.
    fn prove(&self, moment: Duration) {
        let inner = &self.projections.inner;
        // A connection that was made since may lead to a server that has lost the last batches.
        if inner.ledger.divergence().is_some() || self.generation != inner.ledger.generation() {
            return;
        }
        let end =
            self.standings.iter().filter(|standing| standing.active).map(|standing| standing.applied).max();
        for place in self.mine() {
            let standing = self.standings[place];
            if standing.active && Some(standing.applied) == end {
                inner.proofs.prove(place, moment);
            }
        }
        // Readers may be waiting for just this.
        inner.reached.send_modify(|_| {});
    }

    /// Drops tables that no node needs any more, now and then.
    async fn clean_up(&mut self) {
        if self.trailing || self.cleaned.is_some_and(|at| at.elapsed() < CLEANUP_INTERVAL) {
            return;
        }
        self.cleaned = Some(Instant::now());
        // That they stay for now is no reason not to follow.
        if let Err(error) = self.projections.drop_unneeded_tables().await {
            tracing::warn!(%error, "tables of views that no node needs could not be looked for");
        }
    }

    /// The first event that stops a view. What comes before it is folded in a batch of its own, so that the view stops there
    /// and not where the page began.
    fn unreadable(&self, page: &Page) -> Option<i64> {
        let views = self.projections.inner.registry.all.iter().zip(&self.standings);
        let active: Vec<_> = views.filter(|(_, standing)| standing.active).collect();
        let stops = |entry: &&Entry| {
            let Err(unreadable) = &entry.fact else { return false };
            active.iter().any(|(view, standing)| {
                standing.applied < entry.position
                    && view.spec().needs(&entry.aggregate_type)
                    && !(unreadable.damaged && view.spec().lists_damaged)
            })
        };
        page.entries.iter().find(stops).map(|entry| entry.position)
    }

    /// Lets events gather, so that many are folded at once: where nobody waits for each, and where there are many. Not those that have
    /// gathered already.
    async fn gather(&mut self, began: Instant, events: i64, shutdown: &CancellationToken) {
        let options = &self.projections.inner.options;
        if events >= options.page {
            return;
        }
        if self.trailing {
            let _ = timeout(options.stride, shutdown.cancelled()).await;
        } else if events >= MANY {
            // Whoever waits for a view kicks.
            let called = async {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = self.kick.changed() => {}
                }
            };
            let _ = timeout_at(began + options.busy_stride, called).await;
        }
    }

    async fn rest(&mut self, shutdown: &CancellationToken) {
        let options = &self.projections.inner.options;
        let appended = async {
            if self.head.changed().await.is_err() {
                // The lane is gone: only kicks and the interval are left.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = appended => {}
            // `self.projections` holds the sender: this never fails.
            _ = self.kick.changed() => {}
            () = tokio::time::sleep(options.poll) => {}
        }
    }

    fn interrupted(&mut self, error: &ReadError) {
        self.connection = None;
        self.refreshed = None;
        let inner = &self.projections.inner;
        *inner.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        if matches!(error, ReadError::Database(error) if is_lock_timeout(error)) {
            tracing::debug!(%error, "another process kept the checkpoints");
            return;
        }
        tracing::warn!(%error, "the views cannot follow the log");
        // The server may come back without the last batches: what was reached must be learnt again.
        let mine = self.mine();
        mine.iter().for_each(|place| inner.proofs.withdraw(*place));
        inner.reached.send_modify(|reached| {
            mine.iter().for_each(|place| reached.positions[*place] = 0);
        });
    }

    /// Looks at the checkpoints: who takes part, who has lost something, who must be rebuilt.
    async fn refresh(&mut self) -> Result<(), ReadError> {
        let inner = Arc::clone(&self.projections.inner);
        let generation = inner.ledger.generation();
        inner.background.check_log().await?;
        let epoch = inner.ledger.epoch();
        if std::mem::replace(&mut self.known_epoch, epoch) != epoch {
            self.forget();
        }
        let checkpoints = checkpoint::read(&mut *inner.background.pool().acquire().await?).await?;
        let head = inner.background.head().await?;
        for place in self.mine() {
            let table = &inner.registry.all[place].spec().table;
            match checkpoints.iter().find(|checkpoint| checkpoint.table == *table) {
                Some(checkpoint) => match checkpoint.divergence(Some(head)) {
                    None => self.judge(place, checkpoint, head),
                    Some(divergence) => {
                        inner.ledger.condemn(divergence.clone(), epoch);
                        return Err(LedgerError::Diverged(divergence).into());
                    }
                },
                None => {
                    self.standings[place].active = false;
                    self.lost[place] = true;
                }
            }
        }
        (self.refreshed, self.generation) = (Some(Instant::now()), generation);
        self.publish();
        Ok(())
    }

    /// What is known of positions is of a log that is gone.
    fn forget(&mut self) {
        let inner = &self.projections.inner;
        for place in self.mine() {
            self.standings[place] = Standing { applied: 0, active: false, retrying: false };
            self.retries[place].due = Instant::now();
            inner.registry.all[place].flush();
            inner.proofs.withdraw(place);
            inner.reached.send_modify(|reached| reached.positions[place] = 0);
        }
    }

    /// The places of the views this one follows.
    fn mine(&self) -> Vec<usize> {
        let views = self.projections.inner.registry.all.iter().enumerate();
        views.filter(|(_, view)| view.spec().trailing == self.trailing).map(|(place, _)| place).collect()
    }

    fn judge(&mut self, place: usize, checkpoint: &Checkpoint, head: i64) {
        let view = &self.projections.inner.registry.all[place];
        let fits = checkpoint.state != State::Outdated;
        let standing_by = self.standings[place].active;
        let near = standing_by || checkpoint.position >= head - self.projections.inner.options.longest_lag;
        let retrying = checkpoint.state == State::Failed && self.retries[place].due <= Instant::now();
        let standing = &mut self.standings[place];
        let was_active = std::mem::replace(
            &mut standing.active,
            fits && near && (checkpoint.state == State::Live || retrying),
        );
        standing.retrying = retrying;
        self.lost[place] = !(fits && near);
        if !was_active {
            // It may have been rebuilt, or folded by others unheard of.
            view.flush();
        }
        if !was_active || checkpoint.position < standing.applied {
            standing.applied = checkpoint.position;
            let position = checkpoint.position;
            self.projections.inner.reached.send_modify(|reached| reached.positions[place] = position);
        }
    }

    /// Rebuilds, one at a time, what takes no part and is due.
    fn start_rebuilds(&mut self) {
        while let Some(ended) = self.rebuilds.try_join_next() {
            self.refreshed = None;
            if let Ok((place, outcome)) = ended {
                self.rebuilt(place, outcome);
            }
        }
        // What is lost is known once the checkpoints were looked at after the last rebuild.
        if self.refreshed.is_none() {
            return;
        }
        let due = |place: &usize| self.lost[*place] && self.retries[*place].due <= Instant::now();
        if !self.rebuilds.is_empty() {
            return;
        }
        let Some(place) = (0..self.standings.len()).find(due) else { return };
        let projections = self.projections.clone();
        let name = projections.inner.registry.all[place].spec().name;
        tracing::info!(view = name, "a view is rebuilt");
        self.rebuilds.spawn(async move { (place, projections.rebuild(name, |_| {}).await) });
    }

    fn rebuilt(&mut self, place: usize, outcome: Result<(), RebuildError>) {
        let name = self.projections.inner.registry.all[place].spec().name;
        match outcome {
            Ok(()) => {
                tracing::info!(view = name, "a view was rebuilt");
                self.retries[place].delay = self.projections.inner.options.retry;
            }
            Err(error) => {
                tracing::error!(view = name, %error, "a view could not be rebuilt");
                self.put_off(place);
            }
        }
    }

    fn put_off(&mut self, place: usize) {
        let retry = &mut self.retries[place];
        retry.due = Instant::now() + retry.delay;
        retry.delay = (retry.delay * 2).min(self.projections.inner.options.retry * 16);
    }

    /// Whether the page is in all views that take part.
    async fn fold(&mut self, page: &Page) -> Result<bool, ReadError> {
        // Taken out, so that a connection that is given up in the middle of something is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => batch::connect(&self.projections.inner.background).await?,
        };
        let outcome = self.projections.batch(&mut connection, page, &self.standings).await?;
        let done = matches!(outcome, Outcome::Done(_));
        match outcome {
            Outcome::Diverged(divergence) => {
                self.projections.inner.ledger.condemn(divergence.clone(), self.known_epoch);
                return Err(LedgerError::Diverged(divergence).into());
            }
            Outcome::Done(applied) => {
                for ((standing, retry), applied) in
                    self.standings.iter_mut().zip(&mut self.retries).zip(applied)
                {
                    standing.applied = applied;
                    if std::mem::take(&mut standing.retrying) {
                        retry.delay = self.projections.inner.options.retry;
                    }
                }
                self.publish();
            }
            Outcome::Failed(place, fault) => self.failed(place, &fault),
            Outcome::Surprised => self.refreshed = None,
        }
        self.connection = Some(connection);
        Ok(done)
    }

    fn failed(&mut self, place: usize, fault: &Fault) {
        let name = self.projections.inner.registry.all[place].spec().name;
        tracing::error!(view = name, %fault, "a view has failed; the others go on");
        metrics::counter!("view_failures_total", "view" => name).increment(1);
        self.standings[place].active = false;
        self.put_off(place);
        self.publish();
    }

    /// Tells who waits, and the metrics, how far the views are.
    fn publish(&self) {
        let inner = &self.projections.inner;
        let mine = self.mine();
        let leader = mine.iter().map(|place| self.standings[*place].applied).max().unwrap_or(0);
        let head = leader.max(*inner.ledger.appends().borrow());
        inner.reached.send_modify(|reached| {
            for place in &mine {
                let standing = self.standings[*place];
                if !standing.active {
                    inner.proofs.withdraw(*place);
                }
                // Other processes' news may have got further already.
                reached.positions[*place] = reached.positions[*place].max(standing.applied);
                reached.stopped[*place] = !standing.active;
            }
        });
        for place in mine {
            let (applied, name) = (self.standings[place].applied, inner.registry.all[place].spec().name);
            metrics::gauge!("view_position", "view" => name).set(applied as f64);
            metrics::gauge!("view_behind_events", "view" => name).set((head - applied) as f64);
        }
    }
}
