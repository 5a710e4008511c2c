//! How far the views have got, and waiting for it (D6).

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Projections;
use crate::checkpoint::{self, State};
use crate::error::{Behind, UnknownView};
use crate::view::View;

/// How often a process without a follower looks at the checkpoints while somebody waits.
const LOOK: Duration = Duration::from_millis(20);
/// The same while somebody waits who has time, since other processes' news come by themselves.
const GLANCE: Duration = Duration::from_millis(500);

/// The views' positions, by place in the registry. Whoever raises one has first told the cache of everything up to it:
/// who has seen a position here finds nothing older in the cache.
#[derive(Clone, Debug)]
pub struct Reached {
    pub(crate) positions: Vec<i64>,
    /// Those that do not go on by themselves at the moment: failed, or waiting for a rebuild.
    pub(crate) stopped: Vec<bool>,
}

enum Verdict {
    Passed,
    Hopeless(i64),
    Behind(i64),
}

impl Reached {
    /// Nothing known.
    pub(crate) fn unknown(views: usize) -> Self {
        Self { positions: vec![0; views], stopped: vec![false; views] }
    }

    /// Of the views that `counts`, by place.
    fn all(&self, position: i64, counts: impl Fn(usize) -> bool) -> Verdict {
        let views = self.positions.iter().zip(&self.stopped).enumerate();
        let going = views.filter(|(place, (_, stopped))| !**stopped && counts(*place));
        match going.map(|(_, (reached, _))| *reached).min() {
            Some(reached) if reached < position => Verdict::Behind(reached),
            Some(_) | None => Verdict::Passed,
        }
    }

    fn one(&self, place: usize, position: i64) -> Verdict {
        match (self.positions[place], self.stopped[place]) {
            (reached, _) if reached >= position => Verdict::Passed,
            (reached, true) => Verdict::Hopeless(reached),
            (reached, false) => Verdict::Behind(reached),
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

    /// Waits until all views that have not failed contain the event at `position`, at most as long as `patience`.
    ///
    /// # Errors
    /// [`Behind`] says how far the last of them has got.
    pub async fn wait(&self, position: i64, patience: Duration) -> Result<(), Behind> {
        self.wait_for(|reached| reached.all(position, |_| true), patience).await
    }

    /// As [`Projections::wait`], without the views that trail behind the others on purpose (the audit trail): for those who
    /// read what is, not what happened.
    ///
    /// # Errors
    /// [`Behind`] says how far the last of them has got.
    pub async fn wait_prompt(&self, position: i64, patience: Duration) -> Result<(), Behind> {
        let prompt = |place: usize| !self.inner.registry.all[place].spec().trailing;
        self.wait_for(|reached| reached.all(position, prompt), patience).await
    }

    /// Waits until the view `name` contains the event at `position`, at most as long as `patience`; not at all when it
    /// has failed. A view that does not exist never gets anywhere.
    ///
    /// # Errors
    /// [`Behind`] says how far it has got.
    pub async fn wait_view(&self, name: &str, position: i64, patience: Duration) -> Result<(), Behind> {
        let Some(place) = self.inner.registry.place(name) else { return Err(Behind { reached: 0 }) };
        self.wait_for(|reached| reached.one(place, position), patience).await
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
            } else if timeout(GLANCE, watch.changed()).await.is_err() {
                self.look().await;
            }
        }
    }

    async fn wait_for(
        &self,
        verdict: impl Fn(&Reached) -> Verdict,
        patience: Duration,
    ) -> Result<(), Behind> {
        let end = Instant::now() + patience;
        let mut watch = self.inner.reached.subscribe();
        loop {
            // Looking marks the value as seen, so that a change after it is not slept over.
            let so_far = verdict(&watch.borrow_and_update());
            let reached = match so_far {
                Verdict::Passed => return Ok(()),
                Verdict::Hopeless(reached) => return Err(Behind { reached }),
                Verdict::Behind(reached) if Instant::now() >= end => return Err(Behind { reached }),
                Verdict::Behind(reached) => reached,
            };
            if self.inner.following.load(Ordering::SeqCst) > 0 {
                self.inner.kick.send_replace(());
                let _ = timeout_at(end, watch.changed()).await;
            } else if timeout_at(end.min(Instant::now() + LOOK), watch.changed()).await.is_err()
                && timeout_at(end, self.look()).await.is_err()
            {
                return Err(Behind { reached });
            }
        }
    }

    /// Learns of the positions from the checkpoints, where no follower of this process does. What the cache holds of a view
    /// that has gone on unheard of is forgotten first.
    async fn look(&self) {
        let checkpoints = match checkpoint::read(self.inner.background.pool()).await {
            Ok(checkpoints) => checkpoints,
            Err(error) => return tracing::warn!(%error, "the views' positions could not be read"),
        };
        let known = self.inner.reached.borrow().positions.clone();
        let views = self.inner.registry.all.iter().enumerate();
        let found: Vec<(usize, i64, bool)> = views
            .filter_map(|(place, view)| {
                let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.view == view.spec().name)?;
                Some((place, checkpoint.position, checkpoint.state != State::Live))
            })
            .collect();
        for (place, position, _) in &found {
            if *position > known[*place] {
                self.inner.registry.all[*place].flush();
            }
        }
        self.inner.reached.send_if_modified(|reached| {
            let mut changed = false;
            for (place, position, stopped) in found {
                changed |= reached.positions[place] < position || reached.stopped[place] != stopped;
                reached.positions[place] = reached.positions[place].max(position);
                reached.stopped[place] = stopped;
            }
            changed
        });
    }
}
