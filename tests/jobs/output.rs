//! What jobs print, report and leave behind.

use ledger::Sha256;
use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::*;

/// The digest in the event of this name.
async fn digest(app: &TestApp, path: &str, event: &str) -> Value {
    let history = history(app, path).await;
    let payload = &history.iter().find(|recorded| recorded.event_type == event).unwrap().payload;
    payload.value()[event]["log"].clone()
}

/// What the digest of these lines must be.
fn expected(lines: &[Value], dropped: u64) -> Value {
    let mut sha256 = Sha256::default();
    for line in lines {
        let [stream, text] = ["stream", "text"].map(|field| line[field].as_str().unwrap());
        sha256.update(format!("{}\t{stream}\t{text}\n", line["seq"]));
    }
    json!({"lines": lines.len(), "dropped": dropped, "sha256": sha256.finish()})
}

#[tokio::test]
async fn a_hundred_megabytes_are_bounded_and_say_so() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("MAX_LOG_LINES", 300)).await;
    let operator = app.operator();
    let text = "yes 012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -c 100000000; echo done >&2";
    let (path, job) = run(&operator, script(text)).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    let lines = log(&operator, &path).await;
    assert_eq!(lines.len(), 301);
    assert_eq!(lines[300]["stream"], "system");
    assert_eq!(lines[300]["text"], "output limit of 300 lines reached; the rest is not stored");
    assert_eq!(digest(&app, &path, "JobCompleted").await, expected(&lines, 1_000_000 - 300 + 1));
}

#[tokio::test]
async fn odd_bytes_become_text() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = r"printf 'a\377b\000c\r\n\n'; printf 'no end' >&2; printf '\360\237\246\200\n'";
    let (path, job) = run(&operator, script(text)).await;
    assert_eq!(job.str("status"), "completed");
    assert_eq!(texts(&operator, &path, "stdout").await, ["a\u{FFFD}b\u{FFFD}c", "", "🦀"]);
    assert_eq!(texts(&operator, &path, "stderr").await, ["no end"]);
    let lines = log(&operator, &path).await;
    assert_eq!(digest(&app, &path, "JobCompleted").await, expected(&lines, 0));
}

#[tokio::test]
async fn progress_shows_while_the_job_runs() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = format!("echo ::progress 0.4; {}; exit 1", wait_for("go"));
    let path = queue(&operator, script(&text)).await;
    when("progress", &operator, &path, |job| job.json["progress"] == 0.4).await;
    let listed = operator.get("/api/jobs?status=running&fields=id,progress").await.expect(200);
    assert_eq!(listed.json["items"], json!([{"id": id(&path), "progress": 0.4}]));
    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["progress"]), ("failed", &Value::Null));
    assert!(log(&operator, &path).await.is_empty(), "a report of progress is no line");
    let (_, done) = run(&operator, script("true")).await;
    assert_eq!(done.json["progress"], 1.0);
}

#[tokio::test]
async fn the_result_is_kept_and_a_bad_one_is_a_remark() {
    let app = shell_app().await;
    let operator = app.operator();
    let good = r#"echo '{"rows": 3, "of": ["a", null]}' > "$DAYBOOK_RESULT""#;
    let (_, job) = run(&operator, script(good)).await;
    assert_eq!(job.json["result"], json!({"rows": 3, "of": ["a", null]}));
    let (path, job) = run(&operator, script(r#"echo '{"rows":' > "$DAYBOOK_RESULT""#)).await;
    assert_eq!((job.str("status"), &job.json["result"]), ("completed", &Value::Null));
    let remarks = texts(&operator, &path, "system").await;
    assert!(remarks[0].starts_with("the result is not valid JSON"), "{remarks:?}");
    let large = r#"head -c 1100000 /dev/zero | tr '\0' x > "$DAYBOOK_RESULT""#;
    let (path, _) = run(&operator, script(large)).await;
    assert_eq!(texts(&operator, &path, "system").await, ["the result is larger than 1 MiB and was not kept"]);
}

#[tokio::test]
async fn a_result_that_is_too_deep_is_a_remark_and_everything_goes_on() {
    let app = shell_app().await;
    let operator = app.operator();
    // serde_json reads 127 levels, and the event around the result adds some.
    for levels in [65, 125, 126, 127, 5_000] {
        let nested = format!("printf '%{levels}s' | tr ' ' '['; printf '%{levels}s' | tr ' ' ']'");
        for text in [format!("({nested}) > \"$DAYBOOK_RESULT\""), nested] {
            let (path, job) = run(&operator, script(&text)).await;
            assert_eq!((job.str("status"), &job.json["result"]), ("completed", &Value::Null), "{levels}");
            let [remark] = &texts(&operator, &path, "system").await[..] else { panic!("one remark") };
            let expected = if levels > 127 { "is not valid JSON" } else { "has more than 64 levels" };
            assert!(remark.contains(expected), "{levels}: {remark}");
        }
    }
    let kept = format!("echo '{}{}'", "[".repeat(64), "]".repeat(64));
    let (_, job) = run(&operator, script(&kept)).await;
    assert!(job.json["result"].is_array(), "64 levels are kept: {}", job.text);
}

#[tokio::test]
async fn a_log_is_read_in_pages_and_parts_and_is_dense_through_all_attempts() {
    let app = TestApp::with(Setup::default().kinds(SHELL).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let operator = app.operator();
    let text = "i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo \"Line $i\"; done; echo Problem $DAYBOOK_ATTEMPT >&2; exit 1";
    let (path, job) = run(&operator, with(script(text), json!({"max_attempts": 2}))).await;
    assert_eq!((job.str("status"), &job.json["attempt"]), ("failed", &json!(2)));

    let lines = log(&operator, &path).await;
    let seqs: Vec<u64> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=242).collect::<Vec<_>>());
    let (first, second) = lines.split_at(121);
    assert!(first.iter().all(|line| line["attempt"] == 1) && second.iter().all(|line| line["attempt"] == 2));
    assert_eq!(digest(&app, &path, "JobAttemptFailed").await, expected(first, 0));
    assert_eq!(digest(&app, &path, "JobFailed").await, expected(second, 0));
    assert!(lines.iter().all(|line| line["at"].as_str().unwrap().ends_with('Z')));

    let get = async |query: &str| operator.get(&format!("{path}/logs?{query}")).await;
    let usual = get("").await.expect(200);
    assert_eq!((usual.json["items"].as_array().unwrap().len(), usual.json["next"].is_string()), (50, true));
    let tail = get("after=240").await.expect(200);
    assert_eq!((&tail.json["items"], &tail.json["next"]), (&json!(lines[240..]), &Value::Null));
    assert_eq!(get("after=242").await.expect(200).json, json!({"items": [], "next": null, "expired": false}));
    let problems = get("stream=stderr").await.expect(200);
    assert_eq!(problems.json["items"].as_array().unwrap().len(), 2);
    // Letter case does not matter, and a page of a search goes on where it ended.
    let found = get("q=LINE+12&limit=1").await.expect(200);
    assert_eq!(found.json["items"][0]["text"], "Line 12");
    let next = found.json["next"].as_str().unwrap();
    let found = get(&format!("q=LINE+12&limit=1&cursor={next}")).await.expect(200);
    assert_eq!(found.json["items"][0]["text"], "Line 120");
    assert_eq!(get("q=Problem&stream=stdout").await.expect(200).json["items"], json!([]));

    for (query, field) in [
        ("limit=0".to_owned(), "limit"),
        ("limit=201".to_owned(), "limit"),
        ("stream=stdin".to_owned(), "stream"),
        ("after=-1".to_owned(), "after"),
        ("lines=3".to_owned(), "lines"),
        (format!("cursor={next}"), "cursor"),
        (format!("q=LINE+12&cursor={}", next.replace(next.chars().next().unwrap(), "_")), "cursor"),
    ] {
        assert_eq!(get(&query).await.expect(422).fields(), [field], "{query}");
    }
    assert_eq!(app.viewer().get(&format!("{path}/logs?after=240")).await.expect(200).json, tail.json);
    app.auditor().get(&format!("{path}/logs")).await.expect(403);
    app.other_team().get(&format!("{path}/logs")).await.expect(404);
}
