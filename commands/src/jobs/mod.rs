//! Jobs: what can run, and running one attempt of it.

mod folder;
pub mod kinds;
pub mod lines;
pub mod mask;
mod output;
pub mod process;
mod program;
mod result;
pub mod watchdog;

pub use folder::sweep;
