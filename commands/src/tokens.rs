//! Tokens that prove something by being brought: refresh tokens, tokens in mails, invitations.
//!
//! They are not drawn but computed, with the instance's hashing key, from what they stand for. So the log needs no more than their
//! digests, whoever sends a mail later can compute what goes into it, the answer to a repeated request can be the same, and a
//! forged one is told from an old one without looking anywhere. Without `ENCRYPTION_KEY` nobody computes any.

use domain::{InvitationId, SessionId, TeamId, TokenId};
use ledger::{Ledger, LedgerError, Sha256};
use uuid::Uuid;

/// Begins every refresh token.
const REFRESH: &str = "dbr_";
/// Begins every token that is sent by mail to somebody who has an account.
const MAIL: &str = "dbm_";
/// Begins every token of an invitation.
const INVITATION: &str = "dbi_";

/// A refresh token that this instance has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefreshToken {
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
}

impl RefreshToken {
    /// The one it is exchanged for.
    pub(crate) fn next(self) -> Self {
        Self { generation: self.generation.saturating_add(1), ..self }
    }

    pub(crate) async fn text(self, ledger: &Ledger) -> Result<String, LedgerError> {
        let (session, generation) = (self.session.0.simple().to_string(), self.generation.to_string());
        let proof = ledger.keyed_hash(&["refresh token", &session, &generation]).await?;
        Ok(format!("{REFRESH}{session}.{generation}.{proof}"))
    }

    /// The token behind `text`, if this instance has made it: it may still be an old one.
    pub(crate) async fn read(ledger: &Ledger, text: &str) -> Result<Option<Self>, LedgerError> {
        let parsed = text.strip_prefix(REFRESH).and_then(|rest| {
            let mut parts = rest.splitn(3, '.');
            let (session, generation) = (id(parts.next()?)?, parts.next()?.parse().ok()?);
            Some(Self { session: SessionId(session), generation })
        });
        let Some(token) = parsed else { return Ok(None) };
        Ok(is_same(text, &token.text(ledger).await?).then_some(token))
    }
}

/// The token of a mail to somebody who has an account.
pub(crate) async fn mail_token(ledger: &Ledger, id: TokenId) -> Result<String, LedgerError> {
    let id = id.0.simple().to_string();
    let proof = ledger.keyed_hash(&["mail token", &id]).await?;
    Ok(format!("{MAIL}{id}.{proof}"))
}

/// Which token `text` is, if this instance has made it.
pub(crate) async fn read_mail_token(ledger: &Ledger, text: &str) -> Result<Option<TokenId>, LedgerError> {
    let parsed = text.strip_prefix(MAIL).and_then(|rest| id(rest.split_once('.')?.0));
    let Some(token) = parsed.map(TokenId) else { return Ok(None) };
    Ok(is_same(text, &mail_token(ledger, token).await?).then_some(token))
}

/// The token of an invitation.
pub(crate) async fn invitation_token(
    ledger: &Ledger,
    team: TeamId,
    invitation: InvitationId,
) -> Result<String, LedgerError> {
    let (team, invitation) = (team.0.simple().to_string(), invitation.0.simple().to_string());
    let proof = ledger.keyed_hash(&["invitation", &team, &invitation]).await?;
    Ok(format!("{INVITATION}{team}.{invitation}.{proof}"))
}

/// Which invitation `text` is of, if this instance has made it.
pub(crate) async fn read_invitation_token(
    ledger: &Ledger,
    text: &str,
) -> Result<Option<(TeamId, InvitationId)>, LedgerError> {
    let parsed = text.strip_prefix(INVITATION).and_then(|rest| {
        let mut parts = rest.splitn(3, '.');
        Some((TeamId(id(parts.next()?)?), InvitationId(id(parts.next()?)?)))
    });
    let Some((team, invitation)) = parsed else { return Ok(None) };
    let right = invitation_token(ledger, team, invitation).await?;
    Ok(is_same(text, &right).then_some((team, invitation)))
}

fn id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.simple().to_string() == text)
}

/// Compared by their digests: how long that takes tells nothing of the right one.
pub(crate) fn is_same(brought: &str, right: &str) -> bool {
    Sha256::of(brought) == Sha256::of(right)
}
