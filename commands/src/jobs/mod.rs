//! Jobs: what can run, running one attempt of it, and the worker that does.

pub mod action;
mod attempt;
pub mod circuits;
mod folder;
pub mod kinds;
mod leases;
pub mod limits;
pub mod lines;
mod log_store;
pub mod mask;
mod output;
mod prepare;
pub mod process;
mod program;
mod queue;
mod result;
pub mod watchdog;
mod worker;

pub use action::Actions;
pub use folder::sweep;
pub use kinds::{ArgProblem, Kind, KindInfo, KindProblem, KindSettings, Kinds, ParamInfo, Reading, Values};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use worker::{Worker, WorkerOptions};
