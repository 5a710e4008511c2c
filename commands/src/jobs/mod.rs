//! Jobs: what can run, running one attempt of it, and the worker that does.

mod attempt;
mod folder;
pub mod kinds;
mod leases;
pub mod lines;
mod log_news;
mod log_reading;
mod log_store;
pub mod mask;
mod output;
pub mod process;
mod program;
mod queue;
mod result;
pub mod watchdog;
mod worker;

pub use folder::sweep;
pub use kinds::{ArgProblem, Kind, KindInfo, KindProblem, Kinds};
pub use log_news::{LogNews, LogsUnheard};
pub use log_reading::{Found, FoundLine, LineFilter, Lines, LogPlace};
pub use log_store::JobLine;
pub use queue::{QueueError, ReadyJob, RunningJob, WorkQueue};
pub use worker::{Worker, WorkerOptions};
