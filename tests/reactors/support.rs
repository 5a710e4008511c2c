//! Reactors that do what a test tells them, and the tables and rows they leave behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::commands::reactor::{self, Reactor, ReactorError, ReactorOptions, Start};
use ::ledger::{Ledger, Recorded};
use serde_json::json;
use sqlx::{Executor as _, PgConnection};
use tests::{Database, eventually, within};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::support::{append, event};

/// What a test's reactor does with an event. Asked anew at each try.
pub(crate) type Script = Arc<dyn Fn(&Recorded) -> Act + Send + Sync>;

/// What is to become of an event.
#[derive(Clone)]
pub(crate) enum Act {
    /// It does not concern the reactor.
    Nothing,
    /// A line in the outbox.
    Write(String),
    /// The same once the gate is open: `react` waits.
    WaitAndWrite(Gate),
    /// The same once the gate is open: `store` waits, with the line written and not yet committed.
    WriteAndWait(Gate),
    /// `react` fails.
    Fail(ReactorError),
    /// A line that the table refuses.
    Refused,
    /// `react` panics.
    Panic,
}

/// Something to wait for, and who waits.
#[derive(Clone)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self { open: watch::Sender::new(false), waiting: watch::Sender::new(0) }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    /// Waits until so many have come to the gate.
    pub(crate) async fn reached(&self, count: usize) {
        within("somebody at the gate", self.waiting.subscribe().wait_for(|waiting| *waiting >= count))
            .await
            .unwrap();
    }
}

/// Writes lines into the table `outbox`, once for each call, and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) script: Script,
    asked: Arc<Mutex<Vec<i64>>>,
}

impl Outbox {
    pub(crate) fn new(script: impl Fn(&Recorded) -> Act + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), asked: Arc::default() }
    }

    /// One line for each event: its position.
    pub(crate) fn writing() -> Self {
        Self::new(|event| Act::Write(event.position.to_string()))
    }

    /// The positions it was asked about, in order.
    pub(crate) fn asked(&self) -> Vec<i64> {
        self.asked.lock().unwrap().clone()
    }
}

impl Reactor for Outbox {
    const NAME: &'static str = "outbox";
    const AGGREGATES: &'static [&'static str] = &["story", "user"];
    type Effect = (String, Option<Gate>);

    async fn react(&self, event: &Recorded) -> Result<Option<Self::Effect>, ReactorError> {
        self.asked.lock().unwrap().push(event.position);
        let line = event.position.to_string();
        match (self.script)(event) {
            Act::Nothing => Ok(None),
            Act::Write(line) => Ok(Some((line, None))),
            Act::WaitAndWrite(gate) => {
                gate.pass().await;
                Ok(Some((line, None)))
            }
            Act::WriteAndWait(gate) => Ok(Some((line, Some(gate)))),
            Act::Fail(error) => Err(error),
            Act::Refused => Ok(Some(("too long".repeat(20), None))),
            Act::Panic => panic!("as told"),
        }
    }

    async fn store(
        &self,
        event: &Recorded,
        (line, gate): Self::Effect,
        transaction: &mut PgConnection,
    ) -> Result<(), ReactorError> {
        sqlx::query("insert into outbox (position, line) values ($1, $2)")
            .bind(event.position)
            .bind(line)
            .execute(transaction)
            .await?;
        if let Some(gate) = gate {
            gate.pass().await;
        }
        Ok(())
    }
}

/// A database with the table `outbox`: nothing in it keeps a line from being written twice.
pub(crate) async fn database() -> Database {
    let database = Database::new().await;
    let table =
        "create table outbox (number bigserial, position bigint not null, line varchar(100) not null)";
    database.connect().await.execute(table).await.unwrap();
    database
}

/// Position and line, in the order in which they were written.
pub(crate) async fn lines(behind: &mut PgConnection) -> Vec<(i64, String)> {
    sqlx::query_as("select position, line from outbox order by number").fetch_all(behind).await.unwrap()
}

/// Waits until the outbox has a line for each of these positions, and no other.
pub(crate) async fn written(behind: &mut PgConnection, positions: impl IntoIterator<Item = i64>) {
    let expected: Vec<(i64, String)> =
        positions.into_iter().map(|position| (position, position.to_string())).collect();
    let mut last = vec![];
    let work = eventually("the outbox", async || {
        last = lines(behind).await;
        (last.len() >= expected.len()).then_some(())
    });
    work.await;
    assert_eq!(last, expected);
}

/// As usual, but quick; and nobody is thought dead while a test lasts.
pub(crate) fn quick() -> ReactorOptions {
    ReactorOptions {
        poll: Duration::from_millis(20),
        lease: Duration::from_secs(3_600),
        pauses: (Duration::from_millis(5), Duration::from_millis(50)),
        tries: 3,
        ..ReactorOptions::default()
    }
}

/// Whoever is silent is soon thought dead.
pub(crate) fn brief() -> ReactorOptions {
    ReactorOptions { lease: Duration::from_millis(1_500), ..quick() }
}

/// One process's reactor. Killed with this value.
pub(crate) struct Running {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(ledger: &Ledger, reactor: &Outbox, options: ReactorOptions) -> Self {
        Self::start_at(ledger, reactor, Start::Beginning, options)
    }

    pub(crate) fn start_at(ledger: &Ledger, reactor: &Outbox, start: Start, options: ReactorOptions) -> Self {
        let stop = CancellationToken::new();
        let work = reactor::run(ledger.clone(), reactor.clone(), start, options, stop.clone());
        Self { stop, task: Some(tokio::spawn(work)) }
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        within("the reactor's end", self.task.take().unwrap()).await.unwrap();
    }

    /// Ends it where it stands, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(within("the reactor's end", task).await.unwrap_err().is_cancelled());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Appends so many events, each in a stream of its own; their positions.
pub(crate) async fn happen(ledger: &Ledger, count: usize) -> Vec<i64> {
    let mut positions = vec![];
    for _ in 0..count {
        let mut one = append(&[]);
        one.events.push(event(uuid::Uuid::now_v7(), 1, json!({})));
        positions.push(ledger.append(one).await.unwrap().position);
    }
    positions
}
