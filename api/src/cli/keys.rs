//! `daybook keys`.

use clap::Subcommand;
use indicatif::ProgressBar;
use ledger::{Rotated, RotationError, RotationProgress, Unopened};
use serde_json::json;

use super::{Failure, Json, out, progress, with_reached};
use crate::node::{Node, StartError};

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Print new values for JWT_SECRET and ENCRYPTION_KEY
    Generate,
    /// Wrap all data keys with ENCRYPTION_KEY, while the service runs; every node has it, and the key before it as ENCRYPTION_KEY_PREVIOUS
    Rotate(Json),
}

impl Keys {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Generate => {
                say!("{}", crate::keys::generate().map_err(Failure::unreachable)?.trim_end());
                Ok(())
            }
            // Data keys that do not open are no reason not to rotate the others.
            Self::Rotate(json) => with_reached(async |node| rotate(node, json.json).await).await,
        }
    }
}

impl From<RotationError> for Failure {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Ledger(_) => Self::unreachable(error),
            RotationError::AlreadyRunning
            | RotationError::SameKey(_)
            | RotationError::Missing(_)
            | RotationError::NodesLack(..)
            | RotationError::NodesSilent(_)
            | RotationError::Unsettled => Self::No(error.to_string()),
        }
    }
}

/// What does not open, a line each, and how many more there are. With each line, how many data keys it speaks of.
pub(super) fn lines(unopened: &Unopened) -> impl Iterator<Item = (String, u64)> {
    let named = unopened.named.iter().map(|key| (key.to_string(), 1));
    let more = unopened.count - unopened.named.len() as u64;
    let more = (more > 0).then(|| (format!("{more} more data keys do not open"), more));
    named.chain(more)
}

/// What to do about data keys that do not open.
const LEFT: &str = "\
These stay as they are, and what they sealed cannot be read. Where a key is not configured that you still have, set it as
ENCRYPTION_KEY_PREVIOUS and run this again. To be rid of the complaint otherwise, destroy those versions of secrets (data key
secret/{id}/{version}): POST /api/secrets/{id}/destroy. All other data keys are done, and nodes start as they are.";

/// What to do after a rotation.
const DONE: &str = "\
ENCRYPTION_KEY_PREVIOUS may be removed now: restart the nodes one by one without it. Keep the old key where it is safe all the same:
backups from before this rotation still need it.";

async fn rotate(node: &Node, json: bool) -> Result<(), Failure> {
    let told = |error: ledger::KeyCheckError| Failure::from(StartError::from(error));
    node.ledger.check_known_keys().await.map_err(told)?;
    node.ledger.migrate().await.map_err(StartError::from)?;
    let bar = progress(json, "{pos}/{len} data keys  {per_sec}");
    let mut waiting = 0;
    let outcome = node.ledger.rotate_keys(|now| show(&bar, json, &mut waiting, now)).await;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    tell(&outcome?, json)
}

/// Progress nobody can see is no reason to stop; the outcome that follows tells of a full disk.
fn show(bar: &Option<ProgressBar>, json: bool, waiting: &mut usize, now: RotationProgress) {
    let line = match now {
        RotationProgress::Wrapping { done, total } => {
            if let Some(bar) = bar {
                bar.set_length(total);
                bar.set_position(done);
            }
            json!({"wrapped": done, "total": total})
        }
        // Asked for several times a second; told when it has changed.
        RotationProgress::Waiting { nodes } if nodes == *waiting => return,
        RotationProgress::Waiting { nodes } => {
            *waiting = nodes;
            if let Some(bar) = bar {
                bar.println(format!("waiting until {nodes} nodes wrap with the new key"));
            }
            json!({"waiting_for_nodes": nodes})
        }
    };
    if json {
        let _ = out(format_args!("{line}"));
    }
}

fn tell(rotated: &Rotated, json: bool) -> Result<(), Failure> {
    let Rotated { key_id, keys, unopened } = rotated;
    if json {
        let named: Vec<_> = unopened
            .named
            .iter()
            .map(|key| json!({"name": key.name, "key_id": key.key_id, "cause": key.cause}))
            .collect();
        let unopened = json!({"count": unopened.count, "named": named});
        say!("{}", json!({"done": true, "key_id": key_id, "wrapped": keys, "unopened": unopened}));
    } else if *keys == 0 && unopened.count == 0 {
        say!("nothing to do: every data key is wrapped with ENCRYPTION_KEY (key id {key_id}) already");
        say!(
            "to rotate: give every node a new ENCRYPTION_KEY (daybook keys generate) and the present one as"
        );
        say!("ENCRYPTION_KEY_PREVIOUS, restart the nodes one by one, and run this again");
    } else {
        say!("{keys} data keys are wrapped with ENCRYPTION_KEY (key id {key_id}) now");
        for (line, _) in lines(unopened) {
            say!("{line}");
        }
        if unopened.count > 0 {
            say!("{LEFT}");
        }
        say!("{DONE}");
    }
    match unopened.count {
        0 => Ok(()),
        1 => Err(Failure::No("1 data key does not open; it is as it was".to_owned())),
        count => Err(Failure::No(format!("{count} data keys do not open; they are as they were"))),
    }
}
