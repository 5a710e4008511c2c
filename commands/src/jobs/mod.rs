//! Jobs: what can run, running one attempt of it, and the worker that does.

mod artifacts_folder;
mod attempt;
mod descendants;
mod folder;
mod group;
mod json_line;
pub mod kinds;
mod launch;
mod leases;
mod limits;
pub mod lines;
mod log_store;
pub mod mask;
mod output;
pub mod process;
mod program;
mod queue;
mod result;
pub mod watchdog;
mod worker;

pub use artifacts_folder::{Artifact, KeepArtifacts, KeptArtifact, MOST_ARTIFACTS, NoArtifacts};
pub use folder::sweep;
pub use kinds::{ArgProblem, Kind, KindInfo, KindProblem, Kinds};
pub use limits::{LEAST_MEMORY_BYTES, LEAST_OPEN_FILES, Limits};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use worker::{Worker, WorkerOptions};
