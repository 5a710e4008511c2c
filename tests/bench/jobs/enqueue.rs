//! Queueing over HTTP, one job a request and a thousand.

use serde_json::json;

use super::Floor;
use super::site::Site;
use crate::http::{Ask, Connection, request};
use crate::table::{Table, measure};

/// Jobs of one request.
const BATCH: usize = 1_000;
/// They are never due, so that the measurements after this one need not work them off.
const RUN_AT: &str = "2999-01-01T00:00:00Z";

pub(super) async fn run(table: &mut Table, site: &Site, floor: &Floor, history: &str) {
    let node = site.without_worker().await;
    let job = json!({"kind": "noop", "run_at": RUN_AT});
    let single = request("POST", "/api/jobs", &site.bearer, &job.to_string());
    let measured = measure(Connection::all(&node.address, &single, "HTTP/1.1 201").await, Ask).await;
    table.add(format!("POST /api/jobs, 64 connections{history}"), measured, Some((floor.insert, "")));
    let batch = json!({"jobs": vec![job; BATCH]}).to_string();
    let batch = request("POST", "/api/jobs/batch", &site.bearer, &batch);
    let mut connections = Connection::all(&node.address, &batch, "HTTP/1.1 201").await;
    connections.truncate(4);
    let mut measured = measure(connections, Ask).await;
    measured.rate *= BATCH as f64;
    table.add(
        format!("jobs by POST /api/jobs/batch, 1,000 each, 4 connections{history}"),
        measured,
        Some((floor.insert, "")),
    );
    node.caught_up().await;
    node.stop().await;
}
