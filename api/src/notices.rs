//! News of secrets: who waits for a change hears of it on every node, once the node's view shows it.
//!
//! One task a node reads what has happened to secrets since it looked last, whenever the view `secrets` has gone on, and only while
//! somebody listens. It hands notices to the listeners of the secret's team. A listener has a limited queue: who falls behind is
//! told so, and reads the log instead.

mod notice;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{SecretId, TeamId};
use ledger::Ledger;
use projections::{Projections, ReadError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::places::{Full, Place, Places};
use crate::problem::Problem;

pub use notice::SecretNotice;

/// The view that must have passed a position before it is told of.
const VIEW: &str = "secrets";
/// Notices that wait for a listener at most: those of an import, and some.
const QUEUE: usize = 2_048;
/// Positions that are looked at in one query, and notices made of them at once.
const STRETCH: i64 = 10_000;
const PAGE: i64 = 500;
/// Positions that are looked through at most for somebody who was away.
const LONGEST_ABSENCE: i64 = 50_000;
/// Notices they get at most.
const MOST_AGAIN: i64 = 1_000;
/// How many may wait at the same time: on this node, and of one person and their programs.
const MOST_WAITING: usize = 512;
const MOST_WAITING_EACH: usize = 32;
/// When to come back where there is no place, or the node has not begun yet.
const COME_BACK: Duration = Duration::from_secs(5);
/// The first and the longest pause after the database was lost.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A node's news. Cheap to clone.
#[derive(Clone)]
pub struct Notices(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    projections: Projections,
    board: Mutex<Board>,
    places: Places,
    closing: CancellationToken,
}

/// Who listens, and from where on.
#[derive(Default)]
struct Board {
    /// The end of the stretch that is being told, or was told last: who comes now hears of everything after it. `None` until the
    /// node knows how far its view is.
    taken: Option<i64>,
    /// The end of what has been told.
    told: i64,
    teams: HashMap<TeamId, broadcast::Sender<Arc<SecretNotice>>>,
}

impl Notices {
    /// News of the secrets in these views, until `closing`. Nothing is heard before [`Notices::run`].
    #[must_use]
    pub fn new(ledger: Ledger, projections: Projections, closing: CancellationToken) -> Self {
        let places = Places::new(MOST_WAITING, MOST_WAITING_EACH);
        Self(Arc::new(Inner { ledger, projections, board: Mutex::default(), places, closing }))
    }

    /// Tells, until `stop`. Loss of the database is waited out.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.tell_for_ever() => {}
        }
    }

    async fn tell_for_ever(&self) {
        // What is there already is nobody's news.
        let mut told = 0;
        loop {
            let to = match self.0.projections.beyond(VIEW, told).await {
                Ok(to) => to,
                Err(error) => return tracing::error!(%error, "changes of secrets are not told"),
            };
            let listening = self.take(to);
            if !listening.is_empty() {
                self.tell(told, to, &listening).await;
            }
            self.post(vec![], to);
            told = to;
        }
    }

    /// Takes the stretch up to `to`: whoever begins to listen from now on knows it already. The teams that listen.
    fn take(&self, to: i64) -> HashSet<TeamId> {
        let mut board = self.board();
        board.taken = Some(to);
        board.teams.retain(|_, listeners| listeners.receiver_count() > 0);
        board.teams.keys().copied().collect()
    }

    async fn tell(&self, mut after: i64, to: i64, teams: &HashSet<TeamId>) {
        let mut pause = PAUSES.0;
        while after < to {
            match self.page(after, to, teams).await {
                Ok((notices, reached)) => {
                    self.post(notices, reached);
                    after = reached;
                    pause = PAUSES.0;
                }
                Err(error) => {
                    tracing::warn!(%error, "changes of secrets cannot be told for the moment");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// The notices for `teams` of a stretch after `after`, and its end.
    async fn page(
        &self,
        after: i64,
        to: i64,
        teams: &HashSet<TeamId>,
    ) -> Result<(Vec<SecretNotice>, i64), ReadError> {
        let to = to.min(after + STRETCH);
        let outlines = self.0.ledger.outlines(notice::wanted(None), after, to, PAGE).await?;
        let full = outlines.len() as i64 == PAGE;
        let reached = outlines.last().filter(|_| full).map_or(to, |last| last.position);
        let mut notices: Vec<_> = outlines.iter().filter_map(SecretNotice::of).collect();
        notices.retain(|notice| teams.contains(&notice.team_id));
        let told: HashSet<TeamId> = notices.iter().map(|notice| notice.team_id).collect();
        for team in told {
            self.name(team, &mut notices).await?;
        }
        Ok((notices, reached))
    }

    /// Adds the secrets' names to the team's notices, as its view has them.
    async fn name(&self, team: TeamId, notices: &mut [SecretNotice]) -> Result<(), ReadError> {
        let ours = || notices.iter().filter(|notice| notice.team_id == team);
        let ids: HashSet<&str> = ours().map(|notice| notice.id.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let names = match self.0.projections.secrets().of(team).names(&ids).await {
            Ok(names) => names,
            // The changes are worth telling all the same.
            Err(ReadError::Fault(fault)) => {
                tracing::warn!(%fault, "notices go without names");
                return Ok(());
            }
            Err(error @ (ReadError::Database(_) | ReadError::Ledger(_) | ReadError::Behind(_))) => {
                return Err(error);
            }
        };
        for notice in notices.iter_mut().filter(|notice| notice.team_id == team) {
            notice.name = names.get(&notice.id).cloned();
        }
        Ok(())
    }

    fn post(&self, notices: Vec<SecretNotice>, told: i64) {
        let mut board = self.board();
        for notice in notices {
            if let Some(listeners) = board.teams.get(&notice.team_id) {
                // An error means that nobody is left.
                let _ = listeners.send(Arc::new(notice));
            }
        }
        board.told = told;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notices {
    /// Ends when the node stops: whatever waits then must end too.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// A place among those who wait on this node, for as long as the result is kept.
    ///
    /// # Errors
    /// 429 when `person` waits too often at once, with whatever sessions and keys; 503 when too many do.
    pub fn place(&self, person: Uuid) -> Result<Place, Problem> {
        self.0.places.take(person).map_err(|full| match full {
            Full::Person => Problem::too_many_requests(COME_BACK)
                .with_detail(format!("You wait for changes {MOST_WAITING_EACH} times already."))
                .with_code("too_many_waiting"),
            Full::Node => {
                let detail = "Too many wait for changes on this node; try again, or another.";
                Problem::quietly_unavailable(detail, COME_BACK).with_code("overloaded")
            }
        })
    }

    /// Listens to what happens to the team's secrets from now on.
    ///
    /// # Errors
    /// 503 while this node does not know yet how far its view is.
    pub fn listen(&self, team: TeamId) -> Result<Listener, Problem> {
        let mut board = self.board();
        let Some(from) = board.taken else {
            let detail = "This node does not hear of changes yet; try again.";
            return Err(Problem::quietly_unavailable(detail, COME_BACK));
        };
        let listeners = board.teams.entry(team).or_insert_with(|| broadcast::channel(QUEUE).0);
        Ok(Listener { from, receiver: listeners.subscribe() })
    }

    /// Watches one secret of the team, from now on: for who looks at it first and then waits for it to change.
    ///
    /// # Errors
    /// As [`Notices::listen`].
    pub fn watch(&self, team: TeamId, id: SecretId) -> Result<SecretWatch, Problem> {
        let (listener, closing) = (self.listen(team)?, self.0.closing.clone());
        Ok(SecretWatch { id: id.to_string(), listener, closing })
    }

    /// The end of what has been told to those who listen.
    pub(crate) fn told(&self) -> i64 {
        self.board().told
    }

    /// What happened to the team's secrets after position `after` and up to `up_to`. `None` when that is too long ago, or too much.
    ///
    /// # Errors
    /// The database is out of reach.
    pub(crate) async fn since(
        &self,
        team: TeamId,
        after: i64,
        up_to: i64,
    ) -> Result<Option<Vec<SecretNotice>>, Problem> {
        if up_to.saturating_sub(after) > LONGEST_ABSENCE {
            return Ok(None);
        }
        let (of, mut outlines, mut reached) = (team.to_string(), vec![], after);
        while reached < up_to {
            let to = up_to.min(reached + STRETCH);
            let room = MOST_AGAIN + 1 - outlines.len() as i64;
            outlines.extend(self.0.ledger.outlines(notice::wanted(Some(&of)), reached, to, room).await?);
            if outlines.len() as i64 > MOST_AGAIN {
                return Ok(None);
            }
            reached = to;
        }
        let mut notices: Vec<_> = outlines.iter().filter_map(SecretNotice::of).collect();
        self.name(team, &mut notices).await?;
        Ok(Some(notices))
    }
}

/// Why there is nothing more to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaf {
    /// More happened than the queue takes: the oldest is lost.
    FellBehind,
    /// The node has ended.
    Ended,
}

/// Hears what happens to a team's secrets.
pub struct Listener {
    from: i64,
    receiver: broadcast::Receiver<Arc<SecretNotice>>,
}

impl Listener {
    /// Where it begins: it hears of everything after this position, and the view shows everything up to it.
    #[must_use]
    pub fn from(&self) -> i64 {
        self.from
    }

    /// The next notice, in the order of the log, once the view shows what it tells of. May be dropped and called again.
    ///
    /// # Errors
    /// See [`Deaf`]. After [`Deaf::FellBehind`] it goes on behind the gap.
    pub async fn next(&mut self) -> Result<Arc<SecretNotice>, Deaf> {
        loop {
            match self.receiver.recv().await {
                Ok(notice) if notice.position > self.from => return Ok(notice),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Err(Deaf::FellBehind),
                Err(RecvError::Closed) => return Err(Deaf::Ended),
            }
        }
    }

    /// The next notice if there is one already.
    ///
    /// # Errors
    /// As [`Listener::next`].
    pub fn next_now(&mut self) -> Result<Option<Arc<SecretNotice>>, Deaf> {
        loop {
            match self.receiver.try_recv() {
                Ok(notice) if notice.position > self.from => return Ok(Some(notice)),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Lagged(_)) => return Err(Deaf::FellBehind),
                Err(TryRecvError::Closed) => return Err(Deaf::Ended),
            }
        }
    }
}

/// Waits for one secret to change.
///
/// Watch first, then look at the secret, then wait, then look again: a change between looking and waiting is not slept over.
pub struct SecretWatch {
    id: String,
    listener: Listener,
    closing: CancellationToken,
}

impl SecretWatch {
    /// Waits for something to happen to the secret, at most until `end`. `true`: it is worth looking again, and what is read now is
    /// not older than what happened. `false`: the time is over, or the node stops.
    pub async fn changed(&mut self, end: Instant) -> bool {
        let closing = self.closing.clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => false,
            heard = timeout_at(end, self.heard()) => heard.unwrap_or(false),
        }
    }

    async fn heard(&mut self) -> bool {
        loop {
            match self.listener.next().await {
                Ok(notice) if notice.id == self.id => return true,
                Ok(_) => {}
                // It may have been among what was lost.
                Err(Deaf::FellBehind) => return true,
                Err(Deaf::Ended) => return false,
            }
        }
    }
}
