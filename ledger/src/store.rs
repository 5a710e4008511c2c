//! cqrs-es's event store on the ledger (D1): appends through the lane.

use std::collections::HashMap;
use std::marker::PhantomData;

use cqrs_es::persist::PersistenceError;
use cqrs_es::{Aggregate, AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore};

use crate::Ledger;
use crate::append::Append;
use crate::error::AppendError;
use crate::event::{Metadata, NewEvent, Recorded, StreamId};
use crate::payload::Payload;
use crate::read::PAGE_BYTES;

/// Events of a stream loaded at once.
const PAGE: i64 = 500;
/// The first of them, and the fewest where they are large.
const FIRST_PAGE: i64 = 100;
const FEWEST: i64 = 8;
/// Events of many streams loaded at once.
const MOST_AT_ONCE: i64 = 5_000;

/// The event store of one kind of aggregate.
pub struct Store<A> {
    ledger: Ledger,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate> Store<A> {
    /// The store of `A` on this ledger.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), aggregate: PhantomData }
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
                payload: Payload::of(event)?,
            })
        };
        events.iter().zip(self.sequence + 1..).map(next).collect()
    }
}

impl<A: Aggregate> Store<A> {
    /// Many aggregates with one look at the log, by id; what does not exist is there as well, empty. Longer streams are read one by one.
    ///
    /// # Errors
    /// The database is out of reach, or an event does not have its shape.
    pub async fn load_many(
        &self,
        ids: &[String],
    ) -> Result<HashMap<String, Loaded<A>>, AggregateError<A::Error>> {
        let found = self.ledger.read_streams(A::TYPE, ids, MOST_AT_ONCE).await;
        let found = found.map_err(|error| AggregateError::DatabaseConnectionError(Box::new(error)))?;
        let fresh =
            |id: &String| (id.clone(), Loaded { id: id.clone(), aggregate: A::default(), sequence: 0 });
        let mut loaded: HashMap<String, Loaded<A>> = ids.iter().map(fresh).collect();
        if let Some(found) = found {
            for stored in found {
                if let Some(loaded) = loaded.get_mut(&stored.stream.aggregate_id) {
                    loaded.apply(&stored)?;
                }
            }
        } else {
            for id in ids {
                loaded.insert(id.clone(), self.load_aggregate(id).await?);
            }
        }
        Ok(loaded)
    }
}

impl<A: Aggregate> Loaded<A> {
    fn apply(&mut self, stored: &Recorded) -> Result<(), PersistenceError> {
        let event =
            stored.parse().map_err(|damaged| PersistenceError::DeserializationError(Box::new(damaged)))?;
        self.sequence = stored.sequence;
        self.aggregate.apply(event);
        Ok(())
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
        let stream = StreamId::new(A::TYPE, id);
        let mut events = vec![];
        loop {
            let page = self.ledger.stream_page(&stream, events.len() as i64, None, PAGE).await;
            let (page, more) =
                page.map_err(|error| AggregateError::DatabaseConnectionError(Box::new(error)))?;
            for stored in page {
                let payload = stored
                    .parse()
                    .map_err(|damaged| PersistenceError::DeserializationError(Box::new(damaged)))?;
                events.push(EventEnvelope {
                    aggregate_id: stored.stream.aggregate_id,
                    sequence: stored.sequence as usize,
                    payload,
                    metadata: stored.metadata.to_map(),
                });
            }
            if !more {
                return Ok(events);
            }
        }
    }

    async fn load_aggregate(&self, id: &str) -> Result<Loaded<A>, AggregateError<A::Error>> {
        let mut loaded = Loaded { id: id.to_owned(), aggregate: A::default(), sequence: 0 };
        let stream = StreamId::new(A::TYPE, id);
        let mut limit = FIRST_PAGE;
        loop {
            // Not all at once: a long stream of large events would take the memory of everybody else. How large they are is told by those
            // before, which costs less than asking for it.
            let page = self.ledger.few_of_stream(&stream, loaded.sequence, limit).await;
            let page = page.map_err(|error| AggregateError::DatabaseConnectionError(Box::new(error)))?;
            let (found, mut bytes) = (page.len() as i64, 1);
            for stored in page {
                bytes += stored.payload.text().len() as i64;
                loaded.apply(&stored)?;
            }
            if found < limit {
                return Ok(loaded);
            }
            limit = (PAGE_BYTES * found / bytes).clamp(FEWEST, PAGE);
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
        AppendError::Unavailable(_)
        | AppendError::NotDone(_)
        | AppendError::Overloaded
        | AppendError::Unanswered => AggregateError::DatabaseConnectionError(Box::new(error)),
        AppendError::Refused(_) | AppendError::Diverged(_) => {
            AggregateError::UnexpectedError(Box::new(error))
        }
    }
}
