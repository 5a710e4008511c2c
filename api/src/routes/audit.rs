//! The auditor's tools: what happened, how each thing came to be, and how things stood. Reading them is recorded too.

use std::collections::HashMap;

use axum::extract::{OriginalUri, State};
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::{AGGREGATE_TYPES, AccessEvent, JsonText, Permission, TeamId};
use ledger::StreamId;
use projections::{
    Audit, AuditFilter, AuditRow, Change, Fact, HistoryEntry, Listed, StateError, TeamReader, Unreadable,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Answer;
use crate::app::App;
use crate::authenticate::{CanAudit, Identity};
use crate::extract::{Json, Path, Query};
use crate::input::{NOT_SHOWABLE, showable};
use crate::list::{Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::refusal::unreadable_event;
use projections::time::text as time;

/// An event as an auditor sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBody {
    /// Its place in the log, from 1.
    pub position: i64,
    /// When it was recorded.
    pub at: String,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The version of the event's shape.
    pub version: String,
    /// user, team, secret, job or access.
    pub aggregate_type: String,
    /// Which one of its kind.
    pub aggregate_id: String,
    /// Its place in the aggregate's history, from 1.
    pub sequence: i64,
    /// Who did it.
    pub actor: String,
    /// For which team.
    pub team_id: Option<String>,
    /// The request that led to it.
    pub request_id: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// The fields it changed. After an event that cannot be read, what the event itself states.
    pub changes: Vec<ChangeBody>,
    /// Why this version cannot read the event, where it cannot. The other fields then show what is known of it.
    pub unreadable: Option<String>,
}

/// A field that an event changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeBody {
    /// The field of the resource.
    pub field: String,
    /// What it was.
    #[schema(value_type = Option<Object>)]
    pub before: JsonText,
    /// What it is from then on.
    #[schema(value_type = Option<Object>)]
    pub after: JsonText,
}

impl From<Change> for ChangeBody {
    fn from(change: Change) -> Self {
        Self { field: change.field, before: change.before, after: change.after }
    }
}

impl EventBody {
    fn new(fact: Fact, changes: Vec<Change>) -> Self {
        let team_id = fact.team().map(|team| team.to_string());
        Self {
            position: fact.position,
            at: time(fact.at),
            event_type: fact.event_type,
            version: fact.event_version,
            aggregate_type: fact.aggregate_type,
            aggregate_id: fact.aggregate_id,
            sequence: fact.sequence,
            actor: fact.actor,
            team_id,
            request_id: fact.request_id,
            ip: fact.ip,
            changes: changes.into_iter().map(ChangeBody::from).collect(),
            unreadable: None,
        }
    }

    fn unreadable(event: Unreadable) -> Self {
        Self {
            position: event.position,
            at: time(event.at),
            event_type: event.event_type,
            version: event.event_version,
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id,
            sequence: event.sequence,
            actor: event.actor,
            team_id: event.team_id.map(|team| team.to_string()),
            request_id: event.request_id,
            ip: None,
            changes: vec![],
            unreadable: Some(event.cause),
        }
    }

    /// An event as the trail lists it, where the log does not say more.
    fn listed(row: AuditRow, cause: String) -> Self {
        Self {
            position: row.position,
            at: time(row.at),
            event_type: row.event_type,
            version: row.version,
            aggregate_type: row.aggregate_type,
            aggregate_id: row.aggregate_id,
            sequence: row.sequence,
            actor: row.actor,
            team_id: row.team_id.map(|team| team.to_string()),
            request_id: row.request_id,
            ip: row.ip,
            changes: vec![],
            unreadable: Some(cause),
        }
    }
}

impl From<HistoryEntry> for EventBody {
    fn from(entry: HistoryEntry) -> Self {
        match entry.fact {
            Ok(fact) => Self::new(fact, entry.changes),
            Err(unreadable) => Self::unreadable(*unreadable),
        }
    }
}

/// Where the history is not at hand: what the event itself states, as changes from nothing.
impl From<Result<Fact, Box<Unreadable>>> for EventBody {
    fn from(fact: Result<Fact, Box<Unreadable>>) -> Self {
        match fact {
            Ok(fact) => {
                let changes = fact.stated();
                Self::new(fact, changes)
            }
            Err(unreadable) => Self::unreadable(*unreadable),
        }
    }
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// A position: events before it.
    cursor: Option<String>,
    /// Picks fields: `fields=position,type`.
    fields: Option<String>,
    /// user, team, secret, job or access.
    aggregate_type: Option<String>,
    /// Which one of its kind.
    aggregate_id: Option<String>,
    /// Who did it: `user:<id>`, `key:<id>`, `job:<id>`, `system` or `anonymous`.
    actor: Option<String>,
    /// What happened, such as `SecretStored`.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    event_type: Option<String>,
    /// Recorded at or after this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    to: Option<DateTime<Utc>>,
    /// The request that led to it.
    request_id: Option<String>,
}

/// What happened, newest first. A team's auditor sees the team's events, an instance admin all.
#[utoipa::path(
    get, path = "/audit/events", tag = "audit", params(EventsQuery),
    responses((status = 200, description = "A page", body = Page<EventBody>)),
)]
pub async fn events(
    State(app): State<App>,
    caller: CanAudit,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let limit = limit(query.limit)?;
    let before = before(query.cursor.as_deref())?;
    if let Some(name) = &query.aggregate_type {
        known_type(name).map_err(|message| Problem::invalid("aggregate_type", message))?;
    }
    let trail = trail(&app, &caller)?;
    let filter = AuditFilter {
        aggregate_type: query.aggregate_type,
        aggregate_id: query.aggregate_id,
        actor: query.actor,
        event_type: query.event_type,
        from: query.from,
        to: query.to,
        request_id: query.request_id,
    };
    // What the answer shows is everything before the reading itself, so the trail is waited for up to there.
    let reading = record(&app, &caller, &uri).await?;
    projections::demand(reading, false);
    let before = Some(before.map_or(reading, |before| before.min(reading)));
    let mut rows = trail.list(&filter, before, limit as i64 + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let positions: Vec<i64> = rows.iter().map(|row| row.position).collect();
    let next = positions.last().filter(|_| more).map(ToString::to_string);
    let facts = app.projections.facts_at(&positions).await?;
    let Listed { rows: facts, is_cut } = facts;
    let mut facts: HashMap<i64, _> = facts.into_iter().map(|fact| (position(&fact), fact)).collect();
    // Where they are large, those that come last are all there is.
    let first = facts.keys().min().copied().filter(|_| is_cut);
    rows.retain(|row| first.is_none_or(|first| row.position >= first));
    let next = first.map(|first| first.to_string()).or(next);
    let item = |row: AuditRow| match facts.remove(&row.position) {
        Some(Err(unreadable)) => EventBody::listed(row, unreadable.cause),
        Some(fact) => EventBody::from(fact),
        None => EventBody::listed(row, "the log has no event at this position any more".to_owned()),
    };
    let items: Vec<EventBody> = rows.into_iter().map(item).collect();
    Ok(Json(pick(Page { items, next }, query.fields.as_deref())?))
}

/// Which part of a history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// A sequence: events after it.
    cursor: Option<String>,
}

/// How a thing came to be what it is: each event with the fields it changed, oldest first.
#[utoipa::path(
    get, path = "/audit/{aggregate_type}/{id}/history", tag = "audit",
    params(("aggregate_type" = String, Path), ("id" = String, Path), HistoryQuery),
    responses(
        (status = 200, description = "A page", body = Page<EventBody>),
        (status = 404, description = "Nothing of that name that the caller may audit", body = ProblemBody),
    ),
)]
pub async fn history(
    State(app): State<App>,
    caller: CanAudit,
    OriginalUri(uri): OriginalUri,
    Path((aggregate_type, id)): Path<(String, String)>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Page<EventBody>>, Problem> {
    let limit = limit(query.limit)?;
    let after = match query.cursor.as_deref().map(str::parse::<i64>) {
        None => 0,
        Some(Ok(sequence)) if sequence >= 1 => sequence,
        Some(_) => return Err(Problem::invalid("cursor", "must be a sequence of this history")),
    };
    let stream = audited(&app, &caller, &aggregate_type, &id).await?;
    record(&app, &caller, &uri).await?;
    let Listed { rows: mut entries, is_cut } = app.projections.history(&stream, after, limit + 1).await?;
    let more = is_cut || entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.place().0.to_string());
    Ok(Json(Page { items: entries.into_iter().map(EventBody::from).collect(), next }))
}

/// As of when.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct StateQuery {
    /// A time (RFC 3339) or a position; now if not given.
    as_of: Option<String>,
}

/// How a thing stood.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateBody {
    /// What it is.
    aggregate_type: String,
    /// Which one.
    aggregate_id: String,
    /// The position that was asked for, or that the time stands for.
    as_of: i64,
    /// The position of the last event that made it so.
    position: i64,
    /// That event's place in the thing's history.
    sequence: i64,
    /// The thing.
    #[schema(value_type = Object)]
    state: JsonText,
}

/// How a thing stood at a moment: the fold of its events up to there.
#[utoipa::path(
    get, path = "/audit/{aggregate_type}/{id}/state", tag = "audit",
    params(("aggregate_type" = String, Path), ("id" = String, Path), StateQuery),
    responses(
        (status = 200, description = "The thing as it was", body = StateBody),
        (status = 404, description = "It did not exist then, or the caller may not audit it", body = ProblemBody),
        (status = 409, description = "event_unreadable: an event of its history cannot be read", body = ProblemBody),
        (status = 422, description = "as_of is in the future or is neither time nor position", body = ProblemBody),
    ),
)]
pub async fn state(
    State(app): State<App>,
    caller: CanAudit,
    OriginalUri(uri): OriginalUri,
    Path((aggregate_type, id)): Path<(String, String)>,
    Query(query): Query<StateQuery>,
) -> Result<Answer<StateBody>, Problem> {
    let as_of = as_of(&app, query.as_of.as_deref()).await?;
    let stream = audited(&app, &caller, &aggregate_type, &id).await?;
    record(&app, &caller, &uri).await?;
    let found = app.projections.state(&stream.aggregate_type, &stream.aggregate_id, Some(as_of)).await;
    let found = found.map_err(|error| match error {
        StateError::Unreadable(_) => unreadable_event(error),
        StateError::Read(error) => error.into(),
    })?;
    let found = found.ok_or_else(|| {
        Problem::not_found().with_detail(format!("There was no such {aggregate_type} at position {as_of}."))
    })?;
    Ok(Answer::ok(StateBody {
        aggregate_type,
        aggregate_id: id,
        as_of,
        position: found.position,
        sequence: found.sequence,
        state: found.row,
    }))
}

/// The position that `as_of` stands for.
async fn as_of(app: &App, text: Option<&str>) -> Result<i64, Problem> {
    let head = app.ledger.head().await?;
    let Some(text) = text else { return Ok(head) };
    let refuse = |message: &str| Err(Problem::invalid("as_of", message));
    if let Ok(position) = text.parse::<i64>() {
        return match position {
            position if position < 0 => refuse("must not be negative"),
            position if position > head => refuse("lies beyond the end of the log"),
            position => Ok(position),
        };
    }
    match text.parse::<DateTime<Utc>>() {
        Err(_) => refuse("must be a position, or a time such as 2026-11-21T14:03:00Z"),
        Ok(moment) if !showable(moment) => refuse(NOT_SHOWABLE),
        Ok(moment) => match app.ledger.position_as_of(moment).await? {
            Some(position) => Ok(position),
            None => refuse("lies in the future"),
        },
    }
}

fn position(fact: &Result<Fact, Box<Unreadable>>) -> i64 {
    fact.as_ref().map_or_else(|unreadable| unreadable.position, |fact| fact.position)
}

fn known_type(name: &str) -> Result<(), String> {
    if AGGREGATE_TYPES.contains(&name) {
        Ok(())
    } else {
        Err(format!("must be one of {}", AGGREGATE_TYPES.join(", ")))
    }
}

/// The team whose events the caller sees; `None`: all events of the instance.
fn team_seen(caller: &Identity) -> Result<Option<TeamId>, Problem> {
    if caller.has(Permission::AuditInstance) { Ok(None) } else { caller.team().map(Some) }
}

/// The part of the trail that the caller sees.
pub(super) fn trail<'a>(app: &'a App, caller: &Identity) -> Result<TeamReader<'a, Audit>, Problem> {
    let audit = app.projections.audit();
    Ok(match team_seen(caller)? {
        Some(team) => audit.of(team),
        None => audit.of_instance(),
    })
}

/// The stream of a thing that the caller may audit; any other does not exist for them.
async fn audited(app: &App, caller: &Identity, aggregate_type: &str, id: &str) -> Result<StreamId, Problem> {
    known_type(aggregate_type).map_err(|_| Problem::not_found())?;
    let id = id.parse::<uuid::Uuid>().map_err(|_| Problem::not_found())?;
    let stream = StreamId::new(aggregate_type, id);
    let team = team_seen(caller)?;
    let filter = AuditFilter {
        aggregate_type: Some(stream.aggregate_type.clone()),
        aggregate_id: Some(stream.aggregate_id.clone()),
        ..AuditFilter::default()
    };
    let seen = trail(app, caller)?.list(&filter, None, 1).await?;
    if !seen.is_empty() {
        return Ok(stream);
    }
    // The trail may trail behind what has just happened; the log itself does not.
    let begun = app.projections.facts_of(&stream, 0, None, 1).await?;
    let may_see = |fact: &Result<Fact, Box<Unreadable>>| {
        team.is_none() || team == fact.as_ref().map_or_else(|unreadable| unreadable.team_id, Fact::team)
    };
    if begun.first().is_some_and(may_see) { Ok(stream) } else { Err(Problem::not_found()) }
}

/// The position that a cursor names: what comes before it is wanted.
pub(super) fn before(cursor: Option<&str>) -> Result<Option<i64>, Problem> {
    match cursor.map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(position)) if position >= 1 => Ok(Some(position)),
        Some(_) => Err(Problem::invalid("cursor", "must be a position of the log")),
    }
}

/// No record, no answer.
pub(super) async fn record(app: &App, caller: &Identity, uri: &Uri) -> Result<i64, Problem> {
    let query = uri.path_and_query().map_or_else(|| uri.path(), |whole| whole.as_str());
    let query: String = query.chars().take(1_000).collect();
    Ok(app.commands.record(&caller.context, &AccessEvent::AuditRead { query }).await?)
}
