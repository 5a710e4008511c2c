//! The ledger as cqrs-es's event store, and its table as postgres-es's.

use std::collections::HashMap;

use ::ledger::{Loaded, Store};
use cqrs_es::persist::PersistedEventStore;
use cqrs_es::{Aggregate, AggregateError, CqrsFramework, EventEnvelope, EventStore};
use domain::{
    Personal, Role, Team, TeamCommand, TeamEvent, TeamId, TeamName, TeamSlug, User, UserEvent, UserId,
};
use postgres_es::PostgresEventRepository;
use sqlx::PgPool;
use tests::Database;
use uuid::Uuid;

use super::support::whole_log;

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

fn created(id: TeamId) -> TeamEvent {
    TeamEvent::TeamCreated { team_id: id, name: "Crew".to_owned(), slug: "crew".to_owned(), owner: user(1) }
}

fn joined(number: u128) -> TeamEvent {
    TeamEvent::MemberAdded { user_id: user(number), role: Role::Viewer }
}

fn after(events: &[TeamEvent]) -> Team {
    let mut team = Team::default();
    events.iter().cloned().for_each(|event| team.apply(event));
    team
}

fn payloads<A: Aggregate>(envelopes: &[EventEnvelope<A>]) -> Vec<(usize, A::Event)>
where
    A::Event: Clone,
{
    envelopes.iter().map(|envelope| (envelope.sequence, envelope.payload.clone())).collect()
}

#[tokio::test]
async fn an_aggregate_is_committed_and_loaded() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let store = Store::<Team>::new(&ledger);
    let team_id = TeamId(Uuid::now_v7());
    let id = team_id.to_string();
    let fresh = store.load_aggregate(&id).await.unwrap();
    assert_eq!((&fresh.aggregate, fresh.sequence), (&Team::default(), 0));

    let events = vec![created(team_id), joined(2), joined(3)];
    let metadata = HashMap::from([("actor".to_owned(), "user 1".to_owned())]);
    let committed = store.commit(events.clone(), fresh, metadata.clone()).await.unwrap();
    let expected = events.iter().cloned().zip(1..).map(|(event, n)| (n, event)).collect::<Vec<_>>();
    assert_eq!(payloads(&committed), expected);
    assert!(committed.iter().all(|e| e.aggregate_id == id && e.metadata == metadata));

    // Each event is applied once: a member who joined twice would be an error of the rules.
    let loaded = store.load_aggregate(&id).await.unwrap();
    assert_eq!((&loaded.aggregate, loaded.sequence), (&after(&events), 3));
    let history = store.load_events(&id).await.unwrap();
    assert_eq!(payloads(&history), expected);
    assert!(history.iter().all(|e| e.aggregate_id == id && e.metadata == metadata));
    assert_eq!(ledger.head().await.unwrap(), 3);
}

#[tokio::test]
async fn a_commit_of_nothing_costs_nothing() {
    let database = Database::new().await;
    let store = Store::<Team>::new(&database.ledger());
    let fresh = store.load_aggregate("x").await.unwrap();
    assert!(store.commit(vec![], fresh, HashMap::new()).await.unwrap().is_empty());
    assert_eq!(database.ledger().head().await.unwrap(), 0);
}

#[tokio::test]
async fn the_second_of_two_who_decided_on_the_same_state_meets_a_conflict() {
    let database = Database::new().await;
    let store = Store::<Team>::new(&database.ledger());
    let team_id = TeamId(Uuid::now_v7());
    let load = async || store.load_aggregate(&team_id.to_string()).await.unwrap();
    store.commit(vec![created(team_id)], load().await, HashMap::new()).await.unwrap();
    let (first, second) = (load().await, load().await);
    store.commit(vec![joined(2)], first, HashMap::new()).await.unwrap();
    let conflict = store.commit(vec![joined(2)], second, HashMap::new()).await;
    assert!(matches!(conflict, Err(AggregateError::AggregateConflict)), "{conflict:?}");
    assert_eq!(load().await.sequence, 2);
}

#[tokio::test]
async fn a_lost_database_is_not_a_conflict() {
    let database = Database::new().await;
    let nowhere = database.connect_options().database("there_is_none");
    let key = ::ledger::Keyring::new(database.encryption_key(), None);
    let store = Store::<Team>::new(&::ledger::Ledger::new(nowhere, key, &::ledger::Options::default()));
    let fresh = Loaded { id: "x".to_owned(), aggregate: Team::default(), sequence: 0 };
    let lost = store.commit(vec![joined(2)], fresh, HashMap::new()).await;
    assert!(matches!(lost, Err(AggregateError::DatabaseConnectionError(_))), "{lost:?}");
}

#[tokio::test]
async fn cqrs_es_drives_the_rules_on_our_store() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let cqrs = CqrsFramework::new(Store::<Team>::new(&ledger), vec![], ());
    let team_id = TeamId(Uuid::now_v7());
    let (name, slug) = (TeamName::parse("Crew").unwrap(), TeamSlug::parse("crew").unwrap());
    let create = TeamCommand::Create { id: team_id, name, slug, owner: user(1) };
    let id = team_id.to_string();
    cqrs.execute(&id, create.clone()).await.unwrap();
    cqrs.execute(&id, TeamCommand::AddMember { user_id: user(2), role: Role::Viewer }).await.unwrap();
    assert!(matches!(cqrs.execute(&id, create).await, Err(AggregateError::UserError(_))));
    let team = Store::<Team>::new(&ledger).load_aggregate(&id).await.unwrap().aggregate;
    assert_eq!(team, after(&[created(team_id), joined(2)]));
}

#[tokio::test]
async fn postgres_es_reads_the_same_table() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let store = Store::<Team>::new(&ledger);
    let team_id = TeamId(Uuid::now_v7());
    let id = team_id.to_string();
    let events = vec![created(team_id), joined(2)];
    let fresh = store.load_aggregate(&id).await.unwrap();
    store.commit(events.clone(), fresh, HashMap::new()).await.unwrap();

    let repository = PostgresEventRepository::new(PgPool::connect_lazy_with(database.connect_options()));
    let theirs = PersistedEventStore::<PostgresEventRepository, Team>::new_event_store(repository);
    let context = theirs.load_aggregate(&id).await.unwrap();
    assert_eq!((context.aggregate, context.current_sequence), (after(&events), 2));
    let history = theirs.load_events(&id).await.unwrap();
    assert_eq!(payloads(&history), payloads(&store.load_events(&id).await.unwrap()));
    // Its append would not keep positions dense, and so must not get through.
    let context = theirs.load_aggregate(&id).await.unwrap();
    assert!(theirs.commit(vec![joined(3)], context, HashMap::new()).await.is_err());
    assert_eq!(ledger.head().await.unwrap(), 2);
}

#[tokio::test]
async fn personal_data_in_events_is_sealed_on_the_way_and_loads_sealed() {
    let database = Database::new().await;
    let ledger = database.ledger();
    let store = Store::<User>::new(&ledger);
    let id = user(7).to_string();
    let text = |text: &str| Personal::new(&id, text);
    let registered = UserEvent::UserRegistered {
        email: text("ada@example.org"),
        name: text("Ada"),
        password_hash: text("$argon2id$..."),
        admin: false,
    };
    let fresh = store.load_aggregate(&id).await.unwrap();
    store.commit(vec![registered.clone()], fresh, HashMap::new()).await.unwrap();
    let loaded = store.load_events(&id).await.unwrap();
    let UserEvent::UserRegistered { email: Personal::Sealed { .. }, name: Personal::Sealed { .. }, .. } =
        &loaded[0].payload
    else {
        panic!("{loaded:?}");
    };
    // The rules need no more than the subject.
    let mut expected = User::default();
    expected.apply(registered.clone());
    assert_eq!(store.load_aggregate(&id).await.unwrap().aggregate, expected);
    let mut log = whole_log(&ledger).await;
    ledger.open_personal(&mut log).await.unwrap();
    assert_eq!(log.remove(0).payload.read::<UserEvent>().unwrap(), registered);
}
