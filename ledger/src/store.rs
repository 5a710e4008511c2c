//! cqrs-es's event store on the ledger (D1): loads through postgres-es, appends through the lane.

use std::collections::HashMap;
use std::marker::PhantomData;

use cqrs_es::persist::{PersistedEventRepository, PersistenceError};
use cqrs_es::{Aggregate, AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore};
use postgres_es::PostgresEventRepository;

use crate::Ledger;
use crate::append::Append;
use crate::error::AppendError;
use crate::event::{Metadata, NewEvent, StreamId};

/// Events of a stream loaded at once.
const PAGE: i64 = 500;

/// The event store of one kind of aggregate.
pub struct Store<A> {
    ledger: Ledger,
    repository: PostgresEventRepository,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate> Store<A> {
    /// The store of `A` on this ledger.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            repository: PostgresEventRepository::new(ledger.pool().clone()),
            aggregate: PhantomData,
        }
    }
}

/// An aggregate as the log has it, and how far its stream has got.
#[derive(Debug)]
pub struct Loaded<A> {
    /// Which one.
    pub id: String,
    /// Its state.
    pub aggregate: A,
    /// Events in its stream: 0 when it does not exist.
    pub sequence: i64,
}

impl<A: Aggregate> Loaded<A> {
    /// `events` as the next of this aggregate's stream.
    ///
    /// # Errors
    /// An event cannot be written as JSON.
    pub fn next_events(&self, events: &[A::Event]) -> Result<Vec<NewEvent>, serde_json::Error> {
        let next = |(event, sequence): (&A::Event, i64)| {
            Ok(NewEvent {
                stream: StreamId::new(A::TYPE, &self.id),
                sequence,
                event_type: event.event_type(),
                event_version: event.event_version(),
                payload: serde_json::to_value(event)?,
            })
        };
        events.iter().zip(self.sequence + 1..).map(next).collect()
    }
}

impl<A: Aggregate> AggregateContext<A> for Loaded<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A: Aggregate> EventStore<A> for Store<A> {
    type AC = Loaded<A>;

    async fn load_events(&self, id: &str) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let stored = self.repository.get_events::<A>(id).await?;
        stored.into_iter().map(|event| Ok(EventEnvelope::try_from(event)?)).collect()
    }

    async fn load_aggregate(&self, id: &str) -> Result<Loaded<A>, AggregateError<A::Error>> {
        let mut loaded = Loaded { id: id.to_owned(), aggregate: A::default(), sequence: 0 };
        let stream = StreamId::new(A::TYPE, id);
        loop {
            // Not all at once: a long stream of large events would take the memory of everybody else.
            let page = self.ledger.read_stream(&stream, loaded.sequence, None, PAGE).await;
            let page = page.map_err(|error| AggregateError::DatabaseConnectionError(Box::new(error)))?;
            let is_last = (page.len() as i64) < PAGE;
            for stored in page {
                loaded.sequence = stored.sequence;
                let event = serde_json::from_value(stored.payload).map_err(PersistenceError::from)?;
                loaded.aggregate.apply(event);
            }
            if is_last {
                return Ok(loaded);
            }
        }
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: Loaded<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(vec![]);
        }
        let unexpected = |error: serde_json::Error| AggregateError::UnexpectedError(Box::new(error));
        let append = Append {
            events: context.next_events(&events).map_err(unexpected)?,
            metadata: Metadata::from_map(metadata.clone()),
            data_keys: vec![],
        };
        self.ledger.append(append).await.map_err(from_append)?;
        let envelope = |(payload, sequence): (A::Event, i64)| EventEnvelope {
            aggregate_id: context.id.clone(),
            sequence: sequence as usize,
            payload,
            metadata: metadata.clone(),
        };
        Ok(events.into_iter().zip(context.sequence + 1..).map(envelope).collect())
    }
}

fn from_append<E: std::error::Error>(error: AppendError) -> AggregateError<E> {
    match error {
        AppendError::Conflict => AggregateError::AggregateConflict,
        AppendError::Unavailable(_) | AppendError::Overloaded | AppendError::Unanswered => {
            AggregateError::DatabaseConnectionError(Box::new(error))
        }
        AppendError::Refused(_) => AggregateError::UnexpectedError(Box::new(error)),
    }
}
