//! Who comes next: teams take turns, and within a team the most urgent goes first.

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::nodes::{batch, edge, in_all, place, starts, worker};
use super::*;

const NOTHING: &str = "[jobs.nothing]\ncommand = ['true']\n";

fn nothing(priority: u8) -> Value {
    json!({"kind": "nothing", "priority": priority})
}

#[tokio::test]
async fn a_thousand_jobs_of_one_team_do_not_delay_one_of_another() {
    let app = edge(NOTHING).await;
    let (operator, other) = (app.operator(), app.other_team());
    // More urgent and queued before, which is nobody else's concern.
    batch(&operator, vec![nothing(9); 1_000]).await;
    let first = queue(&other, nothing(0)).await;
    let node = worker(&app, NOTHING, 2).await;
    assert_eq!(ended(&other, &first).await.str("status"), "completed");
    assert!(place(&app, &first).await < 6, "{:?}", starts(&app).await);

    // One that comes while they run.
    let second = queue(&other, nothing(0)).await;
    let before = starts(&app).await.len();
    assert_eq!(ended(&other, &second).await.str("status"), "completed");
    let between = place(&app, &second).await.saturating_sub(before);
    assert!(between < 12, "{between} of the other team's went first");
    assert!(starts(&app).await.len() < 900, "there was still somebody to wait for");
    node.stop().await;
}

#[tokio::test]
async fn within_a_team_the_most_urgent_goes_first_and_then_what_was_due_first() {
    let app = edge(NOTHING).await;
    let operator = app.operator();
    let minutes = |minutes| Utc::now() - TimeDelta::minutes(minutes);
    let due = |priority: u8, ago| with(nothing(priority), json!({"run_at": minutes(ago)}));
    let jobs =
        vec![due(5, 1), due(5, 3), due(9, 1), due(0, 60), due(5, 2), due(9, 2), nothing(5), nothing(5)];
    let paths = batch(&operator, jobs).await;
    let node = worker(&app, NOTHING, 1).await;
    in_all(&app, "completed", 8).await;
    let order = [5, 2, 1, 4, 0, 6, 7, 3].map(|n: usize| id(&paths[n]));
    assert_eq!(starts(&app).await, order);
    node.stop().await;
}

#[tokio::test]
async fn urgent_jobs_of_one_team_do_not_starve_another() {
    let app = edge(NOTHING).await;
    batch(&app.operator(), vec![nothing(9); 80]).await;
    let humble = batch(&app.other_team(), vec![nothing(0); 10]).await;
    let nodes = [worker(&app, NOTHING, 1).await, worker(&app, NOTHING, 1).await];
    in_all(&app, "completed", 90).await;
    let mut last = 0;
    for path in &humble {
        last = last.max(place(&app, path).await);
    }
    assert!(last < 45, "the last of ten had to wait for {last}");
    for node in nodes {
        node.stop().await;
    }
}
