//! Reading what jobs printed: one job's log in order, and the logs of many, the newest first.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{JobId, TeamId};
use ledger::LedgerError;
use ledger::connect::Pool;
use sqlx::QueryBuilder;
use sqlx::types::Json;
use uuid::Uuid;

use super::log_store::{CHUNK_SPAN, JobLine, StoredLine};
use crate::{CommandError, Commands};

/// Chunks read at a time.
const CHUNKS_READ: i64 = 20;
/// Lines one request looks at, at most, before it says where to go on.
const MOST_LOOKED_AT: usize = 20_000;
/// Chunks one search through many logs looks at, at most.
const MOST_CHUNKS: usize = 1_000;

/// Which lines are wanted; all by default.
#[derive(Clone, Debug, Default)]
pub struct LineFilter {
    /// Those that contain this, in any letter case; it is in lower case itself: see [`LineFilter::containing`].
    pub q: Option<String>,
    /// Those of this stream.
    pub stream: Option<&'static str>,
    /// Those of this attempt.
    pub attempt: Option<u32>,
    /// Those from this moment on.
    pub from: Option<DateTime<Utc>>,
    /// Those before this moment.
    pub to: Option<DateTime<Utc>>,
}

impl LineFilter {
    /// Only lines that contain `q`, as it stands there, in any letter case.
    #[must_use]
    pub fn containing(mut self, q: Option<&str>) -> Self {
        self.q = q.map(str::to_lowercase);
        self
    }

    fn admits(&self, line: &JobLine) -> bool {
        self.stream.is_none_or(|stream| line.stream == stream)
            && self.attempt.is_none_or(|attempt| line.attempt == attempt)
            && self.from.is_none_or(|from| line.at >= from)
            && self.to.is_none_or(|to| line.at < to)
            && self.q.as_ref().is_none_or(|q| line.text.to_lowercase().contains(q.as_str()))
    }
}

/// Lines of one job, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Those that were wanted.
    pub lines: Vec<JobLine>,
    /// After which number to go on; `None` when that was all for the moment.
    pub next: Option<u64>,
}

/// A line, and the job that printed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLine {
    /// The job.
    pub job_id: JobId,
    /// Its kind.
    pub kind: String,
    /// The line.
    pub line: JobLine,
    /// Where a search goes on that has come as far as this line.
    pub place: LogPlace,
}

/// How far a search through many logs has come: chunks of later times are done, and of this one what is not before `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// Time of the chunk's last line, in microseconds since 1970.
    pub at: i64,
    /// The job.
    pub job: JobId,
    /// The chunk.
    pub first_seq: i64,
    /// The line.
    pub seq: u64,
}

/// What a search has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The lines, newest first.
    pub lines: Vec<FoundLine>,
    /// Where to go on; `None` when everything was looked at.
    pub next: Option<LogPlace>,
}

struct Chunk {
    job: JobId,
    first_seq: i64,
    attempt: i32,
    lines: Vec<StoredLine>,
}

/// Job, number of the first line, attempt and lines.
type ChunkRow = (Uuid, i64, i32, Json<Vec<StoredLine>>);

impl From<ChunkRow> for Chunk {
    fn from((job, first_seq, attempt, lines): ChunkRow) -> Self {
        Self { job: JobId(job), first_seq, attempt, lines: lines.0 }
    }
}

impl Chunk {
    fn into_lines(self) -> impl DoubleEndedIterator<Item = JobLine> {
        let (attempt, first) = (self.attempt.cast_unsigned(), self.first_seq.cast_unsigned());
        self.lines.into_iter().enumerate().map(move |(place, line)| {
            let StoredLine { at, stream, text } = line;
            JobLine { seq: first + place as u64, attempt, at, stream, text }
        })
    }
}

/// The same, with kind and time (microseconds since 1970).
type FoundRow = (Uuid, i64, i32, Json<Vec<StoredLine>>, String, i64);

/// A chunk as a search meets it.
struct FoundChunk {
    chunk: Chunk,
    kind: String,
    micros: i64,
}

impl Commands {
    /// The lines of a job after `after` that `filter` wants, at most `limit`. Looks at a bounded number of lines: it may say where to go
    /// on though it has found fewer.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn job_lines(
        &self,
        job: JobId,
        after: u64,
        filter: &LineFilter,
        limit: usize,
    ) -> Result<Lines, CommandError> {
        let (mut found, mut seen, mut looked_at) = (Lines::default(), after, 0);
        while looked_at < MOST_LOOKED_AT {
            let lines = self.log_after(job, seen, filter.attempt).await?;
            let Some(last) = lines.last() else {
                found.next = None;
                return Ok(found);
            };
            looked_at += lines.len();
            seen = last.seq;
            found.next = Some(seen);
            for line in lines {
                if !filter.admits(&line) {
                    continue;
                }
                if found.lines.len() == limit {
                    found.next = found.lines.last().map(|line| line.seq);
                    return Ok(found);
                }
                found.lines.push(line);
            }
        }
        Ok(found)
    }

    /// The next lines of a job after `after`, in order: some chunks of them, none when there are no more for the moment. Everything
    /// that was stored before the call is seen.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn log_after(
        &self,
        job: JobId,
        after: u64,
        attempt: Option<u32>,
    ) -> Result<Vec<JobLine>, CommandError> {
        let chunks: Vec<ChunkRow> = sqlx::query_as(
            "select job_id, first_seq, attempt, lines from job_log_chunks \
             where job_id = $1 and last_seq > $2 and ($4::integer is null or attempt = $4) \
             order by first_seq limit $3",
        )
        .bind(job.0)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(CHUNKS_READ)
        .bind(attempt.map(|attempt| i32::try_from(attempt).unwrap_or(i32::MAX)))
        .fetch_all(self.ledger.pool())
        .await
        .map_err(LedgerError::from)?;
        Ok(chunks
            .into_iter()
            .map(Chunk::from)
            .flat_map(Chunk::into_lines)
            .filter(|line| line.seq > after)
            .collect())
    }

    /// The number of the last line of each of these jobs; those that printed nothing are left out.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn log_heads(&self, jobs: &[JobId]) -> Result<HashMap<JobId, u64>, CommandError> {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
        let query = sqlx::query_as("select job_id, last_seq from job_logs where job_id = any($1)");
        let heads: Vec<(Uuid, i64)> =
            query.bind(ids).fetch_all(self.ledger.pool()).await.map_err(LedgerError::from)?;
        Ok(heads.into_iter().map(|(job, last)| (JobId(job), last.cast_unsigned())).collect())
    }

    /// Lines of the team's jobs, of one kind or of all, that `filter` wants: the newest first (by the time of the chunk they were stored
    /// in), at most `limit`, from `place` on. Looks at a bounded number of chunks: it may say where to go on though it has found fewer, or
    /// nothing. Whoever shows what it finds asks the team's own view for each job first.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn search_logs(
        &self,
        team: TeamId,
        kind: Option<&str>,
        filter: &LineFilter,
        place: Option<LogPlace>,
        limit: usize,
    ) -> Result<Found, CommandError> {
        let (mut found, mut place) = (Found { lines: vec![], next: place }, place);
        let (mut chunks_seen, mut looked_at) = (0, 0);
        while chunks_seen < MOST_CHUNKS && looked_at < MOST_LOOKED_AT {
            let chunks = newest(self.ledger.pool(), team, kind, filter, place).await;
            let chunks = chunks.map_err(LedgerError::from)?;
            if chunks.is_empty() {
                found.next = None;
                return Ok(found);
            }
            chunks_seen += chunks.len();
            for chunk in chunks {
                looked_at += chunk.chunk.lines.len();
                let end = place_in(&chunk, chunk.chunk.first_seq.cast_unsigned());
                if found.take(chunk, place, filter, limit) {
                    return Ok(found);
                }
                place = Some(end);
                found.next = place;
            }
        }
        Ok(found)
    }
}

impl Found {
    /// Takes what is wanted of a chunk, from its end. Whether that is more than `limit`.
    fn take(&mut self, chunk: FoundChunk, from: Option<LogPlace>, filter: &LineFilter, limit: usize) -> bool {
        let here = place_in(&chunk, 0);
        let begun =
            from.filter(|from| LogPlace { seq: 0, ..*from } == here).map_or(u64::MAX, |from| from.seq);
        let FoundChunk { chunk, kind, .. } = chunk;
        for line in chunk.into_lines().rev().filter(|line| line.seq < begun && filter.admits(line)) {
            if self.lines.len() == limit {
                self.next = self.lines.last().map(|last| last.place);
                return true;
            }
            let place = LogPlace { seq: line.seq, ..here };
            self.lines.push(FoundLine { job_id: here.job, kind: kind.clone(), line, place });
        }
        false
    }
}

fn place_in(chunk: &FoundChunk, seq: u64) -> LogPlace {
    LogPlace { at: chunk.micros, job: chunk.chunk.job, first_seq: chunk.chunk.first_seq, seq }
}

/// The next chunks of a search: the one it stopped in, and those before.
async fn newest(
    pool: &Pool,
    team: TeamId,
    kind: Option<&str>,
    filter: &LineFilter,
    place: Option<LogPlace>,
) -> Result<Vec<FoundChunk>, sqlx::Error> {
    let mut query = QueryBuilder::new(
        "select job_id, first_seq, attempt, lines, kind, (extract(epoch from at) * 1000000)::bigint as micros \
         from job_log_chunks where team_id = ",
    );
    query.push_bind(team.0);
    if let Some(kind) = kind {
        query.push(" and kind = ").push_bind(kind.to_owned());
    }
    if let Some(from) = filter.from {
        query.push(" and at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        // A chunk may end after what was asked for and begin before.
        query.push(" and at < ").push_bind(to.checked_add_signed(CHUNK_SPAN).unwrap_or(to));
    }
    if let Some(place) = place {
        let at = DateTime::from_timestamp_micros(place.at).unwrap_or(DateTime::<Utc>::MAX_UTC);
        query.push(" and (at, job_id, first_seq) ");
        // What was looked at to its first line is done.
        query.push(if place.seq.cast_signed() > place.first_seq { "<= (" } else { "< (" });
        query.push_bind(at).push(", ").push_bind(place.job.0).push(", ").push_bind(place.first_seq).push(")");
    }
    query.push(" order by at desc, job_id desc, first_seq desc limit ").push_bind(CHUNKS_READ);
    let rows: Vec<FoundRow> = query.build_query_as().fetch_all(pool).await?;
    let found = |(job, first_seq, attempt, lines, kind, micros)| FoundChunk {
        chunk: Chunk::from((job, first_seq, attempt, lines)),
        kind,
        micros,
    };
    Ok(rows.into_iter().map(found).collect())
}
