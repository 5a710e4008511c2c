//! `daybook effects`: what is held on a copy of another database.

use clap::Subcommand;
use projections::time::text as time;
use serde_json::json;

use super::users::operator;
use super::{Failure, Json, confirmed, with_node};
use crate::effects::Effects as State;
use crate::node::{Node, registrar};

#[derive(Debug, Subcommand)]
pub(super) enum Effects {
    /// Whether schedules, mail and jobs are held, and why
    Status(Json),
    /// Let schedules, mail and jobs go on
    Release {
        /// Who does it, for the record; the name at the machine if not given
        #[arg(long)]
        operator: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Effects {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Status(json) => with_node(async move |node| status(node, json.json).await).await,
            Self::Release { operator: name, yes } => {
                let operator = operator(name.as_deref())?;
                confirmed(yes, "Run the jobs, fire the schedules and send the mails of this database?")?;
                with_node(async move |node| release(node, operator).await).await
            }
        }
    }
}

async fn status(node: &Node, json: bool) -> Result<(), Failure> {
    let held = node.ledger.effects_held().await.map_err(Failure::unreachable)?;
    if json {
        let (since, because) = held.map(|held| (time(held.since), held.because)).unzip();
        say!("{}", json!({"held": since.is_some(), "since": since, "because": because}));
        return Ok(());
    }
    match held {
        Some(held) => say!("held since {}: {}", time(held.since), held.because),
        None => say!("not held"),
    }
    Ok(())
}

async fn release(node: &Node, operator: String) -> Result<(), Failure> {
    let effects = State::load(&node.ledger).await.map_err(Failure::unreachable)?;
    let released = effects.release(&node.commands, &registrar(), Some(operator)).await;
    match released.map_err(Failure::unreachable)? {
        Some(_) => {
            say!("schedules, mail and jobs go on");
            Ok(())
        }
        None => Err(Failure::No("schedules, mail and jobs are not held".to_owned())),
    }
}
