//! The attempts under way and how to stop each, and the slots they take.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::JobId;
use tokio::sync::{Notify, watch};

use super::process::StopReason;
use super::queue::ReadyJob;

/// Jobs that are remembered as dealt with, since the view may show them as they were before.
const REMEMBERED: usize = 10_000;

/// The attempts under way; and those that have ended, as far as the view may not show it yet.
#[derive(Default)]
pub(super) struct Running(Mutex<Attempts>);

#[derive(Default)]
struct Attempts {
    under_way: HashMap<JobId, watch::Sender<Option<StopReason>>>,
    /// How long each job's stream was when it was looked at here last.
    seen: HashMap<JobId, i64>,
}

impl Running {
    fn with<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn ids(&self) -> Vec<JobId> {
        self.with(|attempts| attempts.under_way.keys().copied().collect())
    }

    pub(super) fn has(&self, job: JobId) -> bool {
        self.with(|attempts| attempts.under_way.contains_key(&job))
    }

    pub(super) fn stop(&self, job: JobId, reason: StopReason) {
        self.with(|attempts| {
            if let Some(stop) = attempts.under_way.get(&job) {
                // The first reason counts.
                stop.send_if_modified(|present| present.is_none() && present.replace(reason).is_none());
            }
        });
    }

    pub(super) fn stop_all(&self, reason: StopReason) {
        self.ids().into_iter().for_each(|job| self.stop(job, reason));
    }

    pub(super) fn begin(&self, job: &ReadyJob) -> watch::Receiver<Option<StopReason>> {
        let (stop, stopped) = watch::channel(None);
        self.with(|attempts| {
            attempts.under_way.insert(job.id, stop);
            if attempts.seen.len() >= REMEMBERED {
                attempts.seen.clear();
            }
            attempts.seen.insert(job.id, job.sequence);
        });
        stopped
    }

    pub(super) fn end(&self, job: JobId) {
        self.with(|attempts| attempts.under_way.remove(&job));
    }

    /// It was not dealt with after all: what the view shows of it may be tried again.
    pub(super) fn forget(&self, job: JobId) {
        self.with(|attempts| attempts.seen.remove(&job));
    }

    /// Whether the view shows something of the job that was not dealt with here before.
    pub(super) fn is_new(&self, job: &ReadyJob) -> bool {
        self.with(|attempts| {
            !attempts.under_way.contains_key(&job.id)
                && attempts.seen.get(&job.id).is_none_or(|seen| job.sequence > *seen)
        })
    }
}

/// A worker's slots: one attempt in each.
pub(super) struct Slots {
    number: usize,
    taken: Arc<Taken>,
}

#[derive(Default)]
struct Taken {
    now: AtomicUsize,
    /// Left again, so far.
    left: AtomicU64,
    /// Keeps one notification, so that none is missed by who looks first and waits then.
    room: Notify,
}

impl Slots {
    pub(super) fn new(number: usize) -> Self {
        Self { number, taken: Arc::default() }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.now.load(Ordering::SeqCst)
    }

    pub(super) fn free(&self) -> usize {
        self.number.saturating_sub(self.taken())
    }

    /// How many attempts have left theirs so far.
    pub(super) fn ended(&self) -> u64 {
        self.taken.left.load(Ordering::SeqCst)
    }

    pub(super) fn take(&self) -> Option<Slot> {
        let one_more = |taken| (taken < self.number).then_some(taken + 1);
        self.taken.now.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        Some(Slot(Arc::clone(&self.taken)))
    }

    /// Waits until one was left since this was last waited for.
    pub(super) async fn room(&self) {
        self.taken.room.notified().await;
    }
}

/// A slot that is taken for as long as this lives.
pub(super) struct Slot(Arc<Taken>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
        self.0.left.fetch_add(1, Ordering::SeqCst);
        self.0.room.notify_one();
    }
}
