//! The append lane: one task, one connection, group commit (D2).
//!
//! It takes what is waiting (no timer) and appends it with one statement, which is one transaction. While that runs, the next
//! batch gathers by itself: with one caller there is no wait, with many there are few commits.

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::append::{Append, Appended};
use crate::error::AppendError;

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
/// How long one batch, or one attempt to connect, may take.
const PATIENCE_WITH_DATABASE: Duration = Duration::from_secs(10);
/// The server gives up before we do, so that a batch we call lost is not stored much later. And `append_events` must look at
/// the log as it is once it has got the lock, whatever isolation the database's owner prefers (the backslash keeps the space).
const SETTINGS: [(&str, &str); 3] = [
    ("statement_timeout", "8s"),
    ("lock_timeout", "8s"),
    ("default_transaction_isolation", r"read\ committed"),
];

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
    payload: Vec<String>,
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
            let payload = event.payload.to_string();
            payloads += payload.len();
            bytes += payload.len() + metadata.len() + 128;
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
    pub(crate) fn start(connect: PgConnectOptions, patience: Duration) -> (Self, watch::Receiver<i64>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (head, seen) = watch::channel(0);
        let worker = Worker { connect, connection: None, held: VecDeque::new(), head };
        tokio::spawn(worker.run(waiting));
        (Self { queue, patience }, seen)
    }

    pub(crate) async fn append(&self, append: Append) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting::new(append, reply)?;
        match timeout(self.patience, self.queue.send(waiting)).await {
            Err(_) => return Err(AppendError::Overloaded),
            Ok(Err(_)) => return Err(AppendError::Unavailable("the event log is closing".to_owned())),
            Ok(Ok(())) => {}
        }
        // Longer than a whole queue of batches that each run into their own limit would be absurd; the lane answers or
        // fails each batch within its own patience.
        match timeout(self.patience + 2 * PATIENCE_WITH_DATABASE, answer).await {
            Err(_) => Err(AppendError::Unanswered),
            Ok(Err(_)) => Err(AppendError::Unanswered),
            Ok(Ok(outcome)) => outcome,
        }
    }
}

struct Worker {
    connect: PgConnectOptions,
    connection: Option<PgConnection>,
    /// Commands that wait for the next batch because they touch a stream of this one.
    held: VecDeque<Waiting>,
    head: watch::Sender<i64>,
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
        match self.try_store(&batch).await {
            Ok(stored) => self.answer(batch, &stored),
            // The database refused the statement, so nothing of it is stored. One command's bad event must not fail its
            // neighbours: each goes alone, and only the bad one meets the refusal again.
            Err(Fault::Refused(_)) if batch.len() > 1 => {
                for waiting in batch {
                    Box::pin(self.store(vec![waiting])).await;
                }
            }
            Err(Fault::Refused(cause)) => fail(batch, &AppendError::Refused(cause)),
            Err(Fault::Lost(cause)) => {
                // If we crash or lose the server here, the batch is stored wholly or not at all; the waiters are told that
                // this is unknown.
                self.connection = None;
                tracing::warn!(%cause, commands = batch.len(), "the event log lost its database");
                fail(batch, &AppendError::Unavailable(cause));
            }
        }
    }

    fn answer(&self, batch: Vec<Waiting>, stored: &Stored) {
        let mut position = stored.base;
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

    async fn try_store(&mut self, batch: &[Waiting]) -> Result<Stored, Fault> {
        if self.connection.is_none() {
            self.connection = Some(self.reach_database().await?);
        }
        let Some(connection) = &mut self.connection else {
            return Err(Fault::Lost("not connected".to_owned()));
        };
        match timeout(PATIENCE_WITH_DATABASE, append_events(connection, gather(batch))).await {
            Ok(outcome) => outcome.map_err(Fault::from),
            Err(_) => Err(Fault::Lost("it did not answer in time".to_owned())),
        }
    }

    async fn reach_database(&self) -> Result<PgConnection, Fault> {
        let connect = self.connect.clone().options(SETTINGS);
        match timeout(PATIENCE_WITH_DATABASE, PgConnection::connect_with(&connect)).await {
            Ok(connected) => connected.map_err(|cause| Fault::Lost(cause.to_string())),
            Err(_) => Err(Fault::Lost("it could not be reached in time".to_owned())),
        }
    }
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
    /// It did not answer, or cannot serve anybody at the moment.
    Lost(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let cause = error.to_string();
        match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
            // Class 22: a value cannot be stored; 23: a constraint; 54: a limit; 42: our own statement is wrong.
            Some(code) if ["22", "23", "54", "42"].iter().any(|class| code.starts_with(class)) => {
                Self::Refused(cause)
            }
            _ => Self::Lost(cause),
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
        all.payload.extend(columns.payload.iter().map(String::as_str));
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

async fn append_events(
    connection: &mut PgConnection,
    arguments: Arguments<'_>,
) -> Result<Stored, sqlx::Error> {
    let query = sqlx::query_as(
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
    let (refused, base, at) = query.fetch_one(connection).await?;
    Ok(Stored { refused, base, at })
}
