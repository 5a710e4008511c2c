//! Files that jobs leave, where no process is needed to leave them.

use commands::Context;
use commands::jobs::{Artifact, ArtifactPlace, ArtifactStore, KeepArtifacts as _, KeepAttempt};
use domain::{Actor, Caller, Ending, Job, JobCommand, JobId, LogDigest, Permissions, TeamId};

use crate::TestApp;

impl TestApp {
    /// The folder in which its artifacts are kept.
    ///
    /// # Panics
    /// When it cannot be opened.
    #[must_use]
    pub fn artifacts(&self) -> ArtifactStore {
        let folder = self.folder().join("data/artifacts");
        ArtifactStore::open(&self.ledger, &ArtifactPlace::Folder(folder)).unwrap()
    }

    /// Runs a pending job of the team to its end, which leaves these files there, as a worker would.
    ///
    /// # Panics
    /// When it is not pending.
    pub async fn complete_with(&self, job: &str, store: &ArtifactStore, files: &[(&str, &[u8])]) {
        let (team, job): (TeamId, JobId) = (self.people.team, job.parse().unwrap());
        let permissions = Permissions::system();
        let context = Context::of(Caller { actor: Actor::System, team: Some(team), permissions });
        let start = JobCommand::Start { worker: "test".into(), at: chrono::Utc::now() };
        self.commands.execute::<Job>(&context, job, None, start).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let found = files.iter().enumerate().map(|(number, (name, content))| {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, content).unwrap();
            Artifact { name: (*name).to_owned(), size: content.len() as u64, path }
        });
        let keep = KeepAttempt { store: store.clone(), team, job, attempt: 1 };
        let artifacts = keep.keep(found.collect()).await;
        let ending = Ending::Succeeded { result: None, artifacts };
        let log = LogDigest::default();
        let finish = JobCommand::Finish { attempt: 1, ending, log, at: chrono::Utc::now(), dice: 0.5 };
        let done = self.commands.execute::<Job>(&context, job, None, finish).await.unwrap();
        self.projections.wait(done.position.unwrap(), crate::LIMIT).await.unwrap();
    }
}
