//! From an event to the letter it leads to, at the moment it is to be sent.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    AccessEvent, Event, InvitationId, Personal, SecretEvent, TeamEvent, TeamId, TokenId, UserEvent, UserId,
};
use ledger::{Ledger, LedgerError, Recorded, StreamId};
use uuid::Uuid;

use super::letters::{Letter, Letters};
use super::outbox::MailId;
use crate::CommandError;
use crate::tokens::{invitation_token, mail_token};

/// How long after its event a mail is worth trying. Hourly in the end, it is some eighty attempts.
pub(super) const PATIENCE: TimeDelta = TimeDelta::days(3);
/// Events of a team looked at to see what has become of an invitation, or of an account to see what the person is called.
pub(super) const MOST_EVENTS: i64 = 10_000;

/// A letter, and what its form needs besides.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) letter: Letter,
    /// When what it tells of happened.
    pub(super) at: DateTime<Utc>,
}

/// Why there is no letter.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoLetter {
    /// It would be of no use any more.
    #[error("{0}")]
    Useless(&'static str),
    /// The time in which it is of use is over.
    #[error("it has expired")]
    Expired,
    /// The event is not one that a letter can be made of.
    #[error("{0}")]
    Impossible(&'static str),
    /// It may work another time.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What the letter is about could not be loaded.
    #[error(transparent)]
    Unloaded(#[from] CommandError),
}

const ERASED: NoLetter = NoLetter::Useless("the recipient was erased");
pub(super) const OF_NO_MAIL: NoLetter = NoLetter::Impossible("the event leads to no mail");

/// Who is told of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressed {
    /// Nobody.
    Nobody,
    /// Whoever the event itself is about.
    InEvent,
    /// This person, who may see a secret for a while, and everybody who owns the secret's team.
    GranteeAndOwners(UserId),
}

/// Who is told of this event.
pub(super) fn addressed(event: &Event) -> Addressed {
    let in_event = |leads_to_mail: bool| if leads_to_mail { Addressed::InEvent } else { Addressed::Nobody };
    match event {
        Event::Access(event) => in_event(is_request(event)),
        Event::Team(event) => in_event(is_invitation(event)),
        Event::User(event) => in_event(is_noteworthy(event)),
        Event::Secret(event) => grantee(event).map_or(Addressed::Nobody, Addressed::GranteeAndOwners),
        Event::Job(_) | Event::Schedule(_) | Event::Claim(_) => Addressed::Nobody,
    }
}

/// Who may see the secret for a while.
fn grantee(event: &SecretEvent) -> Option<UserId> {
    match event {
        SecretEvent::RevealGranted { user_id, .. } => Some(*user_id),
        SecretEvent::SecretStored { .. }
        | SecretEvent::SecretValueChanged { .. }
        | SecretEvent::SecretRenamed { .. }
        | SecretEvent::SecretDescribed { .. }
        | SecretEvent::SecretTagged { .. }
        | SecretEvent::SecretExpiryChanged { .. }
        | SecretEvent::SecretVersionLimitChanged { .. }
        | SecretEvent::SecretDeleted {}
        | SecretEvent::SecretRestored {}
        | SecretEvent::SecretVersionsDestroyed { .. }
        | SecretEvent::SecretDestroyed { .. }
        | SecretEvent::RevealGrantWithdrawn { .. } => None,
    }
}

fn is_request(event: &AccessEvent) -> bool {
    match event {
        AccessEvent::PasswordResetRequested { .. } | AccessEvent::EmailVerificationRequested { .. } => true,
        AccessEvent::SignedIn { .. }
        | AccessEvent::SessionRefreshed { .. }
        | AccessEvent::RefreshTokenReused { .. }
        | AccessEvent::SessionEnded { .. }
        | AccessEvent::MailTokenUsed { .. }
        | AccessEvent::ProofFailed { .. }
        | AccessEvent::SignInFailed { .. }
        | AccessEvent::FailuresCounted { .. }
        | AccessEvent::AddressesForgotten { .. }
        | AccessEvent::SecretRevealed { .. }
        | AccessEvent::SecretRevealedByGrant { .. }
        | AccessEvent::SecretUsed { .. }
        | AccessEvent::AccessRefused { .. }
        | AccessEvent::AuditRead { .. }
        | AccessEvent::JobResultRefused { .. }
        | AccessEvent::JobsChangedInBulk { .. }
        | AccessEvent::WorkerDrained { .. }
        | AccessEvent::ViewRebuilt { .. }
        | AccessEvent::LogLossAccepted { .. }
        | AccessEvent::EffectsReleased { .. } => false,
    }
}

fn is_invitation(event: &TeamEvent) -> bool {
    match event {
        TeamEvent::MemberInvited { .. } => true,
        TeamEvent::TeamCreated { .. }
        | TeamEvent::TeamRenamed { .. }
        | TeamEvent::TwoFactorRequirementChanged { .. }
        | TeamEvent::RevealReasonRequirementChanged { .. }
        | TeamEvent::JobsPaused { .. }
        | TeamEvent::JobsResumed { .. }
        | TeamEvent::InvitationWithdrawn { .. }
        | TeamEvent::InvitationAccepted { .. }
        | TeamEvent::MemberAdded { .. }
        | TeamEvent::MemberRoleChanged { .. }
        | TeamEvent::MemberRemoved { .. } => false,
    }
}

fn is_noteworthy(event: &UserEvent) -> bool {
    match event {
        UserEvent::PasswordChanged { .. }
        | UserEvent::PasswordReset { .. }
        | UserEvent::TwoFactorDisabled {}
        | UserEvent::TwoFactorReset { .. } => true,
        UserEvent::UserRegistered { .. }
        | UserEvent::UserRenamed { .. }
        | UserEvent::PasswordRehashed { .. }
        | UserEvent::EmailVerified {}
        | UserEvent::SignedOutEverywhere {}
        | UserEvent::TwoFactorBegun { .. }
        | UserEvent::TwoFactorEnabled { .. }
        | UserEvent::RecoveryCodeUsed { .. }
        | UserEvent::ApiKeyMade { .. }
        | UserEvent::ApiKeyRevoked { .. }
        | UserEvent::UserDeactivated { .. }
        | UserEvent::UserReactivated {}
        | UserEvent::AdminGranted {}
        | UserEvent::AdminRevoked {}
        | UserEvent::UserErased { .. } => false,
    }
}

/// Makes drafts from what the log says.
#[derive(Clone)]
pub(super) struct Drafts {
    pub(super) ledger: Ledger,
    pub(super) letters: Letters,
}

impl Drafts {
    /// The letter that this mail is, now.
    pub(super) async fn of(&self, mail: MailId, now: DateTime<Utc>) -> Result<Draft, NoLetter> {
        let recorded = self.ledger.read_at(&[mail.position]).await?.pop();
        let (recorded, event) = self.open(recorded).await?;
        let letter = match (event, mail.recipient) {
            (Event::Access(event), None) => self.of_request(&recorded, event, now).await?,
            (Event::Team(event), None) => self.of_invitation(&recorded, event, now).await?,
            (Event::User(event), None) => self.of_account(&recorded, &event, now).await?,
            (Event::Secret(event), Some(to)) => self.of_grant(&recorded, event, to, now).await?,
            _ => return Err(OF_NO_MAIL),
        };
        Ok(Draft { letter, at: recorded.at })
    }

    pub(super) async fn open(&self, recorded: Option<Recorded>) -> Result<(Recorded, Event), NoLetter> {
        let mut recorded = recorded.ok_or(NoLetter::Impossible("there is no such event"))?;
        self.ledger.open_personal(std::slice::from_mut(&mut recorded)).await?;
        let Recorded { stream, event_type, event_version, payload, .. } = &recorded;
        let event = Event::decode(&stream.aggregate_type, event_type, event_version, payload.reader());
        let event = event.map_err(|_| NoLetter::Impossible("the event cannot be read"))?;
        Ok((recorded, event))
    }

    async fn of_request(
        &self,
        recorded: &Recorded,
        event: AccessEvent,
        now: DateTime<Utc>,
    ) -> Result<Letter, NoLetter> {
        let (email, expires_at, is_reset) = match event {
            AccessEvent::PasswordResetRequested { email, expires_at, .. } => (email, expires_at, true),
            AccessEvent::EmailVerificationRequested { email, expires_at, .. } => (email, expires_at, false),
            _ => return Err(OF_NO_MAIL),
        };
        let to = address(email)?;
        if now >= expires_at {
            return Err(NoLetter::Expired);
        }
        // The stream goes on with the token's use.
        if self.ledger.stream_length(&recorded.stream).await? > recorded.sequence {
            return Err(NoLetter::Useless("its token was used already"));
        }
        let token = mail_token(&self.ledger, TokenId(id_of(&recorded.stream)?)).await?;
        Ok(if is_reset {
            self.letters.password_reset(to, &token, expires_at)
        } else {
            self.letters.email_verification(to, &token, expires_at)
        })
    }

    async fn of_invitation(
        &self,
        recorded: &Recorded,
        event: TeamEvent,
        now: DateTime<Utc>,
    ) -> Result<Letter, NoLetter> {
        let TeamEvent::MemberInvited { invitation_id, email, role, expires_at, team_name, .. } = event else {
            return Err(OF_NO_MAIL);
        };
        let to = address(email)?;
        if now >= expires_at {
            return Err(NoLetter::Expired);
        }
        if self.is_closed(recorded, invitation_id).await? {
            return Err(NoLetter::Useless("the invitation was withdrawn or taken up"));
        }
        let team = TeamId(id_of(&recorded.stream)?);
        let token = invitation_token(&self.ledger, team, invitation_id).await?;
        Ok(self.letters.invitation(to, &team_name, role, &token, expires_at))
    }

    /// Whether the invitation was withdrawn or taken up since.
    async fn is_closed(&self, recorded: &Recorded, id: InvitationId) -> Result<bool, NoLetter> {
        let mut closed = false;
        let each = |event: Recorded| {
            closed |= match event.payload.read() {
                Ok(
                    TeamEvent::InvitationWithdrawn { invitation_id }
                    | TeamEvent::InvitationAccepted { invitation_id, .. },
                ) => invitation_id == id,
                Ok(_) | Err(_) => false,
            };
        };
        self.ledger.walk_stream(&recorded.stream, recorded.sequence, MOST_EVENTS, each).await?;
        Ok(closed)
    }

    async fn of_account(
        &self,
        recorded: &Recorded,
        event: &UserEvent,
        now: DateTime<Utc>,
    ) -> Result<Letter, NoLetter> {
        if now >= recorded.at + PATIENCE {
            return Err(NoLetter::Expired);
        }
        let (at, user) = (recorded.at, UserId(id_of(&recorded.stream)?));
        let to = self.address_of(&recorded.stream).await?;
        match event {
            UserEvent::PasswordChanged { .. } => Ok(self.letters.password_changed(to, at, user)),
            UserEvent::PasswordReset { .. } => Ok(self.letters.password_was_reset(to, at, user)),
            UserEvent::TwoFactorDisabled {} => Ok(self.letters.two_factor_disabled(to, at, user)),
            UserEvent::TwoFactorReset { .. } => Ok(self.letters.two_factor_was_reset(to, at, user)),
            _ => Err(OF_NO_MAIL),
        }
    }

    /// The address is in an account's first event.
    pub(super) async fn address_of(&self, user: &StreamId) -> Result<String, NoLetter> {
        let first = self.ledger.read_stream(user, 0, None, 1).await?.pop();
        match self.open(first).await?.1 {
            Event::User(UserEvent::UserRegistered { email, .. }) => address(email),
            _ => Err(NoLetter::Impossible("the account does not begin with its address")),
        }
    }
}

fn address(email: Personal) -> Result<String, NoLetter> {
    match email {
        Personal::Open { personal, .. } => Ok(personal),
        Personal::Sealed { .. } | Personal::Erased { .. } => Err(ERASED),
    }
}

pub(super) fn id_of(stream: &StreamId) -> Result<Uuid, NoLetter> {
    stream.aggregate_id.parse().map_err(|_| NoLetter::Impossible("the event's stream has no id"))
}
