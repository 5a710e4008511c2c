//! The walk along the log: each event once, in the order of positions.

use crate::connect::Purpose;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Executor as _, FromRow as _, PgConnection, Row as _};

use super::{Findings, Kind, SESSION, shown};
use crate::Ledger;
use crate::error::LedgerError;
use crate::event::Recorded;

/// Events that are opened together, and bytes of them.
const CHUNK_EVENTS: usize = 500;
const CHUNK_BYTES: usize = 1024 * 1024;
/// How often a scan that got further each time is taken up again: a standby ends long queries.
const MOST_RESUMED: u32 = 1_000;

/// A walk along the log.
pub(super) struct Scan<U, P> {
    findings: Findings,
    /// Position and time of the event before.
    before: Option<(i64, DateTime<Utc>)>,
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
    pub(super) fn new(findings: Findings, unreadable: U, progress: P) -> Self {
        Self { findings, before: None, rows: 0, chunk: vec![], bytes: 0, unreadable, progress }
    }

    pub(super) async fn run(
        mut self,
        ledger: &Ledger,
        on: &mut PgConnection,
    ) -> Result<Findings, LedgerError> {
        let mut resumed = 0;
        loop {
            let reached = self.reached();
            match self.walk(on).await {
                Ok(()) => break,
                // A standby has ended the query for what it has to replay; what was read until then counts.
                Err(LedgerError::Database(error)) if self.reached() > reached && resumed < MOST_RESUMED => {
                    tracing::debug!(%error, "the walk along the log is taken up again");
                    resumed += 1;
                    *on = ledger.connector().connect(Purpose::Maintenance).await?;
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
