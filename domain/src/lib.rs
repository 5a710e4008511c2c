//! The rules of Daybook: what may happen to users, teams, secrets and jobs, and who may make it happen.
//!
//! Everything here is pure: no IO, no clock, no randomness, no SQL, and nothing ever awaits (the `async` that
//! [`cqrs_es::Aggregate`] asks for never yields). Ids, times and hashes come in with the command.

#![warn(
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    reason = "a new event must not be forgotten silently"
)]

mod access;
mod caller;
mod claim;
mod event;
mod ids;
mod job;
mod json;
mod mail_token;
mod permission;
mod personal;
mod refusal;
mod schedule;
mod secret;
mod session;
mod team;
mod text;
mod user;

pub use access::AccessEvent;
pub use caller::{Actor, Caller, Denied, Guarded, UnknownActor};
pub use claim::{ClaimEvent, ClaimKind};
pub use event::{AGGREGATE_TYPES, Event, KNOWN_EVENTS, Undecodable};
pub use ids::{
    ApiKeyId, GrantId, InvitationId, JobId, ScheduleId, SecretId, SessionId, TeamId, TokenId, UserId,
};
pub use job::{
    Artifact, Backoff, Ending, Failure, FailureReason, Job, JobCommand, JobError, JobEvent, JobStatus,
    LogDigest, Queue, Ran,
};
pub use json::JsonText;
pub use mail_token::{MailToken, MailTokenCommand, MailTokenError, MailTokenUse};
pub use permission::{Permission, Permissions, ROLE_TABLE, Role, permission_matrix};
pub use personal::Personal;
pub use refusal::{Refusal, RefusalKind};
pub use schedule::{
    CatchUp, Firing, KnownSchedule, MOST_FIRINGS, Plan, Schedule, ScheduleCommand, ScheduleError,
    ScheduleEvent, Skipped, Timing,
};
pub use secret::{
    Grant, LARGEST_VALUE, LONGEST_GRANT, MOST_TAGS, MOST_VERSIONS, Secret, SecretAmendment, SecretCommand,
    SecretError, SecretEvent, Store, check_value,
};
pub use session::{
    LONGEST_SESSION, REPEAT_GRACE, Refresh, Session, SessionCommand, SessionEnd, SessionError,
};
pub use team::{Accept, INVITEE, Invite, Team, TeamCommand, TeamError, TeamEvent};
pub use text::{
    ApiKeyName, ConcurrencyKey, CronExpression, Description, Email, Invalid, KindName, PersonName, Reason,
    ScheduleName, SecretName, Tag, TeamName, TeamSlug, TimeZoneName, VersionLimit, canonical_text,
};
pub use user::{Amendment, NewApiKey, Register, User, UserCommand, UserError, UserEvent};
