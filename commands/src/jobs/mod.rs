//! Jobs: what can run, running one attempt of it, and the worker that does.

mod attempt;
mod changing;
mod claims;
mod folder;
mod history;
pub mod kinds;
pub mod lines;
mod living;
mod log_store;
pub mod mask;
mod output;
pub mod process;
mod program;
mod queue;
mod queueing;
mod registry;
mod result;
mod starting;
pub mod watchdog;
mod worker;

pub use changing::{ChangedJobs, JobChange, MOST_CHANGED};
pub use folder::sweep;
pub use history::AttemptMade;
pub use kinds::{ArgProblem, Kind, KindInfo, KindProblem, Kinds};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use queueing::{CheckedJob, JobDefaults, JobRequest, MOST_QUEUED, QueuedJob, QueuedJobs, USUAL_PRIORITY};
pub use registry::ListedWorker;
pub use worker::{Worker, WorkerOptions};
