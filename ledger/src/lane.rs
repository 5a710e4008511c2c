//! The append lane: one task, one connection, group commit (D2).
//!
//! It takes what is waiting (no timer) and appends it with one statement, which is one transaction. While that runs, the next
//! batch gathers by itself: with one caller there is no wait, with many there are few commits.

use std::collections::{HashSet, VecDeque};
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{FutureExt as _, TryStreamExt as _};
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use sqlx::{Connection as _, Either, Executor as _, FromRow, PgConnection};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::append::{Append, Appended};
use crate::connect::{Cause, Connector, Purpose, timed_out};
use crate::error::{AppendError, LedgerError};
use crate::identity::{Divergence, Guard};
use crate::payload::Payload;

/// Commands that may wait; a further one waits for a place.
const QUEUE: usize = 1_024;
/// Commands in one batch.
const BATCH_COMMANDS: usize = 512;
/// Events in one batch; a single command may hold more.
const BATCH_EVENTS: usize = 4_096;
/// Bytes in one batch; a single command may hold more.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of payload in one command.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How long one batch may take. The server gives up before ([`Purpose::Append`]), so that a batch that is called lost is not stored
/// much later.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting may take, all attempts together: a server that restarts is back by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that lay idle for longer is tried before anything is sent on it. Under load none does.
const TRY_AFTER: Duration = Duration::from_millis(10);
/// How long it may take to answer then.
const TRY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often a batch that was certainly not stored is sent again on a new connection.
const RESENDS: usize = 2;

type Outcome = Result<Appended, AppendError>;

/// One command, encoded by its caller so that the lane has little to do.
struct Waiting {
    keys: Vec<String>,
    columns: Columns,
    bytes: usize,
    reply: oneshot::Sender<Outcome>,
}

/// The arrays of `append_events`, without the command number.
#[derive(Default)]
struct Columns {
    aggregate_type: Vec<String>,
    aggregate_id: Vec<String>,
    sequence: Vec<i64>,
    event_type: Vec<String>,
    event_version: Vec<String>,
    payload: Vec<Payload>,
    metadata: Vec<Arc<str>>,
    stream_type: Vec<String>,
    stream_id: Vec<String>,
    stream_length: Vec<i64>,
    key_name: Vec<String>,
    key_id: Vec<Vec<u8>>,
    key_wrapped: Vec<Vec<u8>>,
}

impl Waiting {
    fn new(append: Append, reply: oneshot::Sender<Outcome>) -> Result<Self, AppendError> {
        let refused = |error: serde_json::Error| AppendError::Refused(error.to_string());
        let metadata: Arc<str> = serde_json::to_string(&append.metadata.to_map()).map_err(refused)?.into();
        let mut columns = Columns::default();
        let mut keys = vec![];
        let mut streams = HashSet::new();
        let (mut bytes, mut payloads) = (0, 0);
        for event in append.events {
            let payload = event.payload;
            payloads += payload.text().len();
            bytes += payload.text().len() + metadata.len() + 128;
            // The first event of each stream says how long the stream is expected to be.
            if streams.insert(event.stream.clone()) {
                keys.push(event.stream.to_string());
                columns.stream_type.push(event.stream.aggregate_type.clone());
                columns.stream_id.push(event.stream.aggregate_id.clone());
                columns.stream_length.push(event.sequence - 1);
            }
            columns.aggregate_type.push(event.stream.aggregate_type);
            columns.aggregate_id.push(event.stream.aggregate_id);
            columns.sequence.push(event.sequence);
            columns.event_type.push(event.event_type);
            columns.event_version.push(event.event_version);
            columns.payload.push(payload);
            columns.metadata.push(Arc::clone(&metadata));
        }
        if payloads > MOST_BYTES {
            return Err(AppendError::Refused("an append holds at most 16 MiB".to_owned()));
        }
        for key in append.data_keys {
            keys.push(format!("key {}", key.name));
            columns.key_name.push(key.name);
            columns.key_id.push(key.key_id);
            columns.key_wrapped.push(key.wrapped);
        }
        Ok(Self { keys, columns, bytes, reply })
    }

    fn events(&self) -> usize {
        self.columns.sequence.len()
    }
}

/// The way to the lane's task. The task ends when the last of these is gone.
#[derive(Clone)]
pub(crate) struct Lane {
    queue: mpsc::Sender<Waiting>,
    patience: Duration,
}

impl Lane {
    pub(crate) fn start(
        connector: Connector,
        patience: Duration,
        guard: Arc<Guard>,
    ) -> (Self, watch::Receiver<i64>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (head, seen) = watch::channel(0);
        let (used_at, held) = (Instant::now(), VecDeque::new());
        let worker = Worker { connector, connection: None, used_at, held, head, epoch: 0, guard };
        tokio::spawn(worker.run(waiting));
        (Self { queue, patience }, seen)
    }

    pub(crate) async fn append(&self, append: Append) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting::new(append, reply)?;
        match timeout(self.patience, self.queue.send(waiting)).await {
            Err(_) => return Err(AppendError::Overloaded),
            Ok(Err(_)) => return Err(AppendError::NotDone(Cause::Closing)),
            Ok(Ok(())) => {}
        }
        // Longer than a whole queue of batches that each run into their own limit would be absurd; the lane answers or
        // fails each batch within its own patience.
        match timeout(self.patience + 2 * BATCH_TIMEOUT, answer).await {
            Err(_) => Err(AppendError::Unanswered),
            Ok(Err(_)) => Err(AppendError::Unanswered),
            Ok(Ok(outcome)) => outcome,
        }
    }
}

struct Worker {
    connector: Connector,
    connection: Option<PgConnection>,
    /// When the connection last answered.
    used_at: Instant,
    /// Commands that wait for the next batch because they touch a stream of this one.
    held: VecDeque<Waiting>,
    head: watch::Sender<i64>,
    /// The epoch of the log that the head is of.
    epoch: i32,
    guard: Arc<Guard>,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        loop {
            if self.held.is_empty() {
                match queue.recv().await {
                    Some(waiting) => self.held.push_back(waiting),
                    None => return,
                }
            }
            while self.held.len() < BATCH_COMMANDS
                && let Ok(waiting) = queue.try_recv()
            {
                self.held.push_back(waiting);
            }
            let batch = self.take_batch();
            metrics::histogram!("ledger_batch_commands").record(batch.len() as f64);
            // Whoever waits for this batch is not answered then: what became of it is not known. The next one goes on.
            if AssertUnwindSafe(self.store(batch)).catch_unwind().await.is_err() {
                self.connection = None;
                metrics::counter!("task_failures_total", "task" => "append lane").increment(1);
                tracing::error!("the append lane panicked over a batch");
            }
        }
    }

    /// What goes into one statement: commands that share no stream and no data key. One that meets a stream already taken is
    /// not refused, since the first may itself be: it is held for the next batch, in order.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let (mut events, mut bytes) = (0, 0);
        let mut touched: HashSet<String> = HashSet::new();
        let mut batch = Vec::with_capacity(self.held.len());
        for waiting in std::mem::take(&mut self.held) {
            // Whoever gave up before the statement was sent has stored nothing.
            if waiting.reply.is_closed() {
                continue;
            }
            let full = !batch.is_empty()
                && (events + waiting.events() > BATCH_EVENTS || bytes + waiting.bytes > BATCH_BYTES);
            let meets = waiting.keys.iter().any(|key| touched.contains(key));
            // What is held claims its streams too, or a later command on them would overtake it.
            touched.extend(waiting.keys.iter().cloned());
            if full || meets {
                self.held.push_back(waiting);
            } else {
                events += waiting.events();
                bytes += waiting.bytes;
                batch.push(waiting);
            }
        }
        batch
    }

    async fn store(&mut self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        let epoch = self.guard.epoch();
        match self.try_store(&batch).await {
            Ok(stored) => self.answer(batch, &stored, epoch),
            // The database refused the statement, so nothing of it is stored. One command's bad event must not fail its
            // neighbours: each goes alone, and only the bad one meets the refusal again.
            Err(Fault::Refused(_)) if batch.len() > 1 => {
                for waiting in batch {
                    Box::pin(self.store(vec![waiting])).await;
                }
            }
            Err(Fault::Refused(cause)) => fail(batch, &AppendError::Refused(cause)),
            Err(Fault::Diverged(divergence)) => fail(batch, &AppendError::Diverged(divergence)),
            // It is certain that nothing of it is stored.
            Err(Fault::NotDone(error) | Fault::Gone(error)) => {
                // A session keeps the defaults it began with, `default_transaction_read_only` among them.
                self.connection = None;
                fail(batch, &AppendError::not_done(&error));
            }
            Err(Fault::Lost(cause)) => {
                // If we crash or lose the server here, the batch is stored wholly or not at all; the waiters are told that
                // this is unknown.
                self.connection = None;
                tracing::warn!(%cause, commands = batch.len(), "the event log lost its database");
                fail(batch, &AppendError::Unavailable(cause));
            }
        }
    }

    /// `epoch`: of the log as it was known when the batch was sent.
    fn answer(&mut self, batch: Vec<Waiting>, stored: &Stored, epoch: i32) {
        let mut position = stored.base;
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            // A loss was accepted: positions are given out again.
            self.head.send_if_modified(|head| std::mem::replace(head, (*head).min(position)) > position);
        }
        let known = *self.head.borrow();
        if stored.base < known {
            // Too late for this batch. No other follows it.
            self.guard.condemn(Divergence::Shorter { head: stored.base, known }, epoch);
        }
        for (number, waiting) in (0..).zip(batch) {
            let outcome = if stored.refused.contains(&number) {
                Err(AppendError::Conflict)
            } else {
                let first = position + 1;
                position += waiting.events() as i64;
                Ok(Appended { first, position, at: stored.at })
            };
            // The caller may be gone; its events are stored all the same.
            let _ = waiting.reply.send(outcome);
        }
        self.head.send_if_modified(|head| std::mem::replace(head, position.max(*head)) < position);
        metrics::counter!("ledger_events_appended_total").increment((position - stored.base).unsigned_abs());
    }

    /// Stores the batch, on a new connection if the old one has gone. It is sent again only if it was certainly not stored.
    async fn try_store(&mut self, batch: &[Waiting]) -> Result<Stored, Fault> {
        if let Some(divergence) = self.guard.divergence() {
            return Err(Fault::Diverged(divergence));
        }
        let mut resends = 0;
        loop {
            let connection = self.connection().await?;
            let sent = send(connection, gather(batch));
            let outcome = timeout(BATCH_TIMEOUT, sent).await.unwrap_or_else(|_| Err(Fault::no_answer()));
            self.used_at = Instant::now();
            match outcome {
                Err(Fault::Gone(error)) => {
                    self.connection = None;
                    if resends == RESENDS {
                        return Err(Fault::Gone(error));
                    }
                    resends += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// A connection that answers.
    async fn connection(&mut self) -> Result<&mut PgConnection, Fault> {
        let idle = self.used_at.elapsed() > TRY_AFTER;
        let kept = match self.connection.take() {
            Some(mut connection) if idle => match timeout(TRY_TIMEOUT, connection.ping()).await {
                Ok(Ok(())) => Some(connection),
                _ => None,
            },
            kept => kept,
        };
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// A connection to the log that is known: another server may answer at the same address, or the same one with an older log.
    async fn connect(&self) -> Result<PgConnection, Fault> {
        let connecting = self.connector.connect_within(Purpose::Append, CONNECT_TIMEOUT);
        let mut connection = connecting.await.map_err(Fault::NotDone)?;
        let checked = timeout(CONNECT_TIMEOUT, self.guard.check(&mut connection)).await;
        match checked.unwrap_or_else(|_| Err(timed_out("it did not answer in time").into())) {
            Ok(()) => Ok(connection),
            Err(LedgerError::Diverged(divergence)) => Err(Fault::Diverged(divergence)),
            // Tables from before there was an identity, or none yet: there is nothing to compare with.
            Err(LedgerError::Database(error)) if is_undefined(&error) => Ok(connection),
            Err(LedgerError::Database(error)) => Err(Fault::NotDone(error)),
            Err(other) => Err(Fault::Refused(other.to_string())),
        }
    }
}

/// Whether a table or a function is not there.
fn is_undefined(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "42P01" || code == "42883")
}

fn fail(batch: Vec<Waiting>, error: &AppendError) {
    for waiting in batch {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

struct Stored {
    refused: Vec<i32>,
    base: i64,
    at: DateTime<Utc>,
}

enum Fault {
    /// The database answered: it will not have this statement.
    Refused(String),
    /// It is another log. Nothing was sent.
    Diverged(Divergence),
    /// It could not do it, and has stored nothing.
    NotDone(sqlx::Error),
    /// The connection was closed before the statement was carried out: nothing is stored.
    Gone(sqlx::Error),
    /// It did not answer. Whether something is stored is not known.
    Lost(String),
}

impl Fault {
    fn no_answer() -> Self {
        Self::Lost("it did not answer in time".to_owned())
    }

    /// What an error means that came before the statement's row. The server sends the row before it commits: with an error in its
    /// place, nothing was committed.
    fn before_row(error: sqlx::Error) -> Self {
        let Some(code) = error.as_database_error().and_then(sqlx::error::DatabaseError::code) else {
            return Self::without_answer(error);
        };
        // Class 22: a value cannot be stored; 23: a constraint; 54: a limit; 42: our own statement is wrong.
        if ["22", "23", "54", "42"].iter().any(|class| code.starts_with(class)) {
            return Self::Refused(error.to_string());
        }
        match Cause::of(&error) {
            Cause::ConnectionLost => Self::Gone(error),
            _ => Self::NotDone(error),
        }
    }

    /// What an error means that came after the row: the commit has failed, or the connection was lost meanwhile.
    fn after_row(error: sqlx::Error) -> Self {
        let refused = error
            .as_database_error()
            .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
            .is_some_and(|error| matches!(error.severity(), PgSeverity::Error));
        if refused { Self::NotDone(error) } else { Self::Lost(error.to_string()) }
    }

    fn without_answer(error: sqlx::Error) -> Self {
        match &error {
            // Only writing breaks a pipe, and what was not written to its end is not carried out.
            sqlx::Error::Io(io) if io.kind() == ErrorKind::BrokenPipe => Self::Gone(error),
            // Found before anything was sent.
            sqlx::Error::Encode(_) => Self::Refused(error.to_string()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// The arguments of `append_events`, gathered from all commands of a batch.
#[derive(Default)]
struct Arguments<'a> {
    command: Vec<i32>,
    aggregate_type: Vec<&'a str>,
    aggregate_id: Vec<&'a str>,
    sequence: Vec<i64>,
    event_type: Vec<&'a str>,
    event_version: Vec<&'a str>,
    payload: Vec<&'a str>,
    metadata: Vec<&'a str>,
    stream_command: Vec<i32>,
    stream_type: Vec<&'a str>,
    stream_id: Vec<&'a str>,
    stream_length: Vec<i64>,
    key_command: Vec<i32>,
    key_name: Vec<&'a str>,
    key_id: Vec<&'a [u8]>,
    key_wrapped: Vec<&'a [u8]>,
}

fn gather(batch: &[Waiting]) -> Arguments<'_> {
    let mut all = Arguments::default();
    for (number, Waiting { columns, .. }) in (0i32..).zip(batch) {
        all.command.extend(std::iter::repeat_n(number, columns.sequence.len()));
        all.aggregate_type.extend(columns.aggregate_type.iter().map(String::as_str));
        all.aggregate_id.extend(columns.aggregate_id.iter().map(String::as_str));
        all.sequence.extend(&columns.sequence);
        all.event_type.extend(columns.event_type.iter().map(String::as_str));
        all.event_version.extend(columns.event_version.iter().map(String::as_str));
        all.payload.extend(columns.payload.iter().map(Payload::text));
        all.metadata.extend(columns.metadata.iter().map(AsRef::as_ref));
        all.stream_command.extend(std::iter::repeat_n(number, columns.stream_length.len()));
        all.stream_type.extend(columns.stream_type.iter().map(String::as_str));
        all.stream_id.extend(columns.stream_id.iter().map(String::as_str));
        all.stream_length.extend(&columns.stream_length);
        all.key_command.extend(std::iter::repeat_n(number, columns.key_name.len()));
        all.key_name.extend(columns.key_name.iter().map(String::as_str));
        all.key_id.extend(columns.key_id.iter().map(Vec::as_slice));
        all.key_wrapped.extend(columns.key_wrapped.iter().map(Vec::as_slice));
    }
    all
}

async fn send(connection: &mut PgConnection, arguments: Arguments<'_>) -> Result<Stored, Fault> {
    let query = sqlx::query(
        "select refused, base, recorded_at \
         from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    );
    let query = query
        .bind(arguments.command)
        .bind(arguments.aggregate_type)
        .bind(arguments.aggregate_id)
        .bind(arguments.sequence)
        .bind(arguments.event_type)
        .bind(arguments.event_version)
        .bind(arguments.payload)
        .bind(arguments.metadata)
        .bind(arguments.stream_command)
        .bind(arguments.stream_type)
        .bind(arguments.stream_id)
        .bind(arguments.stream_length)
        .bind(arguments.key_command)
        .bind(arguments.key_name)
        .bind(arguments.key_id)
        .bind(arguments.key_wrapped);
    let mut answers = connection.fetch_many(query);
    let mut stored = None;
    loop {
        match answers.try_next().await {
            Ok(Some(Either::Right(row))) => {
                let row: Result<(Vec<i32>, i64, DateTime<Utc>), _> = FromRow::from_row(&row);
                let (refused, base, at) = row.map_err(|error| Fault::Lost(error.to_string()))?;
                stored = Some(Stored { refused, base, at });
            }
            Ok(Some(Either::Left(_))) => {}
            Ok(None) => return stored.ok_or_else(|| Fault::Lost("it answered without a row".to_owned())),
            Err(error) if stored.is_none() => return Err(Fault::before_row(error)),
            Err(error) => return Err(Fault::after_row(error)),
        }
    }
}
