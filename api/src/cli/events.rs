//! `daybook events`.

use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;

use clap::Args;
use ledger::StreamId;

use super::{Failure, Format, Thing, with_node};
use crate::node::Node;
use crate::routes::audit::EventBody;

/// Events read at a time.
const PAGE: usize = 500;

#[derive(Debug, Args)]
pub(super) struct Events {
    /// First position
    #[arg(long, default_value_t = 1)]
    from: i64,
    /// Go on as the log grows
    #[arg(long)]
    follow: bool,
    /// Only those of one thing: TYPE/ID
    #[arg(long, value_name = "T/ID", conflicts_with_all = ["follow"])]
    aggregate: Option<Thing>,
    /// How
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
}

impl Events {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.from < 1 {
            return Err(Failure::Usage("--from must be 1 or more".to_owned()));
        }
        with_node(async |node| match &self.aggregate {
            Some(Thing(stream)) => self.one_stream(node, stream).await,
            None => self.whole_log(node).await,
        })
        .await
    }

    async fn one_stream(&self, node: &Node, stream: &StreamId) -> Result<(), Failure> {
        self.within(node).await?;
        let mut after = 0;
        loop {
            let entries =
                node.projections.history(stream, after, PAGE).await.map_err(Failure::unreachable)?;
            let Some(last) = entries.last() else { break };
            after = last.place().0;
            let wanted = entries.into_iter().filter(|entry| entry.place().1 >= self.from);
            if print(wanted.map(EventBody::from), self.format)?.is_break() {
                return Ok(());
            }
        }
        if after == 0 { Err(Failure::No(format!("there is no {stream}"))) } else { Ok(()) }
    }

    /// The end of the log, which `--from` must not be beyond: somebody who goes on from a position that there is not would take nothing
    /// for an answer. Who follows may wait for the very next one.
    async fn within(&self, node: &Node) -> Result<i64, Failure> {
        let head = node.ledger.head().await.map_err(Failure::unreachable)?;
        let most = if self.follow { head + 1 } else { head.max(1) };
        if self.from > most {
            let from = self.from;
            return Err(Failure::No(format!(
                "--from {from} lies beyond the end of the log, position {head}"
            )));
        }
        Ok(head)
    }

    async fn whole_log(&self, node: &Node) -> Result<(), Failure> {
        let head = self.within(node).await?;
        let mut follower = node.ledger.follow(self.from - 1);
        while self.follow || follower.position() < head {
            let events = follower.next(PAGE as i64).await.map_err(Failure::unreachable)?;
            let Some(first) = events.first() else { break };
            let count = events.len() as i64;
            let facts =
                node.projections.facts(first.position - 1, count).await.map_err(Failure::unreachable)?;
            if print(facts.into_iter().map(EventBody::from), self.format)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Breaks when nobody reads any more (`daybook events | head`): that is no failure. A full disk is one.
fn print(
    events: impl IntoIterator<Item = EventBody>,
    format: Format,
) -> Result<ControlFlow<()>, std::io::Error> {
    match write(events, format) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error),
    }
}

fn write(events: impl IntoIterator<Item = EventBody>, format: Format) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for event in events {
        match format {
            Format::Jsonl => writeln!(out, "{}", serde_json::to_string(&event)?)?,
            Format::Pretty => pretty(&mut out, &event)?,
        }
    }
    out.flush()
}

fn pretty(out: &mut impl std::io::Write, event: &EventBody) -> std::io::Result<()> {
    writeln!(
        out,
        "{:>8}  {}  {:<20} {}/{}  by {}",
        event.position, event.at, event.event_type, event.aggregate_type, event.aggregate_id, event.actor
    )?;
    if let Some(cause) = &event.unreadable {
        writeln!(out, "            cannot be read: {cause}")?;
    }
    for change in &event.changes {
        writeln!(out, "            {}: {} -> {}", change.field, change.before, change.after)?;
    }
    Ok(())
}
