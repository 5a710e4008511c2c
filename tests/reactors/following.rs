//! Each event once and in order, by whichever process; and nothing but what was appended leads to anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::commands::reactor::{self, ReactorOptions, Start};
use ::projections::Options;
use serde_json::json;
use tests::{Database, within};
use tokio::task::JoinSet;

use super::support::{Act, Outbox, Running, database, happen, quick, written};
use crate::ledger::sealing::{about, personal};
use crate::ledger::support::{Seed, whole_log};
use crate::projections::support::{Node, registered, terminate_all, user_id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_processes_one_deals_with_each_event_once_and_in_order() {
    let database = database().await;
    let nodes = [database.ledger(), database.ledger(), database.ledger()];
    let outbox = Outbox::writing();
    let running: Vec<_> = nodes.iter().map(|node| Running::start(node, &outbox, quick())).collect();
    let mut writers = JoinSet::new();
    for node in nodes.iter().flat_map(|node| std::iter::repeat_n(node, 3)) {
        let node = node.clone();
        writers.spawn(async move { happen(&node, 30).await });
    }
    within("the writers", writers.join_all()).await;
    written(&mut database.connect().await, 1..=270).await;
    assert_eq!(outbox.asked(), (1..=270).collect::<Vec<i64>>(), "and no process was asked beside another");
    for running in running {
        running.stop().await;
    }
}

/// Connections are lost in the middle of effects, cursors and leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_stored_once_while_everybody_is_thrown_out_again_and_again() {
    let seed = Seed::new();
    let mut rng = seed.rng();
    let database = database().await;
    let (nodes, outbox) = ([database.ledger(), database.ledger()], Outbox::writing());
    happen(&nodes[0], 200).await;
    let running = nodes.each_ref().map(|node| Running::start(node, &outbox, quick()));
    let mut behind = database.connect().await;
    for part in 1..=8 {
        let goal = part * 15 + rng.below(10) as usize;
        tests::eventually("further effects", async || (outbox.asked().len() >= goal).then_some(())).await;
        // Those thrown out before may be on their way back.
        tests::eventually("somebody to throw out", async || {
            (terminate_all(&mut behind).await > 0).then_some(())
        })
        .await;
    }
    written(&mut behind, 1..=200).await;
    for running in running {
        running.stop().await;
    }
}

#[tokio::test]
async fn an_append_wakes_the_reactor_and_events_that_lead_to_nothing_are_passed() {
    let database = database().await;
    let ledger = database.ledger();
    let outbox = Outbox::new(|event| match event.position % 2 {
        0 => Act::Write(event.position.to_string()),
        _ => Act::Nothing,
    });
    // It does not look by itself while this test lasts.
    let running =
        Running::start(&ledger, &outbox, ReactorOptions { poll: Duration::from_secs(3_600), ..quick() });
    let mut behind = database.connect().await;
    for round in 1..=5 {
        happen(&ledger, 2).await;
        written(&mut behind, (1..=round).map(|n| 2 * n)).await;
    }
    happen(&ledger, 1).await;
    tests::eventually("the last event", async || (outbox.asked().len() == 11).then_some(())).await;
    running.stop().await;
    let position: i64 = sqlx::query_scalar("select position from reactors where name = 'outbox'")
        .fetch_one(&mut behind)
        .await
        .unwrap();
    assert_eq!(position, 11, "who stops in order leaves the cursor behind what led to nothing as well");
}

#[tokio::test]
async fn a_reactor_sees_only_the_aggregates_it_needs() {
    let database = database().await;
    let ledger = database.ledger();
    let mut other = crate::ledger::support::append(&[]);
    other.events.push(crate::projections::support::event(
        "team",
        uuid::Uuid::now_v7(),
        1,
        domain::TeamEvent::TeamCreated {
            team_id: crate::projections::support::team_id(),
            name: "Crew".to_owned(),
            slug: "crew".to_owned(),
            owner: user_id(),
        },
    ));
    ledger.append(other).await.unwrap();
    happen(&ledger, 1).await;
    let outbox = Outbox::writing();
    let _running = Running::start(&ledger, &outbox, quick());
    written(&mut database.connect().await, [2]).await;
    assert_eq!(outbox.asked(), [2]);
}

#[tokio::test]
async fn where_a_new_reactor_begins_in_an_old_log_is_decided_once() {
    for (start, other, seen) in
        [(Start::Head, Start::Beginning, 4..=8), (Start::Beginning, Start::Head, 1..=8)]
    {
        let database = database().await;
        let (ledger, mut behind) = (database.ledger(), database.connect().await);
        happen(&ledger, 3).await;
        reactor::enlist::<Outbox>(&ledger, start).await.unwrap();
        // Another may be told otherwise: it is too late.
        reactor::enlist::<Outbox>(&ledger, other).await.unwrap();
        happen(&ledger, 2).await;
        let running = Running::start_at(&ledger, &Outbox::writing(), other, quick());
        written(&mut behind, *seen.start()..=5).await;
        running.stop().await;
        happen(&ledger, 3).await;
        let outbox = Outbox::writing();
        let _running = Running::start_at(&ledger, &outbox, other, quick());
        written(&mut behind, seen).await;
        assert_eq!(outbox.asked(), [6, 7, 8]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilding_every_view_leads_to_nothing() {
    let database = database().await;
    let node = Node::following(&database).await;
    for name in ["Ada", "Bob", "Cyd"] {
        node.append(vec![registered(user_id(), name)]).await;
    }
    let (outbox, mut behind) = (Outbox::writing(), database.connect().await);
    let running = Running::start(&node.ledger, &outbox, quick());
    written(&mut behind, 1..=3).await;
    for view in node.views.names() {
        node.views.rebuild(view, |_| {}).await.unwrap();
    }
    // Also by a process that starts with it.
    running.stop().await;
    Node::idle(&database, Options::default()).await.views.rebuild("users", |_| {}).await.unwrap();
    let _running = Running::start(&node.ledger, &outbox, quick());
    node.append(vec![registered(user_id(), "Dan")]).await;
    written(&mut behind, 1..=4).await;
    assert_eq!(outbox.asked(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn personal_data_is_open_or_erased_at_the_moment_of_the_reaction() {
    let database = database().await;
    let ledger = database.ledger();
    for (subject, id) in [("ada", "1"), ("bob", "2")] {
        ledger.append(about(subject, id, json!({ "name": personal(subject, subject) }))).await.unwrap();
    }
    ledger.destroy_subjects(&["ada".to_owned()]).await.unwrap();
    let seen = |event: &::ledger::Recorded| {
        let payload = event.payload.value();
        let name = payload["name"]["personal"].as_str().unwrap_or("erased");
        Act::Write(format!("{name} at {}", event.metadata.ip.as_deref().unwrap_or("nowhere")))
    };
    let _running = Running::start(&ledger, &Outbox::new(seen), quick());
    let mut behind = database.connect().await;
    let lines = tests::eventually("both lines", async || {
        let lines = super::support::lines(&mut behind).await;
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!(lines, [(1, "erased at erased".to_owned()), (2, "bob at 192.0.2.77".to_owned())]);
    assert_eq!(whole_log(&ledger).await.len(), 2);
}

/// As when a fleet is deployed node by node: whoever is told to stop hands over at once, whatever the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_and_no_event_is_missed_or_dealt_with_twice() {
    let database: Database = database().await;
    let writer = database.ledger();
    let (outbox, stored) = (Outbox::writing(), Arc::new(AtomicUsize::new(0)));
    let counting = Arc::clone(&stored);
    let writing = tokio::spawn(async move {
        for _ in 0..40 {
            counting.fetch_add(happen(&writer, 5).await.len(), Ordering::SeqCst);
        }
    });
    let start = || Running::start(&database.ledger(), &outbox, quick());
    let mut running = vec![start()];
    for round in 1..=4 {
        running.push(start());
        tests::eventually("further events", async || (outbox.asked().len() >= 30 * round).then_some(()))
            .await;
        running.remove(0).stop().await;
    }
    within("the writer", writing).await.unwrap();
    assert_eq!(stored.load(Ordering::SeqCst), 200);
    written(&mut database.connect().await, 1..=200).await;
    assert_eq!(outbox.asked(), (1..=200).collect::<Vec<i64>>());
}
