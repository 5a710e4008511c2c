//! What every handler can reach.

use std::sync::Arc;
use std::time::Duration;

use commands::jobs::ArtifactStore;
use commands::jobs::JobDefaults;
use commands::jobs::Kinds;
use commands::{Commands, Executed};
use ledger::Ledger;
use projections::{ById, Projections, StreamView};
use tokio::sync::Semaphore;

use crate::config::Settings;
use crate::effects::Effects;
use crate::key_uses::KeyUses;
use crate::middleware::rate_limit::RateLimits;
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
    pub kinds: Arc<Kinds>,
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

    /// What holds of jobs where neither they nor their kinds say anything.
    #[must_use]
    pub fn job_defaults(&self) -> JobDefaults {
        JobDefaults {
            max_attempts: self.settings.max_job_retries,
            retry_delay_seconds: self.settings.job_retry_delay_seconds,
        }
    }

    /// Waits until the views have passed `position`; the audit trail, which trails behind the others, only where told to.
    ///
    /// # Errors
    /// 504 with the position reached, after [`VIEW_PATIENCE`].
    pub async fn wait(&self, position: i64, with_audit: bool) -> Result<(), Problem> {
        let outcome = if with_audit {
            self.projections.wait(position, VIEW_PATIENCE).await
        } else {
            self.projections.wait_prompt(position, VIEW_PATIENCE).await
        };
        outcome.map_err(|behind| {
            let reached = behind.reached;
            let detail = format!("The views have reached position {reached}, not yet {position}. Try again.");
            Problem::gateway_timeout(detail).with_code("views_behind")
        })
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
        let shown = view.present(&done.id).await?.filter(|row| sequence(row) == done.sequence);
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

    /// Waits after a write for the views, so that the writer's next read sees it. The write is durable whatever comes of it:
    /// views that are late make the answer later, not wrong.
    pub async fn settle(&self, position: Option<i64>) {
        if let Some(position) = position
            && self.wait(position, false).await.is_err()
        {
            tracing::warn!(position, "answered a write before the views had passed it");
        }
    }
}
