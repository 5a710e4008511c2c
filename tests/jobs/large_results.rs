//! Results as large as may be: what is read of them is bounded, and nothing is lost.

use super::*;

/// Leaves a result of almost 1 MiB, which is different for each job and attempt.
fn large(number: usize) -> Value {
    script(&format!(
        "{{ printf '[%d' $(({number} * 10 + DAYBOOK_ATTEMPT)); head -c 1040000 /dev/zero | sed 's/\\x00\\x00/,1/g'; printf ']'; }} > \"$DAYBOOK_RESULT\""
    ))
}

const JOBS: usize = 7;
/// What an answer may have at most: a list ends with what exceeds 4 MiB, pages of the log likewise.
const LIST_BYTES: usize = 6 * 1024 * 1024;
const LOG_BYTES: usize = 8 * 1024 * 1024;

/// All items of a list, by its cursors, no page larger than that.
async fn all(client: &Client, path: &str, most: usize) -> (Vec<Value>, usize) {
    let (mut items, mut pages, mut cursor) = (vec![], 0, String::new());
    loop {
        // Folding so many bytes takes a program that was not optimised some seconds.
        let page = shown(client, &format!("{path}{cursor}")).await;
        assert!(page.text.len() < most, "{path}: {} bytes", page.text.len());
        items.extend(page.json["items"].as_array().unwrap().iter().cloned());
        pages += 1;
        match page.json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (items, pages),
        }
    }
}

#[tokio::test]
async fn lists_and_audit_pages_of_large_results_end_by_bytes_and_go_on() {
    let app = shell_app().await;
    let operator = app.operator();
    let mut paths = vec![];
    for number in 0..JOBS {
        paths.push(queue(&operator, large(number)).await);
    }
    for path in &paths {
        assert_eq!(ended(&operator, path).await.str("status"), "completed");
    }
    let (jobs, pages) = all(&operator, "/api/jobs?limit=50", LIST_BYTES).await;
    assert!(pages > 1, "they do not fit into one");
    let ids: Vec<&str> = jobs.iter().map(|job| job["id"].as_str().unwrap()).collect();
    let expected: Vec<&str> = paths.iter().rev().map(|path| id(path)).collect();
    assert_eq!(ids, expected, "each once, newest first");
    for (number, job) in jobs.iter().rev().enumerate() {
        let result = job["result"].as_array().unwrap();
        assert_eq!((&result[0], result.len()), (&json!(number * 10 + 1), 520_001));
    }
    let (picked, pages) = all(&operator, "/api/jobs?limit=50&fields=id,status", LIST_BYTES).await;
    assert!(pages > 1 && picked.len() == JOBS && picked.iter().all(|job| job.get("result").is_none()));

    let client = app.auditor().with_header("daybook-position", app.ledger.head().await.unwrap());
    let (events, pages) = all(&client, "/api/audit/events?limit=50&type=JobCompleted", LOG_BYTES).await;
    assert_eq!(events.len(), JOBS);
    assert!(pages == 1 || events.iter().all(|event| !event["changes"].as_array().unwrap().is_empty()));
    let positions: Vec<i64> = events.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert!(positions.is_sorted_by(|a, b| a > b), "newest first: {positions:?}");
}

#[tokio::test]
async fn the_history_of_many_large_attempts_ends_by_bytes_and_goes_on() {
    let app = shell_app().await;
    let operator = app.operator();
    let mut path = String::new();
    for number in 0..JOBS {
        let body = large(number);
        let failing = format!("{}; exit 1", body["args"]["script"].as_str().unwrap());
        if path.is_empty() {
            path = queue(&operator, script(&failing)).await;
        } else {
            operator.post(&format!("{path}/retry"), json!({})).await.expect(200);
        }
        ended(&operator, &path).await;
        when("its end", &operator, &path, |job| {
            job.str("status") == "failed" && job.json["attempt"] == number + 1
        })
        .await;
    }
    let (events, pages) =
        all(&app.auditor(), &format!("/api/audit/job/{}/history?limit=200", id(&path)), LOG_BYTES).await;
    assert!(pages > 1 || JOBS < 5, "they do not fit into one");
    let sequences: Vec<usize> =
        events.iter().map(|event| event["sequence"].as_u64().unwrap() as usize).collect();
    assert_eq!(sequences, (1..=events.len()).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(events.iter().filter(|event| event["type"] == "JobFailed").count(), JOBS);
    assert_eq!(
        operator.get(&format!("{path}/attempts")).await.expect(200).json["items"].as_array().unwrap().len(),
        JOBS
    );
}

#[tokio::test]
async fn a_result_comes_back_as_it_was_written() {
    let app = shell_app().await;
    let operator = app.operator();
    let result = r#"{"zz":1,"a":[1e300,-0.25,0.1,18446744073709551615,-9223372036854775808],"t":"a\u0001\"ä\\","e":[[],{}],"n":null}"#;
    let body = script(&format!("cat > \"$DAYBOOK_RESULT\" <<'END'\n{result}\nEND"));
    let (path, job) = run(&operator, body).await;
    let expected: Value = serde_json::from_str(result).unwrap();
    assert_eq!(job.json["result"], expected);
    let report = operator.get(&format!("/api/reports/jobs/{}", id(&path))).await.expect(200);
    assert_eq!(report.json["result"], expected);
    let state = app.auditor().get(&format!("/api/audit/job/{}/state", id(&path))).await.expect(200);
    assert_eq!(state.json["state"]["result"], expected);
    app.projections.rebuild("jobs", |_| ()).await.unwrap();
    assert_eq!(operator.get(&path).await.expect(200).json["result"], expected);
    let verified = app.projections.verify("jobs", |_| ()).await.unwrap();
    assert_eq!(verified.different, 0, "{:?}", verified.differences);
}

#[tokio::test]
async fn digits_that_only_the_database_writes_are_not_kept_in_memory() {
    let app = shell_app().await;
    let operator = app.operator();
    let body = script(
        "{ printf '[1e300'; i=0; while [ $i -lt 2000 ]; do printf ',1e300'; i=$((i+1)); done; printf ']'; } > \"$DAYBOOK_RESULT\"",
    );
    let (path, _) = run(&operator, body).await;
    app.projections.rebuild("jobs", |_| ()).await.unwrap();
    let reply = operator.get(&path).await.expect(200);
    assert_eq!(reply.json["result"].as_array().unwrap().len(), 2_001);
    assert!(reply.text.len() < 40_000, "{} bytes", reply.text.len());
}
