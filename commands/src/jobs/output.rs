//! Carrying a process' output to whoever stores it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::json_line::{JsonLine, LastLine};
use super::lines::{Budget, Lines, Output, Stream};
use super::mask::Patterns;
use super::process::DRAIN;

/// How long the reader may take over what is left when the process has ended.
const FLUSH: Duration = Duration::from_secs(30);

/// Bytes read at once: what a pipe holds by default.
const CHUNK: usize = 64 * 1024;

/// Bytes read after the process group is dead: more than a pipe can hold, so that nothing the job wrote is lost.
const REMAINDER: usize = 2 * 1024 * 1024;

/// One task per stream; they end with it, with [`Pumps::finish`], or with this.
pub(super) struct Pumps {
    tasks: JoinSet<()>,
    ended: watch::Sender<bool>,
    document: Arc<Mutex<JsonLine>>,
}

impl Pumps {
    pub(super) fn start(
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        patterns: &Arc<Patterns>,
        budget: &Arc<Budget>,
        output: &mpsc::Sender<Output>,
    ) -> Self {
        let (ended, _) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let lines = |stream| Lines::new(stream, Arc::clone(patterns), Arc::clone(budget));
        let document = Arc::<Mutex<JsonLine>>::default();
        if let Some(stdout) = stdout {
            let mut pump = Pump::new(lines(Stream::Stdout), output.clone());
            pump.document = Some(Arc::clone(&document));
            tasks.spawn(pump.run(stdout, ended.subscribe()));
        }
        if let Some(stderr) = stderr {
            tasks.spawn(Pump::new(lines(Stream::Stderr), output.clone()).run(stderr, ended.subscribe()));
        }
        Self { tasks, ended, document }
    }

    /// The processes are dead: carries what is left, in bounded time. Returns the last document on a line of standard output.
    pub(super) async fn finish(mut self) -> LastLine {
        self.ended.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(FLUSH, all).await.is_err() {
            tracing::warn!("the end of a job's output was lost: nobody took it");
        }
        self.document.lock().unwrap_or_else(PoisonError::into_inner).finish()
    }
}

struct Pump {
    lines: Lines,
    output: mpsc::Sender<Output>,
    /// As the job wrote it, before anything is masked.
    buffer: Zeroizing<Vec<u8>>,
    ready: Vec<Output>,
    /// Looks for the result in what is read, however little of it is stored.
    document: Option<Arc<Mutex<JsonLine>>>,
}

impl Pump {
    fn new(lines: Lines, output: mpsc::Sender<Output>) -> Self {
        Self { lines, output, buffer: Zeroizing::new(vec![0; CHUNK]), ready: Vec::new(), document: None }
    }

    async fn run(mut self, mut from: impl AsyncRead + Unpin, mut ended: watch::Receiver<bool>) {
        while !*ended.borrow() {
            let read = tokio::select! {
                biased;
                read = from.read(&mut self.buffer) => read,
                _ = ended.changed() => break,
            };
            match read {
                Ok(length) if length > 0 => self.carry(length).await,
                // A pipe that cannot be read has ended as well.
                Ok(_) | Err(_) => return self.finish().await,
            }
        }
        self.drain(&mut from).await;
        self.finish().await;
    }

    /// Reads what the pipe still holds. It may have no end, if a process that left the group still has it open.
    async fn drain(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        let deadline = Instant::now() + DRAIN;
        let mut taken = 0;
        while taken < REMAINDER {
            // A task that did much without a pause is made to wait even for what is there, which is not to be taken for the deadline.
            yield_now().await;
            match timeout_at(deadline, from.read(&mut self.buffer)).await {
                Ok(Ok(length)) if length > 0 => {
                    taken += length;
                    self.carry(length).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
    }

    async fn carry(&mut self, length: usize) {
        if let Some(document) = &self.document {
            document.lock().unwrap_or_else(PoisonError::into_inner).push(&self.buffer[..length]);
        }
        self.lines.push(&self.buffer[..length], Utc::now(), &mut self.ready);
        send(&self.output, &mut self.ready).await;
    }

    async fn finish(mut self) {
        self.lines.finish(Utc::now(), &mut self.ready);
        send(&self.output, &mut self.ready).await;
    }
}

/// Sends in order. Without a receiver the output is dropped, but the process still drained.
async fn send(output: &mpsc::Sender<Output>, ready: &mut Vec<Output>) {
    for item in ready.drain(..) {
        if output.send(item).await.is_err() {
            break;
        }
    }
}

/// Daybook's own lines in a job's log. They never wait while the process runs: what finds no room is sent at the end.
pub(super) struct Notes {
    output: mpsc::Sender<Output>,
    late: Vec<Output>,
}

impl Notes {
    pub(super) fn new(output: mpsc::Sender<Output>) -> Self {
        Self { output, late: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        let line = Output::Line { stream: Stream::System, text, at: Utc::now() };
        if self.late.is_empty() {
            match self.output.try_send(line) {
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(line)) => self.late.push(line),
            }
        } else {
            self.late.push(line);
        }
    }

    pub(super) fn say_all(&mut self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.say(text));
    }

    pub(super) async fn finish(mut self) {
        if timeout(FLUSH, send(&self.output, &mut self.late)).await.is_err() {
            tracing::warn!("Daybook's remarks on a job were lost: nobody took them");
        }
    }
}
