//! The thread that every user of a private server keeps: it waits for the server, supervises it if it is our turn, and leaves.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cluster::Cluster;
use super::locks::{Locks, Note};
use super::postmaster::{Postmaster, accepts, halt_left_behind};
use super::programs::{self, Programs};
use super::{PrivateError, log, place};

/// How often a healthy server and its lock are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often one that is expected to be ready any moment is.
const SOON: Duration = Duration::from_millis(10);
/// How often a first start that failed is repeated, and after which pause: the remains of a server that was killed may have
/// been in the way.
const RETRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// After repeated failures the pause doubles so many times at most, to 6.4 s.
const DOUBLINGS: u32 = 5;
/// How long the last user waits for a supervisor that is just leaving.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// What a caller needs to know of the server.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) cluster: Cluster,
    pub(super) programs: PathBuf,
}

#[derive(Debug)]
pub(super) struct Supervisor {
    data_dir: PathBuf,
    locks: Locks,
    /// Its other end is dropped when we are to leave.
    leave: Receiver<()>,
    found: Option<(Cluster, Programs)>,
    /// Some only while we supervise.
    postmaster: Option<Postmaster>,
    /// As supervisor: whether the server accepts connections. Else: whether we have joined it.
    serving: bool,
}

enum Step {
    Ready,
    Waiting,
}

impl Supervisor {
    pub(super) fn new(data_dir: &Path, leave: Receiver<()>) -> Result<Self, PrivateError> {
        place::make_data_dir(data_dir)?;
        let data_dir = std::fs::canonicalize(data_dir).map_err(|e| PrivateError::io("find", data_dir, e))?;
        let locks = Locks::open(&data_dir)?;
        Ok(Self { data_dir, locks, leave, found: None, postmaster: None, serving: false })
    }

    /// The whole life of the thread. The outcome of the start is sent once; after an error everything is already tidied up.
    pub(super) fn run(mut self, ready: oneshot::Sender<Result<Running, PrivateError>>) {
        match self.begin() {
            Ok(running) => {
                if ready.send(Ok(running)).is_ok() {
                    self.follow();
                }
                self.leave();
            }
            Err(error) => {
                self.leave();
                // A caller that gave up does not want to know.
                let _ = ready.send(Err(error));
            }
        }
    }

    fn begin(&mut self) -> Result<Running, PrivateError> {
        while !self.locks.try_use()? {
            self.pause(SOON)?;
        }
        let mut failures = 0;
        loop {
            match self.step() {
                Ok(Step::Ready) => return self.running(),
                Ok(Step::Waiting) => self.pause(SOON)?,
                // Without a cluster it was initdb that failed, which nothing stands in the way of.
                Err(PrivateError::Failed { status, .. }) if failures < RETRIES && self.found.is_some() => {
                    failures += 1;
                    tracing::warn!(status, "the private PostgreSQL did not start, trying again");
                    self.pause(RETRY_PAUSE)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn running(&mut self) -> Result<Running, PrivateError> {
        let (cluster, programs) = self.find()?.ok_or(PrivateError::GaveUp)?;
        Ok(Running { cluster: cluster.clone(), programs: programs.bin.clone() })
    }

    fn follow(&mut self) {
        let mut failures = 0;
        let mut pause = POLL;
        while self.pause(pause).is_ok() {
            pause = match self.step() {
                Ok(Step::Waiting) => SOON,
                Ok(Step::Ready) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!("the private PostgreSQL accepts connections again");
                    }
                    POLL
                }
                Err(error) => {
                    tracing::warn!(%error, "the private PostgreSQL is down, starting it again");
                    failures += 1;
                    POLL * 2_u32.pow(DOUBLINGS.min(failures - 1))
                }
            };
        }
    }

    /// Waits. An error means that it is time to leave.
    fn pause(&self, time: Duration) -> Result<(), PrivateError> {
        match self.leave.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(PrivateError::GaveUp),
        }
    }

    /// Brings the server one step nearer to serving, and says how far it is. Called again and again.
    fn step(&mut self) -> Result<Step, PrivateError> {
        let supervised_before = self.locks.supervising();
        if !self.locks.try_supervise()? {
            return self.join();
        }
        if !supervised_before {
            self.serving = false;
        }
        if self.postmaster.is_none() {
            self.take_over()?;
        }
        self.look_after()
    }

    /// Another process supervises: is the server it speaks of ready?
    fn join(&mut self) -> Result<Step, PrivateError> {
        if self.serving {
            return Ok(Step::Ready);
        }
        let note = self.locks.note()?;
        let Some((cluster, _)) = self.find()? else { return Ok(Step::Waiting) };
        let announced = matches!(note, Note::Serving(pid) if cluster.running_pid() == Some(pid));
        self.serving = announced && accepts(cluster);
        Ok(if self.serving { Step::Ready } else { Step::Waiting })
    }

    /// We supervise, and have no server yet: adopt the one that was handed over, or start one.
    fn take_over(&mut self) -> Result<(), PrivateError> {
        let note = self.locks.note()?;
        self.locks.write(Note::Nothing)?;
        if self.find()?.is_none() {
            let programs = programs::find_newest()?;
            place::create(&self.data_dir, &programs)?;
        }
        let data_dir = self.data_dir.clone();
        let (cluster, programs) = self.find()?.ok_or(PrivateError::GaveUp)?;
        let postmaster = match cluster.running_pid() {
            Some(pid) if note == Note::HandedOver(pid) => Postmaster::adopt(cluster, pid)?,
            _ => {
                halt_left_behind(cluster);
                Postmaster::start(cluster, programs, &data_dir)?
            }
        };
        self.postmaster = Some(postmaster);
        Ok(())
    }

    fn look_after(&mut self) -> Result<Step, PrivateError> {
        let (Some(postmaster), Some((cluster, programs))) = (&mut self.postmaster, &self.found) else {
            return Ok(Step::Waiting);
        };
        if let Some(status) = postmaster.ended(cluster) {
            let error = PrivateError::failed(&programs.bin.join("postgres"), status, &self.data_dir);
            self.postmaster = None;
            self.serving = false;
            return Err(error);
        }
        postmaster.keep_watched(cluster)?;
        if self.serving {
            log::bound(&self.data_dir);
        } else if accepts(cluster) {
            self.locks.write(Note::Serving(postmaster.pid()))?;
            self.serving = true;
        }
        Ok(if self.serving { Step::Ready } else { Step::Waiting })
    }

    /// The cluster and the programs that fit it, looked for until they are found.
    fn find(&mut self) -> Result<Option<&(Cluster, Programs)>, PrivateError> {
        if self.found.is_none()
            && let Some(cluster) = Cluster::find(&self.data_dir)?
        {
            let programs = programs::find_version(cluster.root(), cluster.major())?;
            self.found = Some((cluster, programs));
        }
        Ok(self.found.as_ref())
    }

    fn leave(&mut self) {
        match self.locks.leave() {
            Ok(true) => self.stop_server(),
            Ok(false) => self.hand_over(),
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether others use the private PostgreSQL, so it goes on");
                self.hand_over();
            }
        }
        self.locks.release();
    }

    /// Nobody uses the server any more, and until we release the locks nobody can.
    fn stop_server(&mut self) {
        match self.wait_for_lock().and_then(|()| Cluster::find(&self.data_dir)) {
            Ok(Some(cluster)) => self.stop_cluster(&cluster),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "could not stop the private PostgreSQL"),
        }
    }

    fn stop_cluster(&mut self, cluster: &Cluster) {
        match self.postmaster.take() {
            Some(postmaster) => postmaster.stop(cluster),
            None => halt_left_behind(cluster),
        }
        cluster.remove_socket_dir();
        if let Err(error) = self.locks.write(Note::Nothing) {
            tracing::warn!(%error, "could not clear the private PostgreSQL's note");
        }
    }

    /// A supervisor that is leaving too lets go of its lock at once, since it sees that we hold that of the users.
    fn wait_for_lock(&mut self) -> Result<(), PrivateError> {
        let deadline = Instant::now() + LOCK_LIMIT;
        while !self.locks.try_supervise()? {
            if Instant::now() > deadline {
                return Err(PrivateError::GaveUp);
            }
            sleep(SOON);
        }
        Ok(())
    }

    /// Others use the server: it goes on without us, and the note tells the next supervisor that this is meant.
    fn hand_over(&mut self) {
        if let Some(postmaster) = self.postmaster.take() {
            let pid = postmaster.pid();
            postmaster.hand_over();
            if let Err(error) = self.locks.write(Note::HandedOver(pid)) {
                tracing::warn!(%error, "could not note down that the private PostgreSQL was handed over; it will be restarted");
            }
        }
    }
}
