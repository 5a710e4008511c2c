//! Access records (D4): facts without a decision, each in a stream of its own.

use cqrs_es::DomainEvent;
use domain::AccessEvent;
use ledger::{Append, NewEvent, Payload, StreamId};
use uuid::Uuid;

use crate::{CommandError, Commands, Context};

impl Commands {
    /// Records that somebody saw or tried something; answers with the position once that is durable. "No record, no
    /// answer": callers wait for this before they give anything out.
    ///
    /// # Errors
    /// The log could not take it in time; then nothing may be given out.
    pub async fn record(&self, context: &Context, event: &AccessEvent) -> Result<i64, CommandError> {
        self.record_as(self.new_id(), context, event).await
    }

    pub(crate) async fn record_as(
        &self,
        id: Uuid,
        context: &Context,
        event: &AccessEvent,
    ) -> Result<i64, CommandError> {
        self.append_records(context, vec![Self::access_event(id, 1, event)?]).await
    }

    /// Stores what was made by [`Commands::access_event`] and whatever else belongs to it.
    pub(crate) async fn append_records(
        &self,
        context: &Context,
        events: Vec<NewEvent>,
    ) -> Result<i64, CommandError> {
        let append = Append { events, metadata: context.metadata(), data_keys: vec![] };
        Ok(self.ledger.append(append).await?.position)
    }

    /// The record that began the stream `access/<id>`, and its position.
    pub(crate) async fn first_record(&self, id: Uuid) -> Result<Option<(AccessEvent, i64)>, CommandError> {
        let first = self.ledger.read_stream(&StreamId::new("access", id), 0, None, 1).await?;
        let Some(first) = first.into_iter().next() else { return Ok(None) };
        Ok(Some((first.parse()?, first.position)))
    }

    /// An access record on its way into the log.
    pub(crate) fn access_event(
        id: Uuid,
        sequence: i64,
        event: &AccessEvent,
    ) -> Result<NewEvent, CommandError> {
        Ok(NewEvent {
            stream: StreamId::new("access", id),
            sequence,
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: Payload::of(event).map_err(|error| CommandError::Event(error.to_string()))?,
        })
    }
}
