//! Access records: facts without a decision (D4). Each is the only event of its own stream `access/<uuid>`; who did it,
//! for which team and from where stands in its metadata.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::stored_names;
use crate::{JobId, SecretId, SessionId, UserId};

/// What somebody saw or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum AccessEvent {
    /// A person proved who they are. The stream's id is the session's. The refresh token is kept as SHA-256, in hex.
    SignedIn {
        user_id: UserId,
        session_id: SessionId,
        refresh_token_hash: String,
        refresh_expires_at: chrono::DateTime<chrono::Utc>,
    },
    /// Somebody did not. `account` is the keyed hash of the canonical e-mail address that was tried.
    SignInFailed { account: String, reason: String },
    /// A secret's value left Daybook for whom the metadata names.
    SecretRevealed { secret_id: SecretId, version: u32, reason: Option<String> },
    /// A secret's value was given to a job's process.
    SecretUsed { secret_id: SecretId, version: u32, job_id: JobId, attempt: u32 },
    /// Somebody asked for what they may not do; `resource` is the operation's path.
    AccessRefused { permission: String, resource: String },
    /// Somebody read the audit trail; `query` says which part.
    AuditRead { query: String },
    /// Somebody made a read model anew.
    ViewRebuilt { view: String, rebuild_id: Uuid },
}

stored_names!(AccessEvent {
    SignedIn: "1",
    SignInFailed: "1",
    SecretRevealed: "1",
    SecretUsed: "1",
    AccessRefused: "1",
    AuditRead: "1",
    ViewRebuilt: "1",
});
