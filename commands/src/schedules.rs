//! Schedules: jobs that run at certain times.

mod times;

pub use times::Times;
