//! Jobs watched over WebSocket, on the node that runs them and on others.

mod ends;

use api::server::Roles;
use serde_json::{Value, json};
use tests::{Client, Setup, Socket, TestApp};

use super::*;

/// Where a job is watched, with what comes after the `?`.
fn socket_path(job: &str, query: &str) -> String {
    format!("/ws/jobs/{}?{query}", id(job))
}

/// A ticket of this client.
async fn ticket(client: &Client) -> String {
    client.post("/api/auth/ws-ticket", Value::Null).await.expect(200).str("ticket").to_owned()
}

/// Watches as this client, who speaks for their own team, or as the harness has it.
async fn watch(app: &TestApp, client: &Client, job: &str) -> Socket {
    watch_after(app, client, job, 0).await
}

async fn watch_after(app: &TestApp, client: &Client, job: &str, after: u64) -> Socket {
    let ticket = ticket(client).await;
    Socket::open(app.address, &socket_path(job, &format!("ticket={ticket}&after={after}")), &[])
        .await
        .unwrap()
}

fn of_type<'a>(messages: &'a [Value], kind: &str) -> Vec<&'a Value> {
    messages.iter().filter(|message| message["type"] == kind).collect()
}

fn seqs(messages: &[Value]) -> Vec<u64> {
    of_type(messages, "line").iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// The statuses that were told, with the attempt; repeats of both left out.
fn statuses(messages: &[Value]) -> Vec<(String, u64)> {
    let told = of_type(messages, "status");
    let mut told: Vec<_> = told
        .iter()
        .map(|status| (status["status"].as_str().unwrap().to_owned(), status["attempt"].as_u64().unwrap()))
        .collect();
    told.dedup();
    told
}

#[tokio::test]
async fn a_finished_job_is_told_from_its_beginning_and_then_it_ends() {
    let app = shell_app().await;
    let operator = app.operator();
    let (path, _) = run(&operator, script(r"printf 'one\n\033[31mred\033[0m\n'; echo two >&2; exit 3")).await;
    let (messages, code) = watch(&app, &operator, &path).await.rest().await;
    assert_eq!(code, Some(1000));
    let lines = log(&operator, &path).await;
    let told: Vec<Value> = of_type(&messages, "line")
        .into_iter()
        .map(|line| {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove("type");
            line
        })
        .collect();
    assert_eq!(told, lines, "the same lines as by HTTP");
    assert!(lines.iter().any(|line| line["text"] == "\u{1b}[31mred\u{1b}[0m"), "colours stay: {lines:?}");
    let (last, before) = (&messages[messages.len() - 1], &messages[messages.len() - 2]);
    assert_eq!(last, &json!({"type": "end"}));
    assert_eq!(
        (&before["type"], &before["status"], &before["exit_code"], &before["error"]),
        (&json!("status"), &json!("failed"), &json!(3), &json!("it ended with exit code 3"))
    );
    // From a number on.
    let (messages, code) = watch_after(&app, &operator, &path, 2).await.rest().await;
    assert_eq!((seqs(&messages), code), (vec![3], Some(1000)));
    let (messages, code) = watch_after(&app, &operator, &path, 900).await.rest().await;
    assert_eq!((seqs(&messages), code), (vec![], Some(1000)));
    assert_eq!(statuses(&messages), [("failed".to_owned(), 1)]);
}

#[tokio::test]
async fn lines_progress_and_status_are_told_while_the_job_runs() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = format!(
        "{}; echo first; {}; echo ::progress 0.4; {}; echo second; {}",
        wait_for("go"),
        wait_for("on"),
        wait_for("more"),
        wait_for("end"),
    );
    let path = queue(&operator, script(&text)).await;
    let mut socket = watch(&app, &app.viewer(), &path).await;
    let mut status = socket.until("status").await;
    while status["status"] != "running" {
        status = socket.until("status").await;
    }
    assert_eq!(
        (&status["attempt"], &status["worker"]),
        (&json!(1), &operator.get(&path).await.json["worker"])
    );
    for (gate, wanted) in [
        ("go", json!({"type": "line", "seq": 1, "text": "first"})),
        ("on", json!({"type": "progress", "attempt": 1, "progress": 0.4})),
        ("more", json!({"type": "line", "seq": 2, "text": "second"})),
    ] {
        open_gate(&app, gate);
        let told = socket.next().await.unwrap();
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&told[field], value, "{told}");
        }
    }
    // Who comes later learns how far it is.
    let mut late = watch(&app, &operator, &path).await;
    assert_eq!(late.until("progress").await["progress"], 0.4);
    open_gate(&app, "end");
    let (messages, code) = socket.rest().await;
    assert_eq!((statuses(&messages), code), (vec![("completed".to_owned(), 1)], Some(1000)));
    assert_eq!(messages.last(), Some(&json!({"type": "end"})));
    assert_eq!(late.code().await, Some(1000));
}

#[tokio::test]
async fn a_job_is_watched_on_any_node_whichever_runs_it() {
    let setup = || Setup::default().kinds(SHELL);
    let worker = TestApp::with(setup()).await;
    let only_api = Roles { api: true, worker: false, follower: false };
    let api = worker.another_node(setup().roles(only_api)).await;
    let operator = worker.operator();
    let text =
        format!("echo first; {}; echo second; echo ::progress 0.7; {}", wait_for("go"), wait_for("end"));
    let path = queue(&operator, script(&text)).await;
    // The ticket is made on one node and used on the other.
    let mut socket = watch(&worker, &api.operator(), &path).await;
    let mut other = watch(&api, &worker.operator(), &path).await;
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.until("line").await["text"], "first");
    }
    open_gate(&worker, "go");
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.until("line").await["text"], "second");
        assert_eq!(socket.until("progress").await["progress"], 0.7);
    }
    open_gate(&worker, "end");
    for socket in [&mut socket, &mut other] {
        let (messages, code) = socket.rest().await;
        assert_eq!((statuses(&messages), code), (vec![("completed".to_owned(), 1)], Some(1000)));
    }
    api.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn ten_thousand_lines_through_two_attempts_are_dense_and_in_order_for_all_who_watch() {
    let setup =
        Setup::default().kinds(SHELL).with("JOB_RETRY_DELAY_SECONDS", 0).with("MAX_LOG_LINES", 20_000);
    let app = TestApp::with(setup).await;
    let operator = app.operator();
    let text = "seq 5000; sleep 0.3; echo problem >&2; exit 1";
    let path = queue(&operator, with(script(text), json!({"max_attempts": 2}))).await;
    let watching = (0..3).map(|_| async {
        let mut socket = watch(&app, &operator, &path).await;
        socket.rest().await
    });
    let told = futures::future::join_all(watching).await;
    let lines = log(&operator, &path).await;
    assert_eq!(lines.len(), 10_002);
    for (messages, code) in told {
        assert_eq!(code, Some(1000));
        assert_eq!(seqs(&messages), (1..=10_002).collect::<Vec<_>>());
        let told = of_type(&messages, "line");
        assert!(told.iter().zip(&lines).all(|(told, line)| told["text"] == line["text"]
            && told["attempt"] == line["attempt"]
            && told["stream"] == line["stream"]));
        assert_eq!(statuses(&messages).last(), Some(&("failed".to_owned(), 2)));
        let end = messages.iter().position(|message| message["type"] == "end").unwrap();
        assert_eq!(end, messages.len() - 1);
    }
    // Chatty as it was, the rows are few.
    let chunks: i64 = sqlx::query_scalar("select count(*) from job_log_chunks where job_id = $1::uuid")
        .bind(id(&path))
        .fetch_one(app.ledger.pool())
        .await
        .unwrap();
    assert!(chunks < 200, "{chunks}");
}

#[tokio::test]
async fn a_watcher_who_comes_back_misses_nothing_and_hears_nothing_twice() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; [ $((i % 20)) = 0 ] && sleep 0.01; done";
    let path = queue(&operator, script(text)).await;
    let mut heard = vec![];
    loop {
        let after = heard.last().copied().unwrap_or(0);
        let mut socket = watch_after(&app, &operator, &path, after).await;
        // Some lines, then the connection is lost.
        for _ in 0..45 {
            match socket.next().await {
                Some(message) if message["type"] == "line" => heard.push(message["seq"].as_u64().unwrap()),
                Some(_) => {}
                None => break,
            }
        }
        if heard.len() >= 300 {
            break;
        }
    }
    assert_eq!(heard, (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_the_channel_between_nodes_a_job_is_watched_all_the_same() {
    let app = shell_app().await;
    let operator = app.operator();
    let path =
        queue(&operator, script(&format!("echo first; {}; echo second; sleep 0.2", wait_for("go")))).await;
    let mut socket = watch(&app, &operator, &path).await;
    assert_eq!(socket.until("line").await["text"], "first");
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and application_name = 'daybook logs'";
    eventually("the channel is cut", async || {
        let cut: i64 = sqlx::query_scalar(cut).fetch_one(app.ledger.pool()).await.unwrap();
        (cut > 0).then_some(())
    })
    .await;
    open_gate(&app, "go");
    assert_eq!(socket.until("line").await["text"], "second");
    assert_eq!(socket.code().await, Some(1000));
}

/// How far the job's log is: which attempt writes it, how many lines it has stored, and the number of the last line.
async fn head(app: &TestApp, path: &str) -> (i32, i64, i64) {
    let head = "select attempt, stored, last_seq from job_logs where job_id = $1::uuid";
    sqlx::query_as(head).bind(id(path)).fetch_one(app.ledger.pool()).await.unwrap()
}

#[tokio::test]
async fn lines_of_an_attempt_that_was_thought_dead_are_nobodys_once_another_has_written() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = format!("echo one; {}; echo late; echo later; {}", wait_for("go"), wait_for("end"));
    let path = queue(&operator, script(&text)).await;
    let mut socket = watch(&app, &operator, &path).await;
    assert_eq!(socket.until("line").await["text"], "one");
    // As the next attempt on another node does it.
    let takes_over = "with head as (update job_logs set attempt = 2, stored = 1, last_seq = 2 where job_id = $1::uuid) \
                      insert into job_log_chunks select job_id, 2, 2, 2, lines, team_id, kind, at from job_log_chunks \
                      where job_id = $1::uuid";
    sqlx::query(takes_over).bind(id(&path)).execute(app.ledger.pool()).await.unwrap();
    // Nobody was told, and it is found all the same.
    let second = socket.until("line").await;
    assert_eq!((&second["seq"], &second["attempt"]), (&json!(2), &json!(2)));
    open_gate(&app, "go");
    open_gate(&app, "end");
    let (messages, code) = socket.rest().await;
    assert_eq!((seqs(&messages), code), (vec![], Some(1000)), "nothing of what came too late");
    assert_eq!(head(&app, &path).await, (2, 1, 2));
    assert_eq!(log(&operator, &path).await.len(), 2);
}

#[tokio::test]
async fn lines_that_could_not_be_stored_for_a_while_are_stored_once_and_in_order() {
    let app = shell_app().await;
    let operator = app.operator();
    let text = format!("echo 1; {}; seq 2 700; touch printed; {}; echo 701", wait_for("go"), wait_for("end"));
    let path = queue(&operator, script(&text)).await;
    let mut socket = watch(&app, &operator, &path).await;
    assert_eq!(socket.until("line").await["seq"], 1);
    let rename = async |from: &str, to: &str| {
        sqlx::query(&format!("alter table {from} rename to {to}")).execute(app.ledger.pool()).await.unwrap();
    };
    rename("job_logs", "job_logs_gone").await;
    open_gate(&app, "go");
    eventually("it has printed", async || app.folder().join("printed").exists().then_some(())).await;
    rename("job_logs_gone", "job_logs").await;
    open_gate(&app, "end");
    let (messages, code) = socket.rest().await;
    assert_eq!((seqs(&messages), code), ((2..=701).collect(), Some(1000)));
    let texts: Vec<String> =
        of_type(&messages, "line").iter().map(|line| line["text"].as_str().unwrap().into()).collect();
    assert_eq!(texts, (2..=701).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(head(&app, &path).await, (1, 701, 701));
}
