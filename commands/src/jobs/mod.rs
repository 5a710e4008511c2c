//! Jobs: what can run, and running one attempt of it.

pub mod lines;
pub mod mask;
