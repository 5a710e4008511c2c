//! Access records: facts without a decision (D4). Each begins a stream of its own, `access/<uuid>`; who did it, for which
//! team and from where stands in its metadata. Most streams end there. Two kinds go on: that of a sign-in with what becomes of the
//! session (see [`crate::Session`]), and that of a token sent by mail with its one use (see [`crate::MailToken`]).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::event::stored_names;
use crate::{GrantId, JobId, Personal, SecretId, SessionEnd, SessionId, UserId};

/// What somebody saw or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum AccessEvent {
    /// A person proved who they are: a session begins. The stream's id is the session's. The refresh token is kept as SHA-256, in hex.
    SignedIn {
        user_id: UserId,
        session_id: SessionId,
        refresh_token_hash: String,
        refresh_expires_at: DateTime<Utc>,
    },
    /// The session's refresh token was exchanged for the next one.
    SessionRefreshed {
        user_id: UserId,
        generation: u32,
        refresh_token_hash: String,
        refreshed_at: DateTime<Utc>,
        refresh_expires_at: DateTime<Utc>,
    },
    /// A refresh token was presented that had been exchanged before: somebody has a copy.
    RefreshTokenReused { user_id: UserId, generation: u32 },
    /// The session was ended: by the person, or because of a reused refresh token.
    SessionEnded { user_id: UserId, reason: SessionEnd },
    /// Somebody asked for a way to choose a new password. The stream's id is the token's; the token is kept as SHA-256, in hex.
    PasswordResetRequested { user_id: UserId, email: Personal, token_hash: String, expires_at: DateTime<Utc> },
    /// A person is asked to show that an address is theirs. The stream's id is the token's.
    EmailVerificationRequested {
        user_id: UserId,
        email: Personal,
        token_hash: String,
        expires_at: DateTime<Utc>,
    },
    /// The token was used; it is of no use any more.
    MailTokenUsed { user_id: UserId },
    /// Somebody gave a wrong second factor or a wrong password where a signed-in person must prove who they are.
    ProofFailed { user_id: UserId, proof: String },
    /// Somebody did not. `account` is the keyed hash of the canonical e-mail address that was tried.
    SignInFailed { account: String, reason: String },
    /// More failures or refusals of one kind than are recorded one by one: `count` of them, besides those that were. `event` says what each
    /// would have been recorded as. They have one `source`, named by a keyed hash; empty: they are of all sources that have no sum of
    /// their own.
    FailuresCounted { event: String, source: String, count: u64, from: DateTime<Utc>, to: DateTime<Utc> },
    /// The keys of groups of addresses are destroyed, since they were kept long enough: of visitors of a day, or of somebody who was invited.
    AddressesForgotten { subjects: Vec<String> },
    /// A secret's value left Daybook for whom the metadata names.
    SecretRevealed { secret_id: SecretId, version: u32, reason: Option<String> },
    /// The same, by leave for a while: the role of whom the metadata names would not have been enough.
    SecretRevealedByGrant { secret_id: SecretId, version: u32, reason: Option<String>, grant_id: GrantId },
    /// A secret's value was given to a job's process.
    SecretUsed { secret_id: SecretId, version: u32, job_id: JobId, attempt: u32 },
    /// A worker came too late with the end of an attempt: the job was given to another one before. `outcome` is what it would have said.
    JobResultRefused { job_id: JobId, attempt: u32, worker: String, outcome: String },
    /// Somebody asked for an end, or another try, of many jobs at once; `filter` says which, as asked. `changed` of `matched` were.
    JobsChangedInBulk { action: String, filter: Value, matched: u32, changed: u32 },
    /// Somebody told a worker to take no more jobs, or to take some again.
    WorkerDrained { worker: String, draining: bool },
    /// Somebody asked for what they may not do; `resource` is the operation's path.
    AccessRefused { permission: String, resource: String },
    /// Somebody read the audit trail; `query` says which part.
    AuditRead { query: String },
    /// Somebody made a read model anew.
    ViewRebuilt { view: String, rebuild_id: Uuid },
    /// An operator accepted that the log is not the one that was known: `cause` says how it differs, `head` is its last position.
    LogLossAccepted { head: i64, cause: String },
    /// Schedules, mail and jobs were held, as on a copy of another database, and somebody let them go on. `operator`: who, where it was done
    /// at the machine.
    EffectsReleased { held_since: DateTime<Utc>, because: String, operator: Option<String> },
}

stored_names!(AccessEvent {
    SignedIn: "1",
    SessionRefreshed: "1",
    RefreshTokenReused: "1",
    SessionEnded: "1",
    PasswordResetRequested: "1",
    EmailVerificationRequested: "1",
    MailTokenUsed: "1",
    ProofFailed: "1",
    SignInFailed: "1",
    FailuresCounted: "1",
    AddressesForgotten: "1",
    SecretRevealed: "1",
    SecretRevealedByGrant: "1",
    SecretUsed: "1",
    JobResultRefused: "1",
    JobsChangedInBulk: "1",
    WorkerDrained: "1",
    AccessRefused: "1",
    AuditRead: "1",
    ViewRebuilt: "1",
    LogLossAccepted: "1",
    EffectsReleased: "1",
});
