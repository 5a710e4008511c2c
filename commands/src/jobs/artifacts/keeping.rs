//! Keeping what one attempt has left.

use std::time::Duration;

use domain::{Artifact as Kept, JobId, TeamId};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{ArtifactError, ArtifactStore};
use crate::jobs::artifacts_folder::{Artifact, KeepArtifacts};
use crate::jobs::in_time::{self, in_time};

/// How long the database is tried for while it is away. The attempt's end is not reported before.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps what an attempt has left.
#[derive(Clone, Debug)]
pub struct KeepAttempt {
    /// Where.
    pub store: ArtifactStore,
    /// Whose job it is.
    pub team: TeamId,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
}

impl KeepArtifacts for KeepAttempt {
    fn keep<'a>(&'a self, found: Vec<Artifact>) -> BoxFuture<'a, Vec<Kept>> {
        Box::pin(async move {
            if found.is_empty() {
                return vec![];
            }
            self.keep_all(found).await.unwrap_or_else(|error| {
                tracing::warn!(job = %self.job, attempt = self.attempt, %error, "no artifact of a job was kept");
                vec![]
            })
        })
    }
}

impl KeepAttempt {
    async fn keep_all(&self, found: Vec<Artifact>) -> Result<Vec<Kept>, ArtifactError> {
        let Self { store, team, job, attempt } = self;
        // If we die after this, the attempt is lost and its objects go with the row when the job's time is over.
        patiently(|| store.begin(*team, *job, *attempt)).await?;
        let mut kept = vec![];
        for artifact in found {
            let Artifact { name, size, path } = artifact;
            let stored = match store.key(*team, *job, *attempt, &name) {
                Ok(key) => store.put(key, &path, size).await,
                Err(error) => Err(error),
            };
            match stored {
                Ok((size, sha256)) => {
                    metrics::counter!("job_artifacts_kept_total").increment(1);
                    metrics::counter!("job_artifact_bytes_kept_total").increment(size);
                    kept.push(Kept { name, size, sha256 });
                }
                Err(error) => {
                    metrics::counter!("job_artifacts_not_kept_total").increment(1);
                    tracing::warn!(%job, attempt, name, %error, "an artifact of a job was not kept");
                }
            }
        }
        patiently(|| store.settle(*job, *attempt, &kept)).await?;
        Ok(kept)
    }
}

/// Tries again while the database is away, within bounds.
async fn patiently<F: Future<Output = Result<(), sqlx::Error>>>(
    work: impl Fn() -> F,
) -> Result<(), sqlx::Error> {
    let begun = Instant::now();
    loop {
        match in_time(in_time::PATIENCE, work()).await {
            Err(error) if begun.elapsed() < PATIENCE => {
                tracing::debug!(%error, "where artifacts are kept could not be noted yet");
                sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}
