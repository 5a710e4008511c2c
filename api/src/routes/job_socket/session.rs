//! One who watches a job: what is sent to them, in which order, and when they are cut off.
//!
//! Nothing is kept for a reader: lines are read from where the reader is, some chunks at a time, and the next are read when those have
//! gone. So a slow reader costs a bounded amount of memory, and one who takes nothing for some seconds is cut off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Error;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use commands::jobs::JobLine;
use domain::{JobId, JobStatus};
use futures::{FutureExt as _, SinkExt as _};
use projections::JobRow;
use projections::time::text as time;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Goodbye;
use super::presence::{Presence, Then};
use crate::app::App;
use crate::authenticate::Standing;
use crate::problem::Problem;
use crate::watching::{Seen, Watch};

/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often somebody's right to watch is looked at.
const CHECK: Duration = Duration::from_millis(500);

/// A message to the client.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Line { seq: u64, attempt: u32, at: String, stream: &'a str, text: &'a str },
    Status(Status<'a>),
    Progress { attempt: u32, progress: f64 },
    End,
}

/// Where the job stands.
#[derive(Serialize)]
struct Status<'a> {
    status: &'static str,
    attempt: u32,
    max_attempts: u32,
    worker: Option<&'a str>,
    exit_code: Option<i32>,
    error: Option<&'a str>,
    cancel_requested: bool,
    next_attempt_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
}

impl<'a> Status<'a> {
    fn of(row: &'a JobRow) -> Self {
        Self {
            status: row.status.as_str(),
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            worker: row.worker.as_deref(),
            exit_code: row.exit_code,
            error: row.error.as_deref(),
            cancel_requested: row.cancel_requested,
            next_attempt_at: row.next_attempt_at.map(time),
            started_at: row.started_at.map(time),
            finished_at: row.finished_at.map(time),
        }
    }
}

/// Why a session ends.
enum Ended {
    /// With this said.
    Saying(Goodbye),
    /// The client has gone, or does not follow the protocol.
    Left,
}

impl From<Error> for Ended {
    fn from(_: Error) -> Self {
        Self::Left
    }
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Saying(Goodbye::ending(&problem))
    }
}

/// See the module.
pub(super) struct Session {
    app: App,
    standing: Standing,
    watch: Watch,
    job: JobId,
    /// The number of the last line that was sent.
    told: u64,
    /// The row that was told of last, by its length of stream.
    told_sequence: i64,
    told_progress: Option<(u32, f64)>,
    /// When the right to watch was looked at last.
    checked: Option<Instant>,
    presence: Presence,
}

impl Session {
    pub(super) fn new(app: &App, standing: Standing, watch: Watch, job: JobId, after: u64) -> Self {
        Self {
            app: app.clone(),
            standing,
            watch,
            job,
            told: after,
            told_sequence: 0,
            told_progress: None,
            checked: None,
            presence: Presence::new(Instant::now()),
        }
    }

    /// Tells until something ends it.
    pub(super) async fn run(mut self, socket: &mut WebSocket, closing: &CancellationToken) -> Goodbye {
        let ended = tokio::select! {
            biased;
            () = closing.cancelled() => Ended::Saying(Goodbye::CLOSING),
            Err(ended) = self.tell(socket) => ended,
        };
        match ended {
            Ended::Saying(goodbye) => goodbye,
            Ended::Left => Goodbye::LEFT,
        }
    }

    async fn tell(&mut self, socket: &mut WebSocket) -> Result<Infallible, Ended> {
        let mut seen = self.first_look().await?;
        let mut ticks = interval(CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let begun = Instant::now();
            self.tell_news(socket, &seen).await?;
            self.presence.told(begun, Instant::now());
            loop {
                tokio::select! {
                    changed = self.watch.seen.changed() => {
                        changed.map_err(|_| Ended::Saying(Goodbye::CLOSING))?;
                        break;
                    }
                    _ = ticks.tick() => self.look_after(socket).await?,
                    said = socket.recv() => match said {
                        // The protocol's own messages are answered beneath; others are nobody's.
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Ended::Left),
                        Some(Ok(_)) => self.presence.heard(Instant::now()),
                    },
                }
            }
            // Looking marks it as seen, so that a change after it is not slept over.
            seen = self.watch.seen.borrow_and_update().clone();
        }
    }

    /// What is known before anything is heard.
    async fn first_look(&mut self) -> Result<Seen, Ended> {
        self.check().await?;
        let mut seen = self.watch.seen.borrow_and_update().clone();
        let row = self.standing.job(self.job).await?;
        let id = self.job.to_string();
        let progress = self.app.commands.job_progress([id.as_str()]).await.map_err(Problem::from)?;
        if let Some(progress) = progress.get(&id) {
            seen.progress = Some((row.attempt, *progress));
        }
        // The number of the last line is not known, but that there may be any.
        seen.last_seq = u64::MAX;
        if seen.row.as_ref().is_none_or(|known| known.sequence < row.sequence) {
            seen.row = Some(row);
        }
        Ok(seen)
    }

    /// Tells what is new. That a job has ended is told after its last line: all of them are stored before its end is.
    async fn tell_news(&mut self, socket: &mut WebSocket, seen: &Seen) -> Result<(), Ended> {
        let row = seen.row.as_ref().filter(|row| row.sequence > self.told_sequence);
        let ended = row.filter(|row| is_over(row.status));
        if let (Some(row), None) = (row, ended) {
            self.tell_status(socket, row).await?;
        }
        if seen.last_seq > self.told || ended.is_some() {
            self.tell_lines(socket).await?;
        }
        if let Some(row) = ended {
            self.tell_status(socket, row).await?;
            self.put(socket, &Told::End).await?;
            self.flush(socket).await?;
            return Err(Ended::Saying(Goodbye::DONE));
        }
        if let Some((attempt, progress)) = seen.progress.filter(|_| seen.progress != self.told_progress) {
            self.told_progress = seen.progress;
            self.put(socket, &Told::Progress { attempt, progress }).await?;
        }
        self.flush(socket).await
    }

    async fn tell_status(&mut self, socket: &mut WebSocket, row: &Arc<JobRow>) -> Result<(), Ended> {
        self.told_sequence = row.sequence;
        self.put(socket, &Told::Status(Status::of(row))).await
    }

    /// All lines that are stored by now.
    async fn tell_lines(&mut self, socket: &mut WebSocket) -> Result<(), Ended> {
        loop {
            let lines =
                self.app.commands.log_after(self.job, self.told, None).await.map_err(Problem::from)?;
            if lines.is_empty() {
                return Ok(());
            }
            for JobLine { seq, attempt, at, stream, text } in &lines {
                let (at, stream) = (time(*at), stream.as_str());
                self.put(socket, &Told::Line { seq: *seq, attempt: *attempt, at, stream, text }).await?;
                self.told = *seq;
            }
            self.flush(socket).await?;
        }
    }

    async fn put(&mut self, socket: &mut WebSocket, told: &Told<'_>) -> Result<(), Ended> {
        self.check_now_and_then().await?;
        let text = serde_json::to_string(told).map_err(Problem::internal)?;
        let message = Message::Text(Utf8Bytes::from(text));
        self.write(socket.feed(message)).await
    }

    async fn flush(&mut self, socket: &mut WebSocket) -> Result<(), Ended> {
        self.write(socket.flush()).await
    }

    /// Writes, as long as the reader takes something and may hear it.
    async fn write(&mut self, work: impl Future<Output = Result<(), Error>>) -> Result<(), Ended> {
        let mut work = std::pin::pin!(work);
        // Mostly there is room.
        if let Some(done) = work.as_mut().now_or_never() {
            return Ok(done?);
        }
        let end = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                done = &mut work => return Ok(done?),
                () = sleep(CHECK) => self.check().await?,
            }
            if Instant::now() >= end {
                return Err(Ended::Saying(Goodbye::TOO_SLOW));
            }
        }
    }

    /// Looks after the session while nothing happens.
    async fn look_after(&mut self, socket: &mut WebSocket) -> Result<(), Ended> {
        self.check().await?;
        match self.presence.look(Instant::now()) {
            Then::Wait => Ok(()),
            Then::Ask => self.write(socket.send(Message::Ping(Bytes::new()))).await,
            Then::Leave => Err(Ended::Saying(Goodbye::SILENT)),
        }
    }

    async fn check_now_and_then(&mut self) -> Result<(), Ended> {
        match self.checked {
            Some(checked) if checked.elapsed() < CHECK => Ok(()),
            Some(_) | None => self.check().await,
        }
    }

    async fn check(&mut self) -> Result<(), Ended> {
        self.standing.check().await?;
        self.checked = Some(Instant::now());
        Ok(())
    }
}

/// Whether nothing happens to it any more by itself.
fn is_over(status: JobStatus) -> bool {
    match status {
        JobStatus::Pending | JobStatus::Running => false,
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => true,
    }
}
