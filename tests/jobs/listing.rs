//! Lists of jobs, other teams' jobs, and a job's history.

use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::*;

fn ids(page: &Reply) -> Vec<String> {
    let items = page.json["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_are_filtered_paged_and_trimmed() {
    let kinds = format!("{SHELL}\n[jobs.nothing]\ncommand = ['true']\n");
    let app = TestApp::with(Setup::default().kinds(&kinds)).await;
    let operator = app.operator();
    let mut newest_first = vec![];
    for index in 0..7 {
        let body = match index {
            0 => script("exit 1"),
            1 => with(json!({"kind": "nothing"}), json!({"run_at": "2999-01-01T00:00:00Z"})),
            _ => json!({"kind": "nothing"}),
        };
        let path = queue(&operator, body).await;
        if index != 1 {
            ended(&operator, &path).await;
        }
        newest_first.insert(0, id(&path).to_owned());
    }
    let all = app.viewer().get("/api/jobs").await.expect(200);
    assert_eq!((ids(&all), &all.json["next"]), (newest_first.clone(), &Value::Null));
    let mut paged = vec![];
    let mut page = operator.get("/api/jobs?limit=3").await.expect(200);
    loop {
        paged.extend(ids(&page));
        let Some(next) = page.json["next"].as_str() else { break };
        // What is queued meanwhile does not disturb who reads on.
        queue(&operator, json!({"kind": "nothing"})).await;
        page = operator.get(&format!("/api/jobs?limit=3&cursor={next}")).await.expect(200);
    }
    assert_eq!(paged, newest_first);

    let get = async |query: &str| operator.get(&format!("/api/jobs?{query}")).await;
    assert_eq!(ids(&get("status=failed").await.expect(200)), newest_first[6..]);
    assert_eq!(ids(&get("kind=shell").await.expect(200)), newest_first[6..]);
    assert_eq!(
        ids(&get("status=pending&kind=nothing&limit=200").await.expect(200)).last(),
        Some(&newest_first[5])
    );
    assert!(ids(&get("status=running&kind=shell").await.expect(200)).is_empty());
    assert!(ids(&get("kind=no-such-kind").await.expect(200)).is_empty());
    let trimmed = get("status=failed&fields=status,exit_code").await.expect(200);
    assert_eq!(trimmed.json["items"], json!([{"status": "failed", "exit_code": 1}]));

    let cursor = get("limit=1").await.expect(200).str("next").to_owned();
    for (query, field) in [
        ("status=lost".to_owned(), "status"),
        ("fields=id,password".to_owned(), "fields"),
        ("limit=0".to_owned(), "limit"),
        ("limit=many".to_owned(), "limit"),
        ("cursor=AAAA".to_owned(), "cursor"),
        ("order=asc".to_owned(), "order"),
        (format!("kind=shell&cursor={cursor}"), "cursor"),
        (format!("cursor={cursor}x"), "cursor"),
    ] {
        assert_eq!(get(&query).await.expect(422).fields(), [field], "{query}");
    }
    let strange = app.other_team().get(&format!("/api/jobs?cursor={cursor}")).await.expect(422);
    assert_eq!(strange.fields(), ["cursor"]);
}

#[tokio::test]
async fn another_teams_jobs_are_not_there() {
    let app = shell_app().await;
    let (path, _) = run(&app.operator(), script("echo ours")).await;
    let stranger = app.other_team();
    for path in [path.clone(), format!("{path}/logs")] {
        assert_eq!(stranger.get(&path).await.expect(404).header("content-type"), "application/problem+json");
    }
    stranger.post(&format!("{path}/cancel"), json!({})).await.expect(404);
    stranger.get(&format!("/api/audit/job/{}/history", id(&path))).await.expect(404);
    stranger.get(&format!("/api/audit/job/{}/state", id(&path))).await.expect(404);
    assert!(ids(&stranger.get("/api/jobs").await.expect(200)).is_empty());
    assert_eq!(app.operator().get(&path).await.expect(200).str("status"), "completed");
}

#[tokio::test]
async fn the_history_of_a_retried_job_shows_who_asked_and_who_ran_each_attempt() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let text = r#"echo '{"rows": 3}' > "$DAYBOOK_RESULT"; [ $DAYBOOK_ATTEMPT = 2 ] || exit 4"#;
    let asked = app.operator().with_header("x-request-id", "the-walk");
    let (path, job) = run(&asked, with(script(text), json!({"max_attempts": 2}))).await;
    let auditor = app.auditor();
    let history = auditor.get(&format!("/api/audit/job/{}/history", id(&path))).await.expect(200);
    let history = history.json["items"].as_array().unwrap();
    let names: Vec<_> = history.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["JobQueued", "JobStarted", "JobAttemptFailed", "JobStarted", "JobCompleted"]);
    assert_eq!(history[0]["actor"], format!("user:{}", app.people.operator));
    assert_eq!((&history[0]["request_id"], &history[0]["ip"]), (&json!("the-walk"), &json!("127.0.0.1")));
    assert!(history[1..].iter().all(|event| event["actor"] == "system"));
    let change = |event: &Value, field: &str| {
        let changes = event["changes"].as_array().unwrap();
        let change = changes.iter().find(|change| change["field"] == field);
        change.map(|change| (change["before"].clone(), change["after"].clone()))
    };
    let worker = job.json["worker"].clone();
    assert_eq!(change(&history[1], "worker"), Some((Value::Null, worker)));
    assert_eq!(change(&history[1], "attempt"), Some((json!(0), json!(1))));
    assert_eq!(change(&history[2], "exit_code"), Some((Value::Null, json!(4))));
    assert_eq!(change(&history[3], "attempt"), Some((json!(1), json!(2))));
    assert_eq!(change(&history[4], "status"), Some((json!("running"), json!("completed"))));
    assert_eq!(
        change(&history[2], "result"),
        Some((Value::Null, json!({"rows": 3}))),
        "a failed one leaves it too"
    );

    // As it was before the second attempt began.
    let as_of = history[2]["position"].as_i64().unwrap();
    let then = auditor.get(&format!("/api/audit/job/{}/state?as_of={as_of}", id(&path))).await.expect(200);
    assert_eq!(
        (&then.json["state"]["status"], &then.json["state"]["attempt"]),
        (&json!("pending"), &json!(1))
    );
    let before = history[0]["position"].as_i64().unwrap() - 1;
    auditor.get(&format!("/api/audit/job/{}/state?as_of={before}", id(&path))).await.expect(404);
}
