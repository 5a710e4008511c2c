//! Concurrency keys: never more at once than their kind allows, however many nodes there are, and everybody gets a turn.

use serde_json::json;

use super::nodes::{batch, count_of, edge, in_all, most_at_once, sql, worker};
use super::*;

const KINDS: &str = r#"
[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1

[jobs.three]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
max_attempts = 1
concurrency_limit = 3
"#;

fn keyed(kind: &str, key: &str, text: &str) -> Value {
    json!({"kind": kind, "args": {"script": text}, "concurrency_key": key})
}

/// A script that marks in the file when it begins and when it is about to end.
fn marked(file: &str, between: &str) -> String {
    format!("echo + >> {file}; {between}; echo - >> {file}")
}

/// How many were between their marks at once.
fn marks(app: &TestApp, file: &str) -> (usize, i32) {
    let text = std::fs::read_to_string(app.folder().join(file)).unwrap();
    let (mut now, mut most) = (0, 0);
    for mark in text.lines() {
        now += if mark == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    (text.lines().count(), most)
}

#[tokio::test]
async fn over_two_nodes_no_more_run_at_once_than_the_kind_allows() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let one = vec![keyed("shell", "printer", &marked("one", "sleep 0.02")); 25];
    let three = vec![keyed("three", "scanner", &marked("three", "sleep 0.05")); 45];
    let (one, three) = (batch(&operator, one).await, batch(&operator, three).await);
    let nodes = [worker(&app, KINDS, 6).await, worker(&app, KINDS, 6).await];
    in_all(&app, "completed", 70).await;
    assert_eq!((most_at_once(&app, &one).await, marks(&app, "one")), (1, (50, 1)));
    assert_eq!((most_at_once(&app, &three).await, marks(&app, "three")), (3, (90, 3)));
    for node in nodes {
        node.stop().await;
    }
    assert_eq!(
        sqlx::query_scalar::<_, i64>("select count(*) from job_claims")
            .fetch_one(app.ledger.pool())
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_job_in_line_says_what_it_waits_for_and_where_it_stands() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let node = worker(&app, KINDS, 4).await;
    let holding = keyed("shell", "printer", &format!("echo up; {}", wait_for("go")));
    let holder = queue(&operator, holding).await;
    printed(&operator, &holder, "up").await;
    let paths = batch(&operator, vec![keyed("shell", "printer", "true"); 3]).await;
    // It is urgent, but its time has not come: it is before nobody.
    let later = json!({"priority": 9, "run_at": "2999-01-01T00:00:00Z"});
    let later = queue(&operator, with(keyed("shell", "printer", "true"), later)).await;
    let waiting = async |path: &str| operator.get(path).await.expect(200).json["waiting"].clone();
    for (path, place) in paths.iter().zip(["1st", "2nd", "3rd"]) {
        let detail = format!("waiting on key printer, {place} in line");
        let number: u32 = place[..1].parse().unwrap();
        assert_eq!(waiting(path).await, json!({"for": "turn", "detail": detail, "place": number}));
    }
    assert_eq!(waiting(&later).await["for"], "time");
    // Who is more urgent is before all of them.
    let urgent = queue(&operator, with(keyed("shell", "printer", "true"), json!({"priority": 9}))).await;
    assert_eq!(
        (&waiting(&urgent).await["place"], &waiting(&paths[2]).await["place"]),
        (&json!(1), &json!(4))
    );
    // Another team's line is another one.
    let theirs = queue(&app.other_team(), keyed("shell", "printer", "true")).await;
    assert_eq!(ended(&app.other_team(), &theirs).await.str("status"), "completed");
    // Who leaves the line makes place.
    operator.post(&format!("{}/cancel", paths[0]), json!({})).await.expect(200);
    assert_eq!(waiting(&paths[2]).await["place"], json!(3));
    open_gate(&app, "go");
    for path in [&holder, &urgent, &paths[1], &paths[2]] {
        let job = ended(&operator, path).await;
        assert_eq!((job.str("status"), &job.json["waiting"]), ("completed", &Value::Null));
    }
    node.stop().await;
}

#[tokio::test]
async fn without_any_claims_as_after_a_crash_of_the_database_the_limits_still_hold() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let nodes = [worker(&app, KINDS, 8).await, worker(&app, KINDS, 8).await];
    let text = marked("marks", &format!("echo up; {}", wait_for("go")));
    let mut paths = batch(&operator, vec![keyed("three", "scanner", &text); 2]).await;
    for path in &paths {
        printed(&operator, path, "up").await;
    }
    operator.post("/api/jobs/pause", json!({})).await.expect(200);
    paths.extend(batch(&operator, vec![keyed("three", "scanner", &text); 6]).await);
    count_of(&operator, "pending", 6).await;
    sql(&app, "truncate job_claims").await;
    // Two of three places are taken, though no row says so.
    operator.post("/api/jobs/resume", json!({})).await.expect(200);
    count_of(&operator, "running", 3).await;
    sql(&app, "truncate job_claims").await;
    open_gate(&app, "go");
    in_all(&app, "completed", 8).await;
    assert_eq!((most_at_once(&app, &paths).await, marks(&app, "marks")), (3, (16, 3)));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_claim_that_nobody_holds_is_given_up_and_its_job_runs() {
    let app = edge(KINDS).await;
    let operator = app.operator();
    let path = queue(&operator, keyed("shell", "printer", "true")).await;
    let node = app
        .another_node(
            Setup::default().kinds(KINDS).with("WORKER_CONCURRENCY", 2).with("WORKER_KINDS", "three"),
        )
        .await;
    // As when the answer to a claim was lost: it is the worker's, and the worker does not know.
    tests::eventually("the claim of a worker that lives", async || {
        let claim = "insert into job_claims (job_id, worker, turn, slot) \
                     select $1::uuid, name, $2, 1 from workers on conflict do nothing";
        let turn = format!("{}/printer", app.people.team);
        let query = sqlx::query(claim).bind(id(&path)).bind(turn);
        (query.execute(app.ledger.pool()).await.unwrap().rows_affected() == 1).then_some(())
    })
    .await;
    let other = worker(&app, KINDS, 2).await;
    assert_eq!(ended(&operator, &path).await.str("status"), "completed");
    other.stop().await;
    node.stop().await;
}
