//! What jobs printed: stored in chunks beside the log, so that a chatty job is a few rows and no events.
//!
//! Sequence numbers are given by the database as lines are stored: one row a job says how far its log has come and which attempt writes
//! it. So numbers are dense through all attempts and workers, and an attempt that was thought dead stores nothing any more once
//! another one has begun to write. A job that prints nothing costs no statement.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{JobId, LogDigest, TeamId};
use ledger::Sha256;
use ledger::connect::Pool;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::in_time::{self, in_time};
use super::lines::{Output, Stream};
use super::log_news::LogNews;

/// Lines and bytes of text of a chunk at most; a line that is longer has one of its own.
const CHUNK_LINES: usize = 200;
const CHUNK_BYTES: usize = 64 * 1024;
/// From a chunk's first line to its last at most.
pub(super) const CHUNK_SPAN: TimeDelta = TimeDelta::seconds(10);
/// How long the first line after a pause waits for others that come with it.
const GATHER: Duration = Duration::from_millis(5);
/// How long a line waits at most before it is stored: this long is at least between two chunks of an attempt that are not full.
const CHUNK_DELAY: Duration = Duration::from_millis(50);
/// Pause after lines could not be stored.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A line of a job's log.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A line as it is stored: its number is its place in the chunk, and its attempt the chunk's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredLine {
    pub(super) at: DateTime<Utc>,
    pub(super) stream: String,
    pub(super) text: String,
}

/// Whose output it is.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub(super) job_id: JobId,
    pub(super) team_id: TeamId,
    pub(super) kind: String,
    pub(super) attempt: u32,
}

/// Stores the lines of one attempt.
pub(super) struct LogWriter {
    pool: Pool,
    writing: Writing,
    waiting: VecDeque<StoredLine>,
    /// How far the database's clock is ahead of the one that lines are timed by.
    ahead: TimeDelta,
    /// Lines of this attempt that are stored.
    stored: u64,
    /// Another attempt writes: what this one still says is nobody's.
    superseded: bool,
    progress: Option<f64>,
    /// When something was stored last.
    last: Option<Instant>,
    digest: Sha256,
    /// How long a chunk may take to be stored.
    patience: Duration,
}

/// What became of a store.
enum Outcome {
    /// So many lines are stored, the last of them with this number.
    Stored { lines: u64, last_seq: u64 },
    /// Another attempt writes.
    Superseded,
}

impl LogWriter {
    /// Goes on where the attempts before stopped.
    pub(super) fn new(pool: Pool, writing: Writing) -> Self {
        Self {
            pool,
            writing,
            waiting: VecDeque::new(),
            ahead: TimeDelta::zero(),
            stored: 0,
            superseded: false,
            progress: None,
            last: None,
            digest: Sha256::default(),
            patience: in_time::PATIENCE,
        }
    }

    /// The database's clock is ahead of this node's by so much: lines are shown with its time, as everything is.
    pub(super) fn ahead_of_node(mut self, ahead: TimeDelta) -> Self {
        self.ahead = ahead;
        self
    }

    /// A remark of Daybook's own.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.add(Stream::System, text.into(), Utc::now());
    }

    /// Takes what an attempt says until it has ended; `note` keeps how far it says it is, in bounded time. While the database is away lines wait in
    /// memory; there are never more than the attempt may store.
    pub(super) async fn take<F, N>(&mut self, mut output: mpsc::Receiver<Output>, note: F)
    where
        F: Fn(f64) -> N,
        N: Future<Output = Result<(), sqlx::Error>>,
    {
        let mut due: Option<Instant> = None;
        // While lines cannot be stored, more of them are no reason to try sooner.
        let mut failing = false;
        loop {
            let next = match due {
                None => output.recv().await,
                Some(moment) => match timeout_at(moment, output.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        due = self.settle(&note).await;
                        failing = due.is_some();
                        continue;
                    }
                },
            };
            match next {
                None => break,
                Some(Output::Progress(progress)) => self.progress = Some(progress),
                Some(Output::Line { stream, text, at }) => self.add(stream, text, at),
            }
            due = due.or_else(|| Some(self.next_due()));
            if self.waiting.len() >= CHUNK_LINES && !failing {
                due = self.settle(&note).await;
                failing = due.is_some();
            }
        }
        self.note_progress(&note).await;
    }

    /// What comes after a pause is stored at once, a steady flow in pieces.
    fn next_due(&self) -> Instant {
        let soon = Instant::now() + GATHER;
        self.last.map_or(soon, |last| soon.max(last + CHUNK_DELAY))
    }

    /// Stores what waits; when to try again if that failed.
    async fn settle<F, N>(&mut self, note: &F) -> Option<Instant>
    where
        F: Fn(f64) -> N,
        N: Future<Output = Result<(), sqlx::Error>>,
    {
        let outcome = self.store().await;
        self.note_progress(note).await;
        self.last = Some(Instant::now());
        let error = outcome.err()?;
        tracing::warn!(job = %self.writing.job_id, %error, "a job's lines could not be stored yet");
        Some(Instant::now() + STORE_PAUSE)
    }

    async fn note_progress<F, N>(&mut self, note: &F)
    where
        F: Fn(f64) -> N,
        N: Future<Output = Result<(), sqlx::Error>>,
    {
        let Some(progress) = self.progress.take() else { return };
        let job = self.writing.job_id;
        match note(progress).await {
            Ok(()) => self.tell(LogNews::Progress { job, attempt: self.writing.attempt, progress }).await,
            Err(error) => tracing::debug!(%job, %error, "a job's progress was not noted"),
        }
    }

    fn add(&mut self, stream: Stream, text: String, at: DateTime<Utc>) {
        if !self.superseded {
            self.waiting.push_back(StoredLine {
                at: at + self.ahead,
                stream: stream.name().to_owned(),
                text,
            });
        }
    }

    /// Stores what waits, and tells whoever watches.
    pub(super) async fn store(&mut self) -> Result<(), sqlx::Error> {
        while !self.waiting.is_empty() {
            let length = self.chunk();
            match in_time(self.patience, self.store_chunk(length)).await? {
                Outcome::Stored { lines, last_seq } => {
                    self.count(lines, last_seq);
                    // Not in the same transaction: who notifies holds a lock of the whole server until its commit has reached the
                    // disk. A notification that is lost costs a watcher until its next look.
                    let job = self.writing.job_id;
                    self.tell(LogNews::Lines { job, last_seq }).await;
                }
                Outcome::Superseded => {
                    tracing::info!(job = %self.writing.job_id, attempt = self.writing.attempt, "late lines were refused");
                    self.superseded = true;
                    self.waiting.clear();
                }
            }
        }
        Ok(())
    }

    /// How many of the lines that wait make the next chunk.
    fn chunk(&self) -> usize {
        let Some(first) = self.waiting.front() else { return 0 };
        let mut bytes = 0;
        let fits = |line: &&StoredLine| {
            bytes += line.text.len();
            bytes <= CHUNK_BYTES && line.at - first.at < CHUNK_SPAN
        };
        self.waiting.iter().take(CHUNK_LINES).take_while(fits).count().max(1)
    }

    async fn store_chunk(&mut self, length: usize) -> Result<Outcome, sqlx::Error> {
        let lines: Vec<&StoredLine> = self.waiting.iter().take(length).collect();
        let at = lines.last().map(|line| line.at);
        let (already, more) = (self.stored.cast_signed(), length as i64);
        let query = sqlx::query_scalar(
            "with head as ( \
                 insert into job_logs as l (job_id, attempt, stored, last_seq) \
                 select $1, $2, $3 + $4, $4 + coalesce((select last_seq from job_log_chunks where job_id = $1 \
                                                       order by first_seq desc limit 1), 0) \
                 on conflict (job_id) do update \
                     set attempt = excluded.attempt, stored = excluded.stored, last_seq = l.last_seq + $4 \
                     where (l.attempt < excluded.attempt and $3 = 0) or (l.attempt = excluded.attempt and l.stored = $3) \
                 returning last_seq \
             ), chunk as ( \
                 insert into job_log_chunks (job_id, first_seq, last_seq, attempt, team_id, kind, at, lines) \
                 select $1, last_seq - $4 + 1, last_seq, $2, $5, $6, $7, $8 from head \
             ) \
             select last_seq from head",
        );
        let query = query.bind(self.writing.job_id.0).bind(self.writing.attempt.cast_signed());
        let query = query.bind(already).bind(more).bind(self.writing.team_id.0).bind(&self.writing.kind);
        let last: Option<i64> = query.bind(at).bind(Json(&lines)).fetch_optional(&self.pool).await?;
        match last {
            Some(last) => Ok(Outcome::Stored { lines: length as u64, last_seq: last.cast_unsigned() }),
            None => self.find_out().await,
        }
    }

    /// Nothing was stored just now: either an earlier store, whose outcome we never heard, did get through, or another attempt writes.
    async fn find_out(&self) -> Result<Outcome, sqlx::Error> {
        let query = sqlx::query_as("select attempt, stored, last_seq from job_logs where job_id = $1");
        let found: Option<(i32, i64, i64)> =
            query.bind(self.writing.job_id.0).fetch_optional(&self.pool).await?;
        Ok(match found {
            Some((attempt, stored, last)) if attempt == self.writing.attempt.cast_signed() => {
                let lines = stored.cast_unsigned().saturating_sub(self.stored);
                let last_seq = last.cast_unsigned();
                if lines == 0 || lines > self.waiting.len() as u64 {
                    return Ok(Outcome::Superseded);
                }
                Outcome::Stored { lines, last_seq }
            }
            Some(_) | None => Outcome::Superseded,
        })
    }

    /// The first `lines` of those that wait are stored, up to `last_seq`.
    fn count(&mut self, lines: u64, last_seq: u64) {
        let first = last_seq + 1 - lines;
        for (seq, line) in (first..=last_seq).zip(self.waiting.drain(..lines as usize)) {
            self.digest.update(format!("{seq}\t{}\t{}\n", line.stream, line.text));
        }
        self.stored += lines;
    }

    async fn tell(&self, news: LogNews) {
        if let Err(error) = in_time(self.patience, news.send(&self.pool)).await {
            tracing::debug!(job = %self.writing.job_id, %error, "who watches a job was not told of news");
        }
    }

    /// Count and digest (SHA-256 over `seq TAB stream TAB text LF` of each line) of what is stored, for the event that ends the attempt.
    pub(super) fn digest(&self, dropped: u64) -> LogDigest {
        LogDigest { lines: self.stored, dropped, sha256: self.digest.clone().finish() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use domain::TeamId;
    use ledger::connect::Purpose;
    use sqlx::postgres::PgConnectOptions;
    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A writer whose server takes connections and never says anything: the kernel does that for it.
    fn before_a_frozen_server() -> (TcpListener, LogWriter) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(server.local_addr().unwrap().port())
            .username("nobody");
        let pool = Pool::new(options.into(), Purpose::Background, 2, LIMIT * 10);
        let (job_id, team_id) = (JobId(Uuid::now_v7()), TeamId(Uuid::now_v7()));
        let writing = Writing { job_id, team_id, kind: "k".to_owned(), attempt: 1 };
        let mut log = LogWriter::new(pool, writing);
        log.patience = Duration::from_millis(20);
        (server, log)
    }

    #[tokio::test]
    async fn a_frozen_server_holds_nobody_for_ever() {
        let (_server, mut log) = before_a_frozen_server();
        log.remark("one");
        let stored = timeout(LIMIT, log.store()).await.unwrap();
        assert!(stored.is_err_and(|error| error.to_string().contains("did not answer in time")));
        let (output, lines) = mpsc::channel(1);
        let saying = async move {
            let line = Output::Line { stream: Stream::Stdout, text: "two".to_owned(), at: Utc::now() };
            output.send(line).await.unwrap();
            output.send(Output::Progress(0.5)).await.unwrap();
        };
        let taking = async { tokio::join!(saying, log.take(lines, async |_| Ok(()))) };
        timeout(LIMIT, taking).await.unwrap();
        assert_eq!((log.waiting.len(), log.stored), (2, 0), "what is not stored waits");
    }
}
