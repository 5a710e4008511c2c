//! Facts for the views' tests, and the property that holds for all views: however the events are cut into batches, with rows going
//! through JSON in between, the outcome is that of one fold from the beginning.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::DomainEvent;
use domain::{
    AccessEvent, ApiKeyId, Backoff, CatchUp, ClaimEvent, CronExpression, Event, GrantId, InvitationId,
    JobEvent, JobId, KindName, LogDigest, Permission, Personal, Plan, Ran, Role, ScheduleEvent, ScheduleName,
    SecretEvent, SecretId, SessionEnd, SessionId, TeamEvent, TeamId, TimeZoneName, Timing, UserEvent, UserId,
};
use ledger::{Metadata, Recorded, StreamId};
use proptest::prelude::*;
use serde::Serialize;
use uuid::Uuid;

use crate::fact::{Entry, Fact};
use crate::folding::fold_entries;
use crate::registry::Registry;
use crate::view::View;

pub(crate) fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

pub(crate) fn user_id(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

pub(crate) fn team_id(n: u128) -> TeamId {
    TeamId(Uuid::from_u128(n))
}

/// When event `n` is recorded.
pub(crate) fn at(n: i64) -> DateTime<Utc> {
    "2026-03-01T12:00:00.000Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(n)
}

/// An event as number `n`, of its stream and of the log, by `system`. It goes through the stored form.
pub(crate) fn fact<E: DomainEvent + Serialize>(n: i64, of: &str, id: impl ToString, event: E) -> Fact {
    Fact::new(Recorded {
        position: n,
        at: at(n),
        stream: StreamId::new(of, id),
        sequence: n,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: serde_json::to_value(event).unwrap().into(),
        metadata: Metadata { actor: "system".into(), ..Metadata::default() },
        damage: None,
    })
    .unwrap()
}

/// The rows of a view after `facts`.
pub(crate) fn folded<V: View>(facts: &[Fact]) -> BTreeMap<String, V::Row> {
    let mut rows = BTreeMap::new();
    for fact in facts {
        for key in V::keys(fact) {
            match V::fold(&key, rows.remove(&key), fact) {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
    }
    rows
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Owner), Just(Role::Operator), Just(Role::Viewer)]
}

/// Any event of a few aggregates, in no sensible order: folds must not depend on the rules having been kept.
fn event() -> impl Strategy<Value = (Event, String)> {
    let of = |n: u128| 1..n + 1;
    let team = (of(2), of(3), role(), 0..6u8).prop_map(|(n, who, role, what)| {
        let (user_id, invitation_id) = (user_id(who), InvitationId(Uuid::from_u128(who)));
        let event = match what {
            0 => TeamEvent::TeamCreated {
                team_id: team_id(n),
                name: "T".into(),
                slug: "t".into(),
                owner: user_id,
            },
            1 => TeamEvent::MemberAdded { user_id, role },
            2 => TeamEvent::MemberInvited {
                invitation_id,
                email: Personal::new("invitee-h", "x@x.org"),
                email_hash: "h".into(),
                role,
                token_hash: "t".into(),
                expires_at: at(9) + TimeDelta::nanoseconds(1_500),
                team_name: "T".into(),
            },
            3 => TeamEvent::InvitationAccepted { invitation_id, user_id },
            4 => TeamEvent::TwoFactorRequirementChanged { required: who == 1 },
            _ => TeamEvent::MemberRemoved { user_id },
        };
        (Event::Team(event), id(n))
    });
    let claim = Just((Event::Claim(ClaimEvent::Released {}), "c".to_owned()));
    prop_oneof![user(), team, secret(), job(), schedule(), access(), claim]
}

fn secret() -> impl Strategy<Value = (Event, String)> {
    (1..3u128, 1..5u32, 0..11u8).prop_map(|(n, version, what)| {
        let sealed = format!("v{version}");
        let grant_id = GrantId(Uuid::from_u128(version.into()));
        let (name, description, tags) = ("s".into(), String::new(), vec![]);
        let event = match what {
            0 | 1 => {
                let (team_id, expires_at) = (team_id(1), None);
                SecretEvent::SecretStored { team_id, name, description, tags, expires_at, sealed }
            }
            2 => SecretEvent::SecretDeleted {},
            3 => SecretEvent::SecretRestored {},
            4 => SecretEvent::SecretRenamed { from: name, name: sealed },
            5 => {
                let expires_at = Some(at(9) + TimeDelta::nanoseconds(1_500));
                SecretEvent::SecretExpiryChanged { expires_at }
            }
            6 => SecretEvent::SecretVersionsDestroyed { versions: vec![1, version] },
            7 => SecretEvent::SecretDestroyed { versions: (1..=version).collect() },
            8 => SecretEvent::RevealGranted {
                grant_id,
                user_id: user_id(n),
                granted_at: at(version.into()) + TimeDelta::nanoseconds(1_500),
                until: at(7) + TimeDelta::nanoseconds(1_500),
                reason: "why".into(),
                name,
            },
            9 => SecretEvent::RevealGrantWithdrawn { grant_id },
            _ => SecretEvent::SecretValueChanged { version, sealed },
        };
        (Event::Secret(event), id(n))
    })
}

fn user() -> impl Strategy<Value = (Event, String)> {
    (1..3u128, "[A-Z]{3}", 0..11u8).prop_map(|(n, name, what)| {
        let personal = |text: &str| Personal::new(id(n), text);
        let key_id = ApiKeyId(Uuid::from_u128(u128::from(name.as_bytes()[0] % 3)));
        let event = match what {
            0 | 1 => UserEvent::UserRegistered {
                email: personal(&format!("{name}@x.org")),
                name: personal(&name),
                password_hash: personal("h"),
                admin: false,
            },
            2 => UserEvent::PasswordChanged { password_hash: personal(&name) },
            3 => UserEvent::TwoFactorBegun { sealed: name },
            4 => UserEvent::TwoFactorEnabled { recovery_code_hashes: [name].into() },
            5 => UserEvent::RecoveryCodeUsed { hash: name },
            6 => UserEvent::ApiKeyMade {
                key_id,
                name,
                team_id: team_id(1),
                prefix: "p".into(),
                hash: "h".into(),
                scopes: [Permission::JobsRun].into(),
                expires_at: Some(at(9) + TimeDelta::nanoseconds(1_500)),
            },
            7 => UserEvent::ApiKeyRevoked { key_id },
            8 => UserEvent::UserDeactivated { operator: Some(Personal::new("operators", name)) },
            9 => UserEvent::AdminGranted {},
            _ => UserEvent::UserErased { subjects: [].into() },
        };
        (Event::User(event), id(n))
    })
}

fn access() -> impl Strategy<Value = (Event, String)> {
    (1..3u128, 1..4u128, 0..4u8).prop_map(|(n, session, what)| {
        let (user_id, refresh_expires_at) = (user_id(n), at(30) + TimeDelta::nanoseconds(1_500));
        let event = match what {
            0 => AccessEvent::SignedIn {
                user_id,
                session_id: SessionId(Uuid::from_u128(session)),
                refresh_token_hash: "h".into(),
                refresh_expires_at,
            },
            1 => AccessEvent::SessionRefreshed {
                user_id,
                generation: 1,
                refresh_token_hash: "h".into(),
                refreshed_at: at(1),
                refresh_expires_at,
            },
            2 => AccessEvent::SessionEnded { user_id, reason: SessionEnd::SignedOut },
            _ => {
                let secret_id = SecretId(Uuid::from_u128(n));
                AccessEvent::SecretRevealed { secret_id, version: 1, reason: None }
            }
        };
        (Event::Access(event), id(session))
    })
}

fn job() -> impl Strategy<Value = (Event, String)> {
    (1..3u128, 0..6u8, "[a\\x00]{0,3}", 1..4u32).prop_map(|(n, what, error, attempt)| {
        let log = LogDigest::default();
        let (kind, ran) = ("k".to_owned(), Some(Ran { worker: "w".into(), milliseconds: 7 }));
        let event = match what {
            0 => JobEvent::JobQueued {
                team_id: team_id(1),
                kind: "k".into(),
                args: [("x".to_owned(), serde_json::json!(1e16))].into_iter().collect(),
                priority: 1,
                run_at: at(1) + TimeDelta::nanoseconds(1_500),
                max_attempts: 3,
                timeout_seconds: 1,
                retry_delay_seconds: 1,
                concurrency_key: None,
                backoff: Backoff::default(),
                concurrency_limit: 1,
                unique: None,
                schedule_id: None,
            },
            1 => JobEvent::JobStarted { attempt, worker: "w".into(), at: Some(at(3)) },
            2 => JobEvent::JobAttemptFailed {
                attempt,
                kind,
                ran,
                exit_code: None,
                error,
                retry_at: at(9),
                result: None,
                artifacts: vec![],
                log,
            },
            3 => {
                let result = Some(serde_json::Value::from(error).into());
                JobEvent::JobCompleted { attempt, kind, ran, result, artifacts: vec![], log }
            }
            4 => JobEvent::JobRetried { run_at: at(8) },
            _ => JobEvent::JobLost { attempt, kind, ran },
        };
        (Event::Job(event), id(n))
    })
}

/// What a schedule's events carry: finer than the milliseconds that rows keep.
pub(crate) fn plan(once: bool) -> Plan {
    let timing = match once {
        true => Timing::Once { run_at: at(40) + TimeDelta::nanoseconds(1_500) },
        false => Timing::Cron {
            cron: CronExpression::parse("@hourly").unwrap(),
            time_zone: TimeZoneName::parse("Europe/Berlin").unwrap(),
        },
    };
    Plan {
        name: ScheduleName::parse("Hourly").unwrap(),
        kind: KindName::parse("report").unwrap(),
        args: [("x".to_owned(), serde_json::json!(1e16))].into_iter().collect(),
        timing,
        catch_up: CatchUp::All,
        catch_up_window_seconds: 3_600,
        priority: Some(7),
        max_attempts: None,
        timeout_seconds: None,
        concurrency_key: None,
    }
}

fn schedule() -> impl Strategy<Value = (Event, String)> {
    (1..3u128, 0..8u8, "[a\\x00]{0,3}").prop_map(|(n, what, error)| {
        let (due, next) = (at(n as i64), Some(at(9) + TimeDelta::nanoseconds(1_500)));
        let event = match what {
            0 | 1 => ScheduleEvent::ScheduleCreated { team_id: team_id(1), plan: plan(what == 0), next: due },
            2 => ScheduleEvent::ScheduleAmended { plan: plan(n == 1), next },
            3 => ScheduleEvent::SchedulePaused {},
            4 => ScheduleEvent::ScheduleResumed { next },
            5 => ScheduleEvent::ScheduleFired { due, job_id: JobId(Uuid::from_u128(n)), next },
            6 => ScheduleEvent::ScheduleFailed { due, error, next: None },
            _ => ScheduleEvent::ScheduleSkipped { from: due, to: due, missed: 1, next },
        };
        (Event::Schedule(event), id(n))
    })
}

fn entry(position: i64, (event, id): (Event, String)) -> Entry {
    let (of, fact) = match event {
        Event::User(event) => ("user", fact(position, "user", id, event)),
        Event::Team(event) => ("team", fact(position, "team", id, event)),
        Event::Secret(event) => ("secret", fact(position, "secret", id, event)),
        Event::Job(event) => ("job", fact(position, "job", id, event)),
        Event::Schedule(event) => ("schedule", fact(position, "schedule", id, event)),
        Event::Access(event) => ("access", fact(position, "access", id, event)),
        Event::Claim(event) => ("claim", fact(position, "claim", id, event)),
    };
    let fact = Fact { team_id: Some(team_id(1)), subject: Some(self::id(1)), ..fact };
    Entry { position, aggregate_type: of.to_owned(), fact: Ok(fact) }
}

type Table = BTreeMap<String, (i64, String)>;

/// What the follower does, with a map for the table.
fn live(registry: &Registry, place: usize, batches: &[Vec<Entry>]) -> Table {
    let view = &registry.all[place];
    let mut table = Table::new();
    for batch in batches {
        let mut folding = view.begin();
        let facts = batch.iter().filter(|entry| view.spec().needs(&entry.aggregate_type));
        for key in facts.flat_map(|entry| view.keys(entry.fact.as_ref().unwrap())) {
            if let Some((position, row)) = table.get(&key) {
                folding.load(key, *position, row).unwrap();
            }
        }
        fold_entries(view.spec(), folding.as_mut(), batch, 0).unwrap();
        let changes = folding.changes(usize::MAX).unwrap();
        let rows = changes.positions.into_iter().zip(changes.rows);
        table.extend(changes.keys.into_iter().zip(rows));
        for key in changes.deleted {
            table.remove(&key);
        }
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_a_history_is_cut_the_rows_are_those_of_one_fold(
        events in prop::collection::vec((event(), any::<bool>()), 1..60),
    ) {
        let registry = Registry::new(1 << 20);
        let mut batches: Vec<Vec<Entry>> = vec![vec![]];
        let mut whole = vec![];
        for (position, (event, cut)) in (1..).zip(events) {
            if cut {
                batches.push(vec![]);
            }
            batches.last_mut().unwrap().push(entry(position, event.clone()));
            whole.push(entry(position, event));
        }
        let whole = [whole];
        for place in 0..registry.all.len() {
            let name = registry.all[place].spec().name;
            prop_assert_eq!(live(&registry, place, &batches), live(&registry, place, &whole), "{}", name);
        }
    }

    #[test]
    fn views_ask_for_the_aggregates_whose_events_touch_them(event in event()) {
        let registry = Registry::new(1 << 20);
        let entry = entry(1, event);
        for view in &registry.all {
            let touches = !view.keys(entry.fact.as_ref().unwrap()).is_empty();
            prop_assert!(!touches || view.spec().needs(&entry.aggregate_type), "{}", view.spec().name);
        }
    }
}
