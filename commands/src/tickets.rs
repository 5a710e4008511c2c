//! Tickets: what a browser shows to open one WebSocket, since it can send no header there and an access token in an address would be
//! good for an hour. A ticket is good once and for a minute, for the caller and the team it was made for.

use std::time::Duration;

use domain::{ApiKeyId, SessionId, TeamId, UserId};
use ledger::{LedgerError, Sha256, random_token};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{BroughtKey, CommandError, Commands};

/// Begins every ticket.
const TICKET: &str = "dbt_";
/// How long a ticket is good.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);

/// What the caller has proved who they are with.
#[derive(Clone, Debug)]
pub enum TicketProof {
    /// An access token of this session, good until `expires` (seconds since 1970).
    Session {
        /// The session.
        session: SessionId,
        /// The token's end.
        expires: i64,
    },
    /// An API key.
    Key(BroughtKey),
}

/// Who opens a socket with a ticket.
#[derive(Clone, Debug)]
pub struct TicketHolder {
    /// The person.
    pub user_id: UserId,
    /// The team they speak for.
    pub team: TeamId,
    /// What they had proved it with: whether that is still good is to be looked at when the ticket is used.
    pub proof: TicketProof,
}

/// Team, person, session and its token's end, key and its digest, and whether the ticket was still good.
type Row = (Uuid, Uuid, Option<Uuid>, Option<i64>, Option<Uuid>, Option<String>, bool);

impl Commands {
    /// A ticket for its holder.
    ///
    /// # Errors
    /// The database, or the system's randomness, is out of reach.
    pub async fn make_ticket(&self, holder: &TicketHolder) -> Result<Zeroizing<String>, CommandError> {
        let ticket = Zeroizing::new(format!("{TICKET}{}", random_token().map_err(LedgerError::from)?));
        let (session, expires, key) = match &holder.proof {
            TicketProof::Session { session, expires } => (Some(session.0), Some(*expires), None),
            TicketProof::Key(key) => (None, None, Some(key)),
        };
        let query = sqlx::query(
            "with forgotten as (delete from ws_tickets where expires_at < now()) \
             insert into ws_tickets (hash, team_id, user_id, session_id, credential_expires, key_id, key_hash, expires_at) \
             values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))",
        );
        let query = query.bind(Sha256::of(ticket.as_str())).bind(holder.team.0).bind(holder.user_id.0);
        let query = query.bind(session).bind(expires);
        let query = query.bind(key.map(|key| key.id.0)).bind(key.map(|key| key.hash.clone()));
        let query = query.bind(TICKET_LIFE.as_secs_f64());
        query.execute(self.ledger.pool()).await.map_err(LedgerError::from)?;
        Ok(ticket)
    }

    /// Uses a ticket up; its holder, if it was good.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn use_ticket(&self, ticket: &str) -> Result<Option<TicketHolder>, CommandError> {
        if !ticket.starts_with(TICKET) {
            return Ok(None);
        }
        let query = sqlx::query_as(
            "delete from ws_tickets where hash = $1 \
             returning team_id, user_id, session_id, credential_expires, key_id, key_hash, expires_at > now()",
        );
        let query = query.bind(Sha256::of(ticket)).fetch_optional(self.ledger.pool());
        let row: Option<Row> = query.await.map_err(LedgerError::from)?;
        Ok(row.and_then(holder))
    }
}

fn holder((team, user, session, expires, key, hash, good): Row) -> Option<TicketHolder> {
    let user_id = UserId(user);
    let proof = match (session, expires, key, hash) {
        (Some(session), Some(expires), None, None) => {
            TicketProof::Session { session: SessionId(session), expires }
        }
        (None, None, Some(key), Some(hash)) => {
            TicketProof::Key(BroughtKey { id: ApiKeyId(key), user_id, hash })
        }
        _ => return None,
    };
    good.then_some(TicketHolder { user_id, team: TeamId(team), proof })
}
