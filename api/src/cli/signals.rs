//! What signals mean to a node that serves.
//!
//! | signal | what |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT, SIGXCPU | stop in order; the second one ends the process at once |
//! | SIGHUP | read the job kinds again |
//! | others that would end or stop the process, and can be caught | nothing |
//!
//! What is caught here is not inherited by jobs: a program that is started begins with the usual meaning of each.

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::node::{Node, StartError, actions, reread_kinds};
use commands::jobs::{Kinds, LiveKinds};

/// Those that end a process unless it says otherwise, and mean nothing to a node: what others send by mistake must not kill jobs. A pipe that is
/// closed and a file that may not grow are told as errors instead; a background process that reads or writes its terminal is not stopped.
const IGNORED: [Signal; 10] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::PIPE,
    Signal::IO,
    Signal::XFSZ,
    Signal::TTIN,
    Signal::TTOU,
];
/// Those that ask a node to stop.
const STOPPING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::XCPU];
/// The exit code of a process that was asked twice.
const ASKED_TWICE: i32 = 130;

/// The signals of this process, caught from [`Caught::begin`] on.
pub(super) struct Caught {
    /// Somebody has asked it to stop.
    pub(super) shutdown: CancellationToken,
    hangups: Signals,
}

impl Caught {
    /// From now on no signal that can be caught ends the process out of order.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn begin() -> std::io::Result<Self> {
        let shutdown = CancellationToken::new();
        for kind in STOPPING {
            tokio::spawn(stop(caught(kind)?, shutdown.clone()));
        }
        for kind in IGNORED {
            tokio::spawn(ignore(kind, caught(kind)?));
        }
        Ok(Self { shutdown, hangups: caught(Signal::HUP)? })
    }

    /// Reads the node's kinds again whenever SIGHUP asks for it, the one that came before included.
    pub(super) fn reload_kinds_of(self, node: &Node) {
        let (settings, kinds, mut hangups) = (node.settings.clone(), node.kinds.clone(), self.hangups);
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let settings = settings.clone();
                let read = tokio::task::spawn_blocking(move || reread_kinds(&settings, &actions())).await;
                match read {
                    Ok(read) => take_up(&kinds, read),
                    Err(_) => tracing::error!("SIGHUP: reading the job kinds panicked; those before stay"),
                }
            }
        });
    }
}

fn caught(kind: Signal) -> std::io::Result<Signals> {
    signal(SignalKind::from_raw(kind.as_raw()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever asks twice does not want to wait; the watchdogs clean up"
)]
async fn stop(mut signals: Signals, shutdown: CancellationToken) {
    while signals.recv().await.is_some() {
        if shutdown.is_cancelled() {
            std::process::exit(ASKED_TWICE);
        }
        tracing::info!("stopping");
        shutdown.cancel();
    }
}

async fn ignore(kind: Signal, mut signals: Signals) {
    while signals.recv().await.is_some() {
        tracing::debug!(signal = kind.as_raw(), "a signal that means nothing here was ignored");
    }
}

fn take_up(live: &LiveKinds, read: Result<Kinds, StartError>) {
    match read {
        Ok(kinds) => {
            let names = |kinds: &Kinds| kinds.iter().map(|kind| kind.name().to_owned()).collect::<Vec<_>>();
            let (before, after) = (names(&live.now()), names(&kinds));
            live.replace(kinds);
            let other = |these: &[String], those: &[String]| {
                these.iter().filter(|name| !those.contains(name)).cloned().collect::<Vec<_>>().join(", ")
            };
            tracing::info!(
                kinds = after.len(),
                added = other(&after, &before),
                removed = other(&before, &after),
                "SIGHUP: the job kinds were read again"
            );
        }
        Err(error) => {
            tracing::error!(%error, "SIGHUP: the job kinds could not be read again; those before stay");
        }
    }
}
