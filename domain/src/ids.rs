//! Identifiers: one type for each kind of thing, so that they cannot be mixed up. All are UUIDs (version 7 when
//! Daybook makes them), written in lower case with hyphens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// A person's account.
    UserId;
    /// A team: the owner of secrets and jobs.
    TeamId;
    /// A secret, through all its versions.
    SecretId;
    /// A job, through all its attempts.
    JobId;
    /// Something that queues a job at given times.
    ScheduleId;
    /// One sign-in of one person.
    SessionId;
    /// A program's key, made by a person.
    ApiKeyId;
    /// An invitation to a team.
    InvitationId;
    /// A person's leave to see one secret for a while.
    GrantId;
    /// Something sent by mail that proves, once, that its reader has the mailbox.
    TokenId;
}
