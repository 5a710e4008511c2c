//! Jobs: from the queue to their recorded end, on a real node (HTTP, follower, worker) with a PostgreSQL of its own, in this process. Beside
//! it the floor of every queue in PostgreSQL, one durable claim and one durable delete a job, on the same server.
//!
//! With `BENCH_HISTORY=1000000` all of it is measured once more with so many finished jobs in the history.

mod enqueue;
mod floor;
mod history;
mod log_lines;
mod no_op;
mod peers;
mod pickup;
mod site;

use site::Site;

use crate::table::{Measured, Table};

pub(crate) use log_lines::print as print_lines;

/// Jobs at a time, as the goals have it.
const CONCURRENCIES: [usize; 2] = [10, 50];

/// What jobs are held against.
pub(crate) struct Floor {
    /// Claim and delete, two commits a job, at each of [`CONCURRENCIES`].
    claims: [Measured; 2],
    /// One row in one commit.
    insert: Measured,
}

pub(crate) async fn run(table: &mut Table) {
    let site = Site::start().await;
    let floor = floor::run(table, &site).await;
    peers::run(table, &site, &floor).await;
    measured(table, &site, &floor, "").await;
    if let Some(jobs) = history::wanted() {
        history::make(table, &site, jobs).await;
        measured(table, &site, &floor, &format!("; {jobs} finished before")).await;
    }
    site.stop().await;
}

async fn measured(table: &mut Table, site: &Site, floor: &Floor, history: &str) {
    no_op::run(table, site, floor, history).await;
    pickup::run(table, site, history).await;
    log_lines::run(table, site, history).await;
    // Last: what it queues stays in the queue, not due.
    enqueue::run(table, site, floor, history).await;
}
