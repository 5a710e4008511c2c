//! The read side: one file per view, and one follower, one cache, one rebuilder, one verifier for all of them (D5, D6, D7).
//!
//! A view is a pure fold of events into rows ([`View`]). Each has a table `(key, position, row, generated columns)` in
//! PostgreSQL, filled by the follower ([`Projections::run`]) of any process: whoever holds the checkpoints' locks folds
//! the next batch, and rows and checkpoints are one transaction.
//!
//! Rows of secrets, jobs and the audit trail are teams'. On behalf of a team they are read through [`TeamReader`], under a role
//! that PostgreSQL's row-level security confines to the team's rows; everything else uses the ledger's pool.
//!
//! # Memory
//! [`Projections::rebuild`] and [`Projections::verify`] hold all rows of the view they are at (except of views whose rows are made
//! by one event each, such as `audit`); `verify` also a digest and the key of every row of the table.
#![deny(clippy::wildcard_enum_match_arm)]

mod batch;
mod cache;
mod checkpoint;
mod confined;
mod error;
mod fact;
mod folding;
mod follower;
mod freshness;
mod history;
mod machine;
mod news;
mod prepare;
mod protection;
mod reached;
mod rebuild;
mod registry;
mod role;
mod status;
mod table;
mod table_names;
mod team_reader;
#[cfg(test)]
mod testing;
pub mod time;
mod verify;
mod view;
mod views;
mod weight;

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ledger::Ledger;
use tokio::sync::watch;
use uuid::Uuid;

pub use confined::Whose;
pub use error::{Behind, Fault, ReadError, RebuildError, UnknownView};
pub use fact::{Fact, Unreadable};
pub use freshness::{FRESH_FOR, demand, demanding, written};
pub use history::{AsOf, Change, HistoryEntry, StateError};
pub use machine::{Listed, Reader};
pub use reached::Reached;
pub use rebuild::Progress;
pub use role::RoleError;
pub use status::{Pulse, ViewStatus};
pub use table_names::with_tables;
pub use team_reader::{ById, ByTeam, TeamReader};
pub use verify::{Difference, Verified};
pub use view::{Owner, SEALED, StreamView, TeamView, View};
pub use views::access_records::{AccessRecord, AccessRecords};
pub use views::audit::{Activity, ActivityDay, ActivityFilter, Audit, AuditFilter, AuditRow};
pub use views::credentials::{ApiKeyRow, Credentials, CredentialsRow, SessionRow};
pub use views::job_reports::{
    Durations, JobReport, JobReportFilter, JobReportGroup, JobReportRow, JobReports, RELATIVE_ERROR,
    ReportGrouping, Tally,
};
pub use views::jobs::{Holder, JobFilter, JobRow, Jobs, Line, QueuePlace, Ready, RunningJob};
pub use views::last_access::{LastAccess, LastAccessRow};
pub use views::memberships::{Membership, MembershipRow, Memberships};
pub use views::schedules::{ScheduleFilter, ScheduleRow, Schedules};
pub use views::secret_access::{SecretAccess, SecretAccessFilter, SecretAccessRow};
pub use views::secret_reads::{SecretReads, SecretReadsRow};
pub use views::secret_versions::{SecretVersionRow, SecretVersions};
pub use views::secrets::{GrantRow, SecretFilter, SecretRow, Secrets};
pub use views::teams::{InvitationRow, TeamRow, Teams};
pub use views::users::{UserFilter, UserRow, Users};

/// How [`Projections`] work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events of one batch of the follower at most.
    pub page: i64,
    /// Events read at once by a rebuild or a verification at most (10,000 is the log's own limit).
    pub rebuild_page: i64,
    /// What the rows of a rebuild take of memory at most, roughly, in bytes; beyond, they go into the table and are loaded again.
    pub rebuild_bytes: usize,
    /// How long the follower sleeps at most before it looks at the log again by itself.
    pub poll: Duration,
    /// How long the views that may trail the others gather events between two batches.
    pub stride: Duration,
    /// How long it is at least from one batch of the other views to the next while events come thick and fast and nobody waits for them:
    /// fewer and larger ones leave more of the machine to whoever appends.
    pub busy_stride: Duration,
    /// How much the cached rows of all views may weigh, in bytes of memory, roughly.
    pub cache_bytes: u64,
    /// How far a view may lag behind the others, in events, before it is rebuilt rather than followed.
    pub longest_lag: i64,
    /// How long the table of a view stays after the last node that needed it has gone: a node of that version that comes back finds it.
    pub keep_unneeded_tables: Duration,
    /// How long after a failure a view is tried again; doubles with each further one, up to 16 times this.
    pub retry: Duration,
    /// How long a rebuild that is ready keeps trying to take the live table's place.
    pub swap_patience: Duration,
    /// Connections for what is read on behalf of teams, at most. They come on top of the ledger's.
    pub team_connections: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page: 1_000,
            rebuild_page: 5_000,
            rebuild_bytes: 128 * 1024 * 1024,
            poll: Duration::from_millis(100),
            stride: Duration::from_millis(25),
            busy_stride: Duration::from_millis(10),
            cache_bytes: 64 * 1024 * 1024,
            longest_lag: 10_000,
            keep_unneeded_tables: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
            swap_patience: Duration::from_secs(60),
            team_connections: 4,
        }
    }
}

/// The read side of one process. Cheap to clone; all clones share caches and positions.
#[derive(Clone)]
pub struct Projections {
    inner: Arc<Inner>,
}

struct Inner {
    /// For what requests read.
    ledger: Ledger,
    /// For what goes on without a request.
    background: Ledger,
    /// For what is read on behalf of teams; the ledger's pools are for everything else.
    confined: confined::Confined,
    registry: registry::Registry,
    options: Options,
    /// How far the views are, as far as this process's caches know.
    reached: watch::Sender<reached::Reached>,
    /// When each view was last known to be up to date.
    proofs: freshness::Proofs,
    /// The ledger's connections as of which positions are known.
    generation: AtomicU64,
    /// How often this process follows or listens: then a view is read only while that is proved.
    gated: AtomicUsize,
    /// Wakes the followers.
    kick: watch::Sender<()>,
    /// Why a follower could not go on, the last time that one could not.
    last_error: Mutex<Option<String>>,
    /// Followers running in this process.
    following: AtomicUsize,
    /// This process among those that share the database.
    node: Uuid,
}

impl Projections {
    /// The views on `ledger`. Nothing happens before [`Projections::make_role`], [`Projections::prepare`] and
    /// [`Projections::run`], in this order. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(ledger: Ledger, options: Options) -> Self {
        let registry = registry::Registry::new(options.cache_bytes);
        let views = registry.all.len();
        let reached = watch::Sender::new(reached::Reached::unknown(views));
        let inner = Inner {
            confined: confined::Confined::new(&ledger, options.team_connections),
            background: ledger.background(),
            ledger,
            registry,
            options,
            reached,
            proofs: freshness::Proofs::none(views),
            generation: AtomicU64::new(0),
            gated: AtomicUsize::new(0),
            kick: watch::Sender::new(()),
            last_error: Mutex::new(None),
            following: AtomicUsize::new(0),
            node: Uuid::now_v7(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The names of all views.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.inner.registry.all.iter().map(|view| view.spec().name).collect()
    }

    /// The names of the views that hold personal data as it was opened.
    #[must_use]
    pub fn personal(&self) -> Vec<&'static str> {
        let views = self.inner.registry.all.iter().map(|view| view.spec());
        views.filter(|spec| spec.personal).map(|spec| spec.name).collect()
    }

    fn place(&self, name: &str) -> Result<usize, UnknownView> {
        self.inner.registry.place(name).ok_or_else(|| UnknownView(name.to_owned()))
    }
}
