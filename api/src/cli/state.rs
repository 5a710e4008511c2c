//! `daybook state`.

use chrono::{DateTime, Utc};
use clap::Args;
use projections::StateError;
use serde_json::json;

use super::{Failure, Thing, with_node};

#[derive(Debug, Args)]
pub(super) struct State {
    /// Which thing: TYPE/ID
    thing: Thing,
    /// A position or a time (RFC 3339); now if not given
    #[arg(long, value_name = "X")]
    as_of: Option<AsOf>,
}

#[derive(Clone, Copy, Debug)]
enum AsOf {
    Position(i64),
    Time(DateTime<Utc>),
}

impl std::str::FromStr for AsOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let moment =
            text.parse().map_err(|_| "must be a position, or a time such as 2026-11-21T14:03:00Z")?;
        Ok(Self::Time(moment))
    }
}

impl State {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Thing(stream) = self.thing;
        with_node(async |node| {
            let head = node.ledger.head().await.map_err(Failure::unreachable)?;
            let as_of = match self.as_of {
                None => head,
                Some(AsOf::Position(position)) if (0..=head).contains(&position) => position,
                Some(AsOf::Position(_)) => {
                    return Err(Failure::Usage(format!("--as-of must be 0 to {head}, the end of the log")));
                }
                Some(AsOf::Time(moment)) => {
                    let position = node.ledger.position_as_of(moment).await.map_err(Failure::unreachable)?;
                    position.ok_or_else(|| Failure::Usage("--as-of lies in the future".to_owned()))?
                }
            };
            let found = {
                let (name, id) = (&stream.aggregate_type, &stream.aggregate_id);
                node.projections.state(name, id, Some(as_of)).await.map_err(|error| match error {
                    StateError::Unreadable(_) => Failure::No(error.to_string()),
                    StateError::Read(error) => Failure::unreachable(error),
                })?
            };
            let found =
                found.ok_or_else(|| Failure::No(format!("there was no {stream} at position {as_of}")))?;
            let shown = json!({
                "aggregate_type": stream.aggregate_type, "aggregate_id": stream.aggregate_id, "as_of": as_of,
                "position": found.position, "sequence": found.sequence, "state": found.row,
            });
            say!("{}", serde_json::to_string_pretty(&shown).map_err(Failure::unreachable)?);
            Ok(())
        })
        .await
    }
}
