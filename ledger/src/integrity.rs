//! What must hold of the log, looked at from outside of the program that keeps it: every broken invariant is told with its position.
//!
//! Only reads, and needs no right to do more: a role that may only read and a standby that replays will do. What is looked at is a
//! stream of rows, so that memory is bounded however long the log is.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _, FromRow as _, PgConnection, Row as _};

use crate::Ledger;
use crate::error::LedgerError;
use crate::event::{Recorded, StreamId};
use crate::migrations;
use crate::personal::key_name;
use crate::wrapping::table_exists;

/// Findings of one kind that are told one by one.
const MOST_TOLD: usize = 20;
/// Characters of a stored name that are shown.
const LONGEST_NAME: usize = 200;
/// Events that are opened together, and bytes of them.
const CHUNK_EVENTS: usize = 500;
const CHUNK_BYTES: usize = 1024 * 1024;
/// How often a scan that got further each time is taken up again: a standby ends long queries.
const MOST_RESUMED: u32 = 1_000;
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
        let connect = self.pool().connect_options();
        let mut connection = PgConnection::connect_with(&connect).await?;
        connection.execute(SESSION).await?;
        migrations_as_listed(&mut connection, &mut findings).await?;
        if !table_exists(&mut connection, "events").await? {
            findings.add(Kind::Table, "there is no table events");
            return Ok(findings);
        }
        table_as_made(&mut connection, &mut findings).await?;
        let scan = Scan { findings, before: None, rows: 0, chunk: vec![], bytes: 0, unreadable, progress };
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

async fn migrations_as_listed(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let mut applied: BTreeMap<i64, (bool, Vec<u8>)> = BTreeMap::new();
    if table_exists(&mut *on, "_sqlx_migrations").await? {
        let sql = "select version, success, checksum from _sqlx_migrations";
        for (version, success, checksum) in
            sqlx::query_as::<_, (i64, bool, Vec<u8>)>(sql).fetch_all(on).await?
        {
            applied.insert(version, (success, checksum));
        }
    }
    for migration in migrations::migrator().iter() {
        let named = format!("migration {} ({})", migration.version, migration.description);
        match applied.remove(&migration.version) {
            None => findings.add(
                Kind::Migration,
                format!("{named} is missing: daybook migrate, or the next start, applies it"),
            ),
            Some((false, _)) => findings.add(Kind::Migration, format!("{named} did not come to its end")),
            Some((true, checksum)) if checksum != *migration.checksum => {
                findings.add(
                    Kind::Migration,
                    format!("{named} was applied in another form than this version has it"),
                );
            }
            Some(_) => {}
        }
    }
    for version in applied.keys() {
        findings.add(
            Kind::Migration,
            format!("migration {version} is of another, probably newer, version of Daybook"),
        );
    }
    Ok(())
}

/// The one trigger: before update, delete and truncate, for each statement (bits of `pg_trigger.tgtype`).
const TRIGGER: &str = "events_are_for_ever";
const TRIGGER_TYPE: i16 = 2 | 8 | 16 | 32;

/// Constraints of the event table, as `pg_get_constraintdef` writes them.
const CONSTRAINTS: &[&str] = &[
    "PRIMARY KEY (aggregate_type, aggregate_id, sequence)",
    "UNIQUE (\"position\")",
    "CHECK ((\"position\" >= 1))",
    "CHECK ((sequence >= 1))",
];

/// Columns of the event table. None may be null.
const COLUMNS: &[(&str, &str)] = &[
    ("position", "bigint"),
    ("recorded_at", "timestamp with time zone"),
    ("aggregate_type", "text"),
    ("aggregate_id", "text"),
    ("sequence", "bigint"),
    ("event_type", "text"),
    ("event_version", "text"),
    ("payload", "json"),
    ("metadata", "json"),
];

async fn table_as_made(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    triggers(&mut *on, findings).await?;
    constraints(&mut *on, findings).await?;
    columns(&mut *on, findings).await?;
    functions(&mut *on, findings).await?;
    let sql = "select relpersistence <> 'p', relkind <> 'r', \
               exists (select from pg_inherits where inhparent = c.oid), relrowsecurity, \
               exists (select from pg_rewrite where ev_class = c.oid) \
               from pg_class c where oid = 'events'::regclass";
    let (unlogged, kind, children, policies, rules): (bool, bool, bool, bool, bool) =
        sqlx::query_as(sql).fetch_one(on).await?;
    for (wrong, what) in [
        (unlogged, "the table events is unlogged: a crash of the server empties it"),
        (kind, "events is not a plain table"),
        (children, "the table events has tables that inherit from it"),
        (policies, "the table events has row-level security, which hides events"),
        (rules, "the table events has rules, which change what statements do"),
    ] {
        if wrong {
            findings.add(Kind::Table, what);
        }
    }
    Ok(())
}

async fn triggers(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select t.tgname::text, t.tgenabled::text, \
                   t.tgtype = $1 and t.tgqual is null and t.tgattr = ''::int2vector and p.proname = $2 \
                       and p.pronamespace = (select relnamespace from pg_class where oid = t.tgrelid) as as_made \
               from pg_trigger t join pg_proc p on p.oid = t.tgfoid \
               where t.tgrelid = 'events'::regclass and not t.tgisinternal order by t.tgname";
    let query = sqlx::query_as(sql).bind(TRIGGER_TYPE).bind(TRIGGER);
    let triggers: Vec<(String, String, bool)> = query.fetch_all(on).await?;
    if !triggers.iter().any(|(name, ..)| name == TRIGGER) {
        findings
            .add(Kind::Table, format!("the trigger {TRIGGER} is missing: events can be changed and deleted"));
    }
    for (name, enabled, as_made) in triggers {
        let name = shown(&name);
        if name != TRIGGER {
            findings
                .add(Kind::Table, format!("the table events has a trigger {name} that no migration makes"));
            continue;
        }
        // Enabled for ordinary sessions, or for all.
        if !["O", "A"].contains(&enabled.as_str()) {
            findings.add(
                Kind::Table,
                format!("the trigger {name} is disabled: events can be changed and deleted"),
            );
        }
        if !as_made {
            findings.add(Kind::Table, format!("the trigger {name} is not as the migrations make it"));
        }
    }
    Ok(())
}

async fn constraints(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select pg_get_constraintdef(c.oid), c.convalidated and coalesce(i.indisvalid and i.indisready and i.indislive, true) \
               from pg_constraint c left join pg_index i on i.indexrelid = c.conindid and c.contype in ('p', 'u') \
               where c.conrelid = 'events'::regclass";
    let found: Vec<(String, bool)> = sqlx::query_as(sql).fetch_all(on).await?;
    for constraint in CONSTRAINTS {
        // One that is not valid says so at its end.
        match found.iter().find(|(definition, _)| definition.trim_end_matches(" NOT VALID") == *constraint) {
            Some((_, true)) => {}
            Some((_, false)) => {
                findings.add(
                    Kind::Table,
                    format!("the constraint {constraint} of the table events is not valid"),
                );
            }
            None => findings.add(Kind::Table, format!("the table events lacks the constraint {constraint}")),
        }
    }
    Ok(())
}

async fn columns(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select attname::text, format_type(atttypid, atttypmod), attnotnull from pg_attribute \
               where attrelid = 'events'::regclass and attnum > 0 and not attisdropped";
    let found: Vec<(String, String, bool)> = sqlx::query_as(sql).fetch_all(on).await?;
    for (column, of_type) in COLUMNS {
        match found.iter().find(|(name, ..)| name == column) {
            Some((_, found, true)) if found == of_type => {}
            Some((_, found, true)) => {
                findings.add(
                    Kind::Table,
                    format!("the column {column} of the table events is {found}, not {of_type}"),
                );
            }
            Some(_) => {
                findings.add(Kind::Table, format!("the column {column} of the table events may be null"))
            }
            None => findings.add(Kind::Table, format!("the table events lacks the column {column}")),
        }
    }
    Ok(())
}

/// The functions of the schema say what the migrations say.
async fn functions(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let made = migrations::functions();
    let names: Vec<&str> = made.keys().copied().collect();
    let sql = "select proname::text, prosrc from pg_proc where proname = any($1) \
               and pronamespace = (select relnamespace from pg_class where oid = 'events'::regclass)";
    let found: Vec<(String, String)> = sqlx::query_as(sql).bind(names).fetch_all(on).await?;
    for (name, body) in made {
        let of_it: Vec<_> = found.iter().filter(|(found, _)| found == name).collect();
        match of_it.as_slice() {
            [] => findings.add(Kind::Table, format!("the function {name} is missing")),
            [(_, found)] if found == body => {}
            [_] => findings.add(Kind::Table, format!("the function {name} is not as the migrations make it")),
            _ => findings.add(Kind::Table, format!("there is more than one function {name}")),
        }
    }
    Ok(())
}

/// A walk along the log.
struct Scan<U, P> {
    findings: Findings,
    /// Position and time of the event before.
    before: Option<(i64, chrono::DateTime<chrono::Utc>)>,
    rows: i64,
    chunk: Vec<Recorded>,
    bytes: usize,
    unreadable: U,
    progress: P,
}

impl<U, P> Scan<U, P>
where
    U: AsyncFnMut(Vec<Recorded>) -> Result<Vec<(i64, String)>, LedgerError>,
    P: FnMut(i64),
{
    async fn run(mut self, ledger: &Ledger, on: &mut PgConnection) -> Result<Findings, LedgerError> {
        let mut resumed = 0;
        loop {
            let reached = self.reached();
            match self.walk(on).await {
                Ok(()) => break,
                // A standby has ended the query for what it has to replay; what was read until then counts.
                Err(LedgerError::Database(error)) if self.reached() > reached && resumed < MOST_RESUMED => {
                    tracing::debug!(%error, "the walk along the log is taken up again");
                    resumed += 1;
                    *on = PgConnection::connect_with(&ledger.pool().connect_options()).await?;
                    on.execute(SESSION).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.read().await?;
        let sql = "select count(*) from events where position is null or position <= $1";
        let count: i64 = sqlx::query_scalar(sql).bind(self.reached()).fetch_one(on).await?;
        if count > self.rows {
            let more = count - self.rows;
            self.findings
                .add(Kind::Position, format!("{more} rows have no position, or one that others have"));
        }
        Ok(self.findings)
    }

    fn reached(&self) -> i64 {
        self.before.map_or(i64::MIN, |(position, _)| position)
    }

    async fn walk(&mut self, on: &mut PgConnection) -> Result<(), LedgerError> {
        let sql = "select position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version, \
                   payload, metadata from events where position > $1 order by position";
        let mut rows = sqlx::query(sql).bind(self.reached()).fetch(on);
        while let Some(row) = rows.try_next().await? {
            self.one(&row)?;
            if self.chunk.len() >= CHUNK_EVENTS || self.bytes >= CHUNK_BYTES {
                self.read().await?;
            }
        }
        Ok(())
    }

    fn one(&mut self, row: &PgRow) -> Result<(), LedgerError> {
        let event = Recorded::from_row(row)?;
        let (position, expected) = (event.position, self.before.map_or(1, |(position, _)| position + 1));
        if position > expected {
            let last = position - 1;
            let missing = match expected == last {
                true => format!("position {expected} is missing"),
                false => format!("positions {expected} to {last} are missing"),
            };
            self.findings.add(Kind::Position, missing);
        } else if position < expected {
            self.findings
                .add(Kind::Position, format!("position {position} is there more than once, or below 1"));
        }
        if let Some((before, at)) = self.before
            && event.at < at
        {
            self.findings.add(Kind::Time, format!("event {position} was recorded before event {before}"));
        }
        self.before = Some((position, event.at));
        self.rows += 1;
        for column in ["payload", "metadata"] {
            self.bytes += row.try_get_raw(column)?.as_bytes().map_or(0, <[u8]>::len);
        }
        self.chunk.push(event);
        Ok(())
    }

    /// Reads what was gathered.
    async fn read(&mut self) -> Result<(), LedgerError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        for (position, cause) in (self.unreadable)(chunk).await? {
            self.findings
                .add(Kind::Unreadable, format!("event {position} cannot be read: {}", shown(&cause)));
        }
        if let Some((position, _)) = self.before {
            (self.progress)(position);
        }
        Ok(())
    }
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
