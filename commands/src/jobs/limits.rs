//! What the process of an attempt may use of the machine.

use serde::Serialize;

/// Limits of each process of an attempt; `None` leaves it the worker's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Address space, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Files open at once.
    pub open_files: Option<u64>,
    /// The largest file it may write, in bytes.
    pub file_bytes: Option<u64>,
    /// Processes of the user it runs as.
    pub processes: Option<u64>,
}
