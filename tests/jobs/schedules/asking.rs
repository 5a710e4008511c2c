//! Asking for schedules: what is refused, what is shown, who may.

use futures::future::join_all;

use super::*;

#[tokio::test]
async fn what_is_wrong_is_named_field_by_field_and_nothing_is_made() {
    let app = idle().await;
    let operator = app.operator();
    let usual = json!({"name": "s", "kind": "nothing", "cron": "@daily"});
    let but = |more: Value| super::super::with(usual.clone(), more);
    let cases = [
        (json!({"name": "s", "kind": "nothing"}), vec!["cron"]),
        (but(json!({"run_at": "2999-01-01T00:00:00Z"})), vec!["run_at"]),
        (json!({"name": "s", "kind": "nothing", "run_at": "2020-01-01T00:00:00Z"}), vec!["run_at"]),
        (
            json!({"name": "s", "kind": "nothing", "run_at": "2999-01-01T00:00:00Z", "time_zone": "UTC"}),
            vec!["time_zone"],
        ),
        (but(json!({"run_at": "tomorrow"})), vec!["run_at"]),
        (but(json!({"cron": ""})), vec!["cron"]),
        (but(json!({"cron": "every day"})), vec!["cron"]),
        (but(json!({"cron": "60 * * * *"})), vec!["cron"]),
        (but(json!({"cron": "* * * * * * *"})), vec!["cron"]),
        (but(json!({"cron": "0 0 30 2 *"})), vec!["cron"]),
        (but(json!({"cron": "* * * *\n*"})), vec!["cron"]),
        (but(json!({"cron": "* ".repeat(200)})), vec!["cron"]),
        (but(json!({"cron": "٣ * * * *"})), vec!["cron"]),
        (but(json!({"time_zone": "Europe/Atlantis"})), vec!["time_zone"]),
        (but(json!({"time_zone": ""})), vec!["time_zone"]),
        (but(json!({"time_zone": "../etc/passwd"})), vec!["time_zone"]),
        (but(json!({"kind": "nope"})), vec!["kind"]),
        (but(json!({"kind": "No Kind"})), vec!["kind"]),
        (but(json!({"args": {"x": 1}})), vec!["args.x"]),
        (but(json!({"kind": "report", "args": {"day": "today"}})), vec!["args.day"]),
        (but(json!({"name": ""})), vec!["name"]),
        (but(json!({"name": "a\u{0}b"})), vec!["name"]),
        (but(json!({"catch_up": "some"})), vec!["catch_up"]),
        (but(json!({"catch_up_window_seconds": 59})), vec!["catch_up_window_seconds"]),
        (but(json!({"catch_up_window_seconds": 604_801})), vec!["catch_up_window_seconds"]),
        (but(json!({"priority": 10})), vec!["priority"]),
        (but(json!({"max_attempts": 0})), vec!["max_attempts"]),
        (but(json!({"timeout_seconds": 86_401})), vec!["timeout_seconds"]),
        (but(json!({"concurrency_key": ""})), vec!["concurrency_key"]),
        (but(json!({"when": "now"})), vec!["when"]),
        (but(json!({"cron": "x", "name": "", "catch_up": "some"})), vec!["name", "catch_up"]),
    ];
    for (body, fields) in cases {
        let refused = operator.post("/api/schedules", body.clone()).await.expect(422);
        assert_eq!(refused.fields(), fields, "{body}: {}", refused.text);
    }
    assert_eq!(operator.get("/api/schedules").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn the_next_ten_runs_are_shown_by_both_clocks() {
    let app = idle().await;
    let operator = app.operator();
    let body = json!({"cron": "30 2 29 3 *", "time_zone": "Europe/Berlin"});
    let path = schedule(&operator, body).await;
    let preview = app.viewer().get(&format!("{path}/preview")).await.expect(200);
    let items = preview.json["items"].as_array().unwrap();
    assert_eq!(items.len(), 10);
    for item in items {
        let (run_at, local) = (moment(&item["run_at"]), moment(&item["local"]));
        assert_eq!(run_at, local);
        assert!(run_at > Utc::now());
    }
    // On this day of these years the clocks leave out half past two.
    for item in items {
        let local = item["local"].as_str().unwrap();
        let sunday =
            local.starts_with("2026") || local.starts_with("2037") || local.starts_with("2032-03-28");
        assert!(
            local.ends_with("T02:30:00+02:00") || local.ends_with("T02:30:00+01:00") || sunday,
            "{local}"
        );
    }
    operator.patch(&path, json!({"cron": "*/15 * * * *"})).await.expect(200);
    let preview = operator.get(&format!("{path}/preview")).await.expect(200);
    let items = preview.json["items"].as_array().unwrap();
    let moments: Vec<_> = items.iter().map(|item| moment(&item["run_at"])).collect();
    assert!(moments.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::minutes(15)), "{moments:?}");
    let shown = show(&operator, &path).await;
    assert_eq!(shown.json["next_run_at"], items[0]["run_at"]);
    // A paused one shows what there would be.
    operator.patch(&path, json!({"paused": true})).await.expect(200);
    let paused = operator.get(&format!("{path}/preview")).await.expect(200);
    assert_eq!(paused.json["items"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn a_schedule_is_made_changed_and_ended() {
    let app = idle().await;
    let operator = app.operator();
    let made = operator
        .post("/api/schedules", json!({"name": "s", "kind": "nothing", "cron": "@hourly", "priority": 7}))
        .await
        .expect(201);
    assert_eq!((made.str("time_zone"), made.str("catch_up")), ("UTC", "last"));
    assert_eq!(
        (&made.json["catch_up_window_seconds"], &made.json["paused"]),
        (&json!(86_400), &json!(false))
    );
    assert_eq!(made.str("created_by"), format!("user:{}", app.people.operator));
    assert_eq!(made.header("etag"), "\"1\"");
    let path = format!("/api/schedules/{}", made.str("id"));
    assert_eq!(show(&operator, &path).await.json, made.json);

    let mine = operator.with_header("if-match", "\"1\"");
    let change =
        json!({"cron": "0 3 * * *", "time_zone": "America/New_York", "priority": null, "catch_up": "all"});
    let changed = mine.patch(&path, change.clone()).await.expect(200);
    assert_eq!((changed.str("cron"), changed.str("time_zone")), ("0 3 * * *", "America/New_York"));
    assert_eq!((&changed.json["priority"], changed.str("catch_up")), (&json!(null), "all"));
    assert_eq!((changed.str("name"), changed.header("etag")), ("s", "\"2\""));
    assert_ne!(changed.json["next_run_at"], made.json["next_run_at"]);
    mine.patch(&path, json!({"name": "t"})).await.expect(412);
    // Nothing new is no event.
    assert_eq!(operator.patch(&path, change).await.expect(200).header("etag"), "\"2\"");
    for (wrong, field) in [
        (json!({"cron": "nonsense"}), "cron"),
        (json!({"time_zone": "Nowhere"}), "time_zone"),
        (json!({"kind": "nope"}), "kind"),
        (json!({"args": {"x": 1}}), "args.x"),
        (json!({"run_at": "2999-01-01T00:00:00Z", "cron": "@daily"}), "run_at"),
        (json!({"run_at": "2020-01-01T00:00:00Z"}), "run_at"),
    ] {
        let refused = operator.patch(&path, wrong.clone()).await.expect(422);
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    let once = operator.patch(&path, json!({"run_at": "2999-01-01T00:00:00Z"})).await.expect(200);
    assert_eq!((&once.json["cron"], once.str("next_run_at")), (&json!(null), "2999-01-01T00:00:00.000Z"));
    let refused = operator.patch(&path, json!({"time_zone": "Europe/Berlin"})).await.expect(422);
    assert_eq!(refused.fields(), ["time_zone"]);
    let again = operator.patch(&path, json!({"cron": "@daily"})).await.expect(200);
    assert_eq!((again.str("time_zone"), &again.json["run_at"]), ("UTC", &json!(null)));

    operator.with_header("if-match", "\"1\"").delete(&path).await.expect(412);
    operator.delete(&path).await.expect(204);
    operator.get(&path).await.expect(404);
    operator.patch(&path, json!({"paused": true})).await.expect(404);
    operator.delete(&path).await.expect(404);
    assert_eq!(operator.get("/api/schedules").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn names_are_unique_in_a_team_and_free_again() {
    let app = idle().await;
    let operator = app.operator();
    let body = |name: &str| json!({"name": name, "kind": "nothing", "cron": "@daily"});
    let made = join_all((0..8).map(|_| operator.post("/api/schedules", body("one")))).await;
    assert_eq!(made.iter().filter(|made| made.status == 201).count(), 1);
    assert!(made.iter().all(|made| made.status == 201 || made.str("code") == "name_taken"));
    app.other_team().post("/api/schedules", body("one")).await.expect(201);
    let two = operator.post("/api/schedules", body("two")).await.expect(201);
    let path = format!("/api/schedules/{}", two.str("id"));
    assert_eq!(operator.patch(&path, json!({"name": "one"})).await.expect(409).str("code"), "name_taken");
    operator.patch(&path, json!({"name": "three"})).await.expect(200);
    operator.post("/api/schedules", body("two")).await.expect(201);
    operator.delete(&path).await.expect(204);
    operator.post("/api/schedules", body("three")).await.expect(201);
    let names = |page: &Reply| -> Vec<String> {
        let items = page.json["items"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = operator.get("/api/schedules?limit=2").await.expect(200);
    let rest = format!("/api/schedules?limit=2&cursor={}", first.str("next"));
    let rest = operator.get(&rest).await.expect(200);
    assert_eq!((names(&first), names(&rest)), (vec!["one".into(), "three".into()], vec!["two".into()]));
    let paused = operator.get("/api/schedules?paused=true&kind=nothing&fields=id").await.expect(200);
    assert_eq!(paused.json["items"], json!([]));
}

#[tokio::test]
async fn a_repeated_request_makes_one_schedule() {
    let app = idle().await;
    let keyed = app.operator().with_header("idempotency-key", "monday");
    let body = json!({"name": "one", "kind": "nothing", "cron": "@daily"});
    let first = keyed.post("/api/schedules", body.clone()).await.expect(201);
    let again = keyed.post("/api/schedules", body).await.expect(201);
    assert_eq!(first.json, again.json);
    let other = json!({"name": "two", "kind": "nothing", "cron": "@daily"});
    assert_eq!(keyed.post("/api/schedules", other).await.expect(422).str("code"), "idempotency_key_reused");
}

#[tokio::test]
async fn a_viewer_looks_and_does_not_touch_and_another_team_sees_nothing() {
    let app = idle().await;
    let path = schedule(&app.operator(), json!({"cron": "@daily"})).await;
    let viewer = app.viewer();
    show(&viewer, &path).await;
    viewer
        .post("/api/schedules", json!({"name": "v", "kind": "nothing", "cron": "@daily"}))
        .await
        .expect(403);
    viewer.patch(&path, json!({"paused": true})).await.expect(403);
    viewer.delete(&path).await.expect(403);
    let stranger = app.other_team();
    stranger.get(&path).await.expect(404);
    stranger.get(&format!("{path}/preview")).await.expect(404);
    stranger.patch(&path, json!({"paused": true})).await.expect(404);
    stranger.delete(&path).await.expect(404);
    assert_eq!(stranger.get("/api/schedules").await.expect(200).json["items"], json!([]));
    app.auditor().get(&path).await.expect(403);
}
