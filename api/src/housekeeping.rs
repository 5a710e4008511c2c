//! What is removed since it was kept long enough, and is not removed by what uses it (`docs/database.md` lists every table). All of it may
//! be done by several nodes at once, be cut off anywhere, and be done again. It goes by the database's clock.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use commands::{CommandError, Commands};
use domain::INVITEE;
use ledger::{Ledger, LedgerError};
use projections::{Projections, ReadError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The first round comes soon after the start, but not with it.
const FIRST_ROUND: Duration = Duration::from_secs(90);
const ROUND_INTERVAL: Duration = Duration::from_secs(3_600);
/// How long letters stay in the mail folder: as long as their rows in `mails`.
const LETTER_DAYS: i64 = 30;
/// How long the address of an invitation is readable after the invitation is over.
const INVITED_ADDRESS_DAYS: i64 = 30;
/// How long an invitation is good.
const INVITATION_DAYS: i64 = 7;
/// Forgetting addresses rebuilds the views that show them: those of so many days are forgotten together.
const VISITOR_DAYS_TOGETHER: i64 = 7;
/// What visitors' addresses are sealed under: `visitors-<day>`.
const VISITORS: &str = "visitors-";
/// Keys destroyed in one round at most.
const KEYS: i64 = 200;

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HousekeepingError {
    /// The database is out of reach.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It could not be recorded.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The views could not be read.
    #[error(transparent)]
    View(#[from] ReadError),
    /// The folder of mails could not be.
    #[error("the folder of mails: {0}")]
    Folder(#[from] io::Error),
}

/// Removes what was kept long enough.
#[derive(Clone)]
pub struct Housekeeping {
    /// The log.
    pub ledger: Ledger,
    /// The write side.
    pub commands: Commands,
    /// The read side.
    pub projections: Projections,
    /// Where letters are put.
    pub mail_folder: PathBuf,
    /// For how many days visitors' addresses can be read; 0: for as long as the log is.
    pub visitor_address_days: u32,
}

impl Housekeeping {
    /// A round every hour, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = FIRST_ROUND;
        while shutdown.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = ROUND_INTERVAL;
            match shutdown.run_until_cancelled(self.round()).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::warn!(%error, "what was kept long enough is removed later"),
            }
        }
    }

    /// Removes what has been kept long enough by now.
    ///
    /// # Errors
    /// See [`HousekeepingError`]. What was removed until then is removed; the next round does the rest.
    pub async fn round(&self) -> Result<(), HousekeepingError> {
        let now = self.ledger.now().await?;
        let letters = self.remove_letters(now).await;
        self.forget_visitors(now).await?;
        self.forget_invited(now).await?;
        letters
    }

    /// A letter's name begins with the position of its event, which says how old it is.
    async fn remove_letters(&self, now: DateTime<Utc>) -> Result<(), HousekeepingError> {
        let before = self.ledger.position_at(now - TimeDelta::days(LETTER_DAYS)).await?;
        let folder = self.mail_folder.clone();
        let removed = tokio::task::spawn_blocking(move || remove_up_to(&folder, before));
        let removed = removed.await.map_err(io::Error::other)??;
        if removed > 0 {
            tracing::info!(removed, "removed letters of long ago from the mail folder");
        }
        Ok(())
    }

    /// That their keys are to be destroyed is recorded; the reactor `forgetting` destroys them, and has the views forget what they show.
    async fn forget_visitors(&self, now: DateTime<Utc>) -> Result<(), HousekeepingError> {
        let days = i64::from(self.visitor_address_days);
        let before = now - TimeDelta::days(days);
        if days == 0 {
            return Ok(());
        }
        let old = self.ledger.subjects_made_before(VISITORS, before, KEYS).await?;
        let is_due = |(_, made): &(String, DateTime<Utc>)| {
            *made < before - TimeDelta::days(VISITOR_DAYS_TOGETHER.min(days))
        };
        if old.iter().any(is_due) {
            self.commands.forget_addresses(old).await?;
        }
        Ok(())
    }

    /// Of those whom nobody has invited lately.
    async fn forget_invited(&self, now: DateTime<Utc>) -> Result<(), HousekeepingError> {
        let over = now - TimeDelta::days(INVITED_ADDRESS_DAYS);
        let made = over - TimeDelta::days(INVITATION_DAYS);
        let mut old = vec![];
        for (subject, at) in self.ledger.subjects_made_before(INVITEE, made, KEYS).await? {
            let Some(hash) = subject.strip_prefix(INVITEE) else { continue };
            let invitations = self.projections.teams().inviting(hash).await?;
            if invitations.iter().all(|(_, _, invitation)| invitation.expires_at < over) {
                old.push((subject, at));
            }
        }
        if !old.is_empty() {
            self.commands.forget_addresses(old).await?;
        }
        Ok(())
    }
}

/// Removes letters of events up to a position. How many.
fn remove_up_to(folder: &Path, position: i64) -> io::Result<u64> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let of = entry.file_name().to_str().and_then(position_of);
        if of.is_some_and(|of| of <= position) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

/// The position of the event of a letter `<position>-<kind>[-<recipient>].eml`, whole or not. `None` for what is no letter.
fn position_of(name: &str) -> Option<i64> {
    let stem = name.strip_suffix(".eml").or_else(|| name.strip_suffix(".eml.part"))?;
    stem.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_letters_have_a_position() {
        for (name, position) in [
            ("12-invitation.eml", Some(12)),
            ("7-grant-0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11.eml", Some(7)),
            ("9-reset.eml.part", Some(9)),
            ("notes.eml", None),
            ("12-invitation.txt", None),
            ("12.eml", None),
        ] {
            assert_eq!(position_of(name), position, "{name}");
        }
    }
}
