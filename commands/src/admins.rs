//! What instance admins do to accounts. An instance always has an admin who can sign in: who they are is kept in a stream of its own, so
//! that of two admins who unmake each other at the same moment one meets a conflict.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{
    AccessEvent, Amendment, Caller, ClaimEvent, ClaimKind, Event, INVITEE, InvitationId, Permission, Team,
    TeamCommand, TeamId, User, UserCommand, UserEvent, UserId,
};
use ledger::{AppendError, NewEvent, Sha256, StreamId};
use uuid::Uuid;

use crate::door::{Executed, Prepare, Prepared};
use crate::idempotency::claim_event;
use crate::{CommandError, Commands, Context};

/// Positions read at a time where the admins must be gathered from the log.
const STRETCH: i64 = 5_000;

/// Who administers the instance, as the log has it.
struct Register {
    stream: StreamId,
    length: i64,
    admins: BTreeSet<UserId>,
}

/// What ties a person to teams, as the views show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    /// Those they are in.
    pub teams: Vec<TeamId>,
    /// Those that have asked them to join, and have not heard of them.
    pub invitations: Vec<(TeamId, InvitationId)>,
}

struct Amending<'a> {
    user_id: UserId,
    amendment: &'a Amendment,
}

impl Prepare<User> for Amending<'_> {
    async fn prepare(&self, commands: &Commands, user: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let register = commands.admins().await?;
        let other_admins = register.besides(self.user_id);
        let command = UserCommand::Amend { amendment: self.amendment.clone(), other_admins };
        let entry = register.entry(self.user_id, user, &command)?;
        Ok(Prepared { command, alongside: entry.into_iter().collect(), data_keys: vec![] })
    }
}

/// Forgets a person and frees their address.
struct Erasing<'a> {
    user_id: UserId,
    /// As the view has it; `None` when it is forgotten already.
    canonical_email: Option<&'a str>,
    subjects: &'a BTreeSet<String>,
}

impl Prepare<User> for Erasing<'_> {
    async fn prepare(&self, commands: &Commands, user: &User) -> Result<Prepared<UserCommand>, CommandError> {
        let register = commands.admins().await?;
        let subjects = self.subjects.clone();
        let command = UserCommand::Erase { other_admins: register.besides(self.user_id), subjects };
        let mut prepared = Prepared::alone(command);
        if !user.is_erased() {
            prepared.alongside.extend(register.entry(self.user_id, user, &prepared.command)?);
            if let Some(email) = self.canonical_email {
                prepared.alongside.push(commands.release(ClaimKind::Email, &[email]).await?);
            }
        }
        Ok(prepared)
    }
}

impl Register {
    fn besides(&self, user_id: UserId) -> usize {
        self.admins.iter().filter(|admin| **admin != user_id).count()
    }

    /// What the register becomes with `command`, if it changes.
    fn entry(
        self,
        user_id: UserId,
        user: &User,
        command: &UserCommand,
    ) -> Result<Option<NewEvent>, CommandError> {
        let mut user_ids = self.admins.clone();
        if user.after(command).is_active_admin() {
            user_ids.insert(user_id);
        } else {
            user_ids.remove(&user_id);
        }
        // Where there is no register yet, it is begun whatever changes: the log is then never gone through for it again.
        if user_ids == self.admins && self.length > 0 {
            return Ok(None);
        }
        claim_event(self.stream, self.length + 1, &ClaimEvent::AdminsAre { user_ids }).map(Some)
    }
}

impl Commands {
    /// Changes what an instance admin changes of somebody's account.
    ///
    /// # Errors
    /// [`domain::UserError::LastAdmin`] among others; see [`CommandError`].
    pub async fn amend_user(
        &self,
        context: &Context,
        user_id: UserId,
        expected: Option<i64>,
        amendment: &Amendment,
    ) -> Result<Executed, CommandError> {
        let amending = Amending { user_id, amendment };
        self.execute_with::<User>(context, &user_id.to_string(), expected, &amending).await
    }

    /// Forgets a person: they leave their teams (but one they are the last owner of), what invitations there are to their address are
    /// withdrawn, the address is free again, and what was sealed under their key opens no more, here and on every other node. Views that
    /// still show something of theirs (the audit trail: addresses) are made anew by the reactor `forgetting`.
    ///
    /// If we crash before all of it is done, that reaction does the rest.
    ///
    /// # Errors
    /// [`domain::UserError::LastAdmin`] among others; see [`CommandError`].
    pub async fn erase(
        &self,
        context: &Context,
        user_id: UserId,
        expected: Option<i64>,
        canonical_email: Option<&str>,
        ties: &Ties,
    ) -> Result<Executed, CommandError> {
        context.caller.require(Permission::UsersManage)?;
        let subjects = self.other_subjects(canonical_email).await?;
        let erasing = Erasing { user_id, canonical_email, subjects: &subjects };
        let mut done = self.execute_with::<User>(context, &user_id.to_string(), expected, &erasing).await?;
        done.position = self.cut_ties(context, user_id, ties).await?.max(done.position);
        self.destroy_keys_of(user_id, subjects, None).await?;
        Ok(done)
    }

    /// Destroys what opens a person's data; `subjects` as the event [`UserEvent::UserErased`] names them. Of these no keys that were made
    /// after `made_until`, if it is given: whoever has the address by now is somebody else.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn destroy_keys_of(
        &self,
        user_id: UserId,
        subjects: BTreeSet<String>,
        made_until: Option<DateTime<Utc>>,
    ) -> Result<(), CommandError> {
        self.ledger.retire_subject(&user_id.to_string()).await?;
        let subjects: Vec<String> = subjects.into_iter().collect();
        match made_until {
            Some(made_until) => self.ledger.destroy_subjects_made_until(&subjects, made_until).await?,
            None => self.ledger.destroy_subjects(&subjects).await?,
        };
        Ok(())
    }

    /// Records that the keys of these groups of addresses are to be destroyed, given with when each was made; the reactor `forgetting` does
    /// it. The same is recorded once, however often it is asked for.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn forget_addresses(&self, subjects: Vec<(String, DateTime<Utc>)>) -> Result<(), CommandError> {
        let mut digest = Sha256::default();
        for (subject, made) in &subjects {
            digest.update(format!("{subject} {}\n", made.timestamp_micros()));
        }
        let digest = digest.finish();
        let id = u128::from_str_radix(&digest[..32], 16).map(Uuid::from_u128);
        let id = id.map_err(|error| CommandError::Event(error.to_string()))?;
        let event = AccessEvent::AddressesForgotten {
            subjects: subjects.into_iter().map(|(name, _)| name).collect(),
        };
        match self.record_as(id, &Context::system(None), &event).await {
            Ok(_) => Ok(()),
            Err(CommandError::Append(AppendError::Conflict)) if self.first_record(id).await?.is_some() => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Destroys the keys of groups of addresses, as far as they were made until `made_until`.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn destroy_addresses(
        &self,
        subjects: &[String],
        made_until: DateTime<Utc>,
    ) -> Result<(), CommandError> {
        self.ledger.destroy_subjects_made_until(subjects, made_until).await?;
        Ok(())
    }

    /// The keyed hash of a canonical address, by which events name it without telling it.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn email_hash(&self, canonical: &str) -> Result<String, CommandError> {
        self.claim_id(ClaimKind::Email, &[canonical]).await
    }

    /// Invitations to an address are sealed for whoever has it, whether or not they have an account by then.
    async fn other_subjects(&self, canonical_email: Option<&str>) -> Result<BTreeSet<String>, CommandError> {
        let Some(email) = canonical_email else { return Ok(BTreeSet::new()) };
        Ok([format!("{INVITEE}{}", self.email_hash(email).await?)].into())
    }

    /// Somebody who was erased leaves their teams, but one they are the last owner of, and is not invited any more. The position after
    /// the last of it.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn cut_ties(
        &self,
        context: &Context,
        user_id: UserId,
        ties: &Ties,
    ) -> Result<Option<i64>, CommandError> {
        let mut position = None;
        for team in &ties.teams {
            let remove = TeamCommand::RemoveMember { user_id };
            position = self.for_the_team(context, *team, remove).await?.max(position);
        }
        for (team, id) in &ties.invitations {
            let withdraw = TeamCommand::WithdrawInvitation { id: *id };
            position = self.for_the_team(context, *team, withdraw).await?.max(position);
        }
        Ok(position)
    }

    /// What follows for a team; if the team has something against it, it stays as it is.
    async fn for_the_team(
        &self,
        context: &Context,
        team: TeamId,
        command: TeamCommand,
    ) -> Result<Option<i64>, CommandError> {
        let mut context = context.clone();
        context.idempotency = None;
        context.caller = Caller {
            actor: context.caller.actor,
            team: Some(team),
            permissions: [Permission::TeamWrite].into_iter().collect(),
        };
        match self.execute::<Team>(&context, team, None, command).await {
            Ok(done) => Ok(done.position),
            Err(CommandError::Refused(refusal)) => {
                // That it is done already is what the reaction finds after every erasure that went well.
                if !matches!(refusal.code(), "not_a_member" | "invitation_not_found") {
                    tracing::info!(%team, code = refusal.code(), "a team stays as it is though somebody in it was erased");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The event that enters a new admin, where there is nobody yet or others are already.
    pub(crate) async fn admin_entered(
        &self,
        user_id: UserId,
        command: &UserCommand,
    ) -> Result<Option<NewEvent>, CommandError> {
        self.admins().await?.entry(user_id, &User::default(), command)
    }

    async fn admins(&self) -> Result<Register, CommandError> {
        let stream = self.claim_stream(ClaimKind::Admins, &[]).await?;
        let (length, admins) = match self.last_claim(&stream).await? {
            (length, None) => (length, self.admins_before_the_register().await?),
            (length, Some(ClaimEvent::AdminsAre { user_ids })) => (length, user_ids),
            (_, Some(_)) => {
                return Err(CommandError::Event(format!("{stream} is not the register of admins")));
            }
        };
        Ok(Register { stream, length, admins })
    }

    /// Logs begun before there was a register: admins were made then by registering, and nothing unmade them.
    async fn admins_before_the_register(&self) -> Result<BTreeSet<UserId>, CommandError> {
        let (mut admins, mut after, head) = (BTreeSet::new(), 0, self.ledger.head().await?);
        while after < head {
            let up_to = head.min(after + STRETCH);
            let stretch = self.ledger.read_types(after, up_to, &["user"]).await?;
            for event in stretch.events {
                let id = event.stream.aggregate_id.parse().ok().map(UserId);
                event.readable()?;
                let decoded =
                    Event::decode("user", &event.event_type, &event.event_version, event.payload.reader())
                        .ok();
                if let (Some(id), Some(Event::User(UserEvent::UserRegistered { admin: true, .. }))) =
                    (id, decoded)
                {
                    admins.insert(id);
                }
            }
            after = stretch.up_to;
        }
        Ok(admins)
    }
}
