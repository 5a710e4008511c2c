//! Jobs that do nothing: what a job costs from the queue to its recorded end.

use super::site::{Running, Site};
use super::{CONCURRENCIES, Floor};
use crate::table::{Measured, Table, pause};

/// Jobs of one measurement, unless `BENCH_JOBS` says otherwise; a tenth of it where each is a process.
fn jobs() -> usize {
    std::env::var("BENCH_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

pub(super) async fn run(table: &mut Table, site: &Site, floor: &Floor, history: &str) {
    for (concurrency, floor) in CONCURRENCIES.into_iter().zip(floor.claims) {
        let measured = worked_off(site, "noop", jobs(), concurrency).await;
        table.add(format!("no-op jobs, {concurrency} at a time{history}"), measured, Some((floor, "1.5x")));
    }
    let measured = worked_off(site, "process", jobs() / 10, CONCURRENCIES[0]).await;
    table.add(
        format!("jobs that run `true`, {} at a time{history}", CONCURRENCIES[0]),
        measured,
        Some((floor.claims[0], "")),
    );
}

/// From the first start that was recorded to the last end; and what each took from its own start to its end.
async fn worked_off(site: &Site, kind: &str, jobs: usize, concurrency: usize) -> Measured {
    let queueing = site.without_worker().await;
    let before = queueing.ledger.head().await.unwrap();
    queueing.queue(site.team, kind, jobs).await;
    queueing.caught_up().await;
    queueing.stop().await;
    let working = site.with_worker(concurrency).await;
    // A start and an end of each come after the queueing.
    while working.ledger.head().await.unwrap() < before + 3 * jobs as i64 {
        pause(std::time::Duration::from_millis(50)).await;
    }
    let measured = spans(&working, before, jobs).await;
    working.stop().await;
    measured
}

const SPANS: &str = "
    select (extract(epoch from s.recorded_at) * 1000)::bigint, (extract(epoch from e.recorded_at) * 1000)::bigint
    from events s join events e on e.aggregate_type = s.aggregate_type and e.aggregate_id = s.aggregate_id
                               and e.sequence = s.sequence + 1
    where s.position > $1 and s.event_type = 'JobStarted' and e.event_type = 'JobCompleted'";

async fn spans(node: &Running, after: i64, jobs: usize) -> Measured {
    let spans: Vec<(i64, i64)> =
        sqlx::query_as(SPANS).bind(after).fetch_all(node.ledger.pool()).await.unwrap();
    assert_eq!(spans.len(), jobs, "each completes with its first attempt");
    let first = spans.iter().map(|(start, _)| *start).min().unwrap();
    let last = spans.iter().map(|(_, end)| *end).max().unwrap();
    let took = spans.iter().map(|(start, end)| u32::try_from((end - start) * 1_000).unwrap());
    Measured::of(took.collect(), (last - first) as f64 / 1_000.0)
}
