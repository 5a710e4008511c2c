//! What every handler can reach.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use commands::jobs::ArtifactStore;
use commands::jobs::JobDefaults;
use commands::jobs::LiveKinds;
use commands::supervisor::Supervisor;
use commands::{Commands, Executed};
use ledger::Ledger;
use projections::{ById, Projections, StreamView};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::effects::Effects;
use crate::key_uses::KeyUses;
use crate::middleware::rate_limit::RateLimits;
use crate::middleware::request_scope;
use crate::notices::Notices;
use crate::problem::Problem;
use crate::tokens::TokenKeys;
use crate::watching::Watching;

/// How long a request waits for a view to pass a position.
pub const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// The parts of a running server. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// The log.
    pub ledger: Ledger,
    /// The write side.
    pub commands: Commands,
    /// The read side.
    pub projections: Projections,
    /// What jobs can run.
    pub kinds: LiveKinds,
    /// Files that jobs have left.
    pub artifacts: ArtifactStore,
    /// Signs and checks access tokens.
    pub tokens: TokenKeys,
    /// How much each client may ask.
    pub limits: RateLimits,
    /// When API keys were last used.
    pub key_uses: KeyUses,
    /// What happens to secrets, for those who wait for it.
    pub notices: Notices,
    /// What happens to jobs, for those who watch.
    pub watching: Watching,
    /// The background tasks.
    pub tasks: Supervisor,
    /// The node is to stop: it takes no new work, and answers until what runs has ended.
    pub stopping: CancellationToken,
    /// Whether schedules, mail and jobs are held.
    pub effects: Effects,
    /// Places for what nobody waits for.
    pub background: Arc<Semaphore>,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Now, by the database's clock, which all nodes share.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.ledger.clock().now()
    }

    /// What holds of jobs where neither they nor their kinds say anything.
    #[must_use]
    pub fn job_defaults(&self) -> JobDefaults {
        JobDefaults {
            max_attempts: self.settings.max_job_retries,
            retry_delay_seconds: self.settings.job_retry_delay_seconds,
        }
    }

    /// What a write has made, as that write left it: a repeated request gets the first answer, whatever happened since. From the
    /// view where it shows just that, else folded from the log. `sequence` tells a row's.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn as_written<V: StreamView>(
        &self,
        view: impl ById<V>,
        done: &Executed,
        sequence: fn(&V::Row) -> i64,
    ) -> Result<Arc<V::Row>, Problem> {
        let shown = view.held(&done.id).await?.filter(|row| sequence(row) == done.sequence);
        if let Some(row) = shown {
            return Ok(row);
        }
        let folded = view.as_of(&done.id, done.position).await?;
        let row = folded.map(|folded| Arc::new(folded.row));
        row.ok_or_else(|| Problem::internal("what was written is not in the log"))
    }

    /// Does something that nobody waits for, within bounds: when too much is under way already, it is left undone and logged.
    pub fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(place) = Arc::clone(&self.background).try_acquire_owned() else {
            tracing::warn!("left undone: too much is under way in the background");
            return;
        };
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
    }

    /// Waits after a write for the views, so that the writer's next read sees it. The write is durable whatever comes of it. Views that
    /// are late make the answer later, not wrong: until they have passed the write they answer nobody, so what was revoked opens nothing.
    /// `false`: some have not passed it.
    pub async fn settle(&self, position: Option<i64>) -> bool {
        let Some(position) = position else { return true };
        request_scope::done(position);
        let Err(behind) = self.projections.settle(position, VIEW_PATIENCE).await else { return true };
        tracing::warn!(position, view = behind.view, "answered a write before the view had passed it");
        projections::written();
        false
    }
}
