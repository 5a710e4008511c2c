//! What is true when a process ends, or is thought to have ended, in the middle of an event.

use tests::eventually;

use super::support::{Act, Gate, Outbox, Running, brief, database, happen, lines, quick, written};

/// The gate holds up the second event.
fn held_up(act: fn(Gate) -> Act, gate: &Gate) -> Outbox {
    let gate = gate.clone();
    Outbox::new(move |event| match event.position {
        2 => act(gate.clone()),
        position => Act::Write(position.to_string()),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_taken_over_and_its_event_dealt_with_again() {
    let database = database().await;
    let (nodes, mut behind) = ([database.ledger(), database.ledger()], database.connect().await);
    happen(&nodes[0], 4).await;
    let gate = Gate::closed();
    let (first, second) = (held_up(Act::WaitAndWrite, &gate), Outbox::writing());
    let killed = Running::start(&nodes[0], &first, brief());
    gate.reached(1).await;
    killed.kill().await;
    let _other = Running::start(&nodes[1], &second, quick());
    written(&mut behind, 1..=4).await;
    assert_eq!(first.asked(), [1, 2]);
    assert_eq!(second.asked(), [2, 3, 4], "the event whose effect may or may not have happened is repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_between_effect_and_commit_has_stored_neither_effect_nor_cursor() {
    let database = database().await;
    let (nodes, mut behind) = ([database.ledger(), database.ledger()], database.connect().await);
    happen(&nodes[0], 3).await;
    let gate = Gate::closed();
    let first = held_up(Act::WriteAndWait, &gate);
    let killed = Running::start(&nodes[0], &first, brief());
    gate.reached(1).await;
    killed.kill().await;
    assert_eq!(lines(&mut behind).await, [(1, "1".to_owned())]);
    let position: i64 =
        sqlx::query_scalar("select position from reactors").fetch_one(&mut behind).await.unwrap();
    assert_eq!(position, 1);
    let _other = Running::start(&nodes[1], &Outbox::writing(), quick());
    written(&mut behind, 1..=3).await;
}

/// It was cut off for longer than its lease, say, and comes back in the middle of its event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_thought_dead_stores_nothing_any_more() {
    let database = database().await;
    let (nodes, mut behind) = ([database.ledger(), database.ledger()], database.connect().await);
    happen(&nodes[0], 3).await;
    let gates = [Gate::closed(), Gate::closed()];
    let [first, second] = gates.each_ref().map(|gate| held_up(Act::WaitAndWrite, gate));
    // It does not look whether it still has its place while this test lasts.
    let returning = Running::start(&nodes[0], &first, quick());
    gates[0].reached(1).await;
    sqlx::query("update reactors set held_until = clock_timestamp() - interval '1 s'")
        .execute(&mut behind)
        .await
        .unwrap();
    let other = Running::start(&nodes[1], &second, quick());
    gates[1].reached(1).await;
    // Both are at the same event now. The first one goes on, and ends.
    gates[0].open();
    returning.stop().await;
    assert_eq!(lines(&mut behind).await, [(1, "1".to_owned())]);
    gates[1].open();
    written(&mut behind, 1..=3).await;
    assert_eq!((first.asked(), second.asked()), (vec![1, 2], vec![2, 3]));
    other.stop().await;
}

/// Whoever is not sure any more that it may work stops working, wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reaction_is_dropped_when_another_process_has_taken_over() {
    let database = database().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    happen(&ledger, 2).await;
    let gate = Gate::closed();
    let outbox = held_up(Act::WaitAndWrite, &gate);
    let _running = Running::start(&ledger, &outbox, brief());
    gate.reached(1).await;
    let taken = "update reactors set holder = '00000000-0000-7000-8000-000000000000', \
                 held_until = clock_timestamp() + interval '1 s'";
    sqlx::query(taken).execute(&mut behind).await.unwrap();
    // Dropped, and begun again once the other has fallen silent.
    gate.reached(2).await;
    assert_eq!(lines(&mut behind).await, [(1, "1".to_owned())]);
    gate.open();
    written(&mut behind, 1..=2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_stop_ends_its_reaction_first() {
    let database = database().await;
    let (ledger, mut behind) = (database.ledger(), database.connect().await);
    happen(&ledger, 3).await;
    let gate = Gate::closed();
    let outbox = held_up(Act::WaitAndWrite, &gate);
    let running = Running::start(&ledger, &outbox, quick());
    gate.reached(1).await;
    let mut stopping = Box::pin(running.stop());
    assert!(futures::poll!(&mut stopping).is_pending());
    gate.open();
    stopping.await;
    written(&mut behind, 1..=2).await;
    let holder: Option<uuid::Uuid> =
        sqlx::query_scalar("select holder from reactors").fetch_one(&mut behind).await.unwrap();
    assert_eq!(holder, None, "the next need not wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_stop_does_not_wait_for_ever_for_its_reaction() {
    let database = database().await;
    let ledger = database.ledger();
    happen(&ledger, 2).await;
    let gate = Gate::closed();
    let running = Running::start(&ledger, &held_up(Act::WaitAndWrite, &gate), quick());
    gate.reached(1).await;
    running.stop().await;
    let _next = Running::start(&ledger, &Outbox::writing(), quick());
    let mut behind = database.connect().await;
    eventually("the next goes on", async || (lines(&mut behind).await.len() == 2).then_some(())).await;
}
