//! Random histories, made as people make them: by commands.

mod people;
mod schedules;

use std::collections::BTreeMap;

use ::commands::{
    About, CommandError, Commands, Context, Executed, ExpectedSecret, FirstTeam, GrantRequest, NewAccount,
    NewPassword, NewSecret, Password, SecretValue,
};
use ::ledger::{Ledger, random_token};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    AccessEvent, Actor, ApiKeyId, Artifact, Backoff, Caller, ConcurrencyKey, Description, Email, Ending,
    Failure, Guarded, InvitationId, Job, JobCommand, JobId, KindName, LogDigest, Permission, PersonName,
    Queue, Reason, Refusal, Role, ScheduleId, SecretAmendment, SecretId, SecretName, SessionId, Tag, Team,
    TeamCommand, TeamId, TeamName, TeamSlug, User, UserCommand, UserId, VersionLimit,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Node;
use crate::ledger::support::Rng;

/// Texts that something between here and a table might take for something else.
const NAMES: [&str; 6] =
    ["Ada", "Łukasz 🦀", "Back\\slash \\N", "\"quoted\" 'name'", "{\"a\": 1}", "\\.\\t%s$1"];
const DESCRIPTIONS: [&str; 5] =
    ["", "plain", "tab\tand\nline\r\nends", "\\.\n\\N\t\\", "é \u{1F980} \" ' $$"];
const TAGS: [&str; 4] = ["prod", "a:b", "x.y", "eu-1"];
const ERRORS: [&str; 4] = ["exit status 1", "a\0b", "", "\u{fffd}\n\"\\u0000\""];

/// Accounts cost a password's hash each.
const MOST_ACCOUNTS: usize = 5;

/// A history in the making: people, teams, secrets and jobs so far. What the rules refuse is tried nevertheless.
pub(crate) struct History<'a> {
    commands: &'a Commands,
    ledger: &'a Ledger,
    rng: Rng,
    users: Vec<UserId>,
    /// Everybody's address, also of those who are forgotten.
    addresses: BTreeMap<UserId, Email>,
    /// Whether people are forgotten as well.
    forgets: bool,
    devices: BTreeMap<UserId, people::Device>,
    sessions: Vec<(UserId, SessionId, String)>,
    keys: Vec<(UserId, ApiKeyId)>,
    invitations: Vec<(TeamId, InvitationId, UserId)>,
    teams: Vec<TeamId>,
    secrets: Vec<(TeamId, SecretId)>,
    jobs: Vec<Running>,
    schedules: Vec<(TeamId, ScheduleId)>,
}

/// A job, and how often it was started.
#[derive(Clone, Copy)]
struct Running {
    team: TeamId,
    id: JobId,
    attempt: u32,
}

impl<'a> History<'a> {
    /// One person with a team: everybody else comes with the steps.
    pub(crate) async fn begin(node: &'a Node, rng: Rng) -> Self {
        let mut history = Self {
            commands: &node.commands,
            ledger: &node.ledger,
            rng,
            users: vec![],
            addresses: BTreeMap::new(),
            forgets: false,
            devices: BTreeMap::new(),
            sessions: vec![],
            keys: vec![],
            invitations: vec![],
            teams: vec![],
            secrets: vec![],
            jobs: vec![],
            schedules: vec![],
        };
        history.register().await;
        history.make_team().await;
        history
    }

    pub(crate) async fn steps(&mut self, number: usize) {
        for _ in 0..number {
            match self.rng.below(36) {
                0 if self.addresses.len() < MOST_ACCOUNTS => self.register().await,
                0 | 1 => self.rename().await,
                2 => self.make_team().await,
                3..=5 => self.change_members().await,
                6..=7 => self.store_secret().await,
                8..=10 => self.change_secret().await,
                11 | 12 => self.queue_job().await,
                13..=17 => self.change_job().await,
                18 | 19 => self.see_something().await,
                20 => self.make_schedule().await,
                21..=23 => self.change_schedule().await,
                _ => self.change_person().await,
            }
        }
        // Whatever has ended before: somebody is there, and has read a secret.
        self.sign_in().await;
        self.read_a_secret().await;
        self.make_schedule().await;
    }

    async fn read_a_secret(&mut self) {
        if self.secrets.is_empty() {
            self.store_secret().await;
        }
        let secrets = self.secrets.clone();
        let (team, secret_id) = self.one_of(&secrets);
        let context = self.context(Some(team));
        let event = AccessEvent::SecretRevealed { secret_id, version: 1, reason: None };
        self.commands.record(&context, &event).await.unwrap();
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.below(all.len() as u64) as usize]
    }

    fn user(&mut self) -> UserId {
        let users = self.users.clone();
        self.one_of(&users)
    }

    fn team(&mut self) -> TeamId {
        let teams = self.teams.clone();
        self.one_of(&teams)
    }

    /// Somebody who may do anything, from somewhere.
    fn context(&mut self, team: Option<TeamId>) -> Context {
        let actor = match self.users.is_empty() || self.rng.percent(30) {
            true => Actor::System,
            false => Actor::User(self.user()),
        };
        let permissions = Permission::ALL.iter().copied().collect();
        let mut context = Context::of(Caller { actor, team, permissions });
        if let Actor::User(id) = actor {
            context.subject = Some(id.to_string());
            context.ip = Some(format!("192.0.2.{}", self.rng.below(250)));
            context.user_agent = Some("curl/8.1 \"quoted\"".to_owned());
        }
        context.request_id = self.rng.percent(80).then(|| Uuid::now_v7().to_string());
        context
    }

    async fn give<A>(&mut self, team: Option<TeamId>, id: impl ToString + Send, command: A::Command) -> bool
    where
        A: Guarded<Services = ()>,
        A::Command: Clone + Send + Sync,
        A::Error: Refusal,
    {
        let context = self.context(team);
        done(self.commands.execute::<A>(&context, id, None, command).await).is_some()
    }

    async fn register(&mut self) {
        let email = Email::parse(&format!("Person{}@Example.org", self.addresses.len())).unwrap();
        let account = NewAccount {
            email: email.clone(),
            name: PersonName::parse(self.one_of(&NAMES)).unwrap(),
            password: NewPassword::Chosen(
                Password::choose("correct horse battery".to_owned(), &About::default()).unwrap(),
            ),
            email_verified: self.rng.percent(50),
            active: true,
            admin: self.rng.percent(20),
            team: FirstTeam::Own,
        };
        let context = self.context(None);
        let made = done(self.commands.register(&context, account).await).unwrap();
        let id = made.id.parse().unwrap();
        self.users.push(id);
        self.addresses.insert(id, email);
    }

    async fn rename(&mut self) {
        let (user, name) = (self.user(), PersonName::parse(self.one_of(&NAMES)).unwrap());
        self.give::<User>(None, user, UserCommand::Rename { name }).await;
    }

    async fn make_team(&mut self) {
        let (context, owner) = (self.context(None), self.user());
        let name = TeamName::parse(self.one_of(&NAMES)).unwrap();
        // Slugs are few, so that some are taken already.
        let slug = TeamSlug::parse(&format!("team-{}", self.rng.below(12))).unwrap();
        if let Some(made) = done(self.commands.make_team(&context, name, slug, owner).await) {
            self.teams.push(made.id.parse().unwrap());
        }
    }

    async fn change_members(&mut self) {
        let (team, user_id) = (self.team(), self.user());
        let role = self.one_of(&[Role::Owner, Role::Operator, Role::Viewer, Role::Auditor]);
        let command = match self.rng.below(4) {
            0 => TeamCommand::RemoveMember { user_id },
            1 => TeamCommand::ChangeRole { user_id, role },
            _ => TeamCommand::AddMember { user_id, role },
        };
        self.give::<Team>(Some(team), team, command).await;
    }

    async fn store_secret(&mut self) {
        let team = self.team();
        let tags = TAGS.iter().filter(|_| self.rng.percent(40)).map(|tag| Tag::parse(tag).unwrap()).collect();
        let new = NewSecret {
            name: SecretName::parse(&format!("db/{}", self.rng.below(8))).unwrap(),
            description: Description::parse(self.one_of(&DESCRIPTIONS)).unwrap(),
            tags,
            expires_at: self.rng.percent(50).then(|| self.moment()),
            max_versions: self.rng.percent(30).then(|| VersionLimit::parse(2).unwrap()),
        };
        let (context, value) = (self.context(Some(team)), value());
        if let Some(made) = done(self.commands.store_secret(&context, &new, &value).await) {
            self.secrets.push((team, made.id.parse().unwrap()));
        }
    }

    async fn change_secret(&mut self) {
        let secrets = self.secrets.clone();
        if secrets.is_empty() {
            return;
        }
        let (team, id) = self.one_of(&secrets);
        let context = self.context(Some(team));
        let name = || SecretName::parse(&format!("db/{}", id.0.as_u128() % 16)).unwrap();
        match self.rng.below(20) {
            0 | 1 => drop(done(self.commands.delete_secret(&context, id, None).await)),
            2 | 3 => drop(done(self.commands.restore_secret(&context, id, None, Some(name())).await)),
            4 => drop(done(self.commands.destroy_secret(&context, id, None).await)),
            5 => {
                let versions = [1, 2].into();
                done(self.commands.destroy_secret_versions(&context, id, None, versions).await);
            }
            6 | 7 => {
                let amendment = SecretAmendment {
                    name: Some(name()),
                    expires_at: Some(self.rng.percent(50).then(|| self.moment())),
                    max_versions: Some(self.rng.percent(50).then(|| VersionLimit::parse(1).unwrap())),
                    ..SecretAmendment::default()
                };
                done(self.commands.amend_secret(&context, id, None, amendment).await);
            }
            8 | 9 => {
                let reason = Reason::parse("incident 7").unwrap();
                let duration = TimeDelta::milliseconds(1 + self.rng.below(50) as i64);
                let request = GrantRequest { user_id: self.user(), duration, reason };
                done(self.commands.grant_reveal(&context, id, request).await.map(|made| made.done));
            }
            _ => {
                let expected = ExpectedSecret::default();
                done(self.commands.change_secret_value(&context, id, expected, &value()).await);
            }
        }
    }

    /// Finer than the milliseconds that rows keep.
    fn moment(&mut self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::nanoseconds(self.rng.below(1 << 40) as i64)
    }

    fn args(&mut self) -> Map<String, Value> {
        let values = [
            json!(u64::MAX),
            json!(-5),
            json!(0.1),
            json!(1e16),
            json!(-0.0),
            json!("\\\t\""),
            json!({"a": [null, true, {"b": "c"}]}),
        ];
        let number = self.rng.below(4);
        (0..number).map(|n| (format!("arg {n}"), values[self.rng.below(7) as usize].clone())).collect()
    }

    async fn queue_job(&mut self) {
        let (team, id) = (self.team(), JobId(Uuid::now_v7()));
        let queue = Queue {
            team_id: team,
            kind: KindName::parse(self.one_of(&["report", "backup"])).unwrap(),
            args: self.args(),
            priority: self.rng.below(10) as u8,
            run_at: self.moment(),
            max_attempts: 1 + self.rng.below(3) as u32,
            timeout_seconds: 60,
            retry_delay_seconds: 1,
            backoff: Backoff { factor: 2.0, cap_seconds: 60, jitter: 0.1 },
            concurrency_key: self.rng.percent(30).then(|| ConcurrencyKey::parse("one").unwrap()),
            concurrency_limit: 1 + self.rng.below(2) as u32,
            unique: None,
            schedule_id: self.rng.percent(10).then(|| ScheduleId(Uuid::now_v7())),
        };
        if self.give::<Job>(Some(team), id, JobCommand::Queue(queue)).await {
            self.jobs.push(Running { team, id, attempt: 0 });
        }
    }

    async fn change_job(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let place = self.rng.below(self.jobs.len() as u64) as usize;
        let Running { team, id, attempt } = self.jobs[place];
        let log = LogDigest { lines: self.rng.below(9), dropped: 0, sha256: "ab".to_owned() };
        // Long after anything is due.
        let at = Utc::now() + TimeDelta::days(365);
        let command = match self.rng.below(11) {
            0..=3 => JobCommand::Start { worker: "worker".to_owned(), at },
            4..=6 => JobCommand::Finish { attempt, ending: self.ending(), log, at, dice: 0.3 },
            7 => JobCommand::Lose { attempt, at },
            8 => JobCommand::HandBack { attempt, log, at },
            9 => JobCommand::Retry { at },
            _ => JobCommand::Cancel,
        };
        let started = matches!(command, JobCommand::Start { .. });
        if self.give::<Job>(Some(team), id, command).await && started {
            self.jobs[place].attempt += 1;
        }
    }

    fn ending(&mut self) -> Ending {
        match self.rng.below(4) {
            0 => Ending::Succeeded {
                result: self.rng.percent(70).then(|| json!({ "rows": [1, "\u{1}", null] }).into()),
                artifacts: vec![Artifact { name: "a/b".to_owned(), size: 3, sha256: "cd".to_owned() }],
            },
            1 => Ending::Cancelled,
            _ => Ending::Failed(Failure {
                exit_code: Some(3),
                error: self.one_of(&ERRORS).to_owned(),
                is_final: self.rng.percent(20),
                ..Failure::default()
            }),
        }
    }

    /// A record of access, as it is made when somebody sees or tries something.
    async fn see_something(&mut self) {
        let (user_id, secrets) = (self.user(), self.secrets.clone());
        let event = match self.rng.below(6) {
            0 => AccessEvent::ProofFailed { user_id, proof: "password".to_owned() },
            1 => {
                AccessEvent::SignInFailed { account: "ab12".to_owned(), reason: "wrong_password".to_owned() }
            }
            2 => AccessEvent::AccessRefused {
                permission: "secrets:read".to_owned(),
                resource: "/api/x".to_owned(),
            },
            3 => AccessEvent::AuditRead { query: "actor=a\tb".to_owned() },
            _ if secrets.is_empty() => {
                AccessEvent::ViewRebuilt { view: "jobs".to_owned(), rebuild_id: Uuid::now_v7() }
            }
            4 => AccessEvent::SecretUsed {
                secret_id: self.one_of(&secrets).1,
                version: 1,
                job_id: JobId(Uuid::now_v7()),
                attempt: 1,
            },
            _ => AccessEvent::SecretRevealed { secret_id: self.one_of(&secrets).1, version: 1, reason: None },
        };
        let team = self.rng.percent(80).then(|| self.team());
        self.commands.record(&self.context(team), &event).await.unwrap();
    }
}

fn value() -> SecretValue {
    Zeroizing::new(random_token().unwrap().as_bytes().to_vec())
}

/// What was done, unless the rules were against it.
fn done(outcome: Result<Executed, CommandError>) -> Option<Executed> {
    match outcome {
        Ok(executed) => Some(executed),
        Err(CommandError::Taken(_) | CommandError::WrongCode | CommandError::Attempt(_)) => None,
        Err(error) => {
            assert!(error.refusal_code().is_some(), "{error:?}");
            None
        }
    }
}
