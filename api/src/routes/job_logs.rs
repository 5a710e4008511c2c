//! What jobs printed: one job's lines, and those of many.

use std::collections::HashMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use commands::jobs::{FoundLine, JobLine, LineFilter, LogPlace};
use domain::{JobId, KindName};
use projections::time::text as time;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::JobsRead;
use crate::extract::{Json, Path, Query};
use crate::input::Fields;
use crate::list::{Cursors, Page, limit};
use crate::problem::{Problem, ProblemBody};

/// Bytes of what is searched for.
const LONGEST_SEARCH: usize = 512;

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Only lines after this sequence number: what came since one looked last.
    after: Option<u64>,
    /// Only lines that contain this text, in any letter case.
    q: Option<String>,
    /// Only lines of stdout, stderr or system.
    #[param(inline)]
    stream: Option<LogStream>,
    /// Only lines of this attempt, from 1.
    attempt: Option<u32>,
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The process' standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Daybook.
    System,
}

impl LogStream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// A line of a job's log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"seq": 17, "attempt": 1, "at": "2026-03-01T04:00:01.250Z", "stream": "stdout", "text": "3 rows"}))]
pub struct LineBody {
    /// From 1, dense within the job.
    seq: u64,
    /// Which attempt printed it.
    attempt: u32,
    /// When.
    at: String,
    /// stdout, stderr or system.
    stream: String,
    /// The line, the values of the job's secrets masked.
    text: String,
}

impl From<JobLine> for LineBody {
    fn from(line: JobLine) -> Self {
        Self { seq: line.seq, attempt: line.attempt, at: time(line.at), stream: line.stream, text: line.text }
    }
}

/// A page of a job's log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"items": [], "next": null, "expired": false}))]
pub struct LogPage {
    /// The lines, in order.
    pub items: Vec<LineBody>,
    /// Where the next page begins; null on the last one.
    pub next: Option<String>,
    /// Whether the job has logged something that was removed because its time was over.
    pub expired: bool,
}

/// What a job printed, through all attempts, in order. A page of a search may have fewer lines than asked for, or none, and still have a
/// `next`: so much is looked at in one request and no more.
#[utoipa::path(
    get, path = "/jobs/{id}/logs", tag = "jobs", params(("id" = Uuid, Path), LogQuery),
    responses(
        (status = 200, description = "A page", body = LogPage),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn logs(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogPage>, Problem> {
    let job = JobId(id);
    let row = app.projections.jobs().of(caller.team()?).get(job).await?;
    row.ok_or_else(|| Problem::not_found().with_code("job_not_found"))?;
    let limit = limit(query.limit)?;
    checked(query.q.as_deref())?;
    let cursors = Cursors::new(&app, ("logs", job.to_string(), &query.q, query.stream, query.attempt));
    let cursor = cursors.open(query.cursor.as_deref()).await?;
    let cursor = cursor.map(|key| key.parse::<u64>().map_err(Problem::internal)).transpose()?;
    let after = cursor.or(query.after).unwrap_or(0);
    let stream = query.stream.map(LogStream::as_str);
    let filter = LineFilter { stream, attempt: query.attempt, ..LineFilter::default() };
    let filter = filter.containing(query.q.as_deref());
    let found = app.commands.job_lines(job, after, &filter, limit).await?;
    let next = match found.next {
        Some(seq) => Some(cursors.seal(&seq.to_string()).await?),
        None => None,
    };
    let expired = found.lines.is_empty() && app.commands.logs_expired(job).await?;
    Ok(Json(LogPage { items: found.lines.into_iter().map(LineBody::from).collect(), next, expired }))
}

/// Which lines of which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// From a page's `next`.
    cursor: Option<String>,
    /// Only of jobs of this kind.
    kind: Option<String>,
    /// Only lines that contain this text, in any letter case.
    q: Option<String>,
    /// Only lines of stdout, stderr or system.
    #[param(inline)]
    stream: Option<LogStream>,
    /// Only lines from this time on.
    #[serde(default, deserialize_with = "crate::input::moment")]
    from: Option<DateTime<Utc>>,
    /// Only lines before this time.
    #[serde(default, deserialize_with = "crate::input::moment")]
    to: Option<DateTime<Utc>>,
}

/// A line, and the job that printed it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"job_id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11", "kind": "nightly-report", "seq": 17, "attempt": 1,
    "at": "2026-03-01T04:00:01.250Z", "stream": "stderr", "text": "no such table"}))]
pub struct FoundLineBody {
    /// The job.
    job_id: String,
    /// Its kind.
    kind: String,
    /// From 1, dense within the job.
    seq: u64,
    /// Which attempt printed it.
    attempt: u32,
    /// When.
    at: String,
    /// stdout, stderr or system.
    stream: String,
    /// The line, the values of the job's secrets masked.
    text: String,
}

impl From<FoundLine> for FoundLineBody {
    fn from(FoundLine { job_id, kind, line, .. }: FoundLine) -> Self {
        let LineBody { seq, attempt, at, stream, text } = line.into();
        Self { job_id: job_id.to_string(), kind, seq, attempt, at, stream, text }
    }
}

/// Searches through the logs of the team's jobs, of one kind or of all: newest lines first, by when they were stored. A page may have
/// fewer lines than asked for, or none, and still have a `next`: so much is looked at in one request and no more.
#[utoipa::path(
    get, path = "/jobs/logs", tag = "jobs", params(SearchQuery),
    responses(
        (status = 200, description = "A page", body = Page<FoundLineBody>),
        (status = 422, description = "A parameter is wrong", body = ProblemBody),
    ),
)]
pub async fn search(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Query(query): Query<SearchQuery>,
) -> Result<Json<Page<FoundLineBody>>, Problem> {
    let team = caller.team()?;
    let limit = limit(query.limit)?;
    checked(query.q.as_deref())?;
    let mut fields = Fields::default();
    fields.check_optional("kind", query.kind.as_deref(), KindName::parse);
    fields.done()?;
    let cursors =
        Cursors::new(&app, ("all logs", team, &query.kind, &query.q, query.stream, query.from, query.to));
    let place = cursors.open(query.cursor.as_deref()).await?;
    let place = place.map(|key| read_place(&key).ok_or_else(|| Problem::internal("a strange cursor")));
    let stream = query.stream.map(LogStream::as_str);
    let filter = LineFilter { stream, from: query.from, to: query.to, ..LineFilter::default() };
    let filter = filter.containing(query.q.as_deref());
    let search =
        app.commands.search_logs(team, query.kind.as_deref(), &filter, place.transpose()?, limit).await?;
    let mut items = vec![];
    let mut ours: HashMap<JobId, bool> = HashMap::new();
    for found in search.lines {
        let known = ours.get(&found.job_id).copied();
        let shown = match known {
            Some(shown) => shown,
            None => app.projections.jobs().of(team).get(found.job_id).await?.is_some(),
        };
        ours.insert(found.job_id, shown);
        if shown {
            items.push(found.into());
        }
    }
    let next = match search.next {
        Some(place) => Some(cursors.seal(&write_place(place)).await?),
        None => None,
    };
    Ok(Json(Page { items, next }))
}

fn checked(q: Option<&str>) -> Result<(), Problem> {
    if q.is_some_and(|q| q.len() > LONGEST_SEARCH) {
        return Err(Problem::invalid("q", format!("must be at most {LONGEST_SEARCH} bytes")));
    }
    Ok(())
}

fn write_place(place: LogPlace) -> String {
    format!("{} {} {} {}", place.at, place.job, place.first_seq, place.seq)
}

fn read_place(key: &str) -> Option<LogPlace> {
    let mut parts = key.split(' ');
    let mut next = || parts.next();
    Some(LogPlace {
        at: next()?.parse().ok()?,
        job: next()?.parse().ok()?,
        first_seq: next()?.parse().ok()?,
        seq: next()?.parse().ok()?,
    })
}
