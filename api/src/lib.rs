//! The edge.

pub mod config;
pub mod extract;
pub mod keys;
pub mod logging;
pub mod metrics;
pub mod middleware;
pub mod problem;
pub mod tokens;
