//! What became of jobs, counted; and what happened in a team.

use chrono::{Days, Utc};
use serde_json::{Value, json};

use super::*;

const KINDS: &str = r#"
[jobs.shell]
description = "Runs a script"
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }

[jobs.nothing]
description = "Does nothing"
command = ["true"]
"#;

/// Days on which whatever a test does is done, also around midnight.
fn days() -> String {
    let today = Utc::now().date_naive();
    let (from, to) =
        (today.checked_sub_days(Days::new(1)).unwrap(), today.checked_add_days(Days::new(1)).unwrap());
    format!("from={from}&to={to}")
}

fn group<'a>(report: &'a Value, name: &str) -> &'a Value {
    let items = report["items"].as_array().unwrap();
    items.iter().find(|item| item["group"] == name).unwrap_or(&Value::Null)
}

fn counts(of: &Value) -> [u64; 5] {
    ["queued", "completed", "failed", "cancelled", "attempts"].map(|field| of[field].as_u64().unwrap())
}

/// Two that end well, one of them of another kind; one that fails twice; one that is cancelled before it runs.
async fn a_day_of_jobs(app: &TestApp) {
    let operator = app.operator();
    run(&operator, script("sleep 0.3")).await;
    run(&operator, json!({"kind": "nothing"})).await;
    let failing = with(script("exit 1"), json!({"max_attempts": 2}));
    let (_, job) = run(&operator, failing).await;
    assert_eq!(job.str("status"), "failed");
    let later = queue(&operator, with(script("true"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    operator.post(&format!("{later}/cancel"), Value::Null).await.expect(200);
}

#[tokio::test]
async fn jobs_are_counted_by_kind_day_and_status_for_their_team_alone() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    a_day_of_jobs(&app).await;
    let (viewer, days) = (app.viewer(), days());
    let report =
        async |more: &str| viewer.get(&format!("/api/reports/jobs?{days}{more}")).await.expect(200).json;

    let by_kind = report("").await;
    assert_eq!(by_kind["group_by"], "kind");
    assert_eq!(by_kind["items"].as_array().unwrap().len(), 2, "{by_kind}");
    assert_eq!(counts(group(&by_kind, "nothing")), [1, 1, 0, 0, 1]);
    let shell = group(&by_kind, "shell");
    assert_eq!(counts(shell), [3, 1, 1, 1, 3], "{shell}");
    assert_eq!((shell["retried"].as_u64(), shell["lost"].as_u64()), (Some(1), Some(0)));
    assert_eq!(shell["success_rate"], 0.5);
    assert_eq!(group(&by_kind, "nothing")["success_rate"], 1.0);
    assert!(shell["p50_milliseconds"].as_u64().unwrap() >= 290, "it slept for 300 ms: {shell}");
    assert_eq!(shell["p50_milliseconds"], shell["p95_milliseconds"], "one attempt did its work");
    assert_eq!(counts(&by_kind["total"]), [4, 2, 1, 1, 4]);

    let by_day = report("&group_by=day").await;
    let all = by_day["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(counts)
        .fold([0; 5], |sum, more| std::array::from_fn(|n| sum[n] + more[n]));
    assert_eq!((all, &by_day["total"]), ([4, 2, 1, 1, 4], &by_kind["total"]));

    let by_status = report("&group_by=status").await;
    let names: Vec<_> =
        by_status["items"].as_array().unwrap().iter().map(|item| item["group"].clone()).collect();
    assert_eq!(names, ["pending", "completed", "failed", "cancelled"]);
    assert_eq!(counts(group(&by_status, "pending")), [4, 0, 0, 0, 1], "queued, and put back once");
    assert_eq!(counts(group(&by_status, "completed")), [0, 2, 0, 0, 2]);
    assert_eq!(counts(group(&by_status, "failed")), [0, 0, 1, 0, 1]);
    assert_eq!(counts(group(&by_status, "cancelled")), [0, 0, 0, 1, 0]);
    assert_eq!(by_status["total"], by_kind["total"]);

    assert_eq!(
        report("&kind=nothing").await["total"],
        json!({
            "group": null, "queued": 1, "completed": 1, "failed": 0, "cancelled": 0, "attempts": 1, "retried": 0, "lost": 0,
            "handed_back": 0, "success_rate": 1.0,
            "p50_milliseconds": group(&by_kind, "nothing")["p50_milliseconds"],
            "p95_milliseconds": group(&by_kind, "nothing")["p95_milliseconds"],
        })
    );
    let nothing = report("&kind=no-such%00kind").await;
    assert_eq!((&nothing["items"], &nothing["total"]["success_rate"]), (&json!([]), &Value::Null));
    let before =
        viewer.get("/api/reports/jobs?from=2020-01-01&to=2020-12-31T23:59:59Z").await.expect(200).json;
    assert_eq!((before["from"].clone(), before["to"].clone()), (json!("2020-01-01"), json!("2020-12-31")));
    assert_eq!((&before["items"], counts(&before["total"])), (&json!([]), [0; 5]));

    let other = app.other_team().get(&format!("/api/reports/jobs?{days}")).await.expect(200).json;
    assert_eq!((&other["items"], counts(&other["total"])), (&json!([]), [0; 5]));
    app.auditor().get("/api/reports/jobs").await.expect(403);
}

#[tokio::test]
async fn wrong_days_and_groups_are_refused_by_name() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-03-02&to=2026-03-01", "from"),
        ("from=2024-01-01&to=2026-01-01", "from"),
        ("to=-0001-01-01", "to"),
        ("group_by=worker", "group_by"),
        ("colour=red", "colour"),
    ] {
        let reply = app.viewer().get(&format!("/api/reports/jobs?{query}")).await.expect(422);
        assert!(reply.fields().contains(&field) || reply.text.contains(field), "{query}: {}", reply.text);
        if field != "colour" && field != "group_by" {
            let reply = app.auditor().get(&format!("/api/reports/activity?{query}")).await.expect(422);
            assert_eq!(reply.fields(), [field], "{query}");
        }
    }
    let both = app.viewer().get("/api/reports/jobs?from=x&to=y").await.expect(422);
    assert_eq!(both.fields(), ["from", "to"]);
    let month = "/api/reports/activity?from=2026-01-01&to=2026-03-01";
    assert_eq!(app.auditor().get(month).await.expect(422).fields(), ["from"], "31 days at most");
}

#[tokio::test]
async fn a_jobs_own_document_is_its_result_as_far_as_there_is_one() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let body = r#"printf '{"answer": 42, "nested": [1.5, "ä"]}' > "$DAYBOOK_RESULT""#;
    let (path, _) = run(&operator, script(body)).await;
    let document = app.viewer().get(&path.replace("/jobs/", "/reports/jobs/")).await.expect(200);
    let job = operator.get(&path).await.expect(200);
    assert_eq!(
        document.json,
        json!({
            "job_id": id(&path), "kind": "shell", "status": "completed", "attempt": 1,
            "finished_at": job.json["finished_at"], "result": {"answer": 42, "nested": [1.5, "ä"]}, "artifacts": [],
        })
    );
    let later = queue(&operator, with(script("true"), json!({"run_at": "2999-01-01T00:00:00Z"}))).await;
    let none = operator.get(&later.replace("/jobs/", "/reports/jobs/")).await.expect(200);
    assert_eq!(
        (none.str("status"), &none.json["result"], &none.json["finished_at"]),
        ("pending", &Value::Null, &Value::Null)
    );
    app.other_team().get(&path.replace("/jobs/", "/reports/jobs/")).await.expect(404);
    operator.get("/api/reports/jobs/no-id").await.expect(404);
}

#[tokio::test]
async fn activity_is_told_to_auditors_and_recorded() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let (path, _) = run(&operator, json!({"kind": "nothing"})).await;
    let url = format!("/api/reports/activity?{}", days());
    for refused in [app.operator(), app.viewer()] {
        refused.get(&url).await.expect(403);
    }
    let found = app.auditor().get(&url).await.expect(200).json;
    assert_eq!(found["complete"], true);
    let sum = |list: &str, name: &str, wanted: &str| -> u64 {
        let days = found["items"].as_array().unwrap().iter();
        let entries = days.flat_map(|day| day[list].as_array().unwrap());
        entries.filter(|entry| entry[name] == wanted).map(|entry| entry["events"].as_u64().unwrap()).sum()
    };
    for (event, count) in [("JobQueued", 1), ("JobStarted", 1), ("JobCompleted", 1), ("AccessRefused", 2)] {
        assert_eq!(sum("by_type", "type", event), count, "{event}: {found}");
    }
    let by_operator = sum("by_actor", "actor", &format!("user:{}", app.people.operator));
    assert!(by_operator >= 2, "queued, and was refused: {found}");
    for day in found["items"].as_array().unwrap() {
        let all: u64 =
            day["by_type"].as_array().unwrap().iter().map(|entry| entry["events"].as_u64().unwrap()).sum();
        assert_eq!(day["events"], all);
    }
    let events = app.auditor().get("/api/audit/events?type=AuditRead").await.expect(200).json;
    assert!(events.to_string().contains("/reports/activity"), "{events}");
    // What another team does is nobody else's to know.
    let other = app.other_team().get(&url).await.expect(200).json.to_string();
    assert!(!other.contains("JobQueued") && !other.contains(id(&path)), "{other}");
    assert!(app.admin().get(&url).await.expect(200).json.to_string().contains("JobQueued"));
}
