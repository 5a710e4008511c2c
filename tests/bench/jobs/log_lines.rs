//! What jobs print: as fast as one can, and how far behind somebody is who watches at a steady pace.

use std::io::Write as _;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt as _;
use ledger::StreamId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::CONCURRENCIES;
use super::site::{Running, Site};
use crate::http::{Connection, request};
use crate::table::{Table, pause, spread};

/// Lines that are printed as fast as it goes.
pub(super) const MANY: u64 = 200_000;
/// Lines that are printed one a millisecond.
pub(super) const STEADY: u64 = 10_000;

pub(super) async fn run(table: &mut Table, site: &Site, history: &str) {
    let node = site.with_worker(CONCURRENCIES[0]).await;
    many(table, site, &node, history).await;
    watched(table, site, &node, history).await;
    node.stop().await;
}

async fn many(table: &mut Table, site: &Site, node: &Running, history: &str) {
    let id = queue(site, node, "chatty").await;
    let stream = StreamId::new("job", &id);
    while node.ledger.stream_length(&stream).await.unwrap() < 3 {
        pause(Duration::from_millis(20)).await;
    }
    let events = node.ledger.read_stream(&stream, 0, None, 10).await.unwrap();
    let stored = events[2].payload.value()["JobCompleted"]["log"]["lines"].as_u64();
    assert_eq!(stored, Some(MANY), "{:?}", events[2].payload);
    let seconds = (events[2].at - events[1].at).num_milliseconds() as f64 / 1_000.0;
    let rate = MANY as f64 / seconds;
    table.note(format!("log lines, one job, start to all stored{history}: {rate:.0} per second"));
}

async fn watched(table: &mut Table, site: &Site, node: &Running, history: &str) {
    let id = queue(site, node, "steady").await;
    let url = format!("ws://{}/ws/jobs/{id}?token={}&team={}", node.address, site.token, site.team);
    let connection = TcpStream::connect(&node.address).await.unwrap();
    let (mut socket, _) = client_async(url, connection).await.unwrap();
    let mut behind = vec![];
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == "end" {
            break;
        }
        if message["type"] == "line" {
            let printed: i64 = message["text"].as_str().unwrap().parse().unwrap();
            behind.push(u32::try_from(Utc::now().timestamp_micros() - printed).unwrap_or_default());
        }
    }
    assert_eq!(behind.len() as u64, STEADY);
    table.note(format!("a watcher at 1,000 lines/s, printed to received{history}: {}", spread(behind)));
}

async fn queue(site: &Site, node: &Running, kind: &str) -> String {
    let body = request("POST", "/api/jobs", &site.bearer, &json!({"kind": kind}).to_string());
    let mut connection = Connection::all(&node.address, &body, "HTTP/1.1 201").await.remove(0);
    let job: Value = serde_json::from_slice(&connection.ask().await).unwrap();
    job["id"].as_str().unwrap().to_owned()
}

/// The job `steady`: prints the time, in microseconds since 1970, a thousand times a second.
pub(crate) async fn print(lines: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut output = std::io::stdout().lock();
    for _ in 0..lines {
        ticks.tick().await;
        writeln!(output, "{}", Utc::now().timestamp_micros()).unwrap();
        output.flush().unwrap();
    }
}
