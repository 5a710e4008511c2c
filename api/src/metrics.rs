//! The process's metrics, in Prometheus's text format. One recorder per process, however many servers it runs.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::middleware::metrics::{REQUESTS, SECONDS};

/// Seconds; from a cached read to a request that waits for a view.
const BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder; further calls change nothing.
pub fn install() {
    handle();
}

/// What `/metrics` answers.
pub fn render() -> String {
    let Some(handle) = handle() else { return String::new() };
    handle.run_upkeep();
    handle.render()
}

/// Keeps the memory of histograms flat when nobody asks for `/metrics`. Runs until `stop`; one task per process is enough.
pub async fn upkeep(stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        if let Some(handle) = handle() {
            handle.run_upkeep();
        }
    }
}

fn handle() -> Option<&'static PrometheusHandle> {
    HANDLE.get_or_init(|| build().inspect_err(|error| tracing::error!(%error, "no metrics")).ok()).as_ref()
}

fn build() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?
        .install_recorder()?;
    metrics::describe_counter!(REQUESTS, "HTTP requests answered");
    metrics::describe_histogram!(SECONDS, metrics::Unit::Seconds, "Seconds to answer an HTTP request");
    metrics::describe_gauge!(
        ledger::SKEW_GAUGE,
        metrics::Unit::Seconds,
        "Seconds that this machine's clock is ahead of the database's"
    );
    metrics::describe_counter!(ledger::STEP_COUNTER, "Times the database's clock was found to have been set");
    metrics::describe_gauge!("task_running", "1 while a background task runs");
    metrics::describe_counter!(
        "task_failures_total",
        "Background tasks that panicked or ended by themselves"
    );
    metrics::describe_counter!("task_restarts_total", "Background tasks that were started again");
    metrics::describe_counter!("job_attempt_panics_total", "Attempts of jobs that panicked");
    metrics::describe_gauge!(
        commands::jobs::circuits::GAUGE,
        "1 while a host that failed again and again is left alone by jobs"
    );
    metrics::describe_gauge!(
        crate::effects::GAUGE,
        "1 while schedules, mail and jobs are held until an operator releases them"
    );
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_twice_keeps_what_was_counted() {
        install();
        metrics::counter!("test_installs_total").increment(1);
        install();
        metrics::counter!("test_installs_total").increment(1);
        assert!(render().contains("test_installs_total 2"));
    }

    #[test]
    fn seconds_are_histograms_with_buckets() {
        install();
        metrics::histogram!("test_wait_seconds").record(0.003);
        let text = render();
        assert!(text.contains(r#"test_wait_seconds_bucket{le="0.0025"} 0"#), "{text}");
        assert!(text.contains(r#"test_wait_seconds_bucket{le="0.005"} 1"#), "{text}");
    }

    #[tokio::test]
    async fn upkeep_ends_when_told() {
        let stop = CancellationToken::new();
        stop.cancel();
        upkeep(stop).await;
    }
}
