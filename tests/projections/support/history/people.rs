//! What people do with their accounts, and what is done with them.

use ::commands::{KeyRequest, RefreshError, SecondFactor, Ties};
use domain::{Amendment, ApiKeyName, TokenId};
use totp_rs::Totp;

use super::*;

/// Seconds of a time step.
const STEP: u64 = 30;

/// An authenticator, and the recovery codes that came with it.
pub(super) struct Device {
    totp: Totp,
    codes: Vec<Zeroizing<String>>,
}

impl Device {
    /// The code of so many steps from now. Around a step's end it may be too late for it, as for everybody.
    fn code(&self, ahead: u64) -> String {
        let now = u64::try_from(Utc::now().timestamp()).unwrap();
        self.totp.generate(now + ahead * STEP).to_string()
    }
}

impl History<'_> {
    /// Forgets people as well.
    pub(crate) fn forgetting(mut self) -> Self {
        self.forgets = true;
        self
    }

    /// The addresses of those who are forgotten.
    pub(crate) fn forgotten(&self) -> Vec<String> {
        let gone = self.addresses.iter().filter(|(user, _)| !self.users.contains(user));
        gone.map(|(_, email)| email.to_string()).collect()
    }

    pub(super) async fn change_person(&mut self) {
        match self.rng.below(20) {
            0..=2 => self.sign_in().await,
            3..=5 => self.refresh().await,
            6 => self.end_session().await,
            7 | 8 => self.change_own_account().await,
            9 | 10 => self.change_second_factor().await,
            11 | 12 => self.make_key().await,
            13 => self.revoke_key().await,
            14 | 15 => self.invite().await,
            16 => self.answer_invitation().await,
            17 => self.amend_team().await,
            18 => self.amend().await,
            _ if self.forgets => self.forget().await,
            _ => self.reset_second_factor().await,
        }
    }

    /// The person themselves, from somewhere.
    fn own(&mut self, user: UserId) -> Context {
        let caller = Caller { actor: Actor::User(user), team: None, permissions: Default::default() };
        let mut context = Context::of(caller);
        context.subject = Some(user.to_string());
        context.ip = Some(format!("198.51.100.{}", self.rng.below(250)));
        context.user_agent = Some("a \"browser\" \\N".to_owned());
        context
    }

    pub(super) async fn sign_in(&mut self) {
        let user = self.user();
        let context = self.own(user);
        let days = 1 + self.rng.below(7) as u16;
        let signed_in = self.commands.start_session(&context, user, vec![], days).await.unwrap();
        self.sessions.push((user, signed_in.session_id, signed_in.refresh_token.to_string()));
    }

    /// With any token there ever was: most are the present ones of their sessions, some old copies.
    async fn refresh(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let place = self.rng.below(self.sessions.len() as u64) as usize;
        let (user, session, token) = self.sessions[place].clone();
        let context = self.own(user);
        let brought = self.commands.read_refresh_token(&token).await.unwrap();
        match self.commands.refresh_session(&context, &brought, 7).await {
            Ok(next) => self.sessions.push((user, session, next.refresh_token.to_string())),
            Err(RefreshError::Command(error)) => panic!("{error:?}"),
            Err(_) => {}
        }
    }

    async fn end_session(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let place = self.rng.below(self.sessions.len() as u64) as usize;
        let (user, session, _) = self.sessions[place].clone();
        let context = self.own(user);
        done(self.commands.end_session(&context, session).await);
    }

    async fn change_own_account(&mut self) {
        let user = self.user();
        let (context, password_hash) = (self.own(user), random_token().unwrap());
        let command = match self.rng.below(8) {
            0 | 1 => UserCommand::ChangePassword { password_hash },
            2 => UserCommand::ResetPassword { password_hash, token_id: TokenId(Uuid::now_v7()) },
            3 | 4 => UserCommand::Rehash { password_hash },
            5 => UserCommand::SignOutEverywhere,
            _ => UserCommand::VerifyEmail,
        };
        done(self.commands.execute::<User>(&context, user, None, command).await);
    }

    /// From one state to the next, as far as there is one.
    async fn change_second_factor(&mut self) {
        let user = self.user();
        let context = self.own(user);
        match self.devices.get(&user) {
            Some(device) if device.codes.is_empty() => {
                let confirmed = self.commands.enable_two_factor(&context, user, &device.code(0)).await;
                match confirmed {
                    Ok((codes, _)) => self.devices.get_mut(&user).unwrap().codes = codes,
                    Err(error) => assert!(done(Err(error)).is_none()),
                }
            }
            Some(device) => {
                let proof = match self.rng.percent(50) {
                    true => SecondFactor::Totp(device.code(1).into()),
                    false => SecondFactor::Recovery(device.codes[0].clone()),
                };
                if done(self.commands.disable_two_factor(&context, user, &proof).await).is_some() {
                    self.devices.remove(&user);
                }
            }
            None => {
                let begun = self.commands.begin_two_factor(&context, user, &self.addresses[&user]).await;
                if let Ok((enrolment, _)) = begun {
                    let totp = Totp::from_url(enrolment.otpauth_uri.as_str()).unwrap();
                    self.devices.insert(user, Device { totp, codes: vec![] });
                }
            }
        }
    }

    async fn reset_second_factor(&mut self) {
        let user = self.user();
        let operator = "root at the console".to_owned();
        if self.give::<User>(None, user, UserCommand::ResetTwoFactor { operator }).await {
            self.devices.remove(&user);
        }
    }

    async fn make_key(&mut self) {
        let (user, team) = (self.user(), self.team());
        let context = self.own(user);
        let scopes = Permission::ALL.iter().copied().filter(|it| it.is_scope() && self.rng.percent(50));
        let scopes = scopes.collect();
        let request = KeyRequest {
            name: ApiKeyName::parse(self.one_of(&NAMES)).unwrap(),
            team_id: team,
            scopes,
            expires_at: self.rng.percent(50).then(|| self.moment()),
        };
        let made = self.commands.make_api_key(&context, user, request).await;
        match made {
            Ok(made) => self.keys.push((user, made.id)),
            Err(error) => assert!(done(Err(error)).is_none()),
        }
    }

    async fn revoke_key(&mut self) {
        let keys = self.keys.clone();
        if keys.is_empty() {
            return;
        }
        let (user, key_id) = self.one_of(&keys);
        self.give::<User>(None, user, UserCommand::RevokeApiKey { key_id }).await;
    }

    async fn invite(&mut self) {
        let (team, whom) = (self.team(), self.user());
        let (context, email) = (self.context(Some(team)), self.addresses[&whom].clone());
        let role = self.one_of(&[Role::Owner, Role::Operator, Role::Viewer, Role::Auditor]);
        match self.commands.invite(&context, team, email, Some(whom), role).await {
            Ok((id, _)) => self.invitations.push((team, id, whom)),
            Err(error) => assert!(done(Err(error)).is_none()),
        }
    }

    async fn answer_invitation(&mut self) {
        let invitations = self.invitations.clone();
        if invitations.is_empty() {
            return;
        }
        let (team, id, whom) = self.one_of(&invitations);
        if self.rng.percent(30) {
            self.give::<Team>(Some(team), team, TeamCommand::WithdrawInvitation { id }).await;
            return;
        }
        let (context, email) = (self.own(whom), self.addresses[&whom].clone());
        let token = self.token(team, id).await;
        done(self.commands.accept_invitation(&context, &token, whom, &email).await);
    }

    /// What the mail says.
    async fn token(&self, team: TeamId, id: InvitationId) -> String {
        let (team, id) = (team.0.simple().to_string(), id.0.simple().to_string());
        let proof = self.ledger.keyed_hash(&["invitation", &team, &id]).await.unwrap();
        format!("dbi_{team}.{id}.{proof}")
    }

    async fn amend_team(&mut self) {
        let team = self.team();
        let name = self.rng.percent(50).then(|| TeamName::parse(self.one_of(&NAMES)).unwrap());
        let two_factor_required = self.rng.percent(50).then(|| self.rng.percent(50));
        let reveal_reason_required = self.rng.percent(50).then(|| self.rng.percent(50));
        self.give::<Team>(
            Some(team),
            team,
            TeamCommand::Amend { name, two_factor_required, reveal_reason_required },
        )
        .await;
    }

    async fn amend(&mut self) {
        let (context, user) = (self.context(None), self.user());
        let amendment = Amendment {
            name: self.rng.percent(30).then(|| PersonName::parse(self.one_of(&NAMES)).unwrap()),
            active: self.rng.percent(50).then(|| self.rng.percent(60)),
            admin: self.rng.percent(50).then(|| self.rng.percent(60)),
            operator: self.rng.percent(30).then(|| "root".to_owned()),
        };
        done(self.commands.amend_user(&context, user, None, &amendment).await);
    }

    /// Somebody, but not the last ones.
    pub(crate) async fn forget(&mut self) {
        if self.users.len() <= 2 {
            return;
        }
        let (context, user) = (self.context(None), self.user());
        let email = self.addresses[&user].canonical();
        let ties = Ties { teams: self.teams.clone(), invitations: vec![] };
        let erased = self.commands.erase(&context, user, None, Some(&email), &ties).await;
        if done(erased).is_some() {
            self.users.retain(|left| *left != user);
        }
    }
}
