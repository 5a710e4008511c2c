//! What the integration tests stand on: real PostgreSQL servers, a database for each test, and waiting without sleeping.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness that fails should say so at once")]

mod app;
mod artifacts;
mod client;
mod database;
#[cfg(target_os = "linux")]
mod false_clock;
mod folder;
mod proxy;
pub mod s3;
mod server;
mod socket;
mod stream;
mod tokens;
mod wait;

pub use app::{JWT_SECRET, PASSWORD, People, Setup, TestApp};
pub use client::{Client, Reply};
pub use database::{Database, connect_from_environment, on_tables};
#[cfg(target_os = "linux")]
pub use false_clock::FalseClock;
pub use proxy::Proxy;
pub use server::Server;
pub use socket::Socket;
pub use stream::{EventStream, StreamEvent};
pub use wait::{LIMIT, eventually, within};
