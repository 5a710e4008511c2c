//! The log: to standard error, as text or JSON. What belongs in it: `docs/LOGGING.md`.

use std::io::{IsTerminal, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, Settings};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `LOG_LEVEL` is not a filter. `Settings::load` refuses this before.
    #[error("LOG_LEVEL is not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process has a log already.
    #[error("the log is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sets up the process's log. Call it once, first thing.
///
/// # Errors
/// When the filter is wrong or the process has a log already.
pub fn init(settings: &Settings) -> Result<(), LogError> {
    let colour = std::io::stderr().is_terminal();
    let subscriber = subscriber(&settings.log_level, settings.log_format, colour, std::io::stderr)?;
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    colour: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w, Writer: Write> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(writer)
        .with_ansi(colour);
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish()),
        // The span's fields (request id, route, status) come along with each event, once.
        LogFormat::Json => Box::new(
            builder.json().flatten_event(true).with_span_list(false).with_current_span(true).finish(),
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt;
    use tracing::instrument::WithSubscriber;

    use super::*;
    use crate::middleware::request_id::request_id;
    use crate::problem::Problem;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// What is logged for a request that fails inside, with a token in its query.
    async fn log(format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber("info", format, false, move || writer.clone()).unwrap();
        let router = Router::new()
            .route("/things/{id}", get(|| async { Problem::internal("the disk is on fire") }))
            .layer(axum::middleware::from_fn(request_id));
        let request = Request::builder().uri("/things/17?token=hunter2").header("x-request-id", "abc");
        router.oneshot(request.body(Body::empty()).unwrap()).with_subscriber(subscriber).await.unwrap();
        lines.text()
    }

    #[tokio::test]
    async fn json_lines_carry_the_request_and_not_its_query() {
        let text = log(LogFormat::Json).await;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [error, answered] = &lines[..] else { panic!("{text}") };
        assert_eq!((&error["level"], &error["cause"]), (&"ERROR".into(), &"the disk is on fire".into()));
        for line in [error, answered] {
            assert_eq!(line["span"]["request_id"], "abc");
            assert_eq!(line["span"]["method"], "GET");
            assert_eq!(line["span"]["path"], "/things/{id}");
        }
        assert_eq!((&answered["message"], &answered["span"]["status"]), (&"answered".into(), &500.into()));
        assert!(answered["span"]["latency_ms"].is_number(), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("17?"), "{text}");
    }

    #[tokio::test]
    async fn text_lines_carry_the_request_too() {
        let text = log(LogFormat::Text).await;
        assert!(text.contains("request_id=\"abc\"") && text.contains("the disk is on fire"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        let result = subscriber("info,x=loud", LogFormat::Text, false, std::io::sink);
        assert!(matches!(result, Err(LogError::Filter(_))));
    }
}
