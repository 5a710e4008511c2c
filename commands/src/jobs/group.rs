//! The processes of an attempt, from its start to their end.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::descendants::{Counted, Descendants, ROUNDS};
use super::folder::Folder;
use super::launch::Started;
use super::output::Notes;
use super::process::REAP;
use super::watchdog::{Entry, Watchdog};

/// Pauses between looking whether all have ended: doubled each time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// The process group of an attempt and what left it. Killed when dropped.
pub(super) struct Group<'a> {
    pub(super) leader: Pid,
    descendants: Arc<Descendants>,
    watchdog: &'a Watchdog,
    entry: Entry,
    ended: bool,
}

impl<'a> Group<'a> {
    pub(super) fn new(started: &Started, folder: &Folder, watchdog: &'a Watchdog) -> Self {
        let leader = started.leader;
        let pipes = [started.child.stdout.as_ref().map(inode), started.child.stderr.as_ref().map(inode)];
        let pipes = pipes.into_iter().flatten().flatten().collect();
        let entry = Entry::new(leader, folder.name());
        watchdog.watch(entry.clone());
        let descendants = Arc::new(Descendants::new(leader, folder.mark(), pipes));
        Self { leader, descendants, watchdog, entry, ended: false }
    }

    /// To all of them.
    pub(super) async fn signal(&self, signal: Signal) -> Counted {
        let descendants = Arc::clone(&self.descendants);
        // The runtime's threads are not for looking through `/proc`, unless it is shutting down.
        let signalled = spawn_blocking(move || descendants.signal(signal)).await;
        signalled.unwrap_or_else(|_| self.descendants.signal(signal))
    }

    /// Kills what is left of them, until none is. To be called before the leader is reaped.
    pub(super) async fn end(mut self, notes: &mut Notes) {
        let (begun, (mut pause, longest)) = (Instant::now(), PAUSES);
        let mut counted = self.signal(Signal::KILL).await;
        if counted.left_group > 0 {
            let count = counted.left_group;
            notes.say(format!("processes that were left behind outside of the job's group: {count}; killed"));
        }
        while counted.all > 0 && begun.elapsed() < REAP {
            sleep(pause).await;
            pause = longest.min(pause * 2);
            counted = self.signal(Signal::KILL).await;
        }
        if counted.all > 0 {
            tracing::error!(leader = %self.leader, "processes of a job do not end after SIGKILL; given up");
        }
        self.ended = true;
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The attempt was abandoned: nobody waits any more.
            for _ in 0..ROUNDS {
                if self.descendants.signal(Signal::KILL).left_group == 0 {
                    break;
                }
            }
        }
        self.watchdog.release(&self.entry);
    }
}

/// The number of a pipe, which both of its ends have.
fn inode(pipe: &impl AsFd) -> Option<u64> {
    rustix::fs::fstat(pipe).ok().map(|stat| stat.st_ino)
}
