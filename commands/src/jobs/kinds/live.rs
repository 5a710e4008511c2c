//! The kinds that a node runs, which may be read again while it does.

use std::sync::Arc;

use tokio::sync::watch;

use super::Kinds;
use crate::jobs::circuits::Circuits;

/// The kinds in use. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct LiveKinds {
    present: Arc<watch::Sender<Arc<Kinds>>>,
    circuits: Arc<Circuits>,
}

impl LiveKinds {
    /// These, until others take their place.
    #[must_use]
    pub fn new(kinds: Kinds) -> Self {
        let circuits = Arc::clone(&kinds.circuits);
        Self { present: Arc::new(watch::Sender::new(Arc::new(kinds))), circuits }
    }

    /// The kinds as they are now. Whoever looks more than once at a job's kind keeps what this gives.
    #[must_use]
    pub fn now(&self) -> Arc<Kinds> {
        Arc::clone(&self.present.borrow())
    }

    /// From now on these. What runs goes on as it began, and hosts that are left alone for now still are.
    pub fn replace(&self, mut kinds: Kinds) {
        kinds.circuits = Arc::clone(&self.circuits);
        self.present.send_replace(Arc::new(kinds));
    }

    /// Tells when others take their place.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Kinds>> {
        self.present.subscribe()
    }

    /// The hosts that kinds ask, as this process finds them.
    #[must_use]
    pub fn circuits(&self) -> &Arc<Circuits> {
        &self.circuits
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::jobs::Actions;

    #[test]
    fn what_takes_their_place_is_seen_and_circuits_stay() {
        let kinds = |text: &str| Kinds::parse(text, &Actions::built_in()).unwrap();
        let live = LiveKinds::new(kinds("[jobs.old]\ncommand = ['true']"));
        let (kept, mut changes) = (live.now(), live.changes());
        live.clone().replace(kinds("[jobs.new]\ncommand = ['true']"));
        assert!(changes.has_changed().unwrap());
        let now = changes.borrow_and_update().clone();
        assert!(now.get("new").is_some() && now.get("old").is_none());
        assert!(kept.get("old").is_some(), "what was looked at before stays as it was");
        assert!(Arc::ptr_eq(now.circuits(), kept.circuits()));
    }
}
