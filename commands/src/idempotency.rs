//! Uniqueness (D3): claims and idempotency keys, appended together with the events that need them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use cqrs_es::DomainEvent;
use domain::{ClaimEvent, ClaimKind};
use ledger::{NewEvent, Payload, Recorded, StreamId};
use serde::de::DeserializeOwned;

use crate::{CommandError, Commands, Context};

/// The stream type of claims.
const CLAIM: &str = "claim";

/// A creation that happened before under the same idempotency key.
pub(crate) struct Earlier {
    pub(crate) owner_id: String,
    pub(crate) position: i64,
}

/// An idempotency key that this request may use, and is now the only one of this process to use.
pub(crate) struct HeldKey {
    pub(crate) stream: StreamId,
    /// Keyed: bodies hold passwords and secrets, and a digest that anybody can compute would let them be guessed for ever.
    fingerprint: String,
    /// As the first version stored it.
    plain: String,
    in_flight: Arc<Mutex<HashSet<String>>>,
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.remove(&self.stream.aggregate_id);
    }
}

impl HeldKey {
    /// The event that uses the key up for the creation of `owner`.
    pub(crate) fn used_for(&self, owner: &StreamId) -> Result<NewEvent, CommandError> {
        let event = ClaimEvent::KeyUsed {
            fingerprint: self.fingerprint.clone(),
            owner_type: owner.aggregate_type.clone(),
            owner_id: owner.aggregate_id.clone(),
        };
        claim_event(self.stream.clone(), 1, &event)
    }
}

pub(crate) fn claim_event(
    stream: StreamId,
    sequence: i64,
    event: &ClaimEvent,
) -> Result<NewEvent, CommandError> {
    Ok(NewEvent {
        stream,
        sequence,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: Payload::of(event).map_err(|error| CommandError::Event(error.to_string()))?,
    })
}

fn read_claim(recorded: &Recorded) -> Result<ClaimEvent, CommandError> {
    Ok(recorded.parse()?)
}

impl Commands {
    pub(crate) async fn claim_stream(
        &self,
        kind: ClaimKind,
        value: &[&str],
    ) -> Result<StreamId, CommandError> {
        let parts: Vec<&str> = [kind.as_str()].into_iter().chain(value.iter().copied()).collect();
        Ok(StreamId::new(CLAIM, self.ledger.keyed_hash(&parts).await?))
    }

    /// The keyed hash under which a value is claimed; tells nothing about the value.
    pub(crate) async fn claim_id(&self, kind: ClaimKind, value: &[&str]) -> Result<String, CommandError> {
        Ok(self.claim_stream(kind, value).await?.aggregate_id)
    }

    /// The event that takes `value` for `owner`, unless somebody holds it.
    pub(crate) async fn claim(
        &self,
        kind: ClaimKind,
        value: &[&str],
        owner: &StreamId,
    ) -> Result<NewEvent, CommandError> {
        let stream = self.claim_stream(kind, value).await?;
        let length = self.ledger.stream_length(&stream).await?;
        // Taking and releasing alternate, so an odd length means that somebody holds it.
        if length % 2 == 1 {
            return Err(CommandError::Taken(kind));
        }
        let event = ClaimEvent::Claimed {
            kind,
            owner_type: owner.aggregate_type.clone(),
            owner_id: owner.aggregate_id.clone(),
        };
        claim_event(stream, length + 1, &event)
    }

    /// The event that frees `value`.
    pub(crate) async fn release(&self, kind: ClaimKind, value: &[&str]) -> Result<NewEvent, CommandError> {
        let stream = self.claim_stream(kind, value).await?;
        let length = self.ledger.stream_length(&stream).await?;
        claim_event(stream, length + 1, &ClaimEvent::Released {})
    }

    /// How long the stream is, and its last event: for those of which only the last one counts, however many there were.
    pub(crate) async fn last_claim(
        &self,
        stream: &StreamId,
    ) -> Result<(i64, Option<ClaimEvent>), CommandError> {
        let length = self.ledger.stream_length(stream).await?;
        if length == 0 {
            return Ok((0, None));
        }
        let last = self.ledger.read_stream(stream, length - 1, None, 1).await?;
        Ok((length, last.first().map(read_claim).transpose()?))
    }

    /// What was made by the append that used an idempotency key at `position`, which is its last event.
    pub(crate) async fn made_before<E: DeserializeOwned>(&self, position: i64) -> Result<E, CommandError> {
        let made = self.ledger.read_at(&[position - 1]).await?.into_iter().next();
        let made = made.ok_or_else(|| CommandError::Event("an idempotency key stands alone".to_owned()))?;
        Ok(made.parse()?)
    }

    /// Takes the context's idempotency key into use, or finds what was done under it before.
    pub(crate) async fn hold_key(
        &self,
        context: &Context,
        owner_type: &str,
    ) -> Result<Result<Option<HeldKey>, Earlier>, CommandError> {
        let Some(idempotency) = &context.idempotency else { return Ok(Ok(None)) };
        let actor = context.caller.actor.to_string();
        let team = context.caller.team.map(|team| team.to_string()).unwrap_or_default();
        let value = [actor.as_str(), &team, owner_type, &idempotency.key];
        let stream = self.claim_stream(ClaimKind::IdempotencyKey, &value).await?;
        {
            let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            if !in_flight.insert(stream.aggregate_id.clone()) {
                return Err(CommandError::KeyInUse);
            }
        }
        let held = HeldKey {
            stream,
            fingerprint: self.ledger.keyed_hash(&["fingerprint", &idempotency.fingerprint]).await?,
            plain: idempotency.fingerprint.clone(),
            in_flight: Arc::clone(&self.in_flight),
        };
        match self.earlier(&held).await? {
            Some(earlier) => Ok(Err(earlier)),
            None => Ok(Ok(Some(held))),
        }
    }

    /// What was done under the key, if anything.
    pub(crate) async fn earlier(&self, held: &HeldKey) -> Result<Option<Earlier>, CommandError> {
        let recorded = self.ledger.read_stream(&held.stream, 0, None, 1).await?;
        let Some(recorded) = recorded.first() else { return Ok(None) };
        match read_claim(recorded)? {
            ClaimEvent::KeyUsed { fingerprint, .. }
                if fingerprint != held.fingerprint && fingerprint != held.plain =>
            {
                Err(CommandError::KeyReused)
            }
            ClaimEvent::KeyUsed { owner_id, .. } => {
                Ok(Some(Earlier { owner_id, position: recorded.position }))
            }
            ClaimEvent::Claimed { .. }
            | ClaimEvent::Released {}
            | ClaimEvent::StepUsed { .. }
            | ClaimEvent::AdminsAre { .. } => Ok(None),
        }
    }
}
