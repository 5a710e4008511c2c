//! One integration-test crate: the real parts, over HTTP and the command line, on a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say so at once")]

mod guessing;
mod http;
mod jobs;
mod ledger;
mod mail;
mod processes;
mod projections;
mod reactors;
mod stored_events;
mod tidy;
