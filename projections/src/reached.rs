//! How far the views have got, and waiting for it (D6).

use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger::{Ledger, uptime};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::checkpoint::{self, State};
use crate::error::{Behind, ReadError, UnknownView};
use crate::view::View;
use crate::{Inner, Projections};

/// How often a process without a follower looks at the checkpoints while somebody waits.
pub(crate) const WAIT_INTERVAL: Duration = Duration::from_millis(20);
/// The same while somebody waits who has time, since other processes' news come by themselves.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// The views' positions, by place in the registry. Whoever raises one has first told the cache of everything up to it:
/// who has seen a position here finds nothing older in the cache.
#[derive(Clone, Debug)]
pub struct Reached {
    pub(crate) positions: Vec<i64>,
    /// Those that do not go on by themselves at the moment: failed, or waiting for a rebuild.
    pub(crate) stopped: Vec<bool>,
}

/// With the place of the view that is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Stopped(usize),
    Behind(usize),
}

impl Reached {
    /// Nothing known.
    pub(crate) fn unknown(views: usize) -> Self {
        Self { positions: vec![0; views], stopped: vec![false; views] }
    }

    /// Of the views that `counts`, by place: the worst.
    fn all(&self, position: i64, counts: impl Fn(usize) -> bool) -> Verdict {
        let verdicts = (0..self.positions.len()).filter(|place| counts(*place));
        let mut behind = Verdict::Passed;
        for verdict in verdicts.map(|place| self.one(place, position)) {
            match verdict {
                Verdict::Stopped(_) => return verdict,
                Verdict::Behind(_) => behind = verdict,
                Verdict::Passed => {}
            }
        }
        behind
    }

    pub(crate) fn one(&self, place: usize, position: i64) -> Verdict {
        match (self.positions[place], self.stopped[place]) {
            (reached, _) if reached >= position => Verdict::Passed,
            (_, true) => Verdict::Stopped(place),
            (_, false) => Verdict::Behind(place),
        }
    }
}

impl Projections {
    /// Changes whenever a view has passed further events, in this process or (as far as it hears of them) another.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Reached> {
        self.inner.reached.subscribe()
    }

    /// How far `V` has got, as one of the [`Projections::changes`] has it.
    #[must_use]
    pub fn reached_by<V: View>(&self, reached: &Reached) -> i64 {
        self.inner.registry.place(V::NAME).map_or(0, |place| reached.positions[place])
    }

    /// Waits until all views contain the event at `position`, at most as long as `patience`; not at all where one of them does not go on.
    ///
    /// # Errors
    /// [`Behind`] names a view that does not, and says how far it has got.
    pub async fn wait(&self, position: i64, patience: Duration) -> Result<(), Behind> {
        self.inner.wait_for(|reached| reached.all(position, |_| true), patience, WAIT_INTERVAL).await
    }

    /// Waits after a write until the views that go on, and that do not trail behind the others on purpose (as the audit log does),
    /// contain the event at `position`, at most as long as `patience`. Those that do not go on answer nobody.
    ///
    /// # Errors
    /// [`Behind`] names a view that does not, and says how far it has got.
    pub async fn settle(&self, position: i64, patience: Duration) -> Result<(), Behind> {
        let prompt = |place: usize| !self.inner.registry.all[place].spec().trailing;
        let verdict =
            |reached: &Reached| reached.all(position, |place| prompt(place) && !reached.stopped[place]);
        self.inner.wait_for(verdict, patience, WAIT_INTERVAL).await
    }

    /// Waits until the view `name` contains the event at `position`, at most as long as `patience`; not at all when it
    /// has failed. A view that does not exist never gets anywhere.
    ///
    /// # Errors
    /// [`Behind`] says how far it has got.
    pub async fn wait_view(&self, name: &str, position: i64, patience: Duration) -> Result<(), Behind> {
        let Some(place) = self.inner.registry.place(name) else {
            return Err(Behind { view: "", reached: 0, asked: false });
        };
        self.inner.wait_for(|reached| reached.one(place, position), patience, WAIT_INTERVAL).await
    }

    /// Waits, without an end, until the view `name` contains some event after `position`; the position it has reached. What is read
    /// through it afterwards is not older.
    ///
    /// # Errors
    /// There is no such view.
    pub async fn beyond(&self, name: &str, position: i64) -> Result<i64, UnknownView> {
        let place = self.place(name)?;
        let mut watch = self.inner.reached.subscribe();
        loop {
            // Looking marks the value as seen, so that a change after it is not slept over.
            let reached = watch.borrow_and_update().positions[place];
            if reached > position {
                return Ok(reached);
            }
            if self.inner.following.load(Ordering::SeqCst) > 0 {
                // `self` holds the sender: this never fails.
                let _ = watch.changed().await;
            } else if timeout(IDLE_INTERVAL, watch.changed()).await.is_err() {
                self.inner.look().await;
            }
        }
    }
}

impl Inner {
    pub(crate) async fn wait_for(
        &self,
        verdict: impl Fn(&Reached) -> Verdict,
        patience: Duration,
        interval: Duration,
    ) -> Result<(), Behind> {
        let end = Instant::now() + patience;
        let mut watch = self.reached.subscribe();
        loop {
            // Looking marks the value as seen, so that a change after it is not slept over.
            let (so_far, positions) = {
                let reached = watch.borrow_and_update();
                (verdict(&reached), reached.positions.clone())
            };
            let behind = |place: usize| Behind {
                view: self.registry.all[place].spec().name,
                reached: positions[place],
                asked: false,
            };
            let place = match so_far {
                Verdict::Passed => return Ok(()),
                Verdict::Stopped(place) => return Err(behind(place)),
                Verdict::Behind(place) if Instant::now() >= end => return Err(behind(place)),
                Verdict::Behind(place) => place,
            };
            if self.following.load(Ordering::SeqCst) > 0 {
                self.kick.send_replace(());
                let _ = timeout_at(end, watch.changed()).await;
            } else if timeout_at(end.min(Instant::now() + interval), watch.changed()).await.is_err()
                && timeout_at(end, self.look()).await.is_err()
            {
                return Err(behind(place));
            }
        }
    }

    /// Learns of the positions from the checkpoints, where no follower of this process does. What the cache holds of a view
    /// that has gone on unheard of is forgotten first.
    pub(crate) async fn look(&self) {
        let looked = uptime();
        let found = match self.positions_in(&self.background).await {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "the views' positions could not be read"),
        };
        let known = self.reached.borrow().positions.clone();
        for (place, position, _) in &found.views {
            if *position > known[*place] {
                self.registry.all[*place].flush();
            }
        }
        self.reached.send_if_modified(|reached| {
            let mut changed = false;
            for (place, position, stopped) in &found.views {
                changed |= reached.positions[*place] < *position || reached.stopped[*place] != *stopped;
                reached.positions[*place] = reached.positions[*place].max(*position);
                reached.stopped[*place] = *stopped;
            }
            changed
        });
        for (place, position, stopped) in &found.views {
            if !stopped && *position >= found.head && self.ledger.divergence().is_none() {
                self.proofs.prove(*place, looked);
            }
        }
    }

    /// Where the tables of this version are, and the log's head from before that.
    pub(crate) async fn positions_in(&self, ledger: &Ledger) -> Result<Found, ReadError> {
        let head = ledger.head().await?;
        let checkpoints = checkpoint::read(&mut *ledger.pool().acquire().await?).await?;
        let views = self.registry.all.iter().enumerate();
        let views = views.map(|(place, view)| {
            let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.table == view.spec().table);
            let stopped = checkpoint.is_none_or(|checkpoint| checkpoint.state != State::Live);
            (place, checkpoint.map_or(0, |checkpoint| checkpoint.position), stopped)
        });
        Ok(Found { head, views: views.collect() })
    }
}

/// What the database says of the views of this version: place, position, and whether it does not go on.
pub(crate) struct Found {
    pub(crate) head: i64,
    pub(crate) views: Vec<(usize, i64, bool)>,
}
