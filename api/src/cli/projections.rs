//! `daybook projections`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Subcommand;
use commands::Context;
use domain::{AccessEvent, Caller};
use indicatif::{ProgressBar, ProgressStyle};
use projections::{Progress, RebuildError, ViewStatus};
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use super::{Failure, Json, out, with_node};
use crate::node::{Accepted, Node};

/// How long `rebuild --all` waits for another process that rebuilds the same view.
const REBUILD_PATIENCE: Duration = Duration::from_secs(600);
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Projections {
    /// How far each view has got
    Status(Json),
    /// Rebuild a view from the log, while it goes on serving reads
    Rebuild {
        /// Which view
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// Every view. Accepts the log as it is: nodes that refuse to write since it is not the one they knew go on. Recorded
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Fold the log to its head and compare with what the views hold; exit code 1 when one differs, has failed or is missing
    Verify {
        /// Which view; all if not given
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

impl Projections {
    pub(super) async fn run(self) -> Result<(), Failure> {
        with_node(async |node| match self {
            Self::Status(json) => status(node, json.json).await,
            Self::Rebuild { name: Some(name), all: _, json } => {
                known(node, &name).await?;
                rebuild(node, &[name.as_str()], json.json, false).await
            }
            Self::Rebuild { name: None, all: _, json } => {
                accept(node, json.json).await?;
                // Nodes that were waiting for this rebuild their views at once.
                rebuild(node, &node.projections.names(), json.json, true).await
            }
            Self::Verify { name, json } => verify(node, name.as_deref(), json.json).await,
        })
        .await
    }
}

async fn views(node: &Node) -> Result<Vec<ViewStatus>, Failure> {
    node.projections.status().await.map_err(Failure::unreachable)
}

async fn status(node: &Node, json: bool) -> Result<(), Failure> {
    let views = views(node).await?;
    if !json {
        say!(
            "{:<14} {:>10} {:>8} {:>9} {:<10} {:>8}  error",
            "view",
            "position",
            "behind",
            "seconds",
            "state",
            "rows"
        );
    }
    for view in views {
        if json {
            let line = json!({
                "name": view.name, "position": view.position, "behind_events": view.behind_events,
                "behind_seconds": view.behind_seconds, "state": view.state, "rows": view.rows,
                "events_per_second": view.events_per_second, "last_error": view.last_error,
            });
            say!("{line}");
        } else {
            say!(
                "{:<14} {:>10} {:>8} {:>9.1} {:<10} {:>8}  {}",
                view.name,
                view.position,
                view.behind_events,
                view.behind_seconds,
                view.state,
                view.rows,
                view.last_error.as_deref().unwrap_or("-")
            );
        }
    }
    Ok(())
}

async fn known(node: &Node, name: &str) -> Result<(), Failure> {
    let names: Vec<String> = views(node).await?.into_iter().map(|view| view.name).collect();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    Err(Failure::Usage(format!("there is no view {name:?}; there are {}", names.join(", "))))
}

/// Accepts the log as it is, should it not be the one that was known.
async fn accept(node: &Node, json: bool) -> Result<(), Failure> {
    let accepted = node.accept_log().await.map_err(Failure::unreachable)?;
    match accepted {
        Some(Accepted { cause, head }) if json => say!("{}", json!({"accepted": cause, "head": head})),
        Some(Accepted { cause, head }) => {
            say!("accepted, and recorded: {cause} (the log ends at position {head})")
        }
        None => {}
    }
    Ok(())
}

async fn rebuild(node: &Node, names: &[&str], json: bool, patient: bool) -> Result<(), Failure> {
    for name in names {
        rebuild_one(node, name, json, patient).await?;
    }
    // That views were rebuilt is an event, too.
    node.show().await?;
    for view in views(node).await?.into_iter().filter(|view| names.contains(&view.name.as_str())) {
        let (name, rows, position) = (view.name, view.rows, view.position);
        if json {
            say!("{}", json!({"view": name, "done": true, "rows": rows, "position": position}));
        } else {
            say!("{name}: {rows} rows at position {position}");
        }
    }
    Ok(())
}

/// `patient`: while another process rebuilds the view it waits for that.
async fn rebuild_one(node: &Node, name: &str, json: bool, patient: bool) -> Result<(), Failure> {
    let record = AccessEvent::ViewRebuilt { view: name.to_owned(), rebuild_id: Uuid::now_v7() };
    let context = Context::of(Caller::system(None));
    node.commands.record(&context, &record).await.map_err(Failure::unreachable)?;
    let shown = Shown::new(json);
    let deadline = Instant::now() + REBUILD_PATIENCE;
    let outcome = loop {
        match node.projections.rebuild(name, |progress| shown.update(name, progress)).await {
            Err(RebuildError::AlreadyRunning(_)) if patient && Instant::now() < deadline => {
                sleep(REBUILD_INTERVAL).await;
            }
            outcome => break outcome,
        }
    };
    shown.finish();
    match outcome {
        Ok(()) => Ok(()),
        Err(error @ RebuildError::AlreadyRunning(_)) => Err(Failure::No(error.to_string())),
        Err(error) => Err(Failure::unreachable(error)),
    }
}

/// A progress bar on a terminal, JSON lines where asked for, nothing otherwise.
struct Shown {
    bar: Option<ProgressBar>,
    json: bool,
}

impl Shown {
    fn new(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let style = "{bar:40} {percent:>3}%  {pos}/{len} events  {per_sec}  {eta} left";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, json }
    }

    fn update(&self, name: &str, progress: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.head.unsigned_abs());
            bar.set_position(progress.folded.unsigned_abs());
        }
        if self.json {
            // Progress nobody can see is no reason to stop; the outcome that follows tells of a full disk.
            let _ = out(format_args!(
                "{}",
                json!({"view": name, "folded": progress.folded, "head": progress.head})
            ));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn verify(node: &Node, name: Option<&str>, json: bool) -> Result<(), Failure> {
    let names = match name {
        Some(name) => {
            known(node, name).await?;
            vec![name.to_owned()]
        }
        None => views(node).await?.into_iter().map(|view| view.name).collect(),
    };
    // Views that only lag, for example after a kill, catch up first. Failed and missing views are reported, not repaired.
    if views(node).await?.iter().all(|view| view.state == "live") {
        let _ = node.catch_up().await;
    }
    let mut different = 0;
    let mut wrong = vec![];
    for name in names {
        let shown = Shown::new(json);
        let verified = node.projections.verify(&name, |progress| shown.update(&name, progress)).await;
        shown.finish();
        let verified = verified.map_err(Failure::unreachable)?;
        different += verified.different;
        if !verified.is_right() {
            wrong.push(name.to_owned());
        }
        if json {
            let differences: Vec<_> = verified
                .differences
                .iter()
                .map(|difference| json!({"key": difference.key, "live": difference.live, "folded": difference.folded}))
                .collect();
            say!(
                "{}",
                json!({
                    "view": name, "position": verified.position, "reached": verified.reached, "state": verified.state,
                    "fault": verified.fault, "rows": verified.rows, "different": verified.different, "differences": differences,
                })
            );
            continue;
        }
        say!(
            "{name}: {} rows at position {}, {} differ",
            verified.rows,
            verified.position,
            verified.different
        );
        if verified.state != "live" {
            say!("  the view is {} and stands at position {}", verified.state, verified.reached);
        }
        if let Some(fault) = &verified.fault {
            say!("  the log cannot be folded up to there: {fault}");
        }
        let text =
            |value: &Option<serde_json::Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
        for difference in &verified.differences {
            say!(
                "  {}\n    live   {}\n    folded {}",
                difference.key,
                text(&difference.live),
                text(&difference.folded)
            );
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::No(format!("{different} rows differ from the log; not right: {}", wrong.join(", "))))
}
