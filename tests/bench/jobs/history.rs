//! A long history: jobs that were queued, ran and ended before, by the million.
//!
//! They go through the ledger like any others, in large appends, while no node runs; the next node finds its views far behind and rebuilds
//! them from the log. So positions are dense and every view is what it would be.

use std::time::Instant;

use chrono::Utc;
use cqrs_es::DomainEvent as _;
use domain::{JobEvent, JobId, LogDigest, Ran, TeamId};
use ledger::{Append, Keyring, Ledger, Metadata, NewEvent, Options, StreamId};
use serde_json::Map;
use uuid::Uuid;

use super::site::Site;
use crate::table::Table;

/// Jobs of one append: their events are no more than it may hold.
const AT_ONCE: usize = 1_600;

/// `BENCH_HISTORY`, if that is more than nothing.
pub(super) fn wanted() -> Option<usize> {
    std::env::var("BENCH_HISTORY").ok()?.parse().ok().filter(|jobs| *jobs > 0)
}

pub(super) async fn make(table: &mut Table, site: &Site, jobs: usize) {
    let began = Instant::now();
    let ledger = Ledger::new(site.connect_options(), Keyring::new(&[7; 32], None), &Options::default());
    let mut left = jobs;
    while left > 0 {
        let batch = left.min(AT_ONCE);
        let events = (0..batch).flat_map(|_| one(site.team)).collect();
        let metadata =
            Metadata { actor: "system".into(), team_id: Some(site.team.to_string()), ..Metadata::default() };
        ledger.append(Append { events, metadata, data_keys: vec![] }).await.unwrap();
        left -= batch;
    }
    ledger.close().await;
    let appended = began.elapsed().as_secs_f64();
    let began = Instant::now();
    // It rebuilds the views.
    let node = site.without_worker().await;
    let rebuilt = began.elapsed().as_secs_f64();
    sqlx::raw_sql("vacuum (analyze)").execute(node.ledger.pool()).await.unwrap();
    node.stop().await;
    table.note(format!(
        "{jobs} finished jobs ({} events): appended in {appended:.0} s, all views rebuilt in {rebuilt:.0} s",
        3 * jobs
    ));
}

/// What the log has of a job that did its work.
fn one(team_id: TeamId) -> Vec<NewEvent> {
    let (id, kind) = (JobId(Uuid::now_v7()), "noop".to_owned());
    let worker = "bench-0".to_owned();
    let events = [
        JobEvent::JobQueued {
            team_id,
            kind: kind.clone(),
            args: Map::new(),
            priority: 5,
            run_at: Utc::now(),
            max_attempts: 3,
            timeout_seconds: 3_600,
            retry_delay_seconds: 60,
            concurrency_key: None,
            backoff: domain::Backoff::default(),
            concurrency_limit: 1,
            unique: None,
            schedule_id: None,
        },
        JobEvent::JobStarted { attempt: 1, worker: worker.clone(), at: Some(Utc::now()) },
        JobEvent::JobCompleted {
            attempt: 1,
            kind,
            ran: Some(Ran { worker, milliseconds: 7 }),
            result: None,
            artifacts: vec![],
            log: LogDigest { lines: 0, dropped: 0, sha256: ledger::Sha256::default().finish() },
        },
    ];
    let stored = |(sequence, event): (i64, JobEvent)| NewEvent {
        stream: StreamId::new("job", id),
        sequence,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: serde_json::to_value(&event).unwrap().into(),
    };
    (1..).zip(events).map(stored).collect()
}
