//! Why a command to a job is refused.

use chrono::{DateTime, Utc};

use super::JobStatus;
use crate::{Refusal, RefusalKind};

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("there is no such job")]
    NotFound,
    /// The id is taken.
    #[error("this job exists already")]
    AlreadyExists,
    /// It cannot be started as it stands.
    #[error("the job is {} and cannot be started", .0.as_str())]
    NotPending(JobStatus),
    /// It cannot be started before its time.
    #[error("the job is not due before {0}")]
    NotDue(DateTime<Utc>),
    /// It ended before.
    #[error("the job is {} already", .0.as_str())]
    Ended(JobStatus),
    /// It is running, or did its work: there is nothing to try again.
    #[error("the job is {} and cannot be tried again", .0.as_str())]
    NotRetryable(JobStatus),
    /// Another attempt has taken over.
    #[error("attempt {given} does not hold the job any more (present attempt: {present}, {})", .status.as_str())]
    WrongAttempt {
        /// The attempt that holds it, or held it last.
        present: u32,
        /// The attempt that asked.
        given: u32,
        /// Where the job stands.
        status: JobStatus,
    },
}

impl Refusal for JobError {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound => RefusalKind::NotFound,
            Self::AlreadyExists
            | Self::NotPending(_)
            | Self::NotDue(_)
            | Self::Ended(_)
            | Self::NotRetryable(_)
            | Self::WrongAttempt { .. } => RefusalKind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "job_not_found",
            Self::AlreadyExists => "job_exists",
            Self::NotPending(_) => "job_not_pending",
            Self::NotDue(_) => "job_not_due",
            Self::Ended(_) => "job_ended",
            Self::NotRetryable(_) => "job_not_retryable",
            Self::WrongAttempt { .. } => "wrong_attempt",
        }
    }
}
