//! `make bench`: every figure beside its floor, measured in the same run on the same machine.
//!
//! The servers are real: a private PostgreSQL with durable settings, and for HTTP the release binary in a process of its own,
//! asked over 64 kept connections by this process. Both share the machine's cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that fails should say so at once; its answer goes to standard output"
)]

mod append;
mod http;
mod identity;
mod jobs;
mod peer;
mod secrets;
mod table;

use std::time::Duration;

use table::Table;

/// How long each measurement lasts, after a warm-up of a tenth of it.
fn span() -> Duration {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(5.0))
}

#[tokio::main]
async fn main() {
    // As the job that `jobs` watches.
    if let Some(lines) = std::env::args().skip_while(|argument| argument != "--print-lines").nth(1) {
        return jobs::print_lines(lines.parse().unwrap()).await;
    }
    let mut table = Table::default();
    // `BENCH_ONLY=jobs` leaves the others out.
    if std::env::var("BENCH_ONLY").as_deref() != Ok("jobs") {
        let floor = append::run(&mut table).await;
        let peer = peer::run(&mut table).await;
        http::run(&mut table, peer).await;
        secrets::run(&mut table, floor).await;
    }
    jobs::run(&mut table).await;
    println!("\n{table}");
}
