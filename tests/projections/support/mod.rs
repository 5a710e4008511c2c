//! Nodes, a few events, random histories, and looking into the views' tables behind the views' back.

mod history;

use std::time::Duration;

use ::commands::Commands;
use ::ledger::{Append, Ledger, Metadata, NewEvent, Recorded, StreamId};
use ::projections::{Fact, Options, Projections, ViewStatus, with_tables};
use cqrs_es::DomainEvent;
use domain::{AccessEvent, Personal, SecretEvent, SecretId, TeamId, UserEvent, UserId};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use tests::{Database, LIMIT, eventually, on_tables, within};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ledger::support::whole_log;

pub(crate) use history::History;

/// One process's worth of Daybook: a ledger, a write side and views of its own. Ends with this value.
pub(crate) struct Node {
    pub(crate) ledger: Ledger,
    pub(crate) commands: Commands,
    pub(crate) views: Projections,
    stop: CancellationToken,
    work: Option<JoinHandle<()>>,
}

impl Node {
    /// It follows the log.
    pub(crate) async fn following(database: &Database) -> Self {
        Self::following_with(database, Options::default()).await
    }

    pub(crate) async fn following_with(database: &Database, options: Options) -> Self {
        let mut node = Self::idle(database, options).await;
        node.work = Some(tokio::spawn(node.views.clone().run(node.stop.clone())));
        node
    }

    /// It leaves following to others, and listens to them.
    pub(crate) async fn listening(database: &Database) -> Self {
        let mut node = Self::idle(database, Options::default()).await;
        let (views, stop) = (node.views.clone(), node.stop.clone());
        node.work = Some(tokio::spawn(async move { views.listen(stop).await }));
        node
    }

    /// It neither follows nor listens, as a command line's does.
    pub(crate) async fn idle(database: &Database, options: Options) -> Self {
        let ledger = database.ledger();
        let views = Projections::new(ledger.clone(), options);
        within("the teams' role", views.make_role()).await.unwrap();
        within("the views' tables", views.prepare()).await.unwrap();
        let commands = Commands::new(&ledger);
        Self { ledger, commands, views, stop: CancellationToken::new(), work: None }
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(work) = self.work.take() {
            within("the node's end", work).await.unwrap();
        }
    }

    /// Appends as Daybook itself, for the team of the first secret among the events, else for one that nothing else is of; the last
    /// position.
    pub(crate) async fn append(&self, events: Vec<NewEvent>) -> i64 {
        let team_of = |event: &NewEvent| {
            event.payload.value()["SecretStored"]["team_id"].as_str().map(ToOwned::to_owned)
        };
        let team_id = Some(events.iter().find_map(team_of).unwrap_or_else(|| team_id().to_string()));
        let metadata = Metadata { actor: "system".to_owned(), team_id, ..Metadata::default() };
        self.ledger.append(Append { events, metadata, data_keys: vec![] }).await.unwrap().position
    }

    /// Waits until all views that go on contain the event at `position`.
    pub(crate) async fn passed(&self, position: i64) {
        self.views.wait(position, LIMIT).await.unwrap();
    }

    /// Waits until all views that go on contain all of the log; its end.
    pub(crate) async fn caught_up(&self) -> i64 {
        let head = self.ledger.head().await.unwrap();
        self.passed(head).await;
        head
    }

    /// How one view is doing.
    pub(crate) async fn status(&self, view: &str) -> ViewStatus {
        let all = self.views.status().await.unwrap();
        all.into_iter().find(|status| status.name == view).unwrap()
    }

    /// Waits until a view is in this state.
    pub(crate) async fn becomes(&self, view: &str, state: &str) -> ViewStatus {
        let what = format!("{view} is {state}");
        eventually(&what, async || Some(self.status(view).await).filter(|status| status.state == state)).await
    }

    /// No view differs from the log in any row.
    pub(crate) async fn assert_right(&self) {
        for view in self.views.names() {
            let verified = self.views.verify(view, |_| {}).await.unwrap();
            assert!(verified.is_right(), "{view}: {verified:#?}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn event<E: DomainEvent + Serialize>(
    of: &str,
    id: impl ToString,
    sequence: i64,
    event: E,
) -> NewEvent {
    NewEvent {
        stream: StreamId::new(of, id),
        sequence,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: serde_json::to_value(event).unwrap().into(),
    }
}

pub(crate) fn team_id() -> TeamId {
    TeamId(Uuid::now_v7())
}

pub(crate) fn user_id() -> UserId {
    UserId(Uuid::now_v7())
}

pub(crate) fn secret_id() -> SecretId {
    SecretId(Uuid::now_v7())
}

/// The account of `name@Example.org`.
pub(crate) fn registered(id: UserId, name: &str) -> NewEvent {
    let personal = |text: &str| Personal::new(id, text);
    let account = UserEvent::UserRegistered {
        email: personal(&format!("{name}@Example.org")),
        name: personal(name),
        password_hash: personal("$argon2id$x"),
        admin: false,
    };
    event("user", id, 1, account)
}

/// A secret's first event; version 1.
pub(crate) fn stored(id: SecretId, team_id: TeamId, name: &str) -> NewEvent {
    let stored = SecretEvent::SecretStored {
        team_id,
        name: name.to_owned(),
        description: "Back\\slash\tand\nlines".to_owned(),
        tags: vec!["prod".to_owned()],
        expires_at: None,
        sealed: "b25l".to_owned(),
    };
    event("secret", id, 1, stored)
}

/// The secret's event that makes this version, when it has had no others than these.
pub(crate) fn changed(id: SecretId, version: u32) -> NewEvent {
    let sealed = format!("value {version}");
    event("secret", id, i64::from(version), SecretEvent::SecretValueChanged { version, sealed })
}

/// Somebody has seen the secret.
pub(crate) fn revealed(secret_id: SecretId) -> NewEvent {
    let revealed = AccessEvent::SecretRevealed { secret_id, version: 1, reason: None };
    event("access", Uuid::now_v7(), 1, revealed)
}

/// A view's table: key, position and row, in the order of the keys.
pub(crate) type Rows = Vec<(String, i64, Value)>;

pub(crate) async fn rows(database: &mut PgConnection, view: &str) -> Rows {
    let sql = on_tables(&format!("select key, position, row from {view} order by key"));
    sqlx::query_as(&sql).fetch_all(database).await.unwrap()
}

/// The whole log as facts, by the shortest way there is.
pub(crate) async fn facts(ledger: &Ledger) -> Vec<Fact> {
    let mut log: Vec<Recorded> = whole_log(ledger).await;
    ledger.open_personal(&mut log).await.unwrap();
    log.into_iter().map(|recorded| Fact::new(recorded).unwrap()).collect()
}

/// The tables that rebuilds of a view have begun and not finished.
pub(crate) async fn half_made(database: &mut PgConnection, view: &str) -> Vec<String> {
    let sql = "select relname::text from pg_class where relkind = 'r' and starts_with(relname, $1)";
    sqlx::query_scalar(sql)
        .bind(with_tables(&format!("{{{view}}}__rebuild_")))
        .fetch_all(database)
        .await
        .unwrap()
}

/// Throws everybody but this connection out of the database; how many.
pub(crate) async fn terminate_all(database: &mut PgConnection) -> i64 {
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query_scalar(sql).fetch_one(database).await.unwrap()
}

/// Too short for anything that does not come by itself at once.
pub(crate) const NO_TIME: Duration = Duration::from_millis(1);
