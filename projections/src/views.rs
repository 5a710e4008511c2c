//! The views, one file each.

pub(crate) mod access_records;
pub(crate) mod audit;
pub(crate) mod credentials;
pub(crate) mod job_reports;
pub(crate) mod jobs;
pub(crate) mod last_access;
pub(crate) mod memberships;
pub(crate) mod schedules;
pub(crate) mod secret_access;
pub(crate) mod secret_reads;
pub(crate) mod secret_versions;
pub(crate) mod secrets;
pub(crate) mod teams;
pub(crate) mod users;
