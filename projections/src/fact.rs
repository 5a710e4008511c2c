//! Events as views see them.

use chrono::{DateTime, Utc};
use domain::{AccessEvent, Event, TeamId, Undecodable};
use ledger::{Ledger, LedgerError, Recorded, StreamId, Stretch};

use crate::history::{Fields, fields_of};
use crate::view::Spec;

/// An event as views see it: decoded, personal data opened (or found erased).
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its place in the log, from 1.
    pub position: i64,
    /// When it was recorded, to the millisecond.
    pub at: DateTime<Utc>,
    /// The kind of aggregate it is of.
    pub aggregate_type: String,
    /// Which one of its kind.
    pub aggregate_id: String,
    /// Its place in the aggregate's stream, from 1.
    pub sequence: i64,
    /// Its name.
    pub event_type: String,
    /// The version of the shape it was stored in.
    pub event_version: String,
    /// Who acted, as [`domain::Actor`] writes it.
    pub actor: String,
    /// For which team.
    pub team_id: Option<TeamId>,
    /// The request that led to it.
    pub request_id: Option<String>,
    /// The position or command that led to it.
    pub causation: Option<String>,
    /// The W3C trace it belongs to.
    pub trace_id: Option<String>,
    /// Whose address and program the next two are: a person's id, or a group that is forgotten together.
    pub subject: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// What happened.
    pub event: Event,
}

/// An event that this version cannot read, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its place in the log, from 1.
    pub position: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The kind of aggregate it is of.
    pub aggregate_type: String,
    /// Which one of its kind.
    pub aggregate_id: String,
    /// Its place in the aggregate's stream, from 1.
    pub sequence: i64,
    /// Its name.
    pub event_type: String,
    /// The version of the shape it was stored in.
    pub event_version: String,
    /// Who acted; empty where that cannot be read.
    pub actor: String,
    /// For which team, where it is certain that the event is the team's.
    pub team_id: Option<TeamId>,
    /// The request that led to it.
    pub request_id: Option<String>,
    /// Why it cannot be read, in words without contents.
    pub cause: String,
    /// Whether it is damaged, so that no version and no key will ever read it.
    pub damaged: bool,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.cause)
    }
}

impl Unreadable {
    fn new(recorded: Recorded, cause: String, damaged: bool) -> Self {
        let Recorded { position, at, stream, sequence, event_type, event_version, metadata, .. } = recorded;
        let team_id = match stream.aggregate_type.as_str() {
            "team" => stream.aggregate_id.parse().ok(),
            // Some of these concern a person and no team: which, only the event could tell.
            "user" | "access" => None,
            _ => metadata.team_id.and_then(|id| id.parse().ok()),
        };
        Self {
            position,
            at,
            aggregate_type: stream.aggregate_type,
            aggregate_id: stream.aggregate_id,
            sequence,
            event_type,
            event_version,
            actor: metadata.actor,
            team_id,
            request_id: metadata.request_id,
            cause,
            damaged,
        }
    }
}

impl Fact {
    /// Reads an event whose personal data has been opened.
    ///
    /// # Errors
    /// What is known of an event that this version cannot read.
    pub fn new(mut recorded: Recorded) -> Result<Self, Box<Unreadable>> {
        if let Some(cause) = recorded.damage.take() {
            return Err(Box::new(Unreadable::new(recorded, cause, true)));
        }
        let payload = std::mem::take(&mut recorded.payload);
        let of = &recorded.stream.aggregate_type;
        let (name, version) = (&recorded.event_type, &recorded.event_version);
        // What does not fit is said better of a tree than of a text.
        let decoded = Event::decode(of, name, version, payload.reader())
            .or_else(|_| Event::decode(of, name, version, payload.value()));
        let event = match decoded {
            Ok(event) => event,
            Err(error) => {
                // What is not known to this version may be to another one.
                let damaged = matches!(error, Undecodable::Shape { .. });
                return Err(Box::new(Unreadable::new(recorded, error.to_string(), damaged)));
            }
        };
        let Recorded { position, at, stream, sequence, event_type, event_version, metadata, .. } = recorded;
        Ok(Self {
            position,
            at,
            aggregate_type: stream.aggregate_type,
            aggregate_id: stream.aggregate_id,
            sequence,
            event,
            event_type,
            event_version,
            actor: metadata.actor,
            team_id: metadata.team_id.and_then(|id| id.parse().ok()),
            request_id: metadata.request_id,
            causation: metadata.causation,
            trace_id: metadata.trace_id,
            subject: metadata.subject,
            ip: metadata.ip,
            user_agent: metadata.user_agent,
        })
    }

    /// The team whose event it is: of a team's own events that team, whoever caused them. What concerns a person and not their work for a
    /// team is no team's, whichever they spoke for meanwhile.
    #[must_use]
    pub fn team(&self) -> Option<TeamId> {
        match &self.event {
            Event::Team(_) => self.aggregate_id.parse().ok().or(self.team_id),
            Event::User(_) => None,
            Event::Access(event) => self.team_id.filter(|_| is_of_a_team(event)),
            Event::Secret(_) | Event::Job(_) | Event::Schedule(_) | Event::Claim(_) => self.team_id,
        }
    }

    /// The event's own fields, by name, as it would be stored.
    pub(crate) fn fields(&self) -> Fields {
        let mut written = match &self.event {
            Event::User(event) => fields_of(event),
            Event::Team(event) => fields_of(event),
            Event::Secret(event) => fields_of(event),
            Event::Job(event) => fields_of(event),
            Event::Schedule(event) => fields_of(event),
            Event::Access(event) => fields_of(event),
            Event::Claim(event) => fields_of(event),
        };
        // Events are enums of structs: one object, named for the variant, around the fields.
        written.remove(&self.event_type).map(|event| fields_of(&event)).unwrap_or_default()
    }
}

/// Whether it was seen or tried on behalf of a team.
fn is_of_a_team(event: &AccessEvent) -> bool {
    match event {
        AccessEvent::SecretRevealed { .. }
        | AccessEvent::SecretRevealedByGrant { .. }
        | AccessEvent::SecretUsed { .. }
        | AccessEvent::AccessRefused { .. }
        | AccessEvent::FailuresCounted { .. }
        | AccessEvent::AuditRead { .. }
        | AccessEvent::JobResultRefused { .. }
        | AccessEvent::JobsChangedInBulk { .. }
        | AccessEvent::WorkerDrained { .. }
        | AccessEvent::ViewRebuilt { .. }
        | AccessEvent::LogLossAccepted { .. }
        | AccessEvent::EffectsReleased { .. } => true,
        AccessEvent::SignedIn { .. }
        | AccessEvent::SessionRefreshed { .. }
        | AccessEvent::RefreshTokenReused { .. }
        | AccessEvent::SessionEnded { .. }
        | AccessEvent::PasswordResetRequested { .. }
        | AccessEvent::EmailVerificationRequested { .. }
        | AccessEvent::MailTokenUsed { .. }
        | AccessEvent::ProofFailed { .. }
        | AccessEvent::SignInFailed { .. }
        | AccessEvent::AddressesForgotten { .. } => false,
    }
}

/// An event of a page, readable or not.
pub(crate) struct Entry {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) fact: Result<Fact, Box<Unreadable>>,
}

/// A stretch of the log: all events of some aggregate types up to `last`.
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The position of the last event looked at, whether or not it is among the entries.
    pub(crate) last: i64,
    /// Events looked at.
    pub(crate) looked_at: i64,
    /// Bytes of what the entries say.
    pub(crate) bytes: usize,
    /// Whether it certainly has everything that was in the log when it was read: it was cut by neither number nor bytes.
    pub(crate) complete: bool,
}

impl Page {
    /// Leaves what comes before `position`.
    pub(crate) fn end_before(&mut self, position: i64) {
        self.entries.retain(|entry| entry.position < position);
        self.looked_at -= self.last - (position - 1);
        self.last = position - 1;
        self.complete = false;
    }
}

/// The next stretch after position `after`, of the aggregate types `wanted`. `None` at the end of the log.
pub(crate) async fn read_page(
    ledger: &Ledger,
    after: i64,
    limit: i64,
    wanted: &[&str],
) -> Result<Option<Page>, LedgerError> {
    let (mut events, more) = ledger.read_step(after, limit).await?;
    let Some(last) = events.last().map(|event| event.position) else { return Ok(None) };
    let looked_at = events.len() as i64;
    let complete = !more;
    events.retain(|event| wanted.contains(&event.stream.aggregate_type.as_str()));
    let bytes = bytes_of(&events);
    Ok(Some(Page { entries: open(ledger, events).await?, last, looked_at, bytes, complete }))
}

/// The stretch of the log after position `after` and up to `up_to`, which must exist, as far as the view needs it. It ends sooner where a
/// page has bytes enough: see [`Page::last`].
pub(crate) async fn read_stretch(
    ledger: &Ledger,
    after: i64,
    up_to: i64,
    spec: &Spec,
) -> Result<Page, LedgerError> {
    let Stretch { events, up_to: last } = ledger.read_types(after, up_to, spec.aggregates).await?;
    let bytes = bytes_of(&events);
    let entries = match spec.personal {
        true => open(ledger, events).await?,
        false => events.into_iter().map(without_personal).collect(),
    };
    Ok(Page { entries, last, looked_at: last - after, bytes, complete: false })
}

fn bytes_of(events: &[Recorded]) -> usize {
    events.iter().map(|event| event.payload.text().len()).sum()
}

fn without_personal(mut event: Recorded) -> Entry {
    (event.metadata.ip, event.metadata.user_agent) = (None, None);
    entry(event, None)
}

/// The facts of one stream after `sequence`, at most `limit` and none beyond `up_to`.
pub(crate) async fn read_stream(
    ledger: &Ledger,
    stream: &StreamId,
    sequence: i64,
    up_to: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, LedgerError> {
    open(ledger, ledger.read_stream(stream, sequence, up_to, limit).await?).await
}

/// Opens the personal data of `events` and decodes them.
pub(crate) async fn open(ledger: &Ledger, mut events: Vec<Recorded>) -> Result<Vec<Entry>, LedgerError> {
    let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
    match ledger.open_personal(&mut events).await {
        Ok(()) => Ok(events.into_iter().map(|event| entry(event, None)).collect()),
        // One of them was altered, or its key is not the configured one. It must not take the others with it; what was
        // opened half is read anew.
        Err(LedgerError::Seal(_)) => {
            let mut entries = Vec::with_capacity(positions.len());
            for event in ledger.read_at(&positions).await? {
                entries.push(open_one(ledger, event).await?);
            }
            Ok(entries)
        }
        Err(error) => Err(error),
    }
}

async fn open_one(ledger: &Ledger, event: Recorded) -> Result<Entry, LedgerError> {
    let mut one = [event];
    let sealed = match ledger.open_personal(&mut one).await {
        Ok(()) => None,
        Err(LedgerError::Seal(cause)) => Some(cause.to_string()),
        Err(error) => return Err(error),
    };
    let [event] = one;
    Ok(entry(event, sealed))
}

fn entry(event: Recorded, sealed: Option<String>) -> Entry {
    Entry {
        position: event.position,
        aggregate_type: event.stream.aggregate_type.clone(),
        fact: match sealed {
            // Another node may have the key.
            Some(cause) => Err(Box::new(Unreadable::new(event, cause, false))),
            None => Fact::new(event),
        },
    }
}
