//! How soon an idle worker begins: one job at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::JobStatus;
use ledger::StreamId;
use serde_json::Value;

use super::CONCURRENCIES;
use super::site::{Running, Site};
use crate::http::{Connection, request};
use crate::table::{Table, pause, spread};

const SAMPLES: u32 = 200;

pub(super) async fn run(table: &mut Table, site: &Site, history: &str) {
    let node = site.with_worker(CONCURRENCIES[0]).await;
    let body = request("POST", "/api/jobs", &site.bearer, r#"{"kind":"noop"}"#);
    let mut connection = Connection::all(&node.address, &body, "HTTP/1.1 201").await.remove(0);
    let (mut asked, mut queued) = (vec![], vec![]);
    for sample in 0..SAMPLES {
        // At rest, and not in step with whatever the node does at intervals.
        pause(Duration::from_millis(u64::from(20 + sample * 7 % 31))).await;
        let before = Utc::now();
        let job: Value = serde_json::from_slice(&connection.ask().await).unwrap();
        let id = job["id"].as_str().unwrap();
        ended(&node, id).await;
        let history = node.ledger.read_stream(&StreamId::new("job", id), 0, None, 10).await.unwrap();
        let started: DateTime<Utc> =
            serde_json::from_value(history[1].payload.value()["JobStarted"]["at"].clone()).unwrap();
        asked.push(micros(before, started));
        // The log has whole milliseconds.
        queued.push(micros(history[0].at, history[1].at));
    }
    node.stop().await;
    table.note(format!("pickup when idle, POST to start{history}: {} (goal p95 10)", spread(asked)));
    table.note(format!("pickup when idle, recorded queueing to recorded start{history}: {}", spread(queued)));
}

async fn ended(node: &Running, id: &str) {
    let mut changes = node.projections.changes();
    loop {
        changes.mark_unchanged();
        let row = node.projections.jobs().across_teams().get(id).await.unwrap();
        if row.is_some_and(|row| row.status == JobStatus::Completed) {
            return;
        }
        changes.changed().await.unwrap();
    }
}

fn micros(from: DateTime<Utc>, to: DateTime<Utc>) -> u32 {
    u32::try_from((to - from).num_microseconds().unwrap()).unwrap_or_default()
}
