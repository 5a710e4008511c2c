//! What jobs printed: stored in chunks beside the log, so that a chatty job is a few rows and no events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{JobId, LogDigest};
use ledger::{LedgerError, Sha256};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::claims::Claims;
use super::lines::{Output, Stream};
use crate::{CommandError, Commands};

/// Lines of a chunk at most.
const CHUNK_LINES: usize = 200;
/// How long a line waits at most before it is stored.
const CHUNK_DELAY: Duration = Duration::from_millis(200);
/// Chunks read at a time.
const CHUNKS_READ: i64 = 50;

/// A line of a job's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLine {
    /// From 1, dense within the job.
    pub seq: u64,
    /// Which attempt printed it.
    pub attempt: u32,
    /// When.
    pub at: DateTime<Utc>,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// Without line end, the values of secrets masked.
    pub text: String,
}

/// Stores the lines of one attempt.
pub(super) struct LogWriter {
    pool: PgPool,
    claims: Claims,
    worker: String,
    job_id: JobId,
    attempt: u32,
    /// Of the last line, stored or not.
    seq: u64,
    waiting: Vec<JobLine>,
    lines: u64,
    digest: Sha256,
}

impl LogWriter {
    /// Goes on where the attempts before stopped.
    pub(super) async fn new(
        pool: PgPool,
        claims: Claims,
        worker: &str,
        job_id: JobId,
        attempt: u32,
    ) -> Result<Self, sqlx::Error> {
        let query =
            sqlx::query_scalar("select coalesce(max(last_seq), 0) from job_log_chunks where job_id = $1");
        let last: i64 = query.bind(job_id.0).fetch_one(&pool).await?;
        let digest = Sha256::default();
        Ok(Self {
            pool,
            claims,
            worker: worker.to_owned(),
            job_id,
            attempt,
            seq: last.cast_unsigned(),
            waiting: vec![],
            lines: 0,
            digest,
        })
    }

    /// A remark of Daybook's own.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.add(Stream::System, text.into(), Utc::now());
    }

    /// Takes what an attempt says until it has ended. While the database is away lines wait in memory; there are never more
    /// than the attempt may store.
    pub(super) async fn take(&mut self, mut output: mpsc::Receiver<Output>) {
        let mut due: Option<Instant> = None;
        loop {
            let next = match due {
                None => output.recv().await,
                Some(moment) => match timeout_at(moment, output.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        due = None;
                        self.store_or_wait().await;
                        continue;
                    }
                },
            };
            match next {
                None => return,
                Some(Output::Progress(progress)) => {
                    if let Err(error) = self.claims.set_progress(self.job_id, &self.worker, progress).await {
                        tracing::debug!(job = %self.job_id, %error, "a job's progress was not noted");
                    }
                }
                Some(Output::Line { stream, text, at }) => {
                    self.add(stream, text, at);
                    due.get_or_insert_with(|| Instant::now() + CHUNK_DELAY);
                    if self.waiting.len() >= CHUNK_LINES {
                        due = None;
                        self.store_or_wait().await;
                    }
                }
            }
        }
    }

    fn add(&mut self, stream: Stream, text: String, at: DateTime<Utc>) {
        self.seq += 1;
        self.lines += 1;
        self.digest.update(format!("{}\t{}\t{text}\n", self.seq, stream.name()));
        let stream = stream.name().to_owned();
        self.waiting.push(JobLine { seq: self.seq, attempt: self.attempt, at, stream, text });
    }

    async fn store_or_wait(&mut self) {
        if let Err(error) = self.store().await {
            tracing::warn!(job = %self.job_id, %error, "a job's lines could not be stored yet");
        }
    }

    /// Stores what waits.
    pub(super) async fn store(&mut self) -> Result<(), sqlx::Error> {
        let (Some(first), Some(last)) = (self.waiting.first(), self.waiting.last()) else { return Ok(()) };
        // A repeated store after an unknown outcome finds its row there already.
        let query = sqlx::query(
            "insert into job_log_chunks (job_id, first_seq, last_seq, attempt, lines) values ($1, $2, $3, $4, $5) \
             on conflict (job_id, first_seq) do update set last_seq = excluded.last_seq, lines = excluded.lines \
             where job_log_chunks.attempt = excluded.attempt",
        );
        let query = query.bind(self.job_id.0).bind(first.seq.cast_signed()).bind(last.seq.cast_signed());
        query.bind(self.attempt.cast_signed()).bind(Json(&self.waiting)).execute(&self.pool).await?;
        self.waiting.clear();
        Ok(())
    }

    /// Count and digest (SHA-256 over `seq TAB stream TAB text LF` of each line) for the event that ends the attempt.
    pub(super) fn digest(&self, dropped: u64) -> LogDigest {
        LogDigest { lines: self.lines, dropped, sha256: self.digest.clone().finish() }
    }
}

impl Commands {
    /// The lines of a job after `after`, at most `limit`: those of `stream` (if given) that contain `q` (if given, in any letter case).
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn job_lines(
        &self,
        job: JobId,
        after: u64,
        q: Option<&str>,
        stream: Option<&str>,
        limit: usize,
    ) -> Result<Vec<JobLine>, CommandError> {
        let wanted = q.map(str::to_lowercase);
        let fits = |line: &JobLine| {
            line.seq > after
                && stream.is_none_or(|stream| line.stream == stream)
                && wanted.as_ref().is_none_or(|wanted| line.text.to_lowercase().contains(wanted))
        };
        let mut found = vec![];
        let mut seen = i64::try_from(after).unwrap_or(i64::MAX);
        loop {
            let chunks: Vec<(i64, Json<Vec<JobLine>>)> = sqlx::query_as(
                "select last_seq, lines from job_log_chunks where job_id = $1 and last_seq > $2 \
                 order by first_seq limit $3",
            )
            .bind(job.0)
            .bind(seen)
            .bind(CHUNKS_READ)
            .fetch_all(self.ledger.pool())
            .await
            .map_err(LedgerError::from)?;
            let Some((last, _)) = chunks.last() else { return Ok(found) };
            seen = *last;
            found.extend(chunks.into_iter().flat_map(|(_, lines)| lines.0).filter(fits));
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }
}
