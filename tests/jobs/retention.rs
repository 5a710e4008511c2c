//! What jobs logged and left goes when its time is over; what happened to them stays.

use chrono::{TimeDelta, Utc};
use commands::jobs::{Removed, Retention};
use serde_json::json;

use super::*;

fn retention(app: &TestApp) -> Retention {
    Retention { commands: app.commands.clone(), artifacts: app.artifacts(), keep: TimeDelta::days(30) }
}

#[tokio::test]
async fn lines_of_jobs_that_ended_long_ago_are_removed_and_their_events_are_not() {
    let app = shell_app().await;
    let operator = app.operator();
    let (path, _) = run(&operator, script("echo one; echo two >&2")).await;
    let (silent, _) = run(&operator, script("true")).await;
    let (before, job) = (history(&app, &path).await, operator.get(&path).await.expect(200).json);
    let lines = log(&operator, &path).await;
    assert!(lines.len() >= 2);
    assert_eq!(operator.get(&format!("{path}/logs")).await.expect(200).json["expired"], false);

    let retention = retention(&app);
    let now = Utc::now();
    assert_eq!(retention.round(now).await.unwrap(), Removed::default(), "nothing is old");
    let soon = now + TimeDelta::days(30) - TimeDelta::minutes(10);
    assert_eq!(retention.round(soon).await.unwrap(), Removed::default(), "nothing is old enough");
    assert_eq!(log(&operator, &path).await, lines);

    let late = now + TimeDelta::days(31);
    let removed = retention.round(late).await.unwrap();
    assert!(removed.jobs >= 1 && removed.chunks >= 1, "{removed:?}");
    assert!(log(&operator, &path).await.is_empty());
    let page = operator.get(&format!("{path}/logs")).await.expect(200);
    assert_eq!(page.json, json!({"items": [], "next": null, "expired": true}));
    let silent = operator.get(&format!("{silent}/logs")).await.expect(200);
    assert_eq!(silent.json, json!({"items": [], "next": null, "expired": false}), "it never said anything");
    assert_eq!(history(&app, &path).await, before);
    assert_eq!(operator.get(&path).await.expect(200).json, job);
    assert_eq!(retention.round(late).await.unwrap(), Removed::default(), "once");
}

#[tokio::test]
async fn what_runs_waits_or_is_tried_again_keeps_its_lines_however_old_it_is() {
    let app = shell_app().await;
    let operator = app.operator();
    let running = queue(&operator, script(&format!("echo here; {}", wait_for("gate")))).await;
    printed(&operator, &running, "here").await;
    let late = Utc::now() + TimeDelta::days(1_000);
    let retried = json!({"max_attempts": 2, "kind": "shell", "args": {"script": format!("echo failed; [ -e again ] && {}; exit 1", wait_for("gate"))}});
    let retried = queue(&operator, retried).await;
    printed(&operator, &retried, "failed").await;
    assert_eq!(retention(&app).round(late).await.unwrap(), Removed::default());
    assert!(!log(&operator, &running).await.is_empty() && !log(&operator, &retried).await.is_empty());
    open_gate(&app, "gate");
    for path in [&running, &retried] {
        ended(&operator, path).await;
    }
    let removed = retention(&app).round(late).await.unwrap();
    assert_eq!(removed.jobs, 2, "{removed:?}");
}

#[tokio::test]
async fn artifacts_go_with_their_time_and_are_said_to_have_expired() {
    let setup =
        Setup::default().kinds(SHELL).roles(api::server::Roles { worker: false, ..api::server::Roles::ALL });
    let app = TestApp::with(setup).await;
    let operator = app.operator();
    let path = queue(&operator, script("true")).await;
    app.complete_with(id(&path), &app.artifacts(), &[("a.txt", b"hello"), ("sub/b.txt", b"there")]).await;
    let kept = app.folder().join(format!("data/artifacts/{}", app.people.team));
    assert!(kept.join(format!("{}/1/sub/b.txt", id(&path))).exists());
    let (before, late) = (history(&app, &path).await, Utc::now() + TimeDelta::days(31));

    // Several nodes at once: each file is removed by one of them.
    let node = retention(&app);
    let (one, two) = tokio::join!(node.round(late), node.round(late));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.artifacts + two.artifacts, 2, "{one:?} {two:?}");
    assert!(!kept.exists(), "no empty folders are left");

    let listed = operator.get(&format!("{path}/artifacts")).await.expect(200).json;
    let expired: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| &item["expired"]).collect();
    assert_eq!(expired, [true, true]);
    for name in ["a.txt", "sub/b.txt"] {
        let reply = operator.get(&format!("{path}/artifacts/{name}")).await.expect(410);
        assert_eq!(reply.str("code"), "artifact_expired");
    }
    operator.get(&format!("{path}/artifacts/c.txt")).await.expect(404);
    app.other_team().get(&format!("{path}/artifacts/a.txt")).await.expect(404);
    assert_eq!(history(&app, &path).await, before);
    assert_eq!(node.round(late).await.unwrap(), Removed::default());
}

#[tokio::test]
async fn more_jobs_than_are_looked_at_together_all_lose_what_they_left() {
    let setup =
        Setup::default().kinds(SHELL).roles(api::server::Roles { worker: false, ..api::server::Roles::ALL });
    let app = TestApp::with(setup).await;
    let (operator, store) = (app.operator(), app.artifacts());
    let waiting = queue(&operator, script("true")).await;
    for _ in 0..3 {
        let path = queue(&operator, script("true")).await;
        app.complete_with(id(&path), &store, &[("a.txt", b"hello")]).await;
    }
    // Lines and artifacts of jobs that do not exist any more to the log are left alone.
    for _ in 0..250 {
        sqlx::query("insert into job_log_chunks (job_id, first_seq, last_seq, attempt, lines) values ($1, 1, 1, 1, '[]')")
            .bind(uuid::Uuid::now_v7())
            .execute(app.ledger.pool())
            .await
            .unwrap();
    }
    let (path, late) = (queue(&operator, script("true")).await, Utc::now() + TimeDelta::days(31));
    app.complete_with(id(&path), &store, &[("a.txt", b"hello")]).await;
    sqlx::query(
        "insert into job_log_chunks (job_id, first_seq, last_seq, attempt, lines) \
         select $1, n, n, 1, '[]' from generate_series(1, 2500) n",
    )
    .bind(id(&path).parse::<uuid::Uuid>().unwrap())
    .execute(app.ledger.pool())
    .await
    .unwrap();
    let removed = retention(&app).round(late).await.unwrap();
    assert_eq!(removed, Removed { jobs: 5, chunks: 2_500, artifacts: 4 });
    assert_eq!(operator.get(&waiting).await.expect(200).str("status"), "pending");
}
