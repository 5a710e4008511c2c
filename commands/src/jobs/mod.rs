//! Jobs: what can run, running one attempt of it, and the worker that does.

pub mod action;
pub mod artifacts;
mod artifacts_folder;
mod attempt;
mod changing;
pub mod circuits;
mod claiming;
mod claims;
mod descendants;
mod folder;
mod group;
mod history;
mod in_time;
mod json_line;
pub mod kinds;
mod launch;
pub mod limits;
pub mod lines;
mod living;
mod log_news;
mod log_reading;
mod log_store;
pub mod mask;
mod output;
mod pace;
mod prepare;
pub mod process;
mod program;
mod queue;
mod queueing;
mod registry;
mod result;
mod retention;
mod running;
mod starting;
pub mod watchdog;
mod worker;

pub use action::Actions;
pub use artifacts::{ArtifactError, ArtifactPlace, ArtifactStore, KeepAttempt, OpenArtifact, S3Bucket};
pub use artifacts_folder::{Artifact, KeepArtifacts, KeptArtifact, MOST_ARTIFACTS, NoArtifacts};
pub use changing::{ChangedJobs, JobChange, MOST_CHANGED};
pub use folder::sweep;
pub use history::AttemptMade;
pub use kinds::{
    ArgProblem, Kind, KindInfo, KindProblem, KindSettings, Kinds, LiveKinds, ParamInfo, Reading, Values,
};
pub use limits::{LEAST_MEMORY_BYTES, LEAST_OPEN_FILES, Limits};
pub use log_news::{LogNews, LogsUnheard};
pub use log_reading::{Found, FoundLine, LineFilter, Lines, LogPlace};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use queueing::{CheckedJob, JobDefaults, JobRequest, MOST_QUEUED, QueuedJob, QueuedJobs, USUAL_PRIORITY};
pub use registry::ListedWorker;
pub use retention::{Removed, Retention, RetentionError};
pub use worker::{Worker, WorkerOptions};
