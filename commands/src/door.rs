//! The one door. It does what `CqrsFramework` does, in the open: load, handle, collect, commit (D1).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{AggregateError, EventStore};
use domain::{Guarded, Refusal};
use ledger::{Append, AppendError, Loaded, NewDataKey, NewEvent, Store, StreamId};
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use crate::idempotency::HeldKey;
use crate::{CommandError, Commands, Context};

/// How often a command is decided anew because somebody else changed the same stream meanwhile.
const MOST_TRIES: usize = 8;
/// How long a caller waits for others of this process who want the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The aggregate it is about; after a replay the one that was made the first time.
    pub id: String,
    /// The log's position after it. `None`: nothing changed, because things already are as asked.
    pub position: Option<i64>,
    /// Events in the aggregate's stream; the entity tag. After a replay 0: ask the view as of `position`.
    pub sequence: i64,
    /// How many events of the aggregate's own were stored; 0 after a replay.
    pub stored: usize,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// A command ready to be decided, and what is to be stored together with its events.
pub(crate) struct Prepared<C> {
    pub(crate) command: C,
    pub(crate) alongside: Vec<NewEvent>,
    pub(crate) data_keys: Vec<NewDataKey>,
}

impl<C> Prepared<C> {
    pub(crate) fn alone(command: C) -> Self {
        Self { command, alongside: vec![], data_keys: vec![] }
    }
}

/// Makes a command for an aggregate in its present state; asked anew at each try.
///
/// A trait rather than an async closure: the futures of those are not provably `Send` (rust-lang/rust#110338).
pub(crate) trait Prepare<A: Guarded>: Sync {
    fn prepare(
        &self,
        commands: &Commands,
        aggregate: &A,
    ) -> impl Future<Output = Result<Prepared<A::Command>, CommandError>> + Send;
}

/// The same command whatever the state.
pub(crate) struct Plain<C>(pub(crate) C);

impl<A> Prepare<A> for Plain<A::Command>
where
    A: Guarded,
    A::Command: Clone + Send + Sync,
{
    async fn prepare(&self, _: &Commands, _: &A) -> Result<Prepared<A::Command>, CommandError> {
        Ok(Prepared::alone(self.0.clone()))
    }
}

impl Commands {
    /// Gives `command` to the aggregate `id`: authorise, load, decide, append. A conflict is retried a bounded number of times.
    /// `expected` is the stream's length the caller knows (from an entity tag); 0 for what is to be made.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was changed unless it says that this is unknown.
    pub async fn execute<A>(
        &self,
        context: &Context,
        id: impl ToString + Send,
        expected: Option<i64>,
        command: A::Command,
    ) -> Result<Executed, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Command: Clone + Send + Sync,
        A::Error: Refusal,
    {
        self.execute_with::<A>(context, &id.to_string(), expected, &Plain(command)).await
    }

    /// As [`Commands::execute`], for commands that depend on the aggregate's state or are stored together with other events:
    /// `prepare` makes it.
    pub(crate) async fn execute_with<A>(
        &self,
        context: &Context,
        id: &str,
        expected: Option<i64>,
        prepare: &impl Prepare<A>,
    ) -> Result<Executed, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Error: Refusal,
    {
        self.execute_knowing::<A>(context, id, None, expected, prepare).await
    }

    /// As [`Commands::execute_with`], of an aggregate that need not be loaded because it is `known`. If it has changed since, it is.
    pub(crate) async fn execute_knowing<A>(
        &self,
        context: &Context,
        id: &str,
        known: Option<Loaded<A>>,
        expected: Option<i64>,
        prepare: &impl Prepare<A>,
    ) -> Result<Executed, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Error: Refusal,
    {
        let held = match self.hold_key(context, A::TYPE).await? {
            Ok(held) => held,
            Err(earlier) => return Ok(replay(earlier.owner_id, earlier.position)),
        };
        let store = Store::<A>::new(&self.ledger);
        // What is expected not to exist need not be looked for: the append finds out.
        let mut loaded = match (expected, known) {
            (_, Some(known)) if expected.is_none_or(|expected| expected == known.sequence) => known,
            (Some(0), _) => Loaded { id: id.to_owned(), aggregate: A::default(), sequence: 0 },
            (_, _) => store.load_aggregate(id).await?,
        };
        let mut turn = None;
        for _ in 0..MOST_TRIES {
            let decided_at = loaded.sequence;
            let failure = match self.try_once(context, loaded, expected, prepare, held.as_ref()).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            // Another node may have done meanwhile what the key stands for: whatever stood in our way is then that.
            if let Some(held) = &held {
                match self.earlier(held).await {
                    Ok(Some(earlier)) => return Ok(replay(earlier.owner_id, earlier.position)),
                    Err(error @ CommandError::KeyReused) => return Err(error),
                    Ok(None) | Err(_) => {}
                }
            }
            if !matches!(failure, CommandError::Append(AppendError::Conflict) | CommandError::Taken(_)) {
                return Err(failure);
            }
            // Those of this process who want the same go one after the other from here on.
            if turn.is_none() {
                turn = Some(self.turn(A::TYPE, id).await?);
            }
            loaded = store.load_aggregate(id).await?;
            // It may be taken by what this aggregate itself has become meanwhile.
            if matches!(failure, CommandError::Taken(_)) && loaded.sequence == decided_at {
                return Err(failure);
            }
        }
        Err(CommandError::Contended)
    }

    /// A turn with the aggregate among the callers of this process, who would otherwise keep getting in each other's way.
    async fn turn(&self, kind: &str, id: &str) -> Result<MutexGuard<'_, ()>, CommandError> {
        let mut hasher = DefaultHasher::new();
        (kind, id).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % self.turns.len() as u64).unwrap_or_default();
        let turn = self.turns.get(place).ok_or(CommandError::Contended)?;
        timeout(PATIENCE, turn.lock()).await.map_err(|_| CommandError::Contended)
    }

    async fn try_once<A>(
        &self,
        context: &Context,
        loaded: Loaded<A>,
        expected: Option<i64>,
        prepare: &impl Prepare<A>,
        held: Option<&HeldKey>,
    ) -> Result<Executed, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Error: Refusal,
    {
        let prepared = prepare.prepare(self, &loaded.aggregate).await?;
        // Before the version: it would tell whoever may not know that the thing exists.
        loaded.aggregate.admit(&prepared.command, &context.caller)?;
        if expected.is_some_and(|expected| expected != loaded.sequence) {
            return Err(CommandError::Stale { present: loaded.sequence });
        }
        self.decide(context, loaded, prepared, held).await
    }

    async fn decide<A>(
        &self,
        context: &Context,
        mut loaded: Loaded<A>,
        prepared: Prepared<A::Command>,
        held: Option<&HeldKey>,
    ) -> Result<Executed, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Error: Refusal,
    {
        let id = loaded.id.clone();
        let mut events = decided(context, &mut loaded, prepared.command).await?;
        let stored = events.len();
        let sequence = loaded.sequence + stored as i64;
        if events.is_empty() && prepared.alongside.is_empty() {
            return Ok(Executed { id, position: None, sequence, stored, replayed: false });
        }
        events.extend(prepared.alongside);
        if let Some(held) = held {
            events.push(held.used_for(&StreamId::new(A::TYPE, &id))?);
        }
        let append = Append { events, metadata: context.metadata(), data_keys: prepared.data_keys };
        let appended = self.ledger.append(append).await?;
        Ok(Executed { id, position: Some(appended.position), sequence, stored, replayed: false })
    }
}

fn replay(id: String, position: i64) -> Executed {
    Executed { id, position: Some(position), sequence: 0, stored: 0, replayed: true }
}

impl Commands {
    /// The events with which the aggregate `id` in its present state answers `command`, for storing alongside another's. If it
    /// changes meanwhile, so that they do not fit any more, the append meets a conflict.
    pub(crate) async fn events_of<A>(
        &self,
        context: &Context,
        id: impl ToString,
        command: A::Command,
    ) -> Result<Vec<NewEvent>, CommandError>
    where
        A: Guarded<Services = ()>,
        A::Error: Refusal,
    {
        let mut loaded = Store::<A>::new(&self.ledger).load_aggregate(&id.to_string()).await?;
        decided(context, &mut loaded, command).await
    }
}

/// The events with which a new aggregate `id` answers `command`, for storing alongside another's.
pub(crate) async fn first_events<A>(
    context: &Context,
    id: impl ToString,
    command: A::Command,
) -> Result<Vec<NewEvent>, CommandError>
where
    A: Guarded<Services = ()>,
    A::Error: Refusal,
{
    let mut fresh = Loaded { id: id.to_string(), aggregate: A::default(), sequence: 0 };
    decided(context, &mut fresh, command).await
}

/// The events with which a loaded aggregate answers `command`, if the caller may.
pub(crate) async fn decided<A>(
    context: &Context,
    loaded: &mut Loaded<A>,
    command: A::Command,
) -> Result<Vec<NewEvent>, CommandError>
where
    A: Guarded<Services = ()>,
    A::Error: Refusal,
{
    loaded.aggregate.admit(&command, &context.caller)?;
    let sink = EventSink::default();
    loaded.aggregate.handle(command, &(), &sink).await.map_err(AggregateError::UserError)?;
    let events = sink.collect().await;
    loaded.next_events(&events).map_err(|error| CommandError::Event(error.to_string()))
}
