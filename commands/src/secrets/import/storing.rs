//! Storing what a file says: every name is looked at, everything is sealed, and one append stores it.

use cqrs_es::EventStore as _;
use domain::{ClaimEvent, ClaimKind, Denied, Secret, SecretCommand, SecretId, SecretName, Store, TeamId};
use ledger::{Append, AppendError, NewDataKey, NewEvent, StreamId};

use super::{ImportProblem, ImportedSecret};
use crate::door::{Executed, decided, first_events};
use crate::idempotency::claim_event;
use crate::{CommandError, Commands, Context};

/// How often a file is looked at anew because somebody took a name or changed a secret meanwhile.
const MOST_TRIES: usize = 3;

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Secrets that are new.
    pub made: Vec<SecretName>,
    /// Secrets that have a new version.
    pub replaced: Vec<SecretName>,
    /// The log's position after it; `None` when nothing was stored, because it was a trial or the file is empty.
    pub position: Option<i64>,
}

/// Why nothing of a file was stored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Some of it cannot be stored.
    #[error("{} secrets were refused", .0.len())]
    Refused(Vec<ImportProblem>),
    /// It is no fault of the file's.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<AppendError> for ImportError {
    fn from(error: AppendError) -> Self {
        Self::Command(error.into())
    }
}

/// Everything that one append is to store.
#[derive(Default)]
struct Plan {
    events: Vec<NewEvent>,
    data_keys: Vec<NewDataKey>,
    /// What lets go of old versions with its new one.
    shredding: Vec<Executed>,
    imported: Imported,
    problems: Vec<ImportProblem>,
}

/// What one secret of a file leads to.
struct Step {
    events: Vec<NewEvent>,
    data_key: NewDataKey,
    /// What became of a secret that was there.
    done: Option<Executed>,
}

impl Commands {
    /// Stores the secrets for the caller's team, all of them or none. With `replace`, those whose name is taken become the next version of the
    /// secret that has it, whose description, tags and expiry stay; without it they are refused. A trial (`dry_run`) does everything
    /// but storing. `progress` is told how many secrets have been looked at.
    ///
    /// # Errors
    /// See [`ImportError`]; nothing was stored unless it says that this is unknown.
    pub async fn import_secrets(
        &self,
        context: &Context,
        secrets: &[ImportedSecret],
        replace: bool,
        dry_run: bool,
        progress: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Imported, ImportError> {
        let team = context.caller.team.ok_or(Denied::NotFound).map_err(CommandError::from)?;
        for _ in 0..MOST_TRIES {
            let Some(plan) = self.plan(context, team, secrets, replace, progress).await? else { continue };
            if !plan.problems.is_empty() {
                return Err(ImportError::Refused(plan.problems));
            }
            if dry_run || plan.events.is_empty() {
                return Ok(plan.imported);
            }
            let append =
                Append { events: plan.events, metadata: context.metadata(), data_keys: plan.data_keys };
            match self.ledger.append(append).await {
                Ok(appended) => {
                    for done in plan.shredding {
                        self.let_go_after(secret_id(&done.id)?, &done).await;
                    }
                    return Ok(Imported { position: Some(appended.position), ..plan.imported });
                }
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommandError::Contended.into())
    }

    async fn plan(
        &self,
        context: &Context,
        team: TeamId,
        secrets: &[ImportedSecret],
        replace: bool,
        progress: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Option<Plan>, CommandError> {
        let mut plan = Plan::default();
        for (done, secret) in secrets.iter().enumerate() {
            progress(done);
            let name = &secret.new.name;
            let claim = self.claim_stream(ClaimKind::SecretName, &[&team.to_string(), name.as_str()]).await?;
            let (length, last) = self.last_claim(&claim).await?;
            let step = match last {
                Some(ClaimEvent::Claimed { owner_id, .. }) if replace => {
                    plan.imported.replaced.push(name.clone());
                    self.next_version(context, &owner_id, secret).await
                }
                Some(ClaimEvent::Claimed { .. }) => {
                    plan.refuse(secret, format!("{name} exists already"));
                    continue;
                }
                _ => {
                    plan.imported.made.push(name.clone());
                    self.first_version(context, team, (claim, length + 1), secret).await
                }
            };
            match step {
                Ok(step) => plan.take(step),
                // It was put away since its name was looked at: look again.
                Err(CommandError::Refused(refusal)) if refusal.code() == "secret_not_found" => {
                    return Ok(None);
                }
                Err(CommandError::Refused(refusal)) => plan.refuse(secret, format!("{name}: {refusal}")),
                Err(error) => return Err(error),
            }
        }
        progress(secrets.len());
        Ok(Some(plan))
    }

    async fn first_version(
        &self,
        context: &Context,
        team_id: TeamId,
        (claim, sequence): (StreamId, i64),
        secret: &ImportedSecret,
    ) -> Result<Step, CommandError> {
        let id = SecretId(self.new_id());
        let (sealed, data_key) = self.seal_value(id, 1, &secret.value)?;
        let new = secret.new.clone();
        let store = Store {
            team_id,
            name: new.name,
            description: new.description,
            tags: new.tags,
            expires_at: new.expires_at,
            max_versions: new.max_versions,
            sealed,
        };
        let mut events = first_events::<Secret>(context, id, SecretCommand::Store(store)).await?;
        let claimed = ClaimEvent::Claimed {
            kind: ClaimKind::SecretName,
            owner_type: "secret".to_owned(),
            owner_id: id.to_string(),
        };
        events.push(claim_event(claim, sequence, &claimed)?);
        Ok(Step { events, data_key, done: None })
    }

    async fn next_version(
        &self,
        context: &Context,
        owner_id: &str,
        secret: &ImportedSecret,
    ) -> Result<Step, CommandError> {
        let id = secret_id(owner_id)?;
        let mut loaded = ledger::Store::<Secret>::new(&self.ledger).load_aggregate(owner_id).await?;
        let version = loaded.aggregate.next_version();
        let (sealed, data_key) = self.seal_value(id, version, &secret.value)?;
        let command = SecretCommand::ChangeValue { version, sealed };
        let events = decided(context, &mut loaded, command).await?;
        let stored = events.len();
        let sequence = loaded.sequence + stored as i64;
        let done = Executed { id: owner_id.to_owned(), position: None, sequence, stored, replayed: false };
        // A new value alone lets go of nothing.
        Ok(Step { events, data_key, done: (stored > 1).then_some(done) })
    }
}

fn secret_id(text: &str) -> Result<SecretId, CommandError> {
    text.parse().map_err(|_| CommandError::Event("a claim names no secret".to_owned()))
}

impl Plan {
    fn refuse(&mut self, secret: &ImportedSecret, message: String) {
        self.problems.push(ImportProblem { place: secret.place.clone(), message });
    }

    fn take(&mut self, step: Step) {
        self.events.extend(step.events);
        self.data_keys.push(step.data_key);
        self.shredding.extend(step.done);
    }
}
