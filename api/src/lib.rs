//! The edge: routes, authentication, configuration and the command line of the binary `daybook`.

pub mod answer;
pub mod app;
pub mod authenticate;
mod body;
pub mod cli;
pub mod confidential;
pub mod config;
mod cookies;
mod credential;
pub mod extract;
mod forgetting;
pub mod input;
pub mod key_uses;
pub mod keys;
pub mod list;
pub mod logging;
pub mod mail;
pub mod metrics;
pub mod middleware;
pub mod node;
pub mod problem;
mod queue;
mod refusal;
pub mod routes;
pub mod server;
pub mod tokens;
