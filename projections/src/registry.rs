//! All views. Adding one is a file in `views/` and a line here.

use std::sync::Arc;

use crate::Projections;
use crate::history::{AnyReplay, Replay};
use crate::machine::{AnyView, Machine, Reader};
use crate::team_reader::{ByTeam, shared};
use crate::views::access_records::AccessRecords;
use crate::views::audit::Audit;
use crate::views::credentials::Credentials;
use crate::views::job_reports::JobReports;
use crate::views::jobs::Jobs;
use crate::views::last_access::LastAccess;
use crate::views::memberships::Memberships;
use crate::views::schedules::Schedules;
use crate::views::secret_access::SecretAccess;
use crate::views::secret_reads::SecretReads;
use crate::views::secret_versions::SecretVersions;
use crate::views::secrets::Secrets;
use crate::views::teams::Teams;
use crate::views::users::Users;

macro_rules! views {
    ($($(#[$doc:meta])* $name:ident: $view:ty, $reader:ident by $new:path;)*) => {
        /// Every view, by type and by place.
        pub(crate) struct Registry {
            $($name: Arc<Machine<$view>>,)*
            pub(crate) all: Vec<Arc<dyn AnyView>>,
        }

        impl Registry {
            /// `cache_bytes` is for all views together.
            pub(crate) fn new(cache_bytes: u64) -> Self {
                let share = cache_bytes / [$(<$view as crate::View>::NAME),*].len() as u64;
                let mut places = 0..;
                $(let $name = Arc::new(Machine::<$view>::new(places.next().unwrap_or_default(), share));)*
                let all: Vec<Arc<dyn AnyView>> = vec![$(Arc::clone(&$name) as Arc<dyn AnyView>),*];
                Self { $($name,)* all }
            }
        }

        /// What every view is.
        pub(crate) fn specs() -> Vec<crate::view::Spec> {
            vec![$(crate::view::Spec::of::<$view>()),*]
        }

        impl Projections {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> $reader<'_, $view> {
                $new(&self.inner.registry.$name, &self.inner)
            })*
        }
    };
}

views! {
    /// Accounts, by user id.
    users: Users, Reader by shared;
    /// Teams with their members, by team id.
    teams: Teams, Reader by shared;
    /// The teams of a person, by user id.
    memberships: Memberships, Reader by shared;
    /// What people prove who they are with, by user id.
    credentials: Credentials, Reader by shared;
    /// Secrets' metadata and present sealed values, by secret id.
    secrets: Secrets, ByTeam by ByTeam::new;
    /// Every version of every secret with its sealed value, by secret id and version.
    secret_versions: SecretVersions, ByTeam by ByTeam::new;
    /// When a secret's value was last read, by secret id.
    secret_reads: SecretReads, ByTeam by ByTeam::new;
    /// Who read which secret's value, by position.
    secret_access: SecretAccess, ByTeam by ByTeam::new;
    /// Jobs, by job id; also the queue.
    jobs: Jobs, ByTeam by ByTeam::new;
    /// What became of jobs, by team, day and kind.
    job_reports: JobReports, ByTeam by ByTeam::new;
    /// Schedules, by schedule id.
    schedules: Schedules, ByTeam by ByTeam::new;
    /// When somebody last signed in, by `user/<id>`.
    last_access: LastAccess, Reader by shared;
    /// One row for every event but claims, by position.
    audit: Audit, ByTeam by ByTeam::new;
}

impl Registry {
    /// The place of the view whose table this is.
    pub(crate) fn place_of_table(&self, table: &str) -> Option<usize> {
        self.all.iter().position(|view| view.spec().table == table)
    }

    /// The place of the view named `name`.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|view| view.spec().name == name)
    }
}

/// Replays single streams of an aggregate type, if there is a view that is a pure function of those.
pub(crate) fn replay(aggregate_type: &str) -> Option<Box<dyn AnyReplay>> {
    match aggregate_type {
        "user" => Some(Box::new(Replay::<Users>::default())),
        "team" => Some(Box::new(Replay::<Teams>::default())),
        "secret" => Some(Box::new(Replay::<Secrets>::default())),
        "job" => Some(Box::new(Replay::<Jobs>::default())),
        "schedule" => Some(Box::new(Replay::<Schedules>::default())),
        "access" => Some(Box::new(Replay::<AccessRecords>::default())),
        _ => None,
    }
}
