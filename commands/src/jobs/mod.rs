//! Jobs: what can run, running one attempt of it, and the worker that does.

pub mod action;
mod attempt;
mod changing;
pub mod circuits;
mod claims;
mod folder;
mod history;
pub mod kinds;
pub mod limits;
pub mod lines;
mod living;
mod log_store;
pub mod mask;
mod output;
mod prepare;
pub mod process;
mod program;
mod queue;
mod queueing;
mod registry;
mod result;
mod starting;
pub mod watchdog;
mod worker;

pub use action::Actions;
pub use changing::{ChangedJobs, JobChange, MOST_CHANGED};
pub use folder::sweep;
pub use history::AttemptMade;
pub use kinds::{ArgProblem, Kind, KindInfo, KindProblem, KindSettings, Kinds, ParamInfo, Reading, Values};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use queueing::{CheckedJob, JobDefaults, JobRequest, MOST_QUEUED, QueuedJob, QueuedJobs, USUAL_PRIORITY};
pub use registry::ListedWorker;
pub use worker::{Worker, WorkerOptions};
