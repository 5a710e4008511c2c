//! What must hold of the log, looked at from outside of the program that keeps it: every broken invariant is told with its position.
//!
//! Only reads, and needs no right to do more: a role that may only read and a standby that replays will do. What is looked at is a
//! stream of rows, so that memory is bounded however long the log is.

mod scan;
mod table;

use std::collections::BTreeMap;

use crate::connect::Purpose;
use futures::TryStreamExt as _;
use scan::Scan;
use sqlx::{Connection as _, Executor as _, PgConnection};
use table::{migrations_as_listed, table_as_made};

use crate::Ledger;
use crate::error::LedgerError;
use crate::event::{Recorded, StreamId};
use crate::personal::key_name;
use crate::wrapping::table_exists;

/// Findings of one kind that are told one by one.
const MOST_TOLD: usize = 20;
/// Characters of a stored name that are shown.
const LONGEST_NAME: usize = 200;
/// The session may not write, and its queries may take as long as they need.
const SESSION: &str =
    "set default_transaction_read_only = on; set statement_timeout = 0; set lock_timeout = '30s'";

/// What is wrong, by kind.
#[derive(Debug, Default)]
pub struct Findings(BTreeMap<Kind, Finding>);

/// A kind of broken invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Migrations that are missing, newer, or others.
    Migration,
    /// The event table, its constraints, triggers and functions are not as the migrations make them.
    Table,
    /// Positions are not dense from 1.
    Position,
    /// Sequences are not dense from 1 within a stream, in the order of the log.
    Sequence,
    /// Recorded before the event that it follows.
    Time,
    /// An event cannot be read.
    Unreadable,
    /// A data key is missing, though nothing says that it was destroyed.
    Key,
    /// A view's checkpoint does not fit the log.
    View,
    /// A reactor's cursor does not fit the log.
    Reactor,
}

impl Kind {
    /// What more findings of the kind are called.
    fn more(self) -> &'static str {
        match self {
            Self::Migration => "migrations",
            Self::Table => "differences of the event table",
            Self::Position => "places where positions are not dense",
            Self::Sequence => "events out of sequence",
            Self::Time => "events recorded before the one that they follow",
            Self::Unreadable => "events that cannot be read",
            Self::Key => "missing data keys",
            Self::View => "views",
            Self::Reactor => "reactors",
        }
    }
}

#[derive(Debug, Default)]
struct Finding {
    count: u64,
    told: Vec<String>,
}

impl Findings {
    /// Notes one more.
    pub fn add(&mut self, kind: Kind, told: impl Into<String>) {
        let finding = self.0.entry(kind).or_default();
        finding.count += 1;
        if finding.told.len() < MOST_TOLD {
            finding.told.push(told.into());
        }
    }

    /// Sentences, and how many findings each speaks of: at most 20 of each kind, then their number.
    pub fn lines(&self) -> impl Iterator<Item = (String, u64)> {
        self.0.iter().flat_map(|(kind, finding)| {
            let more = finding.count - finding.told.len() as u64;
            let more = (more > 0).then(|| (format!("and {more} more {}", kind.more()), more));
            finding.told.iter().map(|line| (line.clone(), 1)).chain(more)
        })
    }
}

/// What there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The database has none of our tables.
    Empty,
    /// It has.
    Log {
        /// Whether this database user may append to it.
        writable: bool,
    },
}

impl Ledger {
    /// Whether there is a log here. Changes nothing.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn find(&self) -> Result<Found, LedgerError> {
        let pool = self.pool();
        if table_exists(pool, "events").await? {
            let sql = "select has_table_privilege('events', 'insert')";
            return Ok(Found::Log { writable: sqlx::query_scalar(sql).fetch_one(pool).await? });
        }
        if table_exists(pool, "_sqlx_migrations").await? {
            return Ok(Found::Log { writable: true });
        }
        Ok(Found::Empty)
    }

    /// Looks at everything that must hold of the log and of what follows it. `unreadable` is given every event, a chunk at a time, and
    /// says which of them cannot be read and why; `progress` is told up to which position was looked at.
    ///
    /// # Errors
    /// The database is out of reach, or does not let this user read.
    pub async fn examine(
        &self,
        erased_by: &'static str,
        unreadable: impl AsyncFnMut(Vec<Recorded>) -> Result<Vec<(i64, String)>, LedgerError>,
        progress: impl FnMut(i64),
    ) -> Result<Findings, LedgerError> {
        let mut findings = Findings::default();
        let mut connection = self.connector().connect(Purpose::Maintenance).await?;
        connection.execute(SESSION).await?;
        migrations_as_listed(&mut connection, &mut findings).await?;
        if !table_exists(&mut connection, "events").await? {
            findings.add(Kind::Table, "there is no table events");
            return Ok(findings);
        }
        table_as_made(&mut connection, &mut findings).await?;
        let scan = Scan::new(findings, unreadable, progress);
        let mut findings = scan.run(self, &mut connection).await?;
        sequences(&mut connection, &mut findings).await?;
        people_without_keys(&mut connection, erased_by, &mut findings).await?;
        followers(&mut connection, &mut findings).await?;
        connection.close().await?;
        Ok(findings)
    }
}

/// A name that is stored, as far as it is shown.
fn shown(name: &str) -> String {
    name.chars().take(LONGEST_NAME).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

async fn sequences(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    // The breaks only: what follows one is in order again.
    let sql = "select position, aggregate_type, aggregate_id, sequence, before, earlier from ( \
                   select position, aggregate_type, aggregate_id, sequence, \
                       coalesce(lag(sequence) over stream, 0) as before, lag(position) over stream as earlier \
                   from events window stream as (partition by aggregate_type, aggregate_id order by sequence, position) \
               ) e where sequence <> before + 1 or position < earlier";
    type Row = (i64, String, String, i64, i64, Option<i64>);
    let mut rows = sqlx::query_as::<_, Row>(sql).fetch(on);
    while let Some((position, of_type, id, sequence, before, earlier)) = rows.try_next().await? {
        let stream = StreamId::new(shown(&of_type), shown(&id));
        let told = if sequence == before + 1 {
            let earlier = earlier.unwrap_or_default();
            format!(
                "event {position} is number {sequence} of {stream} and stands before number {before} (event {earlier})"
            )
        } else {
            format!("event {position} is number {sequence} of {stream}, after number {before}")
        };
        findings.add(Kind::Sequence, told);
    }
    Ok(())
}

/// People who were not erased have a key that opens what is known of them.
async fn people_without_keys(
    on: &mut PgConnection,
    erased_by: &str,
    findings: &mut Findings,
) -> Result<(), LedgerError> {
    if !table_exists(&mut *on, "data_keys").await? {
        return Ok(());
    }
    let sql = "select min(position), aggregate_id from events where aggregate_type = 'user' group by aggregate_id \
               having not bool_or(event_type = $1) and not exists (select from data_keys where id = $2 || aggregate_id) \
               order by 1";
    let mut rows = sqlx::query_as::<_, (i64, String)>(sql).bind(erased_by).bind(key_name("")).fetch(on);
    while let Some((position, id)) = rows.try_next().await? {
        let key = shown(&key_name(&id));
        findings.add(
            Kind::Key,
            format!("data key {key} is missing, which event {position} and others need; nobody erased it"),
        );
    }
    Ok(())
}

/// Views and reactors stand on events that are there, and are the same.
async fn followers(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let head: i64 =
        sqlx::query_scalar("select coalesce(max(position), 0) from events").fetch_one(&mut *on).await?;
    if table_exists(&mut *on, "checkpoints").await? {
        views(&mut *on, head, findings).await?;
    }
    if table_exists(&mut *on, "reactors").await? {
        let sql = "select name, position from reactors where position > $1 order by name";
        let beyond: Vec<(String, i64)> = sqlx::query_as(sql).bind(head).fetch_all(on).await?;
        for (name, position) in beyond {
            let name = shown(&name);
            findings.add(
                Kind::Reactor,
                format!(
                    "the reactor {name} is at position {position}, beyond the end of the log, position {head}"
                ),
            );
        }
    }
    Ok(())
}

async fn views(on: &mut PgConnection, head: i64, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select exists (select from pg_attribute where attrelid = 'checkpoints'::regclass and attname = 'digest' and not attisdropped) \
               and to_regproc('event_digest') is not null";
    // Tables of earlier versions have no digests.
    let (other, unneeded) = match sqlx::query_scalar(sql).fetch_one(&mut *on).await? {
        true => (
            "digest is not null and digest is distinct from event_digest(position)",
            "unneeded_since is not null",
        ),
        false => ("false", "false"),
    };
    let sql = format!(
        "select view, position, state, last_error, {other}, {unneeded} from checkpoints order by view"
    );
    type Row = (String, i64, String, Option<String>, bool, bool);
    for (view, position, state, error, other, unneeded) in
        sqlx::query_as::<_, Row>(&sql).fetch_all(on).await?
    {
        // No node reads it any more.
        if unneeded {
            continue;
        }
        let view = shown(&view);
        match state.as_str() {
            "failed" => {
                let error = shown(&error.unwrap_or_default());
                findings
                    .add(Kind::View, format!("the view {view} has failed at position {position}: {error}"));
            }
            "outdated" => findings.add(
                Kind::View,
                format!("the view {view} is outdated at position {position}: the next start rebuilds it"),
            ),
            _ => {}
        }
        if position > head {
            findings.add(
                Kind::View,
                format!(
                    "the view {view} is at position {position}, beyond the end of the log, position {head}"
                ),
            );
        } else if other {
            findings.add(
                Kind::View,
                format!(
                    "the view {view} stands on another event at position {position} than the log has there"
                ),
            );
        }
    }
    Ok(())
}
